"""Training in several processes (`torchrun`): who takes which rows of a batch, and what all of them must agree on.

Everything here is a plain function of one process where torch.distributed was not initialised.
"""

import json
from typing import Any

import torch
import torch.distributed as dist

from tinywave_core.devices import double
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


def told_by_first(value: Any) -> Any:
    """What the first process has, in all of them; it goes as JSON, for what comes from another machine is not unpickled."""
    if process_count() == 1:
        return value
    text = json.dumps(value).encode()
    size = torch.tensor(len(text))
    dist.broadcast(size, src=0)
    sent = (
        torch.frombuffer(bytearray(text), dtype=torch.uint8)
        if is_first()
        else torch.zeros(int(size), dtype=torch.uint8)
    )
    dist.broadcast(sent, src=0)
    return json.loads(bytes(sent.tolist()))


class Sums:
    """Sums of a step by name, kept where they are computed: nothing waits for the device before `whole`."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, **values: torch.Tensor) -> None:
        """Count one micro-batch in."""
        for name, value in values.items():
            # In float64: a float32 sum over a large batch loses the digits that the curve shows.
            exact = double(value.detach())
            self._sums[name] = self._sums[name] + exact if name in self._sums else exact

    def whole(self, *beside: torch.Tensor) -> tuple[dict[str, float], list[float]]:
        """Each sum over all processes, and some numbers that are the same in all of them, in one transfer to the host."""
        numbers = torch.stack(list(self._sums.values()))
        if process_count() > 1:
            dist.all_reduce(numbers)
        fetched = torch.cat([numbers, *(double(number).reshape(1) for number in beside)]).tolist()
        return dict(zip(self._sums, fetched, strict=False)), fetched[len(self._sums) :]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in one of the processes; they agree on the CPU, so that no GPU is waited for."""
    if process_count() == 1:
        return flag
    number = torch.tensor(int(flag))
    dist.all_reduce(number)
    return bool(number)
