"""What Prefect costs beside the work, and what a re-run costs on a large store: `make bench-orchestration`.

The examples are cut into many short clips, one shard each, and go through the pipeline's own code once in this process: the
full cost, without Prefect. Then `tinywave run` goes against a Prefect server (SQLite) that runs already:

- cached: nothing is new. Wall time, task runs, CPU of client and server.
- new audio: one per cent more clips. Its CPU beside the full cost, by the policies of the large presets (codebooks, teacher and
  student are fitted again when speech has grown enough).
- tasks: some token shards are missing. CPU of client and server for each task beyond the work itself, and beside the work of
  one shard of the default size.

CPU seconds are user and system time of a process and its children; the server is waited for until it is idle.
"""

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from flows import environment  # noqa: E402

SETTINGS = {
    "ingestion.shard_megabytes": "0.000001",  # a shard for every clip
    "ingestion.split_by": "recording",
    "tokenization.tokens": "base",
    "adaptation.training.steps": "30",  # far too few to be better than counts
    "adaptation.floor": "none",
    "promotion.floor": "none",
    "distillation.training.steps": "30",
    "evaluation.cloze_items": "100",
    "generation.samples": "1",
    "generation.prompt_s": "1",
    "generation.max_new_tokens": "20",
    "refresh.codebooks": "growth",
    "refresh.teacher": "growth",
    "refresh.student": "growth",
}


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=ROOT / "examples" / "speech", help="folder of audio")
    parser.add_argument("--shards", type=int, default=1000, help="clips, and so shards of every stage (default: 1000)")
    parser.add_argument("--missing", type=int, default=100, help="shards that the part `tasks` computes (default: 100)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "store" / "orchestration",
        help="clips, store and server's database; made anew",
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options = parser.parse_args()
    environment.prepare(quiet=True)
    shutil.rmtree(options.folder, ignore_errors=True)
    figures = measure(options.audio, options.folder, options.shards, options.missing)
    print(table(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def measure(audio: Path, folder: Path, shards: int, missing: int) -> dict[str, Any]:
    """All figures."""
    source, extra = folder / "source", max(1, shards // 100)
    clips = cut(audio, folder / "clips", shards + extra)
    source.mkdir()
    for clip in clips[:shards]:
        shutil.copy(clip, source)
    say(f"{shards} clips; computing everything once, in one process without Prefect …")
    full = compute_here(source, folder / "store")
    with server(folder / "prefect") as prefect:
        run(prefect, source, folder / "store")  # imports and the server's first pages are read from disk once
        say("a run in which nothing is new …")
        cached = run(prefect, source, folder / "store")
        say(f"{missing} token shards are missing …")
        lost = lose(folder / "store", missing)
        here = compute_here(source, folder / "store")
        for path in lost:
            (path / "manifest.json").unlink()
        tasks = run(prefect, source, folder / "store")
        say(f"{extra} new clips …")
        for clip in clips[shards:]:
            shutil.copy(clip, source)
        new = run(prefect, source, folder / "store")
    per_task = (tasks.cpu - cached.cpu - (here.cpu - compute_here(source, folder / "store").cpu)) / missing
    return {
        "shards": shards,
        "full_cpu_s": full.cpu,
        "full_wall_s": full.wall,
        "cached": vars(cached) | {"cpu": cached.cpu},
        "missing": missing,
        "tasks": vars(tasks) | {"cpu": tasks.cpu},
        "cpu_s_per_task": per_task,
        "default_shard_cpu_s": default_shard_cpu_s(),
        "new_clips": extra,
        "new": vars(new) | {"cpu": new.cpu},
    }


@dataclass(frozen=True)
class Cost:
    """What a run took."""

    wall: float
    client_cpu: float
    server_cpu: float = 0.0
    task_runs: int = 0

    @property
    def cpu(self) -> float:
        return self.client_cpu + self.server_cpu


def cut(audio: Path, folder: Path, count: int) -> list[Path]:
    """`count` clips of 2.5 s from the recordings in `audio`, 16 kHz FLAC."""
    import soundfile

    folder.mkdir(parents=True)
    clips: list[Path] = []
    for path in sorted(p for p in audio.rglob("*") if p.suffix in (".flac", ".wav", ".ogg", ".opus", ".mp3")):
        samples, rate = soundfile.read(path, dtype="float32")
        for start in range(0, len(samples) - int(2.5 * rate), int(2.5 * rate)):
            clips.append(folder / f"{len(clips):05d}.flac")
            soundfile.write(clips[-1], samples[start : start + int(2.5 * rate)], rate)
            if len(clips) == count:
                return clips
    raise SystemExit(
        f"error: {audio} gives {len(clips)} clips of 2.5 s, {count} are needed: pass fewer --shards or more --audio"
    )


def flags(source: Path, store: Path) -> dict[str, str]:
    """Settings of every run."""
    return SETTINGS | {"source": str(source), "root": str(store)}


def compute_here(source: Path, store: Path) -> Cost:
    """The pipeline in a process of its own, without Prefect."""
    code = (
        "import json, sys; from tinywave_core.config.load import load_config; from tinywave_core.run.pipeline import run_pipeline;"
        "from tinywave_core.storage.store import Store; config = load_config('demo', json.loads(sys.argv[1]));"
        "run_pipeline(config, Store(config.root))"
    )
    return _cost_of([sys.executable, "-c", code, json.dumps(flags(source, store))])


@dataclass(frozen=True)
class Server:
    """A Prefect server and how to reach it."""

    url: str
    login: str
    process: subprocess.Popen[bytes]

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}",
            json.dumps(body).encode(),
            {"content-type": "application/json", "authorization": f"Basic {b64encode(self.login.encode()).decode()}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def cpu(self) -> float:
        """CPU seconds of the server and its children so far, once it is idle."""
        before = -1.0
        while (now := _tree_cpu(self.process.pid)) > before + 0.15:
            before = now
            time.sleep(2)
        return now


@contextmanager
def server(home: Path) -> Iterator[Server]:
    """A server on a free port with a database of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, login = f"http://127.0.0.1:{port}/api", environment.new_login()
    os.environ |= {"PREFECT_HOME": str(home), "PREFECT_SERVER_API_AUTH_STRING": login, "PREFECT_API_AUTH_STRING": login}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"{url}/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.3)
        os.environ["PREFECT_API_URL"] = url
        yield Server(url, login, process)
    finally:
        process.terminate()
        process.wait()


def run(prefect: Server, source: Path, store: Path) -> Cost:
    """`tinywave run` against the server."""
    tasks, cpu = prefect.ask("task_runs/count", {}), prefect.cpu()
    arguments = [word for key, value in flags(source, store).items() for word in (f"--{key}", value)]
    cost = _cost_of([sys.executable, "-m", "flows.cli", "run", "pipeline", "--preset", "demo", *arguments])
    server_cpu = prefect.cpu() - cpu
    return Cost(cost.wall, cost.client_cpu, server_cpu, prefect.ask("task_runs/count", {}) - tasks)


def lose(store: Path, count: int) -> list[Path]:
    """Take the manifests of some token shards away; their folders."""
    shards = [
        path.parent
        for path in sorted((store / "tokenization").glob("*/manifest.json"))
        if json.loads(path.read_text(encoding="utf-8"))["part"] == "shard"
    ][:count]
    for shard in shards:
        (shard / "manifest.json").unlink()
    return shards


def default_shard_cpu_s() -> float:
    """CPU seconds of tokenization for one shard of the default size with the embedded tokenizers, as `tinywave plan` has it."""
    from tinywave_core.config.pipeline import PipelineConfig
    from tinywave_core.costs.estimates import FLAC_BYTES_PER_S
    from tinywave_core.run.stages import estimate

    config = PipelineConfig()
    hours = config.ingestion.shard_megabytes * 1e6 / FLAC_BYTES_PER_S / 3600
    one = config.model_copy(update={"runtime": config.runtime.model_copy(update={"workers": 1})})
    return estimate(one, hours, "cpu")["tokenization"].seconds


def _cost_of(command: list[str]) -> Cost:
    before, started = _children_cpu(), time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command[:6])} … failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return Cost(time.monotonic() - started, _children_cpu() - before)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _tree_cpu(pid: int) -> float:
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if int(stat.parent.name) == pid or int(fields[1]) == pid:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def table(f: dict[str, Any]) -> str:
    """The figures beside what they are to be."""
    cached, new = f["cached"], f["new"]
    share = f["cpu_s_per_task"] / f["default_shard_cpu_s"]
    rows = [
        (f"cached run of {f['shards']} shards per stage, wall", f"{cached['wall']:.1f} s", "< 15 s"),
        ("  its task runs", f"{cached['task_runs']}", "≤ 20"),
        ("  its CPU, client + server", f"{cached['client_cpu']:.1f} + {cached['server_cpu']:.1f} s", ""),
        (
            f"{f['new_clips']} new clips: CPU beside the full cost",
            f"{new['cpu']:.1f} of {f['full_cpu_s']:.0f} s = {new['cpu'] / f['full_cpu_s']:.1%}",
            "≤ 3 %",
        ),
        ("  its wall time and task runs", f"{new['wall']:.1f} s, {new['task_runs']}", ""),
        (f"a task run, CPU beyond its work ({f['missing']} of them)", f"{f['cpu_s_per_task'] * 1000:.0f} ms", ""),
        (
            "  beside tokenizing a shard of the default size",
            f"{share:.2%} of {f['default_shard_cpu_s']:.0f} s",
            "< 5 %",
        ),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


if __name__ == "__main__":
    main()
