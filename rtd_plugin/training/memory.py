"""The C library's memory, for a process that takes and frees the same large pieces again and again."""

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, in malloc.h
LARGEST_IN_HEAP = 2**25  # what glibc allows
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for later, instead of giving it back to the system.

    Taken anew from the system, every page of every tensor of every step is filled with zeros first: a tenth of a
    training step on a CPU.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, LARGEST_IN_HEAP)
        libc.mallopt(TRIM_THRESHOLD, NEVER)
