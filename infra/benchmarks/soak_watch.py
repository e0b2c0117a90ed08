"""`make soak-watch`: what looking for new audio keeps of its looks. Files come, change and go, and no time passes between two looks.

First each look is a run of the watcher's flow (list, hash, plan, page, event) in this process, against the server that Prefect starts for
it, so that what a look leaves behind adds up; every tenth look ingestion takes what is there, as the run that new audio starts does. Every
look must count what a plain list of the files says. Then `tinywave serve` runs, and looks are runs of its deployment as the schedule
makes them, each in a process of its own (5 s): what the runner and the server keep.

Four looks are an hour of `serve --watch 15`. Memory and open files, printed ten times, must be in the end what they were after the first fifth: exit
status 1 where they grew beyond the bounds.
"""

import argparse
import base64
import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

GROWTH_MIB, GROWTH_FILES = 32, 4
PATIENCE_S = 300
LOOKS_PER_INGESTION, LOOKS_PER_HOUR = 10, 4


@dataclass(frozen=True)
class Kept:
    """What the processes hold."""

    watcher_mib: float
    """Or the runner's, of `serve`."""
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
    from tinywave_core.run.pipeline import run_pipeline
    from tinywave_core.storage.store import Store

    folder = Folder(copy_clips(place / "speech"))
    config = tiny_config(folder.source, place / "store")

    def look(number: int) -> bool:
        with contextlib.redirect_stdout(io.StringIO()):
            seen = watch(config)
        expected = folder.expected()
        if number % LOOKS_PER_INGESTION == 1:
            run_pipeline(config, Store(config.root), until="ingestion")
            folder.taken |= set(folder.contents.values())
        folder.change()
        if right := {name: seen[name] for name in expected} == expected:
            return right
        print(f"look {number}: counted {seen}; expected {expected}")
        return False

    return repeat(looks, look, os.getpid())


def soak_serve(looks: int, place: Path) -> int:
    """The same of `tinywave serve`."""
    from tests.fixtures.tiny import copy_clips

    folder = Folder(copy_clips(place / "speech"))
    with served(folder.source, place) as (process, ask):
        deployment = ask("deployments/name/watch/watch-speech-demo", None)["id"]

        def look(number: int) -> bool:
            folder.change()
            run = ask(f"deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"]
            while (state := ask(f"flow_runs/{run}", None)["state_type"]) in ("SCHEDULED", "PENDING", "RUNNING"):
                time.sleep(0.2)
            if state != "COMPLETED":
                print(f"look {number}: its run ended as {state}")
            return bool(state == "COMPLETED")

        return repeat(looks, look, process)


@contextlib.contextmanager
def served(source: Path, place: Path) -> Iterator[tuple[int, Callable[[str, Any], Any]]]:
    """The process of `tinywave serve`, and how to ask the API of its server."""
    log = place / "serve.log"
    changes = {"PREFECT_HOME": f"{place}/served", "PREFECT_SERVER_API_PORT": "0", "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
    # Not the server and the password of the first part.
    own = {name: value for name, value in os.environ.items() if not name.endswith("_AUTH_STRING")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "serve", "--source", str(source), "--root", f"{place}/served_store"],
            env=own | changes,
            stdout=out,
            stderr=out,
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while "being served and polling" not in (said := log.read_text()):
            assert time.monotonic() < deadline, said
            assert process.poll() is None, said
            time.sleep(0.2)
        found = re.search(r"Prefect UI: (http://\S+)/sign-in#(\S+)", said)
        assert found, said
        url, login = found.groups()
        headers = {
            "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
            "Content-Type": "application/json",
        }

        def ask(path: str, body: Any) -> Any:
            data = None if body is None else json.dumps(body).encode()
            while True:
                try:
                    with urllib.request.urlopen(urllib.request.Request(f"{url}/api/{path}", data, headers)) as answer:
                        return json.load(answer)
                except urllib.error.HTTPError as error:
                    if error.code != 503:  # two writes met in Prefect's SQLite file: nothing was done
                        raise

        yield process.pid, ask
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def repeat(looks: int, look: Callable[[int], bool], process: int) -> int:
    """Look so often; status 1 where one is wrong or something grew in this process and its children."""
    told: dict[int, Kept] = {}
    for number in range(1, looks + 1):
        if not look(number):
            return 1
        if number % max(1, looks // 10) == 0 or number == looks:
            told[number] = measure(number, process)
    start = min(number for number in told if number >= looks / 5)
    return judge(told[start], told[looks], looks - start)


def measure(look: int, process: int) -> Kept:
    """Memory and open files of a process and of the server that it started, printed."""
    import psutil

    own = psutil.Process(process)
    server = min(own.children(), key=psutil.Process.create_time)  # the process of the look before may still be ending
    kept = Kept(
        own.memory_info().rss / 2**20,
        server.memory_info().rss / 2**20,
        own.num_fds() + server.num_fds(),
    )
    print(
        f"after {look:5,} looks ({look / LOOKS_PER_HOUR:6,.1f} h of --watch 15): {kept.watcher_mib:4.0f} MiB, "
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
        f"in the last {looks:,} looks: {watcher:+.1f} MiB, server {server:+.1f} MiB, {files:+} open files; "
        f"grown beyond {GROWTH_MIB} MiB or {GROWTH_FILES} files: {'yes' if grown else 'no'}"
    )
    return int(grown)


def main() -> int:
    """Parse the command line; Prefect keeps what it writes in a folder that goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looks", type=int, default=1000, help="default: 1000, ten days of `--watch 15`")
    parser.add_argument("--served", type=int, default=100, help="looks of `tinywave serve`; default: 100, a day")
    options = parser.parse_args()
    from flows import environment

    environment.prepare(quiet=True)
    with tempfile.TemporaryDirectory() as name:
        os.environ["PREFECT_HOME"] = f"{name}/prefect"
        environment.protect_embedded_server()
        print("the flow in this process:")
        grown = soak(options.looks, Path(name))
        print("tinywave serve, a process for each look:", flush=True)
        return soak_serve(options.served, Path(name) / "serve") or grown


if __name__ == "__main__":
    sys.exit(main())
