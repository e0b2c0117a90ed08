"""Recordings that ingestion must never take in again: the store's log `forgotten`, digests of files and ids of what was removed."""

from tinywave_core.storage.store import Store

# Digests tell nobody what was said: they only recognise the file when it comes back.
FORGOTTEN = "forgotten"


def forgotten(store: Store) -> frozenset[str]:
    """SHA-256 of every file that `tinywave forget` removed from this store."""
    return frozenset(digest for record in store.log(FORGOTTEN).records() for digest in record["sha256"])


def removed_with(store: Store) -> frozenset[str]:
    """Ids of the artifacts that `tinywave forget` removed: that they are not there is no damage."""
    return frozenset(artifact for record in store.log(FORGOTTEN).records() for artifact in record.get("removed", []))
