"""Checkpoints of unfinished training in a store elsewhere (S3): `.work/STAGE-FINGERPRINT/step-NNNNNNNN-DIGEST/`.

In come the checkpoints that training wrote on its machine (training/checkpoint.py), out come those that another machine can go on from.
They are no artifacts: their step removes them when it is done, `verify` reads them, `gc` and `repair` remove those that no run can
go on from. An upload is whole when `state.json` is there, which goes last and has the SHA-256 of the other files. Its name holds a digest of
that record, so two runs that write one name write the same bytes. A local store has none of this: there the work folder lies below the root.
"""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tinywave_core.errors import StoreError
from tinywave_core.storage.store import Store, sha256_of

WORK = ".work"
STATE_FILE = "state.json"
KEPT = 2  # as on the machine itself: the newest can be damaged


@dataclass(frozen=True)
class UploadedCheckpoints:
    """The checkpoints of one step in its store."""

    store: Store
    artifact_id: str

    @classmethod
    def of(cls, store: Store, artifact_id: str) -> Self | None:
        """None for a local store, where the step's work folder is already in the store."""
        return None if store.local else cls(store, artifact_id)

    @property
    def folder(self) -> str:
        """Their name below the root."""
        return f"{WORK}/{self.artifact_id.replace('/', '-')}"

    def put(self, checkpoint: Path, is_stopped: Callable[[], bool] = lambda: False) -> None:
        """Copy `step-NNNNNNNN` to the store and then drop older ones; half a copy stays where it is stopped between two files."""
        name = f"{checkpoint.name}-{sha256_of(checkpoint / STATE_FILE)[:12]}"
        # The state goes last: without it nobody takes the others for a checkpoint.
        for path in sorted(checkpoint.iterdir(), key=lambda path: (path.name == STATE_FILE, path.name)):
            if is_stopped():
                return
            self.store.upload(path, f"{self.folder}/{name}/{path.name}")
        self._drop_beside(name)

    def newer_than(self, step: int) -> list[str]:
        """Names of those that were uploaded whole and go beyond `step`, the newest first."""
        return [name for name in _whole(self._listed()) if step_of(name) > step]

    def fetch(self, name: str, folder: Path) -> Path | None:
        """Copy one below `folder`, as `step-NNNNNNNN`; None where files are missing. The reader compares digests."""
        partial, final = folder / f".fetching-{name}", folder / name.rpartition("-")[0]
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            for file in sorted(self._listed().get(name, ())):
                self.store.download(f"{self.folder}/{name}/{file}", partial / file)
        except FileNotFoundError:  # a listing that lags still had it
            shutil.rmtree(partial)
            return None
        shutil.rmtree(final, ignore_errors=True)  # only an invalid one can be here
        os.rename(partial, final)
        return final

    def remove(self) -> None:
        """Drop all of them, once the step is done; what the network keeps from being removed is left to `gc`."""
        try:
            self.store.delete(self.folder)
        except (OSError, StoreError) as error:
            logging.getLogger(__name__).warning(
                "%s is done, and its uploaded checkpoints could not be removed (%s): `tinywave gc` removes them",
                self.artifact_id,
                error,
            )

    def _drop_beside(self, name: str) -> None:
        """Drop all but this one and the newest whole ones before it: what goes beyond its step was of no use to the run that wrote it."""
        listed = self._listed()
        before = [other for other in _whole(listed) if step_of(other) < step_of(name)]
        for other in listed.keys() - {name, *before[: KEPT - 1]}:
            # Its state first: whatever stops this, nobody takes the rest for a checkpoint.
            self.store.delete(f"{self.folder}/{other}/{STATE_FILE}")
            self.store.delete(f"{self.folder}/{other}")

    def _listed(self) -> dict[str, set[str]]:
        """Files by name of upload."""
        self.store.filesystem.invalidate_cache()
        below = f"{self.store.root.rstrip('/')}/{self.folder}"
        uploads: dict[str, set[str]] = {}
        for path in self.store.filesystem.find(below):
            name, _, file = path[len(below) :].strip("/").partition("/")
            if is_upload(name) and "/" not in file:
                uploads.setdefault(name, set()).add(file)
        return uploads


def _whole(listed: dict[str, set[str]]) -> list[str]:
    """Names of the uploads that have their state, the newest first."""
    return sorted((name for name, files in listed.items() if STATE_FILE in files), reverse=True)


def is_upload(name: str) -> bool:
    """Whether a folder has the name of an uploaded checkpoint."""
    kind, _, rest = name.partition("-")
    step, _, digest = rest.partition("-")
    return kind == "step" and step.isdecimal() and digest != ""


def step_of(name: str) -> int:
    """The step after which an uploaded checkpoint was written."""
    return int(name.split("-")[1])
