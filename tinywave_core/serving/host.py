"""A loaded model for many clients: one answer at a time, a short queue, and work that ends when its client has gone.

The model has one thread and the speech tokenizer another, so that audio is tokenized while an answer is made.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from tinywave_core.config.base import RuntimeConfig
from tinywave_core.serving.asking import Samples, Settings
from tinywave_core.serving.errors import busy
from tinywave_core.serving.limits import Limits
from tinywave_core.synthesis.events import Event, TokenMade
from tinywave_core.synthesis.generator import Generator
from tinywave_core.threads import use_threads

T = TypeVar("T")


class ModelHost:
    """A model, its turns and its threads."""

    def __init__(self, name: str, generator: Generator, limits: Limits) -> None:
        self.name, self.generator, self.limits = name, generator, limits
        self._model = ThreadPoolExecutor(1, "model", lambda: use_threads(RuntimeConfig()))
        self._ear = ThreadPoolExecutor(1, "ear")
        # Beside the ear: where a turn ends is told while a tokenizer works on a minute of somebody else's.
        self._watch = ThreadPoolExecutor(1, "watch")
        self._turn = asyncio.Lock()
        self._waiting = self._uploads = 0

    def to_json(self) -> dict[str, Any]:
        """For the list of models."""
        trained = self.generator.prompting.trained
        return {
            "id": self.name,
            "object": "model",
            "owned_by": "tinywave",
            "runtime": self.generator.runtime.name,
            "context": self.generator.runtime.context,
            "vocoder": self.generator.speaker.name,
            "voices": list(self.generator.speaker.voices),
            "inputs": trained.modalities,
            "outputs": trained.outputs,
            "trained_on": trained.in_words,
        }

    def require_room(self) -> None:
        """RequestError where too many answers wait already."""
        if self._turn.locked() and self._waiting >= self.limits.waiting:
            raise busy(self._waiting)

    async def hear(self, decode: Callable[[], Samples]) -> list[int]:
        """Ids of speech, decoded and tokenized in the tokenizer's thread: nobody else waits."""
        return await self._in(self._ear, lambda: self.generator.unit_ids(decode()))

    async def hear_upload(self, decode: Callable[[], Samples]) -> list[int]:
        """The same for a whole recording; RequestError if too many wait."""
        if self._uploads > self.limits.waiting:
            raise busy(self._uploads)
        self._uploads += 1
        try:
            return await self.hear(decode)
        finally:
            self._uploads -= 1

    async def decoded(self, decode: Callable[[], Samples]) -> Samples:
        """Samples, decoded in the tokenizer's thread."""
        return await self._in(self._ear, decode)

    async def watched(self, work: Callable[[], T]) -> T:
        """What detects turns, in a thread of its own."""
        return await self._in(self._watch, work)

    async def prefill(self, ids: list[int]) -> bool:
        """Read the beginning of a prompt, if the model has nothing else to do."""
        if self._turn.locked():
            return False
        async with self._turn:
            await self._finish(self._model, lambda: self.generator.runtime.prefill(ids))
        return True

    async def answer(self, prompt: list[int], settings: Settings, started: float) -> AsyncGenerator[Event, None]:
        """Text, audio and the end of a continuation, once it is its turn; RequestError where too many wait.

        It is made whether or not the client keeps up: one that reads slowly holds up nobody else.
        """
        event_queue: asyncio.Queue[Event | Exception | None] = asyncio.Queue()
        making = asyncio.create_task(self._make(event_queue, prompt, settings, started))
        try:
            while (item := await event_queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            making.cancel()
            await asyncio.wait([making])

    def close(self) -> None:
        """End the threads; work in them ends first."""
        self._ear.shutdown(cancel_futures=True)
        self._watch.shutdown(cancel_futures=True)
        self._model.shutdown(cancel_futures=True)
        self.generator.runtime.close()

    async def _make(
        self, event_queue: asyncio.Queue[Any], prompt: list[int], settings: Settings, started: float
    ) -> None:
        """Put events into a queue, None or an exception last."""
        try:
            async with self._its_turn():
                await self._put_events(event_queue, prompt, settings, started)
        except Exception as error:  # noqa: BLE001  (goes to whoever asked)
            event_queue.put_nowait(error)
        event_queue.put_nowait(None)

    async def _put_events(
        self, event_queue: asyncio.Queue[Any], prompt: list[int], settings: Settings, started: float
    ) -> None:
        stop, deadline = threading.Event(), time.perf_counter() + self.limits.wall_s

        def is_over() -> bool:
            return stop.is_set() or time.perf_counter() > deadline

        def begin() -> Iterator[Event]:
            sampling = settings.sampling(self.generator.runtime.context - len(prompt), self.limits.new_tokens)
            return self.generator.continue_ids(prompt, settings.modality, sampling, settings.voice, is_over, started)

        events = await self._in(self._model, begin)
        try:
            while (event := await self._in(self._model, lambda: _next(events))) is not None:
                event_queue.put_nowait(event)
        finally:
            stop.set()
            await self._finish(self._model, events.close)  # type: ignore[attr-defined]

    @asynccontextmanager
    async def _its_turn(self) -> AsyncIterator[None]:
        self.require_room()
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def _finish(self, pool: ThreadPoolExecutor, work: Callable[[], object]) -> None:
        """Wait for the work even if the caller is cancelled: nobody else may use the model meanwhile."""
        done = asyncio.ensure_future(self._in(pool, work))
        try:
            await asyncio.shield(done)
        except asyncio.CancelledError:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([done])
            raise


def _next(events: Iterator[Event]) -> Event | None:
    """The next event for the client."""
    return next((event for event in events if not isinstance(event, TokenMade)), None)
