"""Forms of audio on a WebSocket: 16-bit PCM of any usual rate, and the two codes of telephones; what comes in, and what goes out as it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tinywave_core.audio import g711
from tinywave_core.audio.pcm import Samples, to_pcm16
from tinywave_core.serving.asking import checked_rate
from tinywave_core.serving.errors import RequestError, short
from tinywave_core.storage.schemas import SAMPLE_RATE

PCM = "audio/pcm"
LAWS: Mapping[str, g711.Law] = {"audio/pcmu": "mu", "audio/pcma": "a"}
PROTOCOL_RATE = 24_000
"""Of the protocol's audio/pcm, where a client names no rate."""
SPOKEN_RATES = (8_000, 16_000, 24_000, 32_000, 48_000)
"""Of PCM that goes out."""


@dataclass(frozen=True)
class AudioFormat:
    """Mono, without a header."""

    kind: str = PCM
    rate: int = SAMPLE_RATE

    def changed(self, values: Mapping[str, Any], where: str, rates: tuple[int, ...] = ()) -> "AudioFormat":
        """The format that a client asks for in the field `where`; RequestError if there is none such. `rates` (none: all usual ones) are
        those of PCM."""
        unknown = next((name for name in values if name not in ("type", "rate")), None)
        if unknown is not None:
            raise RequestError.of_field(f"{where}.{unknown}", "there is no such field; there are type, rate")
        kind = values.get("type", self.kind)
        if not isinstance(kind, str) or kind not in (PCM, *LAWS):
            expected = f"expected one of {', '.join((PCM, *LAWS))}"
            raise RequestError.of_field(f"{where}.type", f"{short(kind)}; {expected}", "invalid_audio")
        usual = g711.RATE if kind in LAWS else PROTOCOL_RATE if "type" in values else self.rate
        rate = usual if values.get("rate") is None else checked_rate(values["rate"], f"{where}.rate")
        allowed = (g711.RATE,) if kind in LAWS else rates
        if allowed and rate not in allowed:
            expected = f"{kind} has {' or '.join(f'{each:,}' for each in allowed)} Hz here"
            raise RequestError.of_field(f"{where}.rate", f"{rate:,} Hz; {expected}", "invalid_audio")
        return AudioFormat(kind, rate)

    def as_pcm16(self, data: bytes) -> bytes:
        """What came in as 16-bit PCM of the same rate."""
        return g711.decode(data, LAWS[self.kind]).astype("<i2").tobytes() if self.kind in LAWS else data

    def to_json(self) -> dict[str, Any]:
        """As a session has it; the codes of telephones have one rate."""
        return {"type": self.kind} | ({} if self.kind in LAWS else {"rate": self.rate})


class Spoken:
    """One answer's speech on its way out: samples at 16 kHz in pieces -> bytes of a format, as the whole would give them."""

    def __init__(self, format_: AudioFormat) -> None:
        from tinywave_core.audio.stream_resampling import StreamResampler

        self._law = LAWS.get(format_.kind)
        self._resampler = StreamResampler(SAMPLE_RATE, format_.rate)

    def push(self, samples: Samples) -> bytes:
        """More of it; empty where the next piece has a say in it."""
        return self._bytes(self._resampler.push(samples))

    def end(self) -> bytes:
        """The rest."""
        return self._bytes(self._resampler.end())

    def _bytes(self, samples: Samples) -> bytes:
        data = to_pcm16(samples)
        return data if self._law is None else g711.encode(np.frombuffer(data, "<i2"), self._law)
