"""What a voice is made of: stretches of a person's recordings, cut where their unit changes, with what a joint needs to know.

Everything by which a stretch is chosen is a whole number (decision 0027): so every machine chooses the same ones.

Shapes: N samples, R runs (a unit for as long as it lasts), K units, C cepstra, P pitch codes, F rows at 100 Hz, M mel bands.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.synthesis.mel import HOP_SAMPLES, MELS, log_mel
from tinywave_core.tokenizers import f0
from tinywave_core.tokenizers.speech import Streams, run_starts
from tinywave_core.tokenizers.streams import Rates

CEPSTRA = 14
CEPSTRUM_STEPS = 16  # a cepstrum is kept in sixteenths of a neper
OCTAVE_STEPS = 48  # pitch in quarters of a semitone
LEVEL, PEAK = 0.06, 0.95  # all recordings are brought to this RMS, unless a sample would pass the peak

Samples = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int64]

_COSINES = np.cos(np.pi * np.outer(np.arange(MELS) + 0.5, np.arange(CEPSTRA)) / MELS) * np.sqrt(2 / MELS)


@dataclass(frozen=True)
class Recordings:
    """The recordings of one voice, one after the other."""

    samples_N: npt.NDArray[np.int16]
    units: Whole  # [R]
    starts: Whole  # [R] first sample
    stops: Whole  # [R] the sample after the last
    utterances: Whole  # [R] number of the utterance: no stretch goes on from one to the next
    speakers: Whole  # [R] number of the speaker; all the same but for a voice that is a mixture
    head_RC: Whole  # cepstra where the run begins
    tail_RC: Whole  # and where it ends
    head_pitch: Whole  # [R] log2 of F0 there, 0 where unvoiced
    tail_pitch: Whole  # [R]
    codes: Whole  # [R] pitch code where it begins; -1 for base tokens

    @property
    def seconds(self) -> float:
        return len(self.samples_N) / SAMPLE_RATE

    def follows(self) -> npt.NDArray[np.bool_]:
        """[R] whether the next run goes on where this one ends."""
        return np.append(self.utterances[1:] == self.utterances[:-1], False)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All but the samples, as they are kept."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "samples_N"}

    @classmethod
    def of(cls, utterances: Iterable[tuple[Samples, Streams, int]], rates: Rates) -> "Recordings":
        """Of utterances: samples, what the tokenizer made of them, number of the speaker."""
        parts: list[dict[str, npt.NDArray[Any]]] = []
        before = 0
        for number, (samples, streams, speaker) in enumerate(utterances):
            part = _part(samples, streams, rates)
            count = len(part["units"])
            part["starts"] += before
            part["stops"] += before
            part["utterances"], part["speakers"] = np.full(count, number), np.full(count, speaker)
            parts.append(part)
            before += len(part["samples_N"])
        return cls(**{each.name: np.concatenate([part[each.name] for part in parts]) for each in fields(cls)})


def frame_samples(rates: Rates) -> float:
    """Samples that a unit stands for."""
    return SAMPLE_RATE / rates.units


def framed(samples: Samples, units: Whole, rates: Rates) -> Whole:
    """The units whose frames lie in the recording."""
    return np.asarray(units, np.int64)[: int(len(samples) / frame_samples(rates))]


def levelled(samples: Samples) -> npt.NDArray[np.int16]:
    """The recording at the level of all; digital silence stays what it is."""
    # Of 16-bit samples: their sums are whole, so the factor is the same everywhere.
    whole = np.rint(np.clip(samples, -1, 1).astype(np.float64) * 32767)
    loudness, peak = float(np.sqrt(np.square(whole).mean())) if len(whole) else 0.0, float(np.abs(whole).max(initial=0))
    factor = min(LEVEL * 32767 / loudness, PEAK * 32767 / peak) if loudness else 1.0
    return np.rint(whole * factor).astype(np.int16)


def _part(samples: Samples, streams: Streams, rates: Rates) -> dict[str, npt.NDArray[Any]]:
    units = framed(samples, streams.units, rates)
    own = levelled(samples)
    frames = run_starts(units)
    edges = np.rint(np.append(frames, len(units)) * frame_samples(rates)).astype(np.int64)
    heard = own.astype(np.float32) / np.float32(32768)
    rows = edges // HOP_SAMPLES
    mel_FM = log_mel(heard)
    cepstra = np.rint(mel_FM[np.minimum(rows, len(mel_FM) - 1)] @ _COSINES * CEPSTRUM_STEPS).astype(np.int64)
    f0_hz = f0.f0_hz(heard)
    f0_hz = f0_hz[np.minimum(rows, len(f0_hz) - 1)]
    pitch = np.where(f0_hz > 0, np.rint(OCTAVE_STEPS * np.log2(np.maximum(f0_hz, 1.0))), 0).astype(np.int64)
    return {
        "samples_N": own,
        "units": units[frames],
        "starts": edges[:-1].copy(),
        "stops": edges[1:].copy(),
        "head_RC": cepstra[:-1],
        "tail_RC": cepstra[1:],
        "head_pitch": pitch[:-1],
        "tail_pitch": pitch[1:],
        "codes": _codes(streams, frames, rates),
    }


def _codes(streams: Streams, frames: Whole, rates: Rates) -> Whole:
    """Pitch code at each of these frames of units."""
    if not len(streams.pitch):
        return np.full(len(frames), -1)
    hz = rates.frames_hz
    at = (frames * hz["pitch"] / hz["units"]).astype(np.int64)
    return np.asarray(streams.pitch, np.int64)[np.minimum(at, len(streams.pitch) - 1)]


class UnitSounds:
    """How units sound on average, from anybody's speech, whatever the order of the utterances."""

    def __init__(self, units: int) -> None:
        self._sums = np.zeros((units, CEPSTRA))
        self._frames = np.zeros(units)

    def add(self, samples: Samples, units: Whole, rates: Rates) -> None:
        units = framed(samples, units, rates)
        if not len(units):
            return
        cepstra_FC = log_mel(samples) @ _COSINES * CEPSTRUM_STEPS
        middles = ((np.arange(len(units)) + 0.5) * frame_samples(rates) / HOP_SAMPLES).astype(np.int64)
        # Whole numbers without the recording's mean: sums of them do not depend on their order.
        frames_TC = np.rint(cepstra_FC[np.minimum(middles, len(cepstra_FC) - 1)] - cepstra_FC.mean(axis=0))
        np.add.at(self._sums, units, frames_TC)
        self._frames += np.bincount(units, minlength=len(self._frames))

    def centres(self) -> Whole:
        """Mean cepstra [K, C]; those of an average frame where a unit was never heard."""
        return np.rint(self._sums / np.maximum(self._frames, 1)[:, None]).astype(np.int64)
