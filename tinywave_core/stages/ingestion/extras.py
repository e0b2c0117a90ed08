"""Files that only an extra can decode: what that means for the identity of a shard, and that they are taken once it is installed.

The name and version of PyAV stand with the files that it decodes, and with no others: whoever has WAV, FLAC and MP3 computes nothing
anew where the extra comes, goes or changes. A file that was refused for want of it is new again once it is there.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from tinywave_core.audio.catalog import Catalog
from tinywave_core.audio.decoder_process import NEEDS_EXTRA
from tinywave_core.audio.ffmpeg import ffmpeg_name, kind_of
from tinywave_core.audio.scan import NewFile
from tinywave_core.audio.source import Source
from tinywave_core.audio.utterances import FILES_FILE
from tinywave_core.storage.shards import rows_of, where
from tinywave_core.storage.store import Artifact

Row = dict[str, Any]


def decoders(url: str | None, group: Sequence[NewFile]) -> dict[str, dict[str, str]]:
    """By digest, `decoder` of the files that the extra decodes; their first bytes are looked at, where it is installed."""
    if url is None or find_spec("av") is None:
        return {}
    heads = Source(url).heads([file.file for file in group])
    theirs = [file.sha256 for file, head in zip(group, heads, strict=True) if kind_of(head)]
    name = ffmpeg_name() if theirs else None
    return {digest: {"decoder": name} for digest in theirs} if name else {}


def taken_again(catalog: Catalog) -> set[str]:
    """Content that was refused for want of the extra, where it is installed today."""
    if find_spec("av") is None:
        return set()
    contents = catalog.contents()
    shards = [shard for shard in catalog.store.find_all(list(contents), "shard") if shard.complete]
    refused = {shard.id: _refused(shard) for shard in shards}
    if not any(refused.values()) or ffmpeg_name() is None:
        return set()
    wanted = set[str]().union(*refused.values())
    judged = set[str]().union(*((contents[shard] & wanted) - digests for shard, digests in refused.items()))
    return wanted - judged


def _refused(shard: Artifact) -> set[str]:
    if not shard.summary["reasons"].get(NEEDS_EXTRA):
        return set()
    rows = rows_of(shard.path(FILES_FILE), ["sha256", "reason"], where("reason", NEEDS_EXTRA))
    return {row["sha256"] for row in rows}


def judged_later(shards: Sequence[Artifact]) -> set[str]:
    """Digests of the content that one of these shards refused for want of the extra, and another one judged with it."""
    refused = set[str]().union(*map(_refused, shards))
    if not refused:
        return set()
    rows = (row for shard in shards for row in rows_of(shard.path(FILES_FILE), ["sha256", "reason"]))
    return {row["sha256"] for row in rows if row["reason"] != NEEDS_EXTRA and row["sha256"] in refused}


def without_refusals(files: Sequence[Row], judged: set[str]) -> list[Row]:
    """Rows of FILES without those that were refused for want of the extra and are `judged` elsewhere."""
    return [row for row in files if row["reason"] != NEEDS_EXTRA or row["sha256"] not in judged]
