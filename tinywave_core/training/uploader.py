"""Uploads checkpoints to a store elsewhere while training goes on: in a thread, one at a time, and always the newest.

A checkpoint that comes while another one is on its way takes the place of one that waits, so that a slow network uploads fewer of
them and never lags behind. An upload that fails is told beside the progress, and the next checkpoint is tried: training needs no network.
"""

import logging
import threading
from pathlib import Path

from tinywave_core.storage.uploads import UploadedCheckpoints


class Uploader:
    """Takes checkpoints as they are written."""

    def __init__(self, uploads: UploadedCheckpoints) -> None:
        self._uploads, self._lock, self._dropped = uploads, threading.Lock(), threading.Event()
        self._next: Path | None = None
        self._thread: threading.Thread | None = None
        self.current: Path | None = None
        """What is being uploaded, which must stay on disk."""
        self.note = ""
        """How far uploads are, for people; empty before the first one."""

    def offer(self, checkpoint: Path) -> None:
        """Upload this checkpoint as soon as the one on its way is through."""
        with self._lock:
            self._next = checkpoint
            if self._thread is None:
                # Daemon: a second Ctrl-C does not wait for a network; half an upload is taken for none.
                self._thread = threading.Thread(target=self._upload, name="checkpoint upload", daemon=True)
                self._thread.start()

    def finish(self) -> None:
        """Wait until the newest one is uploaded, or failed."""
        with self._lock:
            thread = self._thread
        if thread:
            thread.join()

    def drop(self) -> None:
        """Upload nothing any more: wait for the file on its way alone."""
        with self._lock:
            self._next = None
            self._dropped.set()
        self.finish()

    def _upload(self) -> None:
        while True:
            with self._lock:
                self.current, self._next = self._next, None
                if self.current is None:
                    self._thread = None
                    return
            try:
                self._uploads.put(self.current, self._dropped.is_set)
                self.note = f", {self.current.name} is in the store"
            except Exception as error:  # noqa: BLE001 - each filesystem has its own errors, and none may end the training
                self.note = f", {self.current.name} is NOT in the store: {error}"
                logging.getLogger(__name__).warning(
                    "the checkpoint %s could not be uploaded; training goes on, and the next one is tried: %s",
                    self.current,
                    error,
                )
