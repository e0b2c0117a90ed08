"""A dialogue with one voice per channel as two recordings: whose each is, and on which side of the split.

The speaker of a channel is that of the file, or its path where it has none, with -1 or -2. Both are on the side of their file: by its
speaker, or by its content where it has none. A transcript is of both voices together, so neither channel has it.
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
