"""`make soak-watch`: what looking for new audio keeps of its looks. Files come, change and go, and no time passes between two looks.

Each look is a run of the watcher's flow (list, hash, plan, page, event) in this process, against the server that Prefect starts for it;
four looks are an hour of `serve --watch 15`. Every tenth look ingestion takes what is there, as the run that new audio starts does.
Every look must count what a plain list of the files says. Memory and open files of watcher and server, printed ten times, must be in the end what
they were after the first fifth: exit status 1 where they grew beyond the bounds. `serve` itself starts a new process for every look:
here they share one, so that what a look leaves behind adds up.
"""

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

GROWTH_MIB, GROWTH_FILES = 32, 4
LOOKS_PER_INGESTION, LOOKS_PER_HOUR = 10, 4


@dataclass(frozen=True)
class Kept:
    """What the processes hold."""

    watcher_mib: float
    server_mib: float
    files: int


class Folder:
    """A source that changes, and what must be found in it."""

    def __init__(self, source: Path) -> None:
        self.source, self.draw = source, random.Random(0)
        self.contents = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
        self.taken: set[bytes] = set()

    def change(self) -> None:
        """Up to two files are added, replaced or removed."""
        import numpy as np
        import soundfile

        for _ in range(self.draw.randrange(3)):
            path = self.source / f"{self.draw.randrange(40)}.wav"
            if path in self.contents and self.draw.random() < 0.4:
                path.unlink()
                del self.contents[path]
            else:
                noise = np.random.default_rng(self.draw.randrange(10**9)).normal(0, 0.1, 24_000)
                soundfile.write(path, noise, 16_000)
                self.contents[path] = path.read_bytes()

    def expected(self) -> dict[str, int]:
        return {"found": len(self.contents), "new": len(set(self.contents.values()) - self.taken)}


def soak(looks: int, place: Path) -> int:
    """Look, change the source, look again; status 1 where a count was wrong or something grew."""
    from flows.watch import watch
    from tests.fixtures.tiny import copy_clips, tiny_config
    from tinywave_core.pipeline import run_pipeline
    from tinywave_core.storage.store import Store

    folder = Folder(copy_clips(place / "speech"))
    config = tiny_config(folder.source, place / "store")
    told: dict[int, Kept] = {}
    for look in range(1, looks + 1):
        with contextlib.redirect_stdout(io.StringIO()):
            seen = watch(config)
        expected = folder.expected()
        if {name: seen[name] for name in expected} != expected:
            print(f"look {look}: counted {seen}; expected {expected}")
            return 1
        if look % LOOKS_PER_INGESTION == 1:
            run_pipeline(config, Store(config.root), until="ingestion")
            folder.taken |= set(folder.contents.values())
        folder.change()
        if look % max(1, looks // 10) == 0 or look == looks:
            told[look] = measure(look)
    start = min(look for look in told if look >= looks / 5)
    return judge(told[start], told[looks], looks - start)


def measure(look: int) -> Kept:
    """Memory and open files of this process and of the server that it started, printed."""
    import psutil

    own = psutil.Process()
    rest = own.children(recursive=True)
    kept = Kept(
        own.memory_info().rss / 2**20,
        sum(process.memory_info().rss for process in rest) / 2**20,
        sum(process.num_fds() for process in (own, *rest)),
    )
    print(
        f"after {look:5,} looks ({look / LOOKS_PER_HOUR:6,.1f} h of --watch 15): watcher {kept.watcher_mib:4.0f} MiB, "
        f"server {kept.server_mib:4.0f} MiB, {kept.files} open files",
        flush=True,
    )
    return kept


def judge(before: Kept, after: Kept, looks: int) -> int:
    """Say what grew; status 1 where that is beyond the bounds."""
    watcher, server = after.watcher_mib - before.watcher_mib, after.server_mib - before.server_mib
    files = after.files - before.files
    grown = max(watcher, server) > GROWTH_MIB or files > GROWTH_FILES
    print(
        f"in the last {looks:,} looks: watcher {watcher:+.1f} MiB, server {server:+.1f} MiB, {files:+} open files; "
        f"grown beyond {GROWTH_MIB} MiB or {GROWTH_FILES} files: {'yes' if grown else 'no'}"
    )
    return int(grown)


def main() -> int:
    """Parse the command line; Prefect keeps what it writes in a folder that goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=1000, help="default: 1000, ten days of `--watch 15`")
    options = parser.parse_args()
    from flows import environment

    environment.prepare(quiet=True)
    with tempfile.TemporaryDirectory() as name:
        os.environ["PREFECT_HOME"] = f"{name}/prefect"
        environment.protect_embedded_server()
        return soak(options.looks, Path(name))


if __name__ == "__main__":
    sys.exit(main())
