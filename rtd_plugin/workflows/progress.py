"""The progress protocol of the workflows: see `rtd_plugin.progress`, which every room may import."""

from rtd_plugin.progress import Advance, Progress, ignore_progress, no_progress

__all__ = ["Advance", "Progress", "ignore_progress", "no_progress"]
