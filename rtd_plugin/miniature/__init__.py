"""The miniature: a small world of images, captions and edits on which a whole run takes minutes on a CPU."""
