"""Canonical identity of an output: the same config and inputs give the same hex digest in every process.

Refuses what it cannot write down canonically, instead of hashing something that differs elsewhere (after Marin).
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence

from pydantic import BaseModel

# 128 bits: no two outputs of any store will ever share a name, and paths stay readable.
FINGERPRINT_LENGTH = 32


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces of plain data or pydantic models; TypeError or ValueError otherwise."""
    # One spelling for one value, in whatever order a dict was filled and whatever the locale.
    return json.dumps(_plain(value, "$"), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: object) -> str:
    """SHA-256 of the canonical JSON, 32 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:FINGERPRINT_LENGTH]


def place_of(name: str) -> float:
    """A place in [0, 1) by a hash of the name alone: what lies below a fraction is that share of many names, stable for ever."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _plain(value: object, where: str) -> object:
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            # NaN differs from itself, and JSON has no name for either.
            if not math.isfinite(value):
                raise ValueError(f"{where} is {value}: only finite numbers have a canonical form")
            return value
        case BaseModel():
            # Defaults included: a changed default is another result, so it must be another fingerprint.
            return _plain(value.model_dump(), where)
        case Mapping():
            if not all(isinstance(key, str) for key in value):
                raise TypeError(f"{where} has keys that are not strings: {sorted(map(repr, value))[:5]}")
            return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
        case Sequence() if not isinstance(value, bytes | bytearray):
            return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        # Hashing repr() would take in memory addresses, and every process would compute everything again.
        case _:
            raise TypeError(
                f"{where} is a {type(value).__name__}, which has no canonical form: pass str, int, float, bool, None, "
                "a list, a dict or a config"
            )
