"""Tricks that make a training step fast, one file each; `rtd_plugin.training` is correct without them."""
