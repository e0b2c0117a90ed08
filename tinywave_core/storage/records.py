"""A record: a JSON object whose last line is the SHA-256 of all bytes before it, so that any flipped bit is found.

Manifests, the records of logs, `store.json` and checkpoints' states are records. Only `seal` writes them and only `unseal` reads them.
The last line keeps its form in every version of the store: only so can an older TinyWave tell a newer record from a damaged one.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

_KEY = "digest"
# The whole last line is fixed byte for byte: JSON allows other spellings, and a flipped bit in a space would go unseen.
_LAST_LINE = re.compile(rb',\n "digest": "([0-9a-f]{64})"\n}\n')
_LAST_BYTES = len(b',\n "digest": ""\n}\n') + 64
_MOST_BYTES = 64 << 10  # of a record in which a flipped bit is looked for: the time grows with the square


class RecordFault(ValueError):
    """A record that cannot be relied on; the message says why."""


def seal(content: Mapping[str, Any] | BaseModel) -> bytes:
    """The bytes of a record; `content` has at least one key, and none called "digest"."""
    if isinstance(content, BaseModel):
        text = content.model_dump_json(indent=1)
    else:
        # Sorted and indented: the same content gives the same bytes, and people and `jq` can read it.
        text = json.dumps(content, indent=1, sort_keys=True)
    above = text.removesuffix("\n}").encode()
    return above + _last_line(above)


def _last_line(above: bytes) -> bytes:
    return f',\n "{_KEY}": "{hashlib.sha256(above).hexdigest()}"\n}}\n'.encode()


def unseal(data: bytes) -> dict[str, Any]:
    """The content of a record; RecordFault unless every bit is as it was written."""
    # Checked before anything is parsed: damaged JSON can still be valid JSON with another number in it.
    last = _LAST_LINE.fullmatch(data[-_LAST_BYTES:])
    if last is None:
        raise RecordFault("it does not end with its digest")
    actual, expected = hashlib.sha256(data[:-_LAST_BYTES]).hexdigest(), last[1].decode()
    if actual != expected:
        raise RecordFault(f"its contents have SHA-256 {actual[:12]}…, expected {expected[:12]}…")
    content: dict[str, Any] = json.loads(data)
    del content[_KEY]
    return content


def flipped_back(data: bytes) -> bytes | None:
    """A damaged record as it was written, if exactly one bit flipped (its SHA-256 proves it); None otherwise.

    Every bit is tried: up to ten seconds for the longest record that is tried.
    """
    above, last = data[:-_LAST_BYTES], data[-_LAST_BYTES:]
    right = _last_line(above)
    if len(last) == len(right) and sum((a ^ b).bit_count() for a, b in zip(last, right, strict=True)) == 1:
        return above + right
    stated = _LAST_LINE.fullmatch(last)
    if stated is None or last == right or len(above) > _MOST_BYTES:
        return None
    # The hash up to each byte is kept and copied, so that each try hashes only what comes after.
    before, view = hashlib.sha256(), memoryview(above)
    for at, byte in enumerate(above):
        for bit in range(8):
            tried = before.copy()
            tried.update(bytes([byte ^ 1 << bit]))
            tried.update(view[at + 1 :])
            if tried.hexdigest() == stated[1].decode():
                return above[:at] + bytes([byte ^ 1 << bit]) + above[at + 1 :] + last
        before.update(view[at : at + 1])
    return None
