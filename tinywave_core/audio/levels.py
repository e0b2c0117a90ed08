"""Levels of a recording, block by block: peaks, offsets, flat tops, and how its channels belong together -> the mono mix.

Blocks [N, C] of float32 in; running sums only, so that hours need no more memory than minutes. Runs in the decoding child:
numpy and nothing else. Letters: N samples, C channels, F frames of about 32 ms.

The rule of the mix. Channels 30 dB under the strongest are dead and left out. A channel in antiphase to the strongest is turned
round. The rest is averaged. Where that average still cancels speech (phase that changes on the way), the strongest channel is
taken alone. Two speakers on two channels are both in the average, unless channels are to be apart (`ingestion.channels`); how much each
is alone there is told (`alternation`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# A channel this much weaker than the strongest one is dead; a mean with it would halve the level.
DEAD_POWER = 1e-3
FULL_SCALE = 32_767 / 32_768
# Neighbours that differ by less than this share of their level lie on a flat top: clipped samples are equal, or nearly so after
# resampling. The upper 16 bits of a float32 are its sign, exponent and 7 bits of mantissa: levels in steps of 0.4 to 0.8 %.
FLAT_STEP = 0.002
LEVELS, TOP_LEVELS = 1 << 16, 2
FRAME_S = 0.032
# A frame counts as sound within 20 dB of the loud frames of its channel (95th percentile).
ACTIVE = 1e-2
# A channel is alone where it is 12 dB above the other, each against its own loud frames; an average 17 dB down has cancelled.
ALONE, CANCELLED = 16.0, 0.02
MOST_CANCELLED = 0.1
FEWEST_FRAMES = 16
# Two channels are two voices where the rarer one is alone in a tenth of the sounding time, and they are little alike.
LEAST_ALTERNATION, MOST_CORRELATION = 0.1, 0.5
# How a recording that is one channel of two came to be one; the others are in `Mix`.
CHANNELS = ("channel 1", "channel 2")

Samples = npt.NDArray[np.float32]
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mix:
    """How channels become one."""

    weights_C: Array
    rule: str | None = None
    """None for one channel, else `mean`, `one channel` (others are dead), `flipped`, or `strongest` (a mean would cancel)."""


class Levels:
    """Running sums over the blocks of one recording: enough to choose channels without holding the samples."""

    def __init__(self, channels: int, rate: int) -> None:
        self.frames = 0
        self.finite = True
        self.peak = 0.0
        self.clipped = 0
        self.sum_C = np.zeros(channels)
        self.gram_CC = np.zeros((channels, channels))
        self._flat_CL = np.zeros((channels, LEVELS), dtype=np.int64)
        self._high_C, self._low_C = np.zeros(channels, np.float32), np.zeros(channels, np.float32)
        self._stereo = Stereo(rate) if channels == 2 else None

    def add(self, block_NC: Samples) -> None:
        """Take the next block."""
        self.frames += len(block_NC)
        magnitude_NC = np.abs(block_NC)
        peak = float(magnitude_NC.max())
        self.finite = self.finite and bool(np.isfinite(peak))
        if not self.finite:
            return
        self.peak = max(self.peak, peak)
        self.clipped += int(np.count_nonzero(magnitude_NC >= FULL_SCALE))
        self.sum_C += block_NC.sum(axis=0, dtype=np.float64)
        # float32 sums over hours lose the last bits that tell an offset from zero.
        block_64 = block_NC.astype(np.float64)
        self.gram_CC += block_64.T @ block_64
        self._add_tops(block_NC, magnitude_NC)
        if self._stereo:
            self._stereo.add(block_64)

    def _add_tops(self, block_NC: Samples, magnitude_NC: Samples) -> None:
        self._high_C = np.maximum(self._high_C, block_NC.max(axis=0))
        self._low_C = np.minimum(self._low_C, block_NC.min(axis=0))
        flat_NC = np.abs(np.diff(block_NC, axis=0)) <= FLAT_STEP * magnitude_NC[1:]
        levels_NC = _level_of(block_NC[1:])
        for channel in range(block_NC.shape[1]):
            self._flat_CL[channel] += np.bincount(levels_NC[flat_NC[:, channel], channel], minlength=LEVELS)

    @property
    def flat_share(self) -> float:
        """Share of the samples of the worst channel that lie on flat tops at its loudest, whatever level that is."""
        worst = 0
        for flat_L, *sides in zip(self._flat_CL, self._high_C, self._low_C, strict=True):
            tops = [int(_level_of(np.asarray([side]))[0]) for side in sides if side]
            worst = max(worst, sum(int(flat_L[max(0, top - TOP_LEVELS) : top + 1].sum()) for top in tops))
        return worst / max(self.frames, 1)

    @property
    def mean_C(self) -> Array:
        return self.sum_C / max(self.frames, 1)

    @property
    def covariance_CC(self) -> Array:
        return self.gram_CC / max(self.frames, 1) - np.outer(self.mean_C, self.mean_C)

    @property
    def correlation(self) -> float | None:
        """The lowest correlation of a living channel with the strongest; None where only one lives."""
        power_C = np.diag(self.covariance_CC)
        strongest = int(np.argmax(power_C))
        others = [c for c in np.flatnonzero(power_C > DEAD_POWER * power_C[strongest]) if c != strongest]
        scale_C = np.sqrt(np.maximum(power_C * power_C[strongest], 1e-30))
        return min((float(self.covariance_CC[strongest, c] / scale_C[c]) for c in others), default=None)

    @property
    def alternation(self) -> float | None:
        """Share of the sounding time in which the rarer of two channels is heard alone; None for other than two channels."""
        return self._stereo.alternation if self._stereo else None

    def mix(self) -> Mix:
        """The rule of the module's head."""
        weights_C = channel_weights(self.covariance_CC)
        if len(weights_C) == 1:
            return Mix(weights_C)
        if self._stereo and self._stereo.cancelled(weights_C) > MOST_CANCELLED:
            alone_C = np.zeros(2)
            alone_C[int(np.argmax(np.diag(self.covariance_CC)))] = 1.0
            return Mix(alone_C, "strongest")
        if np.count_nonzero(weights_C) == 1:
            return Mix(weights_C, "one channel")
        return Mix(weights_C, "flipped" if (weights_C < 0).any() else "mean")


def is_dialogue(alternation: float | None, correlation: float | None) -> bool:
    """Whether two channels hold a voice each."""
    return (alternation or 0) >= LEAST_ALTERNATION and abs(correlation or 0) <= MOST_CORRELATION


def channel_weights(covariance_CC: Array) -> Array:
    """Weights of the mono mix: the mean of the living channels, turned round where they oppose the strongest one.

    A plain mean turns anti-phase stereo into silence and halves the level beside a dead channel.
    """
    power_C = np.diag(covariance_CC)
    strongest = int(np.argmax(power_C))
    alive_C = power_C > DEAD_POWER * power_C[strongest]
    alive_C[strongest] = True
    limit_C = -0.5 * np.sqrt(np.maximum(power_C * power_C[strongest], 0))
    sign_C = np.where(covariance_CC[strongest] < limit_C, -1.0, 1.0)
    return np.where(alive_C, sign_C, 0.0) / np.count_nonzero(alive_C)


class Stereo:
    """Power and cross power of two channels per frame of about 32 ms: who speaks where, and what an average cancels."""

    def __init__(self, rate: int) -> None:
        # A power of two, so that blocks are whole numbers of frames.
        self._frame = 1 << round(np.log2(max(2.0, rate * FRAME_S)))
        self._blocks_F3: list[npt.NDArray[np.float32]] = []

    def add(self, block_N2: Array) -> None:
        """Take the next block; what is left of a frame at the end of the recording is left out."""
        whole = len(block_N2) // self._frame * self._frame
        frames_FN2 = block_N2[:whole].reshape(-1, self._frame, 2)
        frames_FN2 = frames_FN2 - frames_FN2.mean(axis=1, keepdims=True)
        power_F2 = (frames_FN2**2).mean(axis=1)
        cross_F = (frames_FN2[..., 0] * frames_FN2[..., 1]).mean(axis=1)
        self._blocks_F3.append(np.column_stack([power_F2, cross_F]).astype(np.float32))

    def _frames(self) -> npt.NDArray[np.float32]:
        return np.concatenate(self._blocks_F3) if self._blocks_F3 else np.zeros((0, 3), np.float32)

    @property
    def alternation(self) -> float:
        power_F2 = self._frames()[:, :2]
        if len(power_F2) < FEWEST_FRAMES:
            return 0.0
        loud_2 = np.percentile(power_F2, 95, axis=0)
        active_F2 = power_F2 > ACTIVE * loud_2
        relative_F2 = power_F2 / np.maximum(loud_2, 1e-30)
        alone_F2 = active_F2 & (relative_F2 > ALONE * relative_F2[:, ::-1])
        return float(alone_F2.sum(axis=0).min() / max(1, active_F2.any(axis=1).sum()))

    def cancelled(self, weights_2: Array) -> float:
        """Share of the sounding frames that a mix with these weights makes as good as silent."""
        power_F2, cross_F = self._frames()[:, :2], self._frames()[:, 2]
        if not len(power_F2):
            return 0.0
        strongest_F = power_F2.max(axis=1)
        active_F = strongest_F > ACTIVE * np.percentile(strongest_F, 95)
        mixed_F = power_F2 @ weights_2**2 + 2 * weights_2[0] * weights_2[1] * cross_F
        return float((mixed_F[active_F] < CANCELLED * strongest_F[active_F]).sum() / max(1, active_F.sum()))


def _level_of(samples: Samples) -> npt.NDArray[np.uint16]:
    """Sign and level of float32 samples as a number that grows with the level on either side of zero."""
    return (np.ascontiguousarray(samples, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
