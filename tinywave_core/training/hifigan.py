"""Training of a unit HiFi-GAN on the user's own units and speech: for those who have hours of it and a GPU.

The network is that of `synthesis/hifigan_model.py`, with the released models' shapes by default: codes by the frame -> samples (Polyak
et al. 2021, arXiv 2104.00355), judged by HiFi-GAN's discriminators beside an L1 distance of log-mels. The duration predictor (Ren et
al. 2021) learns the run lengths that deduplication drops. One optimiser holds both sides: a side without gradients is not moved by
it, so checkpoint and exact resume are those of every training. What a step draws comes from the seed and the step alone.

Shapes: B clips of a batch, T frames of a clip, H samples of a frame (hop), S = H T, N units without repetition.
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
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

from tinywave_core.errors import ConfigError, TrainingError
from tinywave_core.progress import Progress, note_of_step
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.uploads import UploadedCheckpoints
from tinywave_core.synthesis.hifigan_model import DurationConfig, HifiganConfig, HifiganNetwork
from tinywave_core.tokenizers.speech import run_starts
from tinywave_core.training.checkpoint import CheckpointWriter, TrainingState
from tinywave_core.training.discriminators import Discriminators, loss_of_generator, loss_of_judges

FEATURES_WEIGHT, MEL_WEIGHT = 2.0, 45.0  # the paper's
MEL_SIZE, MEL_HOP, MELS = 1024, 256, 80
FLOOR = 1e-5
UNNAMED = 0  # the voice of speakers with little speech
UNNAMED_SHARE = 0.3  # of the clips, whose voice is not told: a voice for whoever is not named
# Upsampling by one level, largest first: few levels are quick, and a rate above 5 leaves gaps that the kernel hardly covers.
_RATES = (5, 4, 3, 2)
_RESIDUAL_KERNELS, _DILATIONS = (3, 7, 11), (1, 3, 5)


@dataclass(frozen=True)
class Clip:
    """An utterance to learn from."""

    samples: npt.NDArray[np.int16]  # [H T]
    codes: npt.NDArray[np.int64]  # [R, T]: units, then pitch and style codes where the tokens have them
    voice: int

    @property
    def frames(self) -> int:
        return self.codes.shape[1]


@dataclass(frozen=True)
class Settings:
    """Of a training."""

    steps: int
    clips: int
    frames: int
    """Of a clip."""
    peak_rate: float
    seed: int
    judge_width: int = 32


def hifigan_config(
    hop: int, units: int, voices: int, *, pitch: int = 0, style: int = 0, hops: dict[str, int], channels: int = 512
) -> HifiganConfig:
    """A network for units of `hop` samples; `hops` are the samples of a pitch and of a style code. 512 channels are the released
    size; ConfigError for a hop that no upsampling reaches."""
    rates = upsample_rates(hop)
    width = max(8, channels // 4)
    return HifiganConfig(
        upsample_rates=rates,
        upsample_kernel_sizes=tuple(2 * rate + rate % 2 for rate in rates),
        upsample_initial_channel=channels,
        resblock_kernel_sizes=_RESIDUAL_KERNELS,
        resblock_dilation_sizes=(_DILATIONS,) * len(_RESIDUAL_KERNELS),
        num_embeddings=units,
        embedding_dim=width,
        multispkr="voices" if voices > 1 else None,
        num_speakers=voices,
        code_hop_size=hop,
        num_f0_tokens=pitch or None,
        f0_hop_size=hops["pitch"] if pitch else None,
        num_style_tokens=style or None,
        style_hop_size=hops["style"] if style else None,
        dur_predictor_params=DurationConfig(
            encoder_embed_dim=width, var_pred_hidden_dim=width, var_pred_kernel_size=3, var_pred_dropout=0.5
        ),
    )


def upsample_rates(hop: int) -> tuple[int, ...]:
    """Factors of a hop of 2 to 5, in falling order: 640 = 5 · 4 · 4 · 4 · 2, as in the released models."""
    rates: list[int] = []
    rest = hop
    while rest > 1:
        rate = next((rate for rate in _RATES if rest % rate == 0), None)
        if rate is None:
            raise ConfigError(
                f"units of {hop} samples: a HiFi-GAN needs a hop of the factors 2, 3 and 5 alone; take an encoder of another rate"
            )
        rates.append(rate)
        rest //= rate
    return tuple(rates)


# A batch --------------------------------------------------------------------------------------------------------------


def batch_of(recordings: Sequence[Clip], step: int, settings: Settings, hop: int) -> tuple[Tensor, Tensor, Tensor]:
    """Samples [B, S], codes [B, R, T] and voices [B] of a step: clips drawn by length of speech from (seed, step)."""
    random = np.random.default_rng([settings.seed, step])
    starts = np.array([recording.frames - settings.frames + 1 for recording in recordings], np.float64)
    drawn = random.choice(len(recordings), settings.clips, p=starts / starts.sum())
    samples, codes, voices = [], [], []
    for i in drawn:
        start = int(random.integers(starts[i]))
        stop = start + settings.frames
        samples.append(recordings[i].samples[start * hop : stop * hop].astype(np.float32) / 32768)
        codes.append(recordings[i].codes[:, start:stop])
        voices.append(recordings[i].voice)
    named = np.where(random.random(len(voices)) < UNNAMED_SHARE, UNNAMED, voices)
    return torch.from_numpy(np.stack(samples)), torch.from_numpy(np.stack(codes)), torch.from_numpy(named)


def runs_of(recordings: Sequence[Clip], step: int, settings: Settings) -> list[tuple[Tensor, Tensor]]:
    """Units without repetition [N] and the frames that each lasts [N], of as many whole utterances as a batch has clips."""
    random = np.random.default_rng([settings.seed, step, 1])
    runs = []
    for i in random.integers(len(recordings), size=settings.clips):
        units = recordings[i].codes[0]
        starts = run_starts(units)
        lengths = np.diff(np.append(starts, len(units)))
        # What is cut off at either end lasts longer than is known.
        if len(starts) > 2:
            runs.append((torch.from_numpy(units[starts][1:-1]), torch.from_numpy(lengths[1:-1])))
    return runs


# Losses ---------------------------------------------------------------------------------------------------------------


def mel_distance(made_BS: Tensor, true_BS: Tensor) -> Tensor:
    """Mean absolute difference of the natural log-mels."""
    return (_log_mels(made_BS) - _log_mels(true_BS)).abs().mean()


def _log_mels(samples_BS: Tensor) -> Tensor:
    window, bank = _window_and_bank()
    spectrum = torch.stft(
        samples_BS, MEL_SIZE, MEL_HOP, window=window.to(samples_BS), pad_mode="reflect", return_complex=True
    )
    # Not abs() alone: its gradient at exactly 0 is not a number.
    magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
    return (bank.to(samples_BS) @ magnitude).clamp(min=FLOOR).log()


@cache
def _window_and_bank() -> tuple[Tensor, Tensor]:
    bank = torchaudio.functional.melscale_fbanks(
        MEL_SIZE // 2 + 1, 0.0, SAMPLE_RATE / 2, MELS, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.hann_window(MEL_SIZE), bank.T.contiguous()


def duration_loss(network: HifiganNetwork, runs: Sequence[tuple[Tensor, Tensor]], dropout: float) -> Tensor:
    """Mean squared error of log(1 + frames) over the runs of a batch; the units' table learns nothing from it."""
    assert network.dur_predictor is not None
    device = network.dict.weight.device
    errors = []
    for units, frames in runs:
        heard = nn.functional.dropout(network.dict(units.to(device)).detach(), dropout)
        errors.append((network.dur_predictor(heard) - torch.log1p(frames.to(device).double())).square())
    return torch.cat(errors).mean() if errors else network.dict.weight.new_zeros(()).double()


# Training -------------------------------------------------------------------------------------------------------------


def learning_rate(step: int, steps: int, peak: float) -> float:
    """A short rise, then a cosine to a tenth."""
    rise = min(1.0, (step + 1) / max(1, min(1000, steps // 20)))
    return peak * rise * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))


def train_hifigan(
    network: HifiganNetwork,
    recordings: Sequence[Clip],
    settings: Settings,
    *,
    checkpoint_every: int,
    resume: Path,
    progress: Progress,
    on_step: Callable[[int], None] | None = None,
    uploads: UploadedCheckpoints | None = None,
) -> list[dict[str, float]]:
    """Train in place from the newest checkpoint in `resume`, or in `uploads`; its curve, one record per step. TrainingError where it breaks."""
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        judges = Discriminators(settings.judge_width).to(device)
    _with_weight_norm(network)
    sides = {"generator": dict(network.named_parameters()), "judges": dict(judges.named_parameters())}
    parameters = {f"{side}.{name}": p for side, own in sides.items() for name, p in own.items()}
    optimizer = torch.optim.AdamW(parameters.values(), lr=settings.peak_rate, betas=(0.8, 0.99), weight_decay=0.01)
    network.train()
    with CheckpointWriter(resume, parameters, optimizer, uploads) as checkpoints:
        state = checkpoints.load() or TrainingState(0, [], [])
        kept = state.step
        while state.step < settings.steps:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(state.step, settings.steps, settings.peak_rate)
            record = {"step": state.step + 1, **_step(network, judges, optimizer, recordings, state.step, settings)}
            state = replace(state, step=state.step + 1, curves=[*state.curves, record])
            if state.step < settings.steps and state.step % checkpoint_every == 0:
                checkpoints.save(state)
            note = f"log-mel {record['log_mel']:.3f}{checkpoints.note}"
            progress(state.step, settings.steps, note_of_step(state.step, kept, note))
            if on_step:
                on_step(state.step)
    _without_weight_norm(network)
    network.eval()
    return state.curves


def _step(
    network: HifiganNetwork,
    judges: Discriminators,
    optimizer: torch.optim.Optimizer,
    recordings: Sequence[Clip],
    step: int,
    settings: Settings,
) -> dict[str, float]:
    """One step of the judges, then one of the generator; the losses."""
    device = network.dict.weight.device
    true, codes, voices = (part.to(device) for part in batch_of(recordings, step, settings, network.hop))
    made = network.speak(codes, voices)
    optimizer.zero_grad(set_to_none=True)
    of_judges = loss_of_judges(judges(true), judges(made.detach()))
    _move(of_judges, list(judges.parameters()), optimizer, step)
    optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        of_true = judges(true)
    adversarial, features = loss_of_generator(of_true, judges(made))
    log_mel = mel_distance(made, true)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed * 1_000_003 + step)
        durations = duration_loss(network, runs_of(recordings, step, settings), network.duration_dropout)
    loss = adversarial + FEATURES_WEIGHT * features + MEL_WEIGHT * log_mel + durations.to(log_mel.dtype)
    # Gradients that went through the judges on their way are not theirs.
    _move(loss, list(network.parameters()), optimizer, step, others=judges)
    terms = {
        "loss": loss,
        "judges": of_judges,
        "adversarial": adversarial,
        "features": features,
        "log_mel": log_mel,
        "durations": durations,
    }
    return {name: float(term.detach()) for name, term in terms.items()}


def _move(
    loss: Tensor,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    step: int,
    others: nn.Module | None = None,
) -> None:
    loss.backward()
    if others is not None:
        others.zero_grad(set_to_none=True)
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1e3)
    if not math.isfinite(float(norm)):
        raise TrainingError(
            f"the vocoder's gradient is not finite at step {step + 1}: lower generation.vocoder.learning_rate"
        )
    optimizer.step()


def _with_weight_norm(network: HifiganNetwork) -> None:
    for module in _convolutions(network):
        weight_norm(module)


def _without_weight_norm(network: HifiganNetwork) -> None:
    for module in _convolutions(network):
        remove_parametrizations(module, "weight")


def _convolutions(network: HifiganNetwork) -> list[nn.Module]:
    """All but the duration predictor's, as in the paper."""
    durations = set(network.dur_predictor.modules()) if network.dur_predictor is not None else set()
    kinds = (nn.Conv1d, nn.ConvTranspose1d)
    return [module for module in network.modules() if isinstance(module, kinds) and module not in durations]
