"""Checkpoints of unfinished training that lie in a store elsewhere (storage/uploads.py): which are damaged, which no run can go on from.

In comes a census; out come names below the root, with sizes or faults, for `verify`, `repair` and `gc`.
"""

from collections.abc import Callable, Iterator

from tinywave_core.storage.care.census import Census
from tinywave_core.storage.records import RecordFault, unseal
from tinywave_core.storage.uploads import STATE_FILE, WORK, is_upload

STALE_WORK_S = 30 * 86_400.0
"""A checkpoint of a killed run is worth keeping for the run that goes on from it; after a month nobody comes back to it."""


def uploaded_bytes(census: Census) -> dict[str, int]:
    """Bytes of all checkpoints of a step, by the step's name below the root."""
    return {f"{WORK}/{name}": sum(size for size, _ in files.values()) for name, files in census.work.items()}


def orphaned(census: Census, now: float) -> dict[str, int]:
    """Those that no run can go on from, with their bytes: the step is done, or nothing changed for a month."""
    done = {i.replace("/", "-") for i, folder in census.folders.items() if folder.whole}
    idle = {name for name, files in census.work.items() if now - max(at for _, at in files.values()) > STALE_WORK_S}
    return {name: size for name, size in uploaded_bytes(census).items() if name.partition("/")[2] in done | idle}


def damaged_uploads(census: Census, digest_of: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    """Uploads that are whole and not as they were written, by name below the root, and why; `digest_of` reads a file of the store."""
    for step, files in census.work.items():
        for name in sorted({file.partition("/")[0] for file in files}):
            is_whole = is_upload(name) and f"{name}/{STATE_FILE}" in files
            if is_whole and (fault := _fault_of(census, f"{WORK}/{step}/{name}", digest_of)):
                yield f"{WORK}/{step}/{name}", fault


def _fault_of(census: Census, upload: str, digest_of: Callable[[str], str]) -> str:
    try:
        state = unseal(census.store.read(f"{upload}/{STATE_FILE}"))
        wrong = [file for file, digest in state["sha256"].items() if digest_of(f"{upload}/{file}") != digest]
    except FileNotFoundError as fault:
        return f"a file is gone: {fault}"
    except RecordFault as fault:
        return str(fault)
    return f"{wrong[0]} is not as it was written" if wrong else ""
