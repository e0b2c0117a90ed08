"""Draft quality: token ids -> 16 kHz speech with tables that are fitted together with the codebooks, no download.

Each unit has a mean log-mel trajectory (4 x 10 ms) to which its neighbours add their own share (coarticulation). The
envelope filters an excitation in the manner of a source-filter vocoder: a pulse train at the coded pitch where voiced,
noise elsewhere. Ids are deduplicated, so run lengths come back from the units' mean lengths and from the [St…] tokens,
which stand exactly one second apart.

Shapes: N units of a sequence, K units of the codebook, T frames at 25 Hz, F frames at 100 Hz (4 per T), M mel bands.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchaudio
from safetensors.numpy import load_file, save_file

from tinywave_core.errors import SchemaVersionError
from tinywave_core.tokenizers import f0, pitch, speech
from tinywave_core.tokenizers.codebooks import Codebooks
from tinywave_core.tokenizers.vocabulary import Ids, Vocabulary

FORMAT_VERSION = 1
TENSORS, DESCRIPTION = "vocoder.safetensors", "vocoder.json"
SAMPLE_RATE = 16_000
MELS, SUBFRAMES = 80, 4
FFT_SAMPLES, HOP_SAMPLES = 512, 160
LOG_FLOOR = 1e-5
# Log-mels are summed as whole steps of this size, so that the order of the utterances cannot matter.
LOG_STEP = 1 / 256
PEAK = 0.95
RIDGE = 3.0  # frames of "nothing added" that every unit is thought to have seen in each place
# Exponent of the harmonics' ripple; 0 is plain Griffin-Lim. Held-out log-mel correlation and share of the voiced frames
# that have the coded F0, 8 iterations (LibriSpeech, 100 units): 0: 0.81, 0.10; 0.3: 0.82, 0.80; 0.5: 0.81, 0.95; 0.7: 0.79, 0.97.
HARMONIC_DEPTH = 0.7
TONAL_BELOW_HZ = 4000.0  # voiced speech is noisy above
NOISE_MAGNITUDE = 0.5 * float(np.sqrt(np.pi * 0.375 * 512))  # mean STFT magnitude of white noise, Hann window of 512

_Array = npt.NDArray[np.float64]
Samples = npt.NDArray[np.float32]


def log_mel(samples: Samples) -> _Array:
    """Natural log of the mel magnitudes [F, 80]; frame i is centred on sample 160 i."""
    waveform = torch.from_numpy(samples.astype(np.float64))
    mel_MF = _mel_transform()(waveform)
    return np.log(np.maximum(mel_MF.T.numpy(), LOG_FLOOR))


@cache
def _mel_transform() -> torchaudio.transforms.MelSpectrogram:
    return torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE,
        n_fft=FFT_SAMPLES,
        hop_length=HOP_SAMPLES,
        n_mels=MELS,
        power=1.0,
        norm="slaney",
        mel_scale="slaney",
    ).double()


@dataclass(frozen=True)
class Frames:
    """What is to be heard, frame by frame at 25 Hz."""

    units: npt.NDArray[np.int64]  # [T]
    semitones: _Array  # [T] from the speaker's median; NaN where unvoiced


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
            frames = self.frames_of_ids(np.asarray(tokens, dtype=np.int64), vocabulary or self.vocabulary)
        if not len(frames.units):
            return np.zeros(0, np.float32)
        envelope = self.envelope(frames.units)
        samples = _filter_excitation(envelope, frames.semitones, median_hz or self.median_hz, iterations)
        peak = float(np.abs(samples).max())
        return (samples * min(1.0, PEAK / peak) if peak else samples).astype(np.float32)

    def frames_of_streams(self, streams: speech.Streams) -> Frames:
        """Every raw unit is one frame; every pitch code is two."""
        if not len(streams.pitch):
            return Frames(streams.units, self._semitones_of_units(streams.units))
        codes = streams.pitch[np.minimum(np.arange(len(streams.units)) // 2, len(streams.pitch) - 1)]
        return Frames(streams.units, self.pitch_semitones[codes])

    def frames_of_ids(self, ids: Ids, vocabulary: Vocabulary) -> Frames:
        """Give every [Hu] token a length, and its pitch to all its frames."""
        positions = speech.positions(ids, vocabulary)
        lengths = self._lengths(vocabulary.kinds(ids), positions.units)
        units = np.repeat(positions.units, lengths)
        if not len(positions.pitch):
            return Frames(units, self._semitones_of_units(units))
        return Frames(units, self.pitch_semitones[np.repeat(positions.pitch, lengths)])

    def envelope(self, units: npt.NDArray[np.int64]) -> _Array:
        """Log-mel [4 T, M] of units at 25 Hz."""
        previous, following = _neighbours(units)
        mel_TSM = self.previous[previous] + self.current[units] + self.following[following] + self.mean_mel
        return mel_TSM.reshape(-1, MELS)

    def _semitones_of_units(self, units: npt.NDArray[np.int64]) -> _Array:
        return np.where(self.voiced_share[units] >= 0.5, self.unit_semitones[units], np.nan)

    def _lengths(self, kinds: npt.NDArray[np.int8], units: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Frames of each [Hu] token: mean run lengths, stretched to fill the second between two [St] tokens."""
        means = self.frames_per_run[units]
        hubert, style = kinds == speech.HUBERT, kinds == speech.STYLE
        borders = np.cumsum(hubert)[style]  # [Hu] tokens before each [St]
        pieces = np.split(means, borders)
        lengths = [_spread(pieces[0], round(pieces[0].sum()))]
        for second, piece in enumerate(pieces[1:]):
            begin, end = (int(np.ceil(s * speech.RATES_HZ["units"])) for s in (second, second + 1))
            last = second == len(pieces) - 2
            lengths.append(_spread(piece, round(piece.sum()) if last else end - begin))
        return np.concatenate(lengths)

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
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "DraftVocoder":
        """Read what `save` wrote."""
        description = json.loads((folder / DESCRIPTION).read_text())
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
        shown = np.concatenate([np.eye(self.units)[row] for row in (previous, units, following)], axis=1)
        self.mel += shown.T @ residual
        self.pairs += shown.T @ shown
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


def _spread(means: _Array, total: int) -> npt.NDArray[np.int64]:
    """Whole lengths of at least 1, in proportion to `means`, that sum to `total` where there is room for it."""
    spare = max(total - len(means), 0)
    weights = np.cumsum(np.maximum(means - 1, 1e-3))
    ends = np.rint(weights / weights[-1] * spare) if len(means) else weights
    return 1 + np.diff(ends, prepend=0.0).astype(np.int64)


def _filter_excitation(log_mel_FM: _Array, semitones_T: _Array, median_hz: float, iterations: int) -> _Array:
    """Samples whose spectrum follows the envelope: harmonics of F0 where voiced (below 4 kHz), noise for the rest."""
    semitones_F, voiced_F = _contour(semitones_T)
    # Log-mel frame 4 t + 1 is the first one of frame t: one frame is put in front, one behind.
    log_mel_FM, semitones_F, voiced_F = (
        np.concatenate([x[:1], x, x[-1:]]) for x in (log_mel_FM, semitones_F, voiced_F)
    )
    length = (len(log_mel_FM) - 1) * HOP_SAMPLES
    harmonics, noise = _spectrum(_pulses(semitones_F, median_hz, length)), _spectrum(_noise(length))
    # Only the phase of the noise is kept: its magnitude would ruffle the envelope by 5 dB.
    noise *= NOISE_MAGNITUDE / np.maximum(np.abs(noise), 1e-9)
    frequencies = np.arange(FFT_SAMPLES // 2 + 1) * SAMPLE_RATE / FFT_SAMPLES
    tonal = voiced_F[:, None] / (1 + np.exp((frequencies - TONAL_BELOW_HZ) / 400.0))
    excitation = harmonics * tonal + noise * (1 - tonal)
    ripple = np.maximum(np.abs(excitation) / NOISE_MAGNITUDE, 1e-3)
    spectrum = excitation * np.exp(_linear_envelope(log_mel_FM)) * ripple ** (HARMONIC_DEPTH - 1)
    magnitude = np.abs(spectrum)
    for _ in range(iterations):  # Griffin and Lim (1984), from the excitation's phase instead of a random one
        spectrum = _spectrum(_samples(spectrum, length))
        spectrum *= magnitude / np.maximum(np.abs(spectrum), 1e-9)
    return _samples(spectrum, length)


def _contour(semitones_T: _Array) -> tuple[_Array, _Array]:
    """Pitch and voicing [4 T] at 100 Hz; pitch runs in straight lines, also below what is unvoiced."""
    voiced = np.isfinite(semitones_T)
    times = np.arange(SUBFRAMES * len(semitones_T)) / SUBFRAMES - 0.375
    if not voiced.any():
        return np.zeros(len(times)), np.zeros(len(times))
    pitch_F = np.interp(times, np.flatnonzero(voiced), semitones_T[voiced])
    kernel = np.hanning(11)[1:-1] / np.hanning(11).sum()
    smooth = np.convolve(np.pad(pitch_F, 4, "edge"), kernel, "valid")
    return smooth, np.interp(times, np.arange(len(voiced)), voiced.astype(np.float64))


def _pulses(semitones_F: _Array, median_hz: float, length: int) -> _Array:
    """All harmonics of the contour below 8 kHz, in phase, with the mean STFT magnitude of white noise."""
    f0 = median_hz * 2 ** (np.interp(np.arange(length) / HOP_SAMPLES, np.arange(len(semitones_F)), semitones_F) / 12)
    half_phase = np.pi * np.cumsum(f0 / SAMPLE_RATE) + 1e-3
    count = np.floor(7600.0 / f0)
    # Closed form of the sum of cos(h phase), h = 1 … count (Dirichlet kernel).
    sine = np.sin(half_phase)
    sine = np.where(np.abs(sine) < 1e-6, 1e-6, sine)
    harmonics = np.sin((2 * count + 1) * half_phase) / (2 * sine) - 0.5
    # A Hann window of 512 spreads a cosine of amplitude 1 over the spectrum with a mean of 8000 / F0.
    return harmonics * f0 * NOISE_MAGNITUDE / 8000.0


def _noise(length: int) -> _Array:
    return np.random.default_rng(0).standard_normal(length)


def _spectrum(samples: _Array) -> npt.NDArray[np.complex128]:
    window = torch.hann_window(FFT_SAMPLES, dtype=torch.float64)
    return torch.stft(torch.from_numpy(samples), FFT_SAMPLES, HOP_SAMPLES, window=window, return_complex=True).numpy().T


def _samples(spectrum: npt.NDArray[np.complex128], length: int) -> _Array:
    window = torch.hann_window(FFT_SAMPLES, dtype=torch.float64)
    return torch.istft(torch.from_numpy(spectrum.T), FFT_SAMPLES, HOP_SAMPLES, window=window, length=length).numpy()


@cache
def _bands() -> tuple[_Array, _Array]:
    """Where each mel band has its middle, as an FFT bin, and the log of its response to a flat spectrum."""
    bank = torchaudio.functional.melscale_fbanks(
        FFT_SAMPLES // 2 + 1, 0.0, SAMPLE_RATE / 2, MELS, SAMPLE_RATE, "slaney", "slaney"
    ).numpy()
    return (bank * np.arange(len(bank))[:, None]).sum(axis=0) / bank.sum(axis=0), np.log(bank.sum(axis=0))


def _linear_envelope(log_mel_FM: _Array) -> _Array:
    """Log gain [F, 257] that gives a flat excitation this mel spectrum."""
    middles, response = _bands()
    flat = log_mel_FM - response - np.log(NOISE_MAGNITUDE)
    bins = np.arange(FFT_SAMPLES // 2 + 1)
    right = np.clip(np.searchsorted(middles, bins), 1, MELS - 1)
    share = np.clip((bins - middles[right - 1]) / (middles[right] - middles[right - 1]), 0.0, 1.0)
    return flat[:, right - 1] * (1 - share) + flat[:, right] * share
