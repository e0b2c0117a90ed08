"""What is odd about a recording that is taken all the same: codes for the column `warnings`, from numbers of its row.

Nothing is dropped here; the thresholds only say from where on a person should look. They were set on the recordings of
`examples/`: 485 natural ones, and each of them clipped, narrowed, made quiet and noisy. Clipping that was resampled or coded anew
afterwards has no flat tops any more, and is not found.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.audio.channels import NO_CHANNEL, OF_CHANNELS, is_channel
from tinywave_core.audio.ffmpeg import TRACKS
from tinywave_core.audio.levels import is_dialogue
from tinywave_core.storage.schemas import SAMPLE_RATE

# Natural speech has at most 0.005 % of its samples on flat tops (0.012 % at 48 kHz); clipped at half its peak, 0.5 % in the median.
MOST_FLAT, MOST_FULL = 2.5e-4, 2.5e-4
# In a quieter recording the steps of 16 bits are flat tops by themselves.
LOWEST_PEAK = 0.01
# Telephone bands end at 3.4 or 4 kHz; resamplers smear that to 5 kHz.
NARROW_HZ = 5_500
UNFIT = "it was cut at pauses instead, without transcript"
# What each warning means, and what to do about it.
WARNINGS = {
    "antiphase": "two channels cancel each other: one was turned round, or the stronger one taken alone (see channel_mix)",
    "clipped": "the loudest parts are cut flat (see flat_share, clipped_share): record it again at a lower level if you can",
    "joined": "several files in one: all of them were decoded, as one recording",
    "narrow_band": f"nothing sounds above {NARROW_HZ:,} Hz (see bandwidth_hz), as over a telephone",
    "several_tracks": "a video with several audio tracks: the first was taken; write the others as files of their own if they are speech",
    "times_of_another": "the parts that its labels name do not fit its length: compare their times, in seconds, with the audio",
    "transcript_of_both": "its transcript names no channel, and each voice is a recording of its own, so neither has it: name the channels",
    "transcripts_of_channels": "its transcripts are of one channel each, and it was taken as one recording, which has none of them: "
    "ingestion.channels split keeps two voices apart",
    "two_speakers": "another voice on each of two channels: both are in the mix, as one recording; ingestion.channels split "
    "keeps them apart",
}
FRAME, BANDS, MOST_FRAMES = 1024, 32, 2048
# A band sounds where its loud frames are at most 30 dB under those of the middle of speech (500 to 3,500 Hz; bass may be turned up),
# and 8 dB over its own quiet frames, which noise is not. Of the natural recordings in examples/ the narrowest ends at 5,750 Hz; of the same
# over a telephone's band, 99 in 100 end below 5,000 Hz, coded, quiet or with noise at -60 dB.
MIDDLE, BAND_RANGE_DB, OVER_QUIET_DB = slice(2, 14), 30.0, 8.0


def warnings_of(row: Mapping[str, Any]) -> list[str]:
    """Codes of WARNINGS for a row of FILES, in order."""
    found = {
        "antiphase": row["channel_mix"] in ("flipped", "strongest"),
        "clipped": (row["peak"] or 0) >= LOWEST_PEAK
        and ((row["flat_share"] or 0) >= MOST_FLAT or (row["clipped_share"] or 0) >= MOST_FULL),
        "joined": row["status"] == "accepted" and (row["detail"] or "").endswith("all of them were decoded"),
        "narrow_band": row["bandwidth_hz"] is not None and row["bandwidth_hz"] < NARROW_HZ,
        "several_tracks": (row["detail"] or "").endswith(TRACKS),
        "times_of_another": (row["detail"] or "").endswith(UNFIT),
        "transcript_of_both": (row["detail"] or "").startswith(NO_CHANNEL),
        "transcripts_of_channels": (row["detail"] or "").startswith(OF_CHANNELS),
        "two_speakers": not is_channel(row["channel_mix"])
        and is_dialogue(row["channel_alternation"], row["channel_correlation"]),
    }
    return [code for code in WARNINGS if found[code]]


def bandwidth_hz(samples_N: npt.NDArray[np.int16], bounds: Sequence[tuple[int, int]]) -> float | None:
    """Upper edge in Hz, in steps of 250, of the highest band in which the speech between `bounds` sounds; None if it is too short.

    The file's sample rate says nothing of it: a telephone's 4 kHz stay 4 kHz at any rate.
    """
    bands = sounding_bands(samples_N, bounds)
    return None if bands is None else upper_edge_hz(bands[0])


def sounding_bands(
    samples_N: npt.NDArray[np.int16], bounds: Sequence[tuple[int, int]]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]] | None:
    """In which of the 32 bands speech sounds, and which are loud and steady: there noise covers whatever speech has; None if it is too short."""
    starts = np.concatenate([np.arange(start, end - FRAME + 1, FRAME // 2) for start, end in bounds])
    if len(starts) < 8:
        return None
    starts = starts[np.linspace(0, len(starts) - 1, min(len(starts), MOST_FRAMES)).astype(int)]
    frames_FN = samples_N[starts[:, None] + np.arange(FRAME)] * np.hanning(FRAME)
    power_FK = np.abs(np.fft.rfft(frames_FN)[:, : FRAME // 2]) ** 2
    db_FB = 10 * np.log10(power_FK.reshape(len(starts), BANDS, -1).mean(axis=2) + 1e-9)
    loud_B, quiet_B = np.percentile(db_FB, [95, 10], axis=0)
    is_loud_B = loud_B > np.median(loud_B[MIDDLE]) - BAND_RANGE_DB
    moves_B = loud_B > quiet_B + OVER_QUIET_DB
    return is_loud_B & moves_B, is_loud_B & ~moves_B


def upper_edge_hz(sounds_B: npt.NDArray[np.bool_]) -> float | None:
    """Of the highest of these bands."""
    bands = np.flatnonzero(sounds_B)
    return float((bands[-1] + 1) * SAMPLE_RATE / 2 / BANDS) if len(bands) else None
