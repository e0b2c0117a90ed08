"""A dialogue with one voice per channel as two recordings: whose each is, and on which side of the split.

The speaker of a channel is that of the file, or its path where it has none, with -1 or -2. Both are on the side of their file: by its
speaker, or by its content where it has none. A transcript is of both voices together, so neither channel has it, unless its label
names the channel. What is lost is a warning.
"""

from collections.abc import Mapping
from typing import Any

from tinywave_core.audio.levels import CHANNELS

Row = Mapping[str, Any]
_ID_LENGTH = 32


def is_channel(channel_mix: str | None) -> bool:
    """Whether a recording is one channel of a file that was taken apart."""
    return channel_mix in CHANNELS


def speaker_of_channel(speaker: str | None, path: str, channel_mix: str | None) -> str | None:
    """Who speaks in a recording of a file with this label."""
    if channel_mix not in CHANNELS:
        return speaker
    return f"{speaker or path}-{CHANNELS.index(channel_mix) + 1}"


def labelled_speaker(row: Row) -> str | None:
    """The speaker that the file of a row of FILES was labelled with."""
    if not is_channel(row["channel_mix"]) or not row["speaker"]:
        return row["speaker"]
    speaker = str(row["speaker"]).rpartition("-")[0]
    return None if speaker == row["path"] else speaker


def unit_of(row: Row) -> str:
    """The id by which a recording without a speaker is put on a side: its own, or for a channel its file's."""
    return str(row["sha256"][:_ID_LENGTH] if is_channel(row["channel_mix"]) else row["recording_id"])


NO_CHANNEL = "its transcript names no channel, so neither voice has it"
OF_CHANNELS = "its transcripts are of one channel each, and it was taken as one recording"


def labels_of_recording(file: Row, path: str, channel_mix: str | None) -> tuple[dict[str, Any], str]:
    """A file with its labels, as they are of one recording in it; and what of them is lost, in words."""
    labels = {channel["channel"]: channel for channel in file.get("channels") or ()}
    if channel_mix not in CHANNELS:
        has_words = file["transcript"] or file.get("segments")
        return dict(file), "" if has_words or not any(map(_has_words, labels.values())) else OF_CHANNELS
    own = labels.get(CHANNELS.index(channel_mix) + 1, {"transcript": None, "segments": None})
    speaker = speaker_of_channel(file["speaker"], path, channel_mix)
    lost = not any(map(_has_words, labels.values())) and _has_words(file)
    return {**file, "speaker": speaker, "transcript": own["transcript"], "segments": own["segments"]}, NO_CHANNEL * lost


def _has_words(label: Row) -> bool:
    return bool(label["transcript"] or any(text for _, _, text in label.get("segments") or ()))
