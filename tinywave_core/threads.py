"""How many threads torch takes in the calling thread, and what the process does with large freed blocks of memory.

Shards are worked on side by side, and their tensors are small: there one thread each is fastest (two threads on two busy
cores were measured to be up to twenty times slower, from waiting on one another). Training takes all cores.
"""

import contextlib
import ctypes
import os
import sys

from tinywave_core.config.base import RuntimeConfig


def cores() -> int:
    """Cores that this process may use; where the system does not tell (macOS), all."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_one_thread() -> None:
    """For steps that run beside others of their kind."""
    import torch

    torch.set_num_threads(1)


def use_threads(runtime: RuntimeConfig) -> None:
    """For steps that have the machine to themselves: as many threads as the runtime says, 0 for all cores."""
    import torch

    torch.set_num_threads(runtime.threads or cores())


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_MOST_MMAP_THRESHOLD = 32 << 20  # glibc takes no more


def keep_large_blocks() -> None:
    """Let glibc's malloc keep freed blocks of up to 32 MB instead of returning them to the system, which then hands out zeroed
    pages for each new one: 10 to 17 % of the time of convolutional models on a CPU. Other C libraries: nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP_THRESHOLD)
        library.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
