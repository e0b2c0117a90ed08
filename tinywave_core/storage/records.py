"""A record: a JSON object whose last line is the SHA-256 of all bytes before it, so that any flipped bit is found.

Manifests, the records of logs, `store.json` and checkpoints' states are records. `seal` and `unseal` are the one way out and in.
The last line keeps its form in every version of the store: only so can an older TinyWave tell a newer record from a damaged one.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

_KEY = "digest"
_LAST_LINE = re.compile(rb',\n "digest": "([0-9a-f]{64})"\n}\n')
_LAST_BYTES = len(b',\n "digest": ""\n}\n') + 64


class RecordFault(ValueError):
    """A record that cannot be relied on; the message says why."""


def seal(content: Mapping[str, Any] | BaseModel) -> bytes:
    """The bytes of a record; `content` has at least one key, and none called "digest"."""
    if isinstance(content, BaseModel):
        text = content.model_dump_json(indent=1)
    else:
        text = json.dumps(content, indent=1, sort_keys=True)
    above = text.removesuffix("\n}").encode()
    digest = hashlib.sha256(above).hexdigest()
    return above + f',\n "{_KEY}": "{digest}"\n}}\n'.encode()


def unseal(data: bytes) -> dict[str, Any]:
    """What was sealed; RecordFault unless every bit is as it was written."""
    last = _LAST_LINE.fullmatch(data[-_LAST_BYTES:])
    if last is None:
        raise RecordFault("it does not end with its digest")
    found, expected = hashlib.sha256(data[:-_LAST_BYTES]).hexdigest(), last[1].decode()
    if found != expected:
        raise RecordFault(f"its contents have SHA-256 {found[:12]}…, expected {expected[:12]}…")
    content: dict[str, Any] = json.loads(data)
    del content[_KEY]
    return content
