"""What is heard before its speaker is done: when a round begins, what the model reads, and where audio is cut."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from tinywave_core.serving.errors import RequestError
from tinywave_core.serving.limits import Limits
from tinywave_core.serving.listening import Listening, common

RATE = 16_000
SECOND = b"\x01\x02" * RATE


@dataclass
class Host:
    """A tokenizer that says what it is told to say, and a model that notes what it reads."""

    said: list[list[int]] = field(default_factory=list)
    read: list[list[int]] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)

    @property
    def generator(self) -> Any:
        return self

    prompting = generator

    def begun(self, parts: list[Any]) -> list[int]:
        return [i for part in parts for i in part]

    async def hear(self, decode: Callable[[], Any]) -> list[int]:
        self.samples = decode()
        return self.said.pop(0)

    async def decoded(self, decode: Callable[[], Any]) -> Any:
        return decode()

    async def prefill(self, ids: list[int]) -> bool:
        self.read.append(ids)
        return True


class Endless(Host):
    async def hear(self, decode: Callable[[], Any]) -> list[int]:
        return await asyncio.Event().wait() or []


class Deaf(Host):
    async def hear(self, decode: Callable[[], Any]) -> list[int]:
        raise RequestError("nothing was heard")


def listening(host: Host | None = None, rate: int = RATE) -> Listening:
    return Listening(host or Host(), [], rate)  # type: ignore[arg-type]


def is_round(bytes_: int, *, last_s: float = 0.0) -> bool:
    """Whether so much audio at once begins a round, where the last one took so long."""

    async def begins() -> bool:
        one = listening(Endless())
        one._round_s = last_s
        one.append(bytes(bytes_))
        begun = one._task is not None
        await asyncio.wait_for(one.drop(), 60)
        return begun

    return asyncio.run(begins())


def test_audio_is_counted_and_cut_in_samples_of_the_client():
    one = listening(rate=8_000)
    one.append(bytes(range(200)) * 10)
    assert (one.samples, one.seconds, one.read) == (1000, 0.125, 0)
    assert one.cut(997) == bytes(range(194, 200)) and one.samples == 997
    assert len(one.cut(-3)) == 2 * 997 and one.samples == 0


def test_a_round_begins_with_half_a_second_that_is_new_or_twice_as_long_as_the_last_one_took():
    assert [is_round(n) for n in (15_998, 15_999, 16_000)] == [False, False, True]
    assert [is_round(n, last_s=0.75) for n in (47_999, 48_000)] == [False, True]


def test_only_one_round_goes_at_a_time_and_the_next_one_needs_new_audio():
    async def heard() -> None:
        one = listening(Endless())
        one.append(SECOND)
        first = one._task
        one.append(SECOND)
        assert one._task is first
        await asyncio.wait_for(one.drop(), 60)
        assert first is not None and first.cancelled()
        one = listening(Host(said=[[1], [1]]))
        one.append(SECOND)
        await asyncio.wait([first := one._task])  # type: ignore[list-item]
        one.append(SECOND[:15_998])
        assert one._task is first and one._round_s < 60
        one._round_s = 0.0
        one.append(b"\x01\x02")
        assert one._task is not first
        await one.drop()

    asyncio.run(heard())


def test_the_model_reads_what_two_rounds_agree_on_four_ids_at_a_time():
    said = [list(range(n)) for n in (10, 10, 13, 13, 14, 14)]
    host = Host(said=[*said, [*range(14), 90], [*range(14), 91]])

    async def rounds() -> list[int]:
        one, read = listening(host), []
        for _ in range(8):
            await one._round()
            read.append(one.read)
        return read

    assert asyncio.run(rounds()) == [0, 10, 10, 10, 10, 14, 14, 14]
    assert host.read == [list(range(10)), list(range(14))]


def test_half_a_sample_at_the_end_is_no_sample_and_what_a_round_heard_is_not_heard_again():
    async def ended(data: bytes, said: list[list[int]]) -> tuple[int, list[int]]:
        one = listening(Host(said=said))
        one.append(data)
        samples, ids = await one.end()
        return len(samples), ids

    assert asyncio.run(ended(SECOND + b"\x03", [[1, 2]])) == (RATE, [1, 2])
    assert asyncio.run(ended(SECOND[:8000], [[3]])) == (4000, [3])  # too short for a round
    with pytest.raises(RequestError) as silent:
        asyncio.run(ended(bytes(8000), []))
    assert silent.value.code == "audio_silent"


def test_the_fault_of_a_round_is_kept_for_the_end():
    complaints: list[dict[str, Any]] = []

    async def failed() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
        one = listening(Deaf())
        one.append(SECOND)
        await asyncio.wait([one._task])  # type: ignore[list-item]
        with pytest.raises(RequestError, match="nothing was heard"):
            one.append(SECOND[:100])
            await one.end()
        del one  # a fault that nobody asked for would be told now

    asyncio.run(failed())
    assert complaints == []


def test_the_common_beginning_ends_where_two_differ_or_one_ends():
    assert [common([1, 2, 3], other) for other in ([1, 2, 4, 5], [1, 2, 3, 4], [2], [])] == [2, 3, 0, 0]
