"""One audio file -> mono float32 at 16 kHz, exactly as SpiritLM's tokenizer loads it; for prompts and for people who look at single files.

Channels are resampled (`resampling.py`), then two are averaged. Level and offset stay as they are. A file is decoded block by
block and given up as soon as it is longer than LONGEST_S, whatever its header says. Phone and video formats come as ingestion has them:
from its bounded child process, by the extra `video`, in 16 bits without offset. Corpora go through `stages.ingestion`, which also cuts
at pauses.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from tinywave_core.audio.decode import Decoder
from tinywave_core.audio.decoder_process import UNKNOWN_FRAMES, blocks
from tinywave_core.audio.ffmpeg import EXTRA, HEAD_BYTES, Kind, ffmpeg_name, kind_of
from tinywave_core.audio.resampling import ratio, to_16k
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import SourceError
from tinywave_core.storage.schemas import SAMPLE_RATE

MAX_CHANNELS = 2
# A prompt is a minute, a lecture half an hour. Decoded, that is 691 MB of stereo at 48 kHz, however small the file is.
LONGEST_S = 30 * 60
_MOST_VALUES = LONGEST_S * 2 * 48_000


def read_waveform(path: Path | str) -> npt.NDArray[np.float32]:
    """Samples [n]; SourceError names the file and what is wrong with it."""
    if not Path(path).exists():
        raise SourceError(f"{path} is not there; expected an audio file: check the path")
    if kind := _kind(Path(path)):
        return _of_phone(Path(path), kind)
    try:
        # By its descriptor: soundfile takes no name that is not UTF-8, and tells of faults in a Python file's callbacks on the terminal.
        with Path(path).open("rb") as file, soundfile.SoundFile(file.fileno(), closefd=False) as sound:
            _require_bounds(sound, str(path))
            samples_NC = _decoded(sound, str(path))
            rate = sound.samplerate
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise SourceError(f"{path} cannot be read as audio ({error}): expected wav, flac, ogg/opus or mp3") from error
    return to_mono_16k(samples_NC, rate, str(path))


def _kind(path: Path) -> Kind | None:
    """The family of a phone's or video's file; None for others, and for what cannot be opened."""
    try:
        with path.open("rb") as file:
            return kind_of(file.read(HEAD_BYTES))
    except OSError:
        return None


def _of_phone(path: Path, kind: Kind) -> npt.NDArray[np.float32]:
    if ffmpeg_name() is None:
        raise SourceError(f"{path} is {kind.name}, which needs an extra: {EXTRA}, or convert it to wav or flac")
    with Decoder(RuntimeConfig(), LONGEST_S / 3600) as decoder:
        found = decoder.decode(path)
    if found.verdict.reason == "too_long":
        raise SourceError(
            f"{path} has more than {LONGEST_S / 60:.4g} minutes of audio: cut it, or let a corpus of long recordings go through tinywave "
            "run --source FOLDER"
        )
    if found.samples_N is None:
        raise SourceError(
            f"{path} ({kind.name}) cannot be read as audio: {found.verdict.reason}, {found.verdict.detail}; expected sound in it"
        )
    return found.samples_N.astype(np.float32) / np.float32(32_768)


def _require_bounds(sound: soundfile.SoundFile, what: str) -> None:
    """SourceError for a header out of bounds, before anything is decoded."""
    _require_channels(sound.channels, what)
    try:
        ratio(sound.samplerate)
    except SourceError as error:
        raise SourceError(f"{what} has {error}") from error
    if sound.frames < UNKNOWN_FRAMES:
        _require_length(sound.frames, sound, what)


def _decoded(sound: soundfile.SoundFile, what: str) -> npt.NDArray[np.float32]:
    """All samples [N, C]; a header that does not say the length, or lies, is found out here."""
    found, frames = [np.empty((0, sound.channels), np.float32)], 0
    if sound.seekable():
        sound.seek(0)  # MP3 comes out other in the last bits without it; soundfile.read does the same
    for block_NC in blocks(sound):
        frames += len(block_NC)
        _require_length(frames, sound, what)
        found.append(block_NC.copy())
    return np.concatenate(found)


def _require_length(frames: int, sound: soundfile.SoundFile, what: str) -> None:
    most = min(LONGEST_S * sound.samplerate, _MOST_VALUES // sound.channels)
    if frames > most:
        raise SourceError(
            f"{what} has {frames / sound.samplerate / 60:,.1f} minutes of audio or more; expected {most / sound.samplerate / 60:.4g} at "
            "most: cut it, or let a corpus of long recordings go through tinywave run --source FOLDER"
        )


def _require_channels(channels: int, what: str) -> None:
    if channels > MAX_CHANNELS:
        raise SourceError(f"{what} has {channels} channels, expected one or two: mix it down or pick channels first")


def to_mono_16k(samples_NC: npt.NDArray[np.float32], rate: int, what: str) -> npt.NDArray[np.float32]:
    """Samples [n] of decoded audio [N, C]; `what` is its name in errors."""
    _require_channels(samples_NC.shape[1], what)
    if not np.isfinite(samples_NC).all():
        raise SourceError(
            f"{what} has samples that are NaN or infinite: it is damaged, or was written by faulty software"
        )
    if rate != SAMPLE_RATE and len(samples_NC):
        import torch

        channels_CN = torch.from_numpy(np.ascontiguousarray(samples_NC.T))
        try:
            samples_NC = to_16k(channels_CN, rate).numpy().T
        except SourceError as error:
            raise SourceError(f"{what} has {error}") from error
    return np.ascontiguousarray(
        samples_NC.mean(axis=1, dtype=np.float32) if samples_NC.shape[1] > 1 else samples_NC[:, 0]
    )
