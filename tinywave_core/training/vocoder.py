"""Training of the light vocoder: clips of the user's own speech, a spectral loss, exact resume.

The batch of a step is a function of (seed, step), so weights, moments and the step number are the whole state. The sources
of a clip follow its true pitch, so that harmonics lie where they are in the recording; the pitch that the codes stand for is
learned beside it.

Shapes: B clips of a batch, T frames of a clip, F = 4 T + 1 rows, S = 640 T samples.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torchaudio
from torch import Tensor

from tinywave_core.errors import TrainingError
from tinywave_core.progress import Progress
from tinywave_core.synthesis.light_model import KINDS, LightNetwork, filtered, spectrum
from tinywave_core.synthesis.source_filter import MELS, SAMPLE_RATE, Source
from tinywave_core.synthesis.vocoder import RIDGE, log_mel
from tinywave_core.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint

FRAME_SAMPLES, FRAME_ROWS = 640, 4
RESOLUTIONS = ((256, 64, 40), (512, 128, 80), (1024, 256, 80))  # window, hop, mel bands
FLOOR = 1e-4  # magnitudes below are silence
CONVERGENCE_WEIGHT, PITCH_WEIGHT = 0.1, 0.1  # beside the log-mels' 1
UNNAMED_SHARE = 0.3  # of the clips, whose voice is not told


@dataclass(frozen=True)
class Recording:
    """An utterance to learn from."""

    samples: npt.NDArray[np.int16]  # [640 T]
    codes: dict[str, npt.NDArray[np.int64]]  # [T] each, by kind
    semitones: npt.NDArray[np.float32]  # [4 T + 1] from the speaker's median, NaN where unvoiced
    median_hz: float

    @property
    def frames(self) -> int:
        return len(self.codes["units"])


def mean_envelopes(recordings: Sequence[Recording], units: int) -> Tensor:
    """Log-mels [3, units, 4 M] that the previous, this and the next unit of a frame add up to: least squares over all frames, with a
    light ridge. The mean is shared by all units of the middle table."""
    shown, heard = np.zeros((3 * units, 3 * units)), np.zeros((3 * units, FRAME_ROWS * MELS))
    total = sum(recording.frames for recording in recordings)
    means = sum(_log_mels(recording).sum(axis=0) for recording in recordings) / (FRAME_ROWS * total)
    for recording in recordings:
        here = recording.codes["units"]
        near = (np.append(here[:1], here[:-1]), here, np.append(here[1:], here[-1:]))
        rows = np.concatenate([np.eye(units)[row] for row in near], axis=1)
        shown += rows.T @ rows
        heard += rows.T @ (_log_mels(recording) - means).reshape(recording.frames, -1)
    # Rounded: the solver's last bits depend on its threads.
    tables = np.linalg.solve(shown + RIDGE * np.eye(len(shown)), heard).round(3).reshape(3, units, -1)
    tables[1] += np.tile(means, FRAME_ROWS).round(3)
    return torch.from_numpy(tables).float()


def _log_mels(recording: Recording) -> npt.NDArray[np.float64]:
    """[4 T, M]"""
    return log_mel((recording.samples / 32768).astype(np.float32))[: FRAME_ROWS * recording.frames]


@dataclass(frozen=True)
class Batch:
    """Clips of one length."""

    samples: Tensor  # [B, S]
    source: Tensor  # [B, 2, S]
    codes: dict[str, Tensor]  # [B, T] each
    semitones: Tensor  # [B, 4 T], NaN where unvoiced


def batch_of(recordings: Sequence[Recording], step: int, rows: int, frames: int, seed: int) -> Batch:
    """The batch of a step: clips drawn by length of speech from (seed, step)."""
    random = np.random.default_rng([seed, step])
    starts = np.array([recording.frames - frames + 1 for recording in recordings], np.float64)
    drawn = random.choice(len(recordings), rows, p=starts / starts.sum())
    clips = [_clip(recordings[i], int(random.integers(starts[i])), frames) for i in drawn]
    codes = {kind: torch.stack([clip.codes[kind] for clip in clips]) for kind in KINDS}
    codes["voice"][torch.from_numpy(random.random(rows) < UNNAMED_SHARE)] = 0
    samples, source, semitones = (
        torch.stack([getattr(clip, name) for clip in clips]) for name in ("samples", "source", "semitones")
    )
    return Batch(samples, source, codes, semitones)


def _clip(recording: Recording, start: int, frames: int) -> Batch:
    """One row of a batch, without its axis."""
    codes = {kind: torch.from_numpy(values[start : start + frames]) for kind, values in recording.codes.items()}
    samples = recording.samples[start * FRAME_SAMPLES : (start + frames) * FRAME_SAMPLES] / 32768
    semitones = recording.semitones[start * FRAME_ROWS : (start + frames) * FRAME_ROWS + 1]
    source = Source(recording.median_hz).rows(_without_gaps(semitones))
    return Batch(
        torch.from_numpy(samples.astype(np.float32)),
        torch.from_numpy(source.transpose(1, 0, 2).reshape(2, -1).astype(np.float32)),
        codes,
        torch.from_numpy(semitones[:-1]),
    )


def _without_gaps(semitones: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Straight lines where unvoiced."""
    voiced = np.flatnonzero(np.isfinite(semitones))
    if not len(voiced):
        return np.zeros(len(semitones))
    return np.interp(np.arange(len(semitones)), voiced, semitones[voiced])


def loss_of(network: LightNetwork, batch: Batch) -> tuple[Tensor, dict[str, float]]:
    """Mean over the clips, with its terms: log-mels, spectral convergence and semitones of voiced rows."""
    gains, semitones = network(batch.codes)
    gains = torch.cat([gains, gains[:, -1:]], dim=1)  # the row at which the clip ends
    terms = _spectral(filtered(gains, batch.source), batch.samples)
    voiced = batch.semitones.isfinite()
    off = (semitones - batch.semitones.nan_to_num()).abs() * voiced
    terms["semitones"] = off.sum() / voiced.sum().clamp(min=1)
    loss = terms["log_mel"] + CONVERGENCE_WEIGHT * terms["convergence"] + PITCH_WEIGHT * terms["semitones"]
    return loss, {name: float(term.detach()) for name, term in terms.items()}


def _spectral(made: Tensor, true: Tensor) -> dict[str, Tensor]:
    """Distances of spectra, averaged over the resolutions."""
    log_mel, convergence = made.new_zeros(()), made.new_zeros(())
    for size, hop, mels in RESOLUTIONS:
        x, y = (spectrum(samples, size, hop).abs() for samples in (made, true))
        bank = _bank(size, mels).to(made.device)
        a, b = ((bank @ magnitude).clamp(min=FLOOR).log() for magnitude in (x, y))
        log_mel = log_mel + (a - b).abs().mean() / len(RESOLUTIONS)
        # Of the whole batch: by the clip, one that is nearly silent would outweigh all others.
        convergence = convergence + (x - y).norm() / y.norm().clamp(min=FLOOR) / len(RESOLUTIONS)
    return {"log_mel": log_mel, "convergence": convergence}


@cache
def _bank(size: int, mels: int) -> Tensor:
    """Mel filters [mels, K] of area 1."""
    bank = torchaudio.functional.melscale_fbanks(size // 2 + 1, 0.0, SAMPLE_RATE / 2, mels, SAMPLE_RATE)
    return (bank / bank.sum(0).clamp(min=1e-6)).T.contiguous()


def learning_rate(step: int, steps: int, peak: float) -> float:
    """A short rise, then a cosine to a tenth."""
    rise = min(1.0, (step + 1) / max(1, min(100, steps // 10)))
    return peak * rise * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))


def train_vocoder(
    network: LightNetwork,
    recordings: Sequence[Recording],
    *,
    steps: int,
    rows: int,
    frames: int,
    peak_rate: float,
    seed: int,
    checkpoint_every: int,
    resume: Path,
    progress: Progress,
    on_step: Callable[[int], None] | None = None,
) -> list[dict[str, float]]:
    """Train in place from the newest checkpoint in `resume`; its curve, one record per step."""
    parameters = dict(network.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=peak_rate, betas=(0.8, 0.99), weight_decay=0.01)
    state = load_checkpoint(resume, parameters, optimizer) or TrainingState(0, [], [])
    device = next(network.parameters()).device
    network.train()
    while state.step < steps:
        step = state.step
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, peak_rate)
        batch = _on(batch_of(recordings, step, rows, frames, seed), device)
        loss, terms = loss_of(network, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if not math.isfinite(float(norm)):
            raise TrainingError(
                f"the vocoder's gradient is not finite at step {step + 1}: lower generation.vocoder.learning_rate"
            )
        optimizer.step()
        record = {"step": step + 1, "loss": float(loss.detach()), **terms}
        state = replace(state, step=step + 1, curves=[*state.curves, record])
        if state.step < steps and state.step % checkpoint_every == 0:
            save_checkpoint(resume, state, parameters, optimizer)
        progress(state.step, steps, f"loss {record['loss']:.3f}")
        if on_step:
            on_step(state.step)
    network.eval()
    return state.curves


def _on(batch: Batch, device: torch.device) -> Batch:
    codes = {kind: values.to(device) for kind, values in batch.codes.items()}
    return Batch(batch.samples.to(device), batch.source.to(device), codes, batch.semitones.to(device))
