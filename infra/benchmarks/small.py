"""What a folder of little speech gives: 2, 5, 15, 40 and 130 minutes, from nothing and from the base: `make bench-small`.

Real folders and the pipeline's own stages. Speakers of the given speech are put apart once, by a hash: those that the pipeline
holds out are in every folder, half of the others make the folders (each folder is in the next larger one), and the other half makes a
base of the benchmark's own, by the recipe of `make base`, since the base in this repository may have heard this speech. A folder that
needs more than its half takes speech of the base's: then it is measured from nothing alone.

Each cell is a process of one thread: its wall time and its peak memory are those of one core. NLL is of all held-out rows, in nats
per token: the mean over seeds, and the mean 95 % interval over recordings. A student counts as published where the
promotion gate would publish it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from infra.benchmarks.speech import Recording, minutes_of, recordings_of, write_folder  # noqa: E402
from tinywave_core.audio.cutting import split_of  # noqa: E402
from tinywave_core.config.load import load_config  # noqa: E402
from tinywave_core.config.pipeline import PipelineConfig  # noqa: E402
from tinywave_core.errors import TrainingError  # noqa: E402
from tinywave_core.storage.fingerprint import place_of  # noqa: E402

MINUTES = (2, 5, 15, 40, 130)
STARTS = ("fresh", "base")
MODELS = ("teacher", "student", "control")


def main() -> None:
    """Make the folders and the base, run every cell, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", nargs="*", default=[str(ROOT / "examples" / "speech")], help="folders of audio")
    parser.add_argument(
        "--root", default=str(ROOT / "store" / "bench-small"), help="where folders, stores and results lie"
    )
    parser.add_argument("--minutes", nargs="*", type=float, default=list(MINUTES))
    parser.add_argument("--starts", nargs="*", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cells side by side, one thread each")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        run_cell(Cell(**json.loads(options.cell)))
        return
    bench = Bench(Path(options.root).resolve(), [Path(s).resolve() for s in options.source])
    cells = [cell for seed in range(options.seeds) for cell in bench.cells(options.minutes, options.starts, seed)]
    with ThreadPoolExecutor(options.workers) as pool:
        results = list(pool.map(bench.result, cells))
    (bench.root / "small.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(table(results))


# Folders -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """One run: a folder, a start, a seed."""

    minutes: float
    start: str
    seed: int
    source: str
    root: str
    base: str


class Bench:
    """Speech put apart by speaker, and what is made of it."""

    def __init__(self, root: Path, sources: list[Path]) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        self.recordings = known(recordings_of(sources))
        config = load_config("demo", {"root": "unused"}).ingestion
        held_out = {r.path for r in self.recordings if split_of(config, r.speaker, "") == "held_out"}
        self.held_out = [r for r in self.recordings if r.path in held_out]
        others = [r for r in self.recordings if r.path not in held_out]
        self.own = [r for r in others if _position(r.speaker) < 0.5]
        self.of_base = [r for r in others if _position(r.speaker) >= 0.5]
        print(
            f"{minutes_of(self.held_out):.1f} minutes held out, {minutes_of(self.own):.1f} for folders, "
            f"{minutes_of(self.of_base):.1f} for the base",
            flush=True,
        )

    def cells(self, minutes: list[float], starts: list[str], seed: int) -> list[Cell]:
        """The cells of one seed; large folders first, so that processes end together."""
        cells = []
        for wanted in sorted(minutes, reverse=True):
            if wanted > minutes_of(self.own + self.of_base):
                print(f"no folder of {wanted:g} minutes: there is not as much speech", flush=True)
                continue
            enough = wanted <= minutes_of(self.own)
            chosen = first_minutes(self.own if enough else self.own + self.of_base, wanted)
            folder = self.folder(f"{wanted:g}-minutes", chosen + self.held_out)
            for start in starts:
                if start == "fresh" or enough:
                    base = str(self.base()) if start == "base" else ""
                    root = str(self.root / f"store-{wanted:g}-{start}")
                    cells.append(Cell(wanted, start, seed, str(folder), root, base))
        return cells

    def folder(self, name: str, recordings: list[Recording]) -> Path:
        """A source folder with these recordings and their speakers."""
        return write_folder(self.root / name, recordings)

    def base(self) -> Path:
        """A base of speech that is in no folder, by the recipe of `make base`."""
        folder = self.root / "base"
        if not folder.is_dir():
            from infra.base import make_base

            # None of it lies below the demo's fraction.
            settings = {"ingestion.held_out_fraction": "0.2", "runtime.threads": "1"}
            make_base(
                [self.folder("base-speech", self.of_base)], folder, self.root / "base-store", settings, to_pass_on=False
            )
        return folder

    def result(self, cell: Cell) -> dict[str, Any]:
        """What a cell found, from its file where it was run before."""
        path = self.root / f"cell-{cell.minutes:g}-{cell.start}-{cell.seed}.json"
        if not path.is_file():
            began = time.monotonic()
            command = [sys.executable, __file__, "--cell", json.dumps(cell.__dict__)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            if done.returncode:
                raise SystemExit(f"{cell}: {done.stderr[-3000:]}")
            path.write_text(done.stdout.splitlines()[-1], encoding="utf-8")
            print(f"{cell.minutes:g} min, {cell.start}, seed {cell.seed}: {time.monotonic() - began:.0f} s", flush=True)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def known(recordings: list[Recording]) -> list[Recording]:
    """Each with a speaker, itself where it has none, in an order drawn by hash."""
    named = [replace(r, speaker=r.speaker or r.name) for r in recordings]
    return sorted(named, key=lambda r: (_position(f"{r.speaker}/order"), r.path))


def first_minutes(recordings: list[Recording], minutes: float) -> list[Recording]:
    """Recordings in their order until there are so many minutes."""
    chosen: list[Recording] = []
    for recording in recordings:
        if minutes_of(chosen) >= minutes:
            break
        chosen.append(recording)
    return chosen


def _position(name: str) -> float:
    return place_of(f"bench-small/{name}")


# A cell ------------------------------------------------------------------------------------------------------------


def config_of(cell: Cell) -> PipelineConfig:
    """The demo's settings with the cell's start and seed, and the parts of evaluation that the table shows."""
    return load_config(
        "demo",
        {
            "source": cell.source,
            "root": cell.root,
            "adaptation.teacher": cell.start,
            "adaptation.training.seed": str(cell.seed),
            "adaptation.base_training.seed": str(cell.seed),
            "distillation.training.seed": str(cell.seed),
            "adaptation.floor": "none",
            "evaluation.probes.items": "0",
            "evaluation.gap.utterances": "0",
            "runtime.threads": "1",
            "runtime.workers": "1",
            "refresh.teacher": "pinned",
            **({"adaptation.base": cell.base} if cell.base else {}),
        },
    )


def run_cell(cell: Cell) -> None:
    """Run the pipeline up to evaluation and print what it found as one line of JSON."""
    from tinywave_core.run.pipeline import run_pipeline
    from tinywave_core.stages.evaluation.floor_words import shortfall
    from tinywave_core.stages.evaluation.summary import ScoresSummary
    from tinywave_core.storage.store import Store

    config, began = config_of(cell), time.monotonic()
    about: dict[str, Any] = {"minutes": cell.minutes, "start": cell.start, "seed": cell.seed}
    try:
        outputs = run_pipeline(config, Store(config.root), until="evaluation")
    except TrainingError as error:
        print(json.dumps(about | {"stopped": str(error)}))
        return
    scores = ScoresSummary.of(outputs["scores"])
    floors = scores.floors
    print(
        json.dumps(
            about
            | {
                "seconds": time.monotonic() - began,
                "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "recordings": floors.recordings,
                "counted_tokens": floors.counted_tokens,
                "counts": [c.nll for c in floors.counts],
                "order": floors.order,
                "nll": {model: scores.models[model].nll for model in MODELS},
                "interval": {model: list(scores.models[model].nll_interval) for model in MODELS},
                "above_counts": {model: [a.nll, *a.interval] for model, a in floors.above_counts.items()},
                "gap_closed": scores.comparison.nll_gap_closed,
                "published": shortfall(scores, "student") is None,
            }
        )
    )


# The table ---------------------------------------------------------------------------------------------------------


def table(results: list[dict[str, Any]]) -> str:
    """In Markdown: a row per folder and start."""
    lines = [
        "| minutes | start | counts | teacher | student | undistilled control | student − counts | gap closed | published | seconds | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for minutes in sorted({r["minutes"] for r in results}):
        for start in STARTS:
            of_cell = [r for r in results if r["minutes"] == minutes and r["start"] == start]
            if of_cell:
                lines.append(_row(minutes, start, of_cell))
    return "\n".join(lines)


def _row(minutes: float, start: str, found: list[dict[str, Any]]) -> str:
    whole = [r for r in found if "stopped" not in r]
    if not whole:
        return f"| {minutes:g} | {start} | stopped: {found[0]['stopped']} |" + " – |" * 8

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def nll(model: str) -> str:
        low, high = (mean([r["interval"][model][end] for r in whole]) for end in (0, 1))
        return f"{mean([r['nll'][model] for r in whole]):.3f} ({low:.3f} to {high:.3f})"

    counts = mean([min(r["counts"]) for r in whole])
    above = [mean([r["above_counts"]["student"][part] for r in whole]) for part in range(3)]
    closed = [r["gap_closed"] for r in whole if r["gap_closed"] is not None]
    published = f"{sum(r.get('published', False) for r in found)} of {len(found)}"
    return (
        f"| {minutes:g} | {start} | {counts:.3f} | {nll('teacher')} | {nll('student')} | {nll('control')} | "
        f"{above[0]:+.3f} ({above[1]:+.3f} to {above[2]:+.3f}) | {f'{mean(closed):.0%}' if closed else '–'} | {published} | "
        f"{mean([r['seconds'] for r in whole]):.0f} | {max(r['mib'] for r in whole):.0f} |"
    )


if __name__ == "__main__":
    main()
