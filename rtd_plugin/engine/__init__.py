"""The tricks that make a training step fast, one file each; `rtd_plugin.training` is right without them."""
