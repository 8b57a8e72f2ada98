"""The tricks that make a training step fast, one file each; training is right without them."""
