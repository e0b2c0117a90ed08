"""Recordings that ingestion must never take in again: the store's log `forgotten`, digests of files and nothing else."""

from tinywave_core.storage.store import Store

# Digests tell nobody what was said: they only recognise the file when it comes back.
FORGOTTEN = "forgotten"


def forgotten(store: Store) -> frozenset[str]:
    """SHA-256 of every file that `tinywave forget` removed from this store."""
    return frozenset(digest for record in store.log(FORGOTTEN).records() for digest in record["sha256"])
