"""How many threads torch takes in the calling thread.

Shards are worked on side by side, and their tensors are small: there one thread each is fastest (two threads on two busy
cores were measured to be up to twenty times slower, from waiting on one another). Training takes all cores.
"""

import os

from tinywave_core.config.base import RuntimeConfig


def use_one_thread() -> None:
    """For steps that run beside others of their kind."""
    import torch

    torch.set_num_threads(1)


def use_threads(runtime: RuntimeConfig) -> None:
    """For steps that have the machine to themselves: as many threads as the runtime says, 0 for all cores."""
    import torch

    torch.set_num_threads(runtime.threads or len(os.sched_getaffinity(0)))
