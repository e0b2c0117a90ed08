"""Turns of one client, found on the server: audio as it is appended -> where in it a turn begins and ends, and the audio of each.

What lies between turns is not kept, but for the padding before the next one. Audio is 16-bit PCM at the client's rate, in whole samples.
"""

from dataclasses import dataclass

from tinywave_core.audio.pcm import from_pcm16
from tinywave_core.audio.resampling import ratio
from tinywave_core.audio.turns import Began, Turn, TurnDetector
from tinywave_core.serving.session_fields import TurnDetection
from tinywave_core.storage.schemas import SAMPLE_RATE


@dataclass(frozen=True)
class Edge:
    """A turn begins or ends, at so many samples from the first one that was appended, and so many milliseconds."""

    begins: bool
    sample: int
    ms: int


class TurnTaking:
    """The audio between turns, and the detector."""

    def __init__(self, asked: TurnDetection, rate: int) -> None:
        from tinywave_core.audio.stream_resampling import StreamResampler

        self.asked, self.rate = asked, rate
        self._detector = TurnDetector(asked.threshold, asked.silence_duration_ms / 1000)
        self._resampler = StreamResampler(*ratio(rate))
        self._kept, self._first = bytearray(), 0
        """Audio that is in no turn so far, and which sample it begins with."""

    def look(self, data: bytes) -> list[Edge]:
        """What more audio tells; for a thread, since a model looks at it."""
        return [self._edge(turn) for turn in self._detector.push(self._resampler.push(from_pcm16(data)))]

    def keep(self, data: bytes) -> None:
        """Audio that comes while nobody speaks."""
        self._kept += data

    def begin(self, sample: int) -> bytes:
        """The audio of a turn that begins there, as far as it came."""
        turn = bytes(self._kept[max(0, sample - self._first) * 2 :])
        self.end(self._first + len(self._kept) // 2, b"")
        return turn

    def end(self, sample: int, rest: bytes) -> None:
        """A turn ended there; `rest` came after its end."""
        self._kept, self._first = bytearray(rest), sample

    def forget(self) -> None:
        """Let go of what no turn can begin in any more."""
        first = self._at(self._detector.begins_at_earliest)
        del self._kept[: (first - self._first) * 2]
        self._first = first

    def stop(self) -> None:
        """The turn is over, whoever said so."""
        self._detector.stop()

    def _edge(self, turn: Turn) -> Edge:
        begins = isinstance(turn, Began)
        sample = self._at(turn.at) if begins else turn.at * self.rate // SAMPLE_RATE
        return Edge(begins, sample, round(1000 * sample / self.rate))

    def _at(self, sample: int) -> int:
        """A beginning at 16 kHz, with the padding before it, in samples of the client; never before the end of the turn before."""
        padded = sample - self.asked.prefix_padding_ms * SAMPLE_RATE // 1000
        return max(self._first, max(0, padded) * self.rate // SAMPLE_RATE)
