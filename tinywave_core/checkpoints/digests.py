"""SHA-256 of large files, computed once: remembered in the user's cache by path, size and time of change.

Weights of 27 GB would otherwise be read at every `tinywave plan`.
"""

import hashlib
import os
from pathlib import Path

from tinywave_core.storage.records import RecordFault, seal, unseal
from tinywave_core.storage.store import sha256_of

_WORTH_BYTES = 1 << 20


def cache_folder() -> Path:
    """Where TinyWave keeps what it can make again: $XDG_CACHE_HOME/tinywave, by default ~/.cache/tinywave."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "tinywave"


def sha256_once(path: Path) -> str:
    """SHA-256 of a file; read again only if it changed."""
    stat = path.stat()
    if stat.st_size < _WORTH_BYTES:
        return sha256_of(path)
    resolved = str(path.resolve())
    identity = [resolved, stat.st_size, stat.st_mtime_ns, stat.st_ino]
    note = cache_folder() / "digests" / hashlib.sha256(resolved.encode()).hexdigest()[:32]
    try:
        noted = unseal(note.read_bytes())
        if noted["identity"] == identity:
            return str(noted["sha256"])
    except (OSError, RecordFault):
        pass
    digest = sha256_of(path)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        partial = note.with_suffix(f".{os.getpid()}")
        partial.write_bytes(seal({"identity": identity, "sha256": digest}))
        partial.replace(note)
    except OSError:  # a home that cannot be written: the digest is computed each time
        pass
    return digest
