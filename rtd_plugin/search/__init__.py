"""Search with composed queries: one image and a text to the best images of a gallery."""
