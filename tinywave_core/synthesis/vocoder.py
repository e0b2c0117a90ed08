"""Draft quality: token ids -> 16 kHz speech with tables that are fitted together with the codebooks, no download.

Each unit has a mean log-mel trajectory (4 x 10 ms) to which its neighbours add their own share (coarticulation). The
envelope filters an excitation at the coded pitch (`source_filter`). Ids are deduplicated, so run lengths come back from the
units' mean lengths and from the [St…] tokens (`durations`).

Audio is made as its frames come: what a sample is depends on the frames up to LOOK_AHEAD after it and on none of the later
ones, so a stream is the whole in pieces. Before the first voiced frame, and in pauses but for their last frame, pitch stays
where it was.

Shapes: K units of the codebook, T frames at 25 Hz, F rows at 100 Hz (4 per T), M mel bands.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.numpy import load_file, save_file

from tinywave_core.audio.mel import mel_filters
from tinywave_core.errors import SchemaVersionError
from tinywave_core.synthesis import source_filter
from tinywave_core.synthesis.durations import sounds
from tinywave_core.synthesis.source_filter import FFT_SAMPLES, HOP_SAMPLES, MELS, SAMPLE_RATE, Outline
from tinywave_core.synthesis.windows import in_chunks, joined, windows
from tinywave_core.tokenizers import f0, pitch, speech
from tinywave_core.tokenizers.codebooks import Codebooks
from tinywave_core.tokenizers.vocabulary import Vocabulary

FORMAT_VERSION = 1
TENSORS, DESCRIPTION = "vocoder.safetensors", "vocoder.json"
SUBFRAMES = 4
FRAME_SAMPLES = SUBFRAMES * HOP_SAMPLES
LOG_FLOOR = 1e-5
# Log-mels are summed as whole steps of this size, so that the order of the utterances cannot matter.
LOG_STEP = 1 / 256
RIDGE = 3.0  # frames of "nothing added" that every unit is thought to have seen in each place
SMOOTH = 2  # frames on each side that the contours of a frame depend on
LOOK_AHEAD = 1 + SMOOTH + source_filter.CONTEXT_ROWS // SUBFRAMES  # frames

_Array = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]


def log_mel(samples: Samples) -> _Array:
    """Natural log of the mel magnitudes [F, 80]; frame i is centred on sample 160 i."""
    waveform, window = torch.from_numpy(samples.astype(np.float64)), torch.hann_window(FFT_SAMPLES, dtype=torch.float64)
    spectrum = torch.stft(waveform, FFT_SAMPLES, HOP_SAMPLES, window=window, return_complex=True)
    mel_FM = spectrum.abs().T.numpy() @ mel_filters(FFT_SAMPLES // 2 + 1, MELS, SAMPLE_RATE, 0.0, "slaney")
    return np.log(np.maximum(mel_FM, LOG_FLOOR))


@dataclass(frozen=True)
class Frame:
    """The sound of 40 ms."""

    unit: int
    semitones: float  # from the speaker's median; NaN where unvoiced


@dataclass(frozen=True)
class DraftVocoder:
    """Fitted tables; all of them are means over the speech that the codebooks were fitted on."""

    vocabulary: Vocabulary
    mean_mel: _Array  # [M] log-mel of an average frame
    previous: _Array  # [K, 4, M] what the previous frame's unit adds to it
    current: _Array  # [K, 4, M] what the unit itself adds
    following: _Array  # [K, 4, M] what the next frame's unit adds
    frames_per_run: _Array  # [K] mean run length of a unit
    voiced_share: _Array  # [K] how often a frame of the unit is voiced
    unit_semitones: _Array  # [K] its mean pitch when voiced
    pitch_semitones: _Array  # [pitch codes], NaN for code 0; empty for base tokens
    median_hz: float  # F0 of a typical speaker

    @classmethod
    def fit(cls, codebooks: Codebooks, utterances: Iterable[tuple[Samples, speech.Streams]]) -> "DraftVocoder":
        """Tables of these utterances (samples and what the codebooks made of them), whatever their order."""
        sums = _Sums(len(codebooks.units.centres))
        for samples, streams in utterances:
            sums.add(samples, streams.units)
        codes = codebooks.pitch_centres
        semitones = np.zeros(0) if codes is None else pitch.decode(np.arange(len(codes) + 1), codes)
        return cls(
            vocabulary=codebooks.vocabulary, pitch_semitones=semitones, median_hz=sums.median_hz(), **sums.tables()
        )

    def synthesize(
        self,
        tokens: npt.ArrayLike | speech.Streams,
        vocabulary: Vocabulary | None = None,
        iterations: int = 8,
        *,
        median_hz: float | None = None,
    ) -> Samples:
        """Speech at 16 kHz of raw streams or of ids (text and markers are skipped), in a voice of `median_hz`.

        `vocabulary` is that of the ids where it is not the codebooks' own; `iterations` are Griffin and Lim's.
        """
        if isinstance(tokens, speech.Streams):
            frames = self.frames_of_streams(tokens)
        else:
            frames = self.frames_of_ids(np.asarray(tokens, dtype=np.int64).tolist(), vocabulary or self.vocabulary)
        return joined(self.speak(frames, iterations, median_hz))

    def stream(
        self, ids: Iterable[int], vocabulary: Vocabulary, iterations: int = 8, chunk_frames: int = 10
    ) -> Iterator[Samples]:
        """The same audio while ids come one by one, in chunks of so many frames."""
        audio = self.speak(self.frames_of_ids(ids, vocabulary), iterations)
        return in_chunks(audio, chunk_frames * FRAME_SAMPLES)

    def speak(self, frames: Iterable[Frame], iterations: int, median_hz: float | None = None) -> Iterator[Samples]:
        """Audio of frames as they come, in blocks of `source_filter`; 640 samples for each."""
        return source_filter.speak(self._outlines(frames), median_hz or self.median_hz, iterations)

    def frames_of_streams(self, streams: speech.Streams) -> Iterator[Frame]:
        """Every raw unit is one frame; every pitch code is two."""
        for position, unit in enumerate(streams.units):
            code = streams.pitch[min(position // 2, len(streams.pitch) - 1)] if len(streams.pitch) else None
            yield Frame(int(unit), self._semitones(int(unit), code))

    def frames_of_ids(self, ids: Iterable[int], vocabulary: Vocabulary) -> Iterator[Frame]:
        """Every [Hu] token for as long as it lasts, at the pitch in force; before the first [Pi] token at the unit's own."""
        for sound in sounds(ids, vocabulary, self.frames_per_run):
            yield from [Frame(sound.unit, self._semitones(sound.unit, sound.pitch))] * sound.frames

    def envelope(self, previous: int, unit: int, following: int) -> _Array:
        """Log-mel [4, M] of a frame between two others."""
        return self.previous[previous] + self.current[unit] + self.following[following] + self.mean_mel

    def _semitones(self, unit: int, code: int | None) -> float:
        if code is not None and len(self.pitch_semitones):
            return float(self.pitch_semitones[code])
        return float(self.unit_semitones[unit]) if self.voiced_share[unit] >= 0.5 else np.nan

    def _outlines(self, frames: Iterable[Frame]) -> Iterator[Outline]:
        """Rows of each frame; in front of the first one stands its first row, for row 4 t + 1 is the first one of frame t."""
        first = True
        for window, here, _ in windows(_with_pitch(frames), SMOOTH, SMOOTH, 1):
            near = [window[min(max(here + step, 0), len(window) - 1)][0].unit for step in (-1, 0, 1)]
            log_mel, (semitones, voiced) = self.envelope(*near), _contour(window, here)
            if first:
                yield Outline(log_mel[:1], semitones[[0, 0]], voiced[:1])
            first = False
            yield Outline(log_mel, semitones, voiced)

    def save(self, folder: Path) -> None:
        """Write vocoder.safetensors and vocoder.json."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name) for name in _TABLES}
        save_file({name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}, folder / TENSORS)
        description: dict[str, Any] = {
            "format": "tinywave-draft-vocoder",
            "version": FORMAT_VERSION,
            "median_hz": self.median_hz,
            "sample_rate": SAMPLE_RATE,
            "vocabulary": self.vocabulary.to_json(),
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "DraftVocoder":
        """Read what `save` wrote."""
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if description["version"] > FORMAT_VERSION:
            raise SchemaVersionError(
                f"{folder} has a vocoder of version {description['version']}, this TinyWave reads up to {FORMAT_VERSION}: "
                "update TinyWave"
            )
        tensors = {name: array.astype(np.float64) for name, array in load_file(folder / TENSORS).items()}
        vocabulary = Vocabulary.from_json(description["vocabulary"])
        return cls(vocabulary=vocabulary, median_hz=description["median_hz"], **tensors)


_TABLES = (
    "mean_mel",
    "previous",
    "current",
    "following",
    "frames_per_run",
    "voiced_share",
    "unit_semitones",
    "pitch_semitones",
)


class _Sums:
    """Sums over utterances, all of whole numbers, from which the tables follow in whatever order they were added."""

    def __init__(self, units: int) -> None:
        self.units = units
        self.pairs = np.zeros((3 * units, 3 * units))
        self.mel = np.zeros((3 * units, SUBFRAMES * MELS))
        self.utterance_mean = np.zeros(MELS)
        self.utterances = 0
        self.frames, self.runs = np.zeros(units), np.zeros(units)
        self.voiced, self.semitones = np.zeros(units), np.zeros(units)
        self.medians: list[float] = []

    def add(self, samples: Samples, units: npt.NDArray[np.int64]) -> None:
        if not len(units):
            return
        mel_TSM = np.rint(log_mel(samples)[_subframes(len(units))] / LOG_STEP)
        mean_M = np.rint(mel_TSM.mean(axis=(0, 1)))
        self.utterance_mean += mean_M
        self.utterances += 1
        residual = (mel_TSM - mean_M).reshape(len(units), -1)
        previous, following = _neighbours(units)
        one_hot = np.concatenate([np.eye(self.units)[row] for row in (previous, units, following)], axis=1)
        self.mel += one_hot.T @ residual
        self.pairs += one_hot.T @ one_hot
        self.frames += np.bincount(units, minlength=self.units)
        self.runs += np.bincount(units[speech.run_starts(units)], minlength=self.units)
        self._add_pitch(samples, units)

    def _add_pitch(self, samples: Samples, units: npt.NDArray[np.int64]) -> None:
        f0_hz = f0.f0_hz(samples)
        semitones_T = np.rint(pitch.semitones(f0_hz)[SUBFRAMES * np.arange(len(units)) + 2] * 256)
        voiced = np.isfinite(semitones_T)
        self.voiced += np.bincount(units[voiced], minlength=self.units)
        self.semitones += np.bincount(units[voiced], weights=semitones_T[voiced], minlength=self.units) / 256
        if (f0_hz > 0).any():
            self.medians.append(float(np.median(f0_hz[f0_hz > 0])))

    def median_hz(self) -> float:
        return round(float(np.median(self.medians)), 1) if self.medians else 150.0

    def tables(self) -> dict[str, _Array]:
        """Least squares of the log-mel on (previous, current, next unit), with a light ridge that shares the mean."""
        solution = np.linalg.solve(self.pairs + RIDGE * np.eye(len(self.pairs)), self.mel) * LOG_STEP
        # The solver's last bits depend on its threads; the rounded tables do not.
        previous, current, following = np.round(solution, 3).reshape(3, self.units, SUBFRAMES, MELS)
        return {
            "mean_mel": np.round(self.utterance_mean / max(self.utterances, 1) * LOG_STEP, 3),
            "previous": previous,
            "current": current,
            "following": following,
            "frames_per_run": np.where(self.runs > 0, self.frames / np.maximum(self.runs, 1), 1.0),
            "voiced_share": self.voiced / np.maximum(self.frames, 1),
            "unit_semitones": self.semitones / np.maximum(self.voiced, 1),
        }


def _neighbours(units: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return np.concatenate([units[:1], units[:-1]]), np.concatenate([units[1:], units[-1:]])


def _subframes(frames: int) -> npt.NDArray[np.int64]:
    """Log-mel frames [T, 4] inside each 40 ms frame, whose middle is sample 640 t + 360."""
    return SUBFRAMES * np.arange(frames)[:, None] + 1 + np.arange(SUBFRAMES)


def _with_pitch(frames: Iterable[Frame]) -> Iterator[tuple[Frame, float]]:
    """Each frame with a pitch, also where it is unvoiced: that of the next frame if that is voiced, else the last one heard."""
    last_voiced = 0.0
    for window, here, _ in windows(frames, 0, 1, 1):
        frame, following = window[here], window[-1]
        semitones = [neighbour.semitones for neighbour in (frame, following) if np.isfinite(neighbour.semitones)]
        last_voiced = semitones[0] if semitones else last_voiced
        yield frame, last_voiced


def _contour(window: list[tuple[Frame, float]], here: int) -> tuple[_Array, _Array]:
    """Pitch [5], up to the next row, and voicing [4] of one of the frames at 100 Hz: straight lines, the pitch smoothed."""
    pitches = np.array([pitch for _, pitch in window])
    voiced = np.array([np.isfinite(frame.semitones) for frame, _ in window], np.float64)
    rows = SUBFRAMES * here + np.arange(-_REACH, SUBFRAMES + 1 + _REACH)
    pitch_F = np.interp(rows / SUBFRAMES - 0.375, np.arange(len(window)), pitches)
    smooth = np.convolve(pitch_F, _KERNEL, "valid")
    times = here + np.arange(SUBFRAMES) / SUBFRAMES - 0.375
    return smooth, np.interp(times, np.arange(len(window)), voiced)


_KERNEL = np.hanning(11)[1:-1] / np.hanning(11).sum()
_REACH = len(_KERNEL) // 2
