"""The miniature's CLIP and projection modules, and the programs that made them."""
