"""Prefill while listening: audio that arrives becomes units, and the model reads them, before the speaker is done.

Tokenizers look at a whole recording, so its last units, or with a new mean all of them, can change with what follows. Each time there
is enough new audio all of it is tokenized again, and the model reads as far as two rounds in a row agree. What was read wrongly costs
time only: a runtime keeps of it what the real prompt begins with.
"""

import asyncio
import time
from collections.abc import Callable
from itertools import takewhile

from tinywave_core.serving.asking import Samples, pcm, require_sound
from tinywave_core.serving.host import ModelHost
from tinywave_core.synthesis.prompting import Part

EVERY_S = 0.5
"""New audio between two rounds in seconds; more where a round takes longer than that."""
FEWEST = 4
"""New ids for which the model is bothered."""


class Listening:
    """Audio of one prompt while it arrives, as 16-bit PCM at the rate `rate`; `before` is what the prompt begins with."""

    def __init__(self, host: ModelHost, before: list[Part], rate: int) -> None:
        self.host, self.before, self.rate = host, before, rate
        self.read = 0
        """Ids of the prompt that the model has read so far."""
        self._data = bytearray()
        self._heard_bytes, self._heard, self._round_s = 0, list[int](), 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def seconds(self) -> float:
        return len(self._data) / 2 / self.rate

    @property
    def samples(self) -> int:
        """At the client's rate."""
        return len(self._data) // 2

    def cut(self, samples: int) -> bytes:
        """Leave out what comes after so many samples, and return it."""
        rest = bytes(self._data[max(samples, 0) * 2 :])
        del self._data[max(samples, 0) * 2 :]
        return rest

    def append(self, data: bytes) -> None:
        """Add audio: as much as the session takes, which has looked at its limits."""
        self._data += data
        is_free = self._task is None or self._task.done()
        if is_free and self._new_s() >= max(EVERY_S, 2 * self._round_s):
            self._task = asyncio.create_task(self._round())
            self._task.add_done_callback(_failure)

    async def end(self) -> tuple[Samples, list[int]]:
        """All of the audio, and its ids; RequestError if there is no sound."""
        samples = await self.host.decoded(self._decoder())
        require_sound(samples)
        if self._task is not None:
            await asyncio.wait([self._task])
        if self._heard_bytes != len(self._data):
            return samples, await self.host.hear(lambda: samples)
        return samples, self._heard

    def _decoder(self) -> Callable[[], Samples]:
        """A function that turns the audio so far into samples at 16 kHz."""
        data = bytes(self._data[: len(self._data) // 2 * 2])
        return lambda: pcm(data, self.rate, self.host.limits)

    async def drop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _new_s(self) -> float:
        return (len(self._data) - self._heard_bytes) / 2 / self.rate

    async def _round(self) -> None:
        started, size = time.perf_counter(), len(self._data)
        ids = await self.host.hear(self._decoder())
        agreed = common(self._heard, ids)
        self._heard, self._heard_bytes = ids, size
        prompt = self.host.generator.prompting.begun([*self.before, ids[:agreed]])
        if len(prompt) >= self.read + FEWEST and await self.host.prefill(prompt):
            self.read = len(prompt)
        self._round_s = time.perf_counter() - started


def _failure(round_: "asyncio.Task[None]") -> None:
    """Keep the error of a round: everything is tried again at the end, which raises it."""
    if not round_.cancelled():
        round_.exception()


def common(first: list[int], second: list[int]) -> int:
    """Length of the common beginning of two sequences."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
