"""Lengths of recordings -> which of them go through an encoder together.

One bound for all encoders. On a CPU every recording goes alone: a batch gains nothing there (measured, decision 38).
"""

from collections.abc import Iterator, Sequence

from tinywave_core.storage.schemas import SAMPLE_RATE

BATCH_SAMPLES = 400 * SAMPLE_RATE  # with padding go through a GPU at once


def padded_batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices of all lengths, near ones together: with padding a batch has `most` samples, or one recording that is longer."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > most:  # sorted by length: this one would be the longest
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def most_samples(device: str) -> int:
    """The bound on a kind of device; 0 where each goes alone."""
    return 0 if device == "cpu" else BATCH_SAMPLES
