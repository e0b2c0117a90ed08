"""Training in several processes (`torchrun`): who takes which rows of a batch, and what all of them must agree on.

Everything here is a plain function of one process where torch.distributed was not initialised.
"""

import torch
import torch.distributed as dist

from tinywave_core.errors import TrainingError
from tinywave_core.sequences.dataset import Batch


def process_count() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this process writes the files of all."""
    return process_count() == 1 or dist.get_rank() == 0


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if process_count() > 1:
        dist.barrier()


def own_rows(batch: Batch) -> Batch:
    """This process's share of a batch."""
    if process_count() == 1:
        return batch
    return batch.split(len(batch.rows) // process_count())[dist.get_rank()]


def own_share(rows: int) -> slice:
    """Which of a batch's rows this process computes: they are cut in equal parts, in order."""
    count = process_count()
    if count == 1:
        return slice(None)
    if rows % count:  # as many micro-batches everywhere: FSDP waits for every process in every pass
        raise TrainingError(
            f"a batch of {rows} rows cannot be shared equally by {count} processes: set training.batch_tokens to a multiple "
            f"of {count} times training.sequence_length, or start another number of processes"
        )
    return slice(rows // count * dist.get_rank(), rows // count * (dist.get_rank() + 1))


def summed(values: dict[str, float], device: torch.device) -> dict[str, float]:
    """Each value, summed over all processes."""
    if process_count() == 1:
        return values
    # In float64: a float32 sum over a large batch loses the digits that the curve shows.
    numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    dist.all_reduce(numbers)
    return dict(zip(values, numbers.tolist(), strict=True))
