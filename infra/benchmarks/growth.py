"""What one per cent more audio costs a corpus of hours, beside what all of it costs: `make bench-growth`.

A source of real recordings is made, without every hundredth one. Ingestion and tokenization then run three times on one store,
each in a process of its own and without Prefect (what that costs: `make bench-orchestration`): on all of it, with nothing new, and with
the rest. With `--times` each recording is there so many times, at other speeds, which makes a larger corpus of it. Told are seconds by the clock and of CPU, with children, and where they go: by step, and what is left (Python's start, imports, the
look at the source, bookkeeping). The goal is 3 % of the whole.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

AUDIO = (".wav", ".flac", ".opus", ".ogg", ".mp3")
EVERY = 100


def main() -> None:
    """Parse the command line and measure, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--audio", type=Path, nargs="+", default=[ROOT / "examples" / "speech"], help="folders of audio"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "store" / "growth", help="source and store; made anew")
    parser.add_argument(
        "--times", type=int, default=1, help="how often each recording is there, every time at another speed"
    )
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(run(options.folder)))
        return
    shutil.rmtree(options.folder, ignore_errors=True)
    files = [(folder, path) for folder in options.audio for path in sorted(folder.rglob("*"))]
    files = [(folder, path) for folder, path in files if path.suffix.lower() in AUDIO and path.is_file()]
    files = [(folder, path, number) for number in range(options.times) for folder, path in files]
    link(options.folder, [each for number, each in enumerate(files) if number % EVERY != EVERY // 2])
    figures = {"all": in_child(options.folder), "nothing new": in_child(options.folder)}
    link(options.folder, [each for number, each in enumerate(files) if number % EVERY == EVERY // 2])
    figures["1 % new"] = in_child(options.folder)
    for name, figure in figures.items():
        share = figure["cpu_s"] / figures["all"]["cpu_s"]
        say(
            f"{name:>12} {figure['hours']:6.3f} h {figure['wall_s']:7.1f} s {figure['cpu_s']:7.1f} s of CPU {share:6.1%}"
        )
        for part, seconds in sorted(figure["parts"].items(), key=lambda each: -each[1]):
            say(f"{'':>12} {part:<28} {seconds:7.2f} s")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


def link(folder: Path, files: list[tuple[Path, Path, int]]) -> None:
    """Copies of these files in the source, at their places; those of other times at other speeds."""
    for above, path, number in files:
        place = folder / "source" / f"{above.name}-{number}" / path.relative_to(above)
        place.parent.mkdir(parents=True, exist_ok=True)
        if not number:
            shutil.copy2(path, place)
            continue
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        at = np.arange(0, len(samples) - 1, 1 + 0.02 * number)
        faster = np.stack([np.interp(at, np.arange(len(samples)), channel) for channel in samples.T], axis=1)
        soundfile.write(place.with_suffix(".flac"), faster, rate, format="FLAC")


def in_child(folder: Path) -> dict[str, Any]:
    """One run in a process of its own."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, __file__, "--folder", str(folder), "--child"]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = dict(json.loads(done.stdout.splitlines()[-1]))
    found["parts"]["everything else"] = cpu - sum(found["parts"].values())
    return found | {"wall_s": time.monotonic() - started, "cpu_s": cpu}


def cpu_s() -> float:
    """Of this process and its children that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def run(folder: Path) -> dict[str, Any]:
    """Ingestion and tokenization; CPU seconds by part of what was computed."""
    from tinywave_core.config.pipeline import PipelineConfig
    from tinywave_core.run.pipeline import run_pipeline
    from tinywave_core.steps.base import Step, compute
    from tinywave_core.storage.store import Store

    config = PipelineConfig.model_validate(
        {"source": str(folder / "source"), "root": str(folder / "store"), "adaptation": {"teacher": "fresh"}}
    )
    parts: dict[str, float] = defaultdict(float)
    parts["imports"] = cpu_s()

    def execute(steps: list[Step]) -> list[Any]:
        made = []
        for step in steps:
            started = cpu_s()
            known = step.find().complete
            made.append(compute(step))
            name = "looking up what is there" if known else f"{step.stage}/{step.part}"
            parts[name] += cpu_s() - started
        return made

    outputs = run_pipeline(config, Store(config.root), execute, until="tokenization")
    return {"hours": outputs["corpus"].summary["hours"], "parts": parts}


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
