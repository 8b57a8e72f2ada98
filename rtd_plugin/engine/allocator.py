"""Settings of the memory allocator for a process that allocates and frees the same large tensors at every step."""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, in malloc.h
LARGEST_IN_HEAP = 2**25  # what glibc allows
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of giving it back to the system.

    The system fills each page with zeros before it hands it out again: a tenth of a training step on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, LARGEST_IN_HEAP)
        libc.mallopt(TRIM_THRESHOLD, NEVER)
