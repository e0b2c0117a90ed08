"""Addresses of the pages; ids and names are quoted, whatever is in them."""

from urllib.parse import quote, urlencode


def artifact(artifact_id: str) -> str:
    """Of an artifact."""
    return f"/artifact/{quote(artifact_id)}"


def artifacts(stage: str = "", part: str = "", first: int = 0) -> str:
    """Of a list of them."""
    return f"/artifacts?{urlencode({'stage': stage, 'part': part, 'from': first})}"


def of_part(label: str) -> str:
    """Of the list of a part, by `stage/part`."""
    stage, _, part = label.partition("/")
    return artifacts(stage, "" if part == "…" else part)


def table(artifact_id: str, name: str, first: int = 0, *, everything: bool = False) -> str:
    """Of a page of a table."""
    query = {"from": first} | ({"all": 1} if everything else {})
    return f"/table/{quote(artifact_id)}/{quote(name)}?{urlencode(query)}"


def text(artifact_id: str, name: str) -> str:
    """Of a text file."""
    return f"/text/{quote(artifact_id)}/{quote(name)}"


def sound(artifact_id: str, name: str) -> str:
    """Of a sound file."""
    return f"/sound/{quote(artifact_id)}/{quote(name)}"


def utterance(artifact_id: str, utterance_id: str, tokens: str = "") -> str:
    """Of an utterance, as `artifact_id` has it."""
    query = f"?{urlencode({'tokens': tokens})}" if tokens else ""
    return f"/utterance/{quote(artifact_id)}/{quote(utterance_id, safe='')}{query}"


def flac(shard: str, utterance_id: str) -> str:
    """Of an utterance's sound."""
    return f"/flac/{quote(shard)}/{quote(utterance_id, safe='')}"


def spectrogram(shard: str, utterance_id: str) -> str:
    """Of its picture."""
    return f"/spectrogram/{quote(shard)}/{quote(utterance_id, safe='')}"


def run(number: int) -> str:
    """Of a run."""
    return f"/run/{number}"


def short(artifact_id: str) -> str:
    """An id as people tell them apart: the stage and the first of its digits."""
    stage, _, digest = artifact_id.partition("/")
    return f"{stage}/{digest[:8]}"
