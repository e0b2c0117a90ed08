"""What the teacher's signals cost and bring, beside the straightforward ways: `make bench-distillation`.

Every way is a process of its own with one thread. They wait for one another and take turns, so that what else the machine
does falls on all; a figure is the ratio of two ways in the same round, and its median over the rounds. Time is CPU time of
the process. Memory is the highest resident size in a round (VmHWM, set back before each) above what the process had before
its models, or in `loss` above its inputs, with a mapping per tensor so that nothing counts that is free. It is the project's own code that runs; what it is compared with stands here.

- step: training steps per regime. The head is small here (1,024 rows; at 32,512 it would hide the rest): see `loss` for it.
- loss: cross-entropy and KL at 4,096 tokens and 32,512 rows, fused, beside dense log-softmaxes.
- alignment: hidden states and attention rows on top of live logits.
- cache: bytes, writing and reading of sparse targets, beside Parquet with a list per token.
- quality: held-out KL to the teacher of students that learned from the whole distribution and from cached entries.
- gpu (only with --gpu): the shapes of 7B and 2B with random weights: tokens per second, share of the peak, memory.

Legend: N tokens, T row length, V vocabulary rows, K entries, D width.
"""

import argparse
import json
import math
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import LlamaForCausalLM

    from tinywave_core.config.distillation import DistillationConfig
    from tinywave_core.sequences.dataset import PackedDataset
    from tinywave_core.sequences.table import TokenSequence
    from tinywave_core.teacher.logit_cache import Captured, LogitCache

CYCLE = 8  # steps of a round: one with the teacher where it runs in every 8th
MIB = 1 << 20
# Dense bfloat16 operations per second that a GPU's maker promises.
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}


@dataclass(frozen=True)
class Shape:
    """Sizes of a pair of models and of its batches."""

    width: int
    heads: int
    intermediate: int
    teacher_layers: int
    student_layers: int
    rows: int
    """Of the vocabulary."""
    length: int
    """Tokens of a packed row."""
    batch_tokens: int
    micro_batch_rows: int = 8
    device: str = "cpu"


SMALL = Shape(256, 8, 688, 16, 5, 1024, 512, 512)
RELEASED = Shape(4096, 32, 11008, 32, 10, 32_512, 2048, 16_384, micro_batch_rows=4, device="cuda")
TINY = Shape(32, 4, 64, 4, 2, 64, 64, 128)


@dataclass(frozen=True)
class Figure:
    """One line of a table: a value per round, and what it should be."""

    name: str
    values: list[float]
    unit: str = "x"
    limit: float | None = None
    at_least: bool = False

    def line(self) -> str:
        """Median, smallest to largest, target and whether it is met."""
        middle, low, high = (_digits(f(self.values)) for f in (statistics.median, min, max))
        text = f"  {self.name:<52}{middle:>9} {self.unit:<8}{f'{low} to {high}':<22}"
        if self.limit is not None:
            text += f"{'>=' if self.at_least else '<='} {self.limit:g}: {'yes' if self.met else 'NO'}"
        return text.rstrip()

    @property
    def met(self) -> bool | None:
        """Whether the median reaches the target; None where there is none."""
        if self.limit is None:
            return None
        middle = statistics.median(self.values)
        return middle >= self.limit if self.at_least else middle <= self.limit


def _digits(value: float) -> str:
    """Three to four digits that count."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:,.{max(0, 3 - max(0, math.floor(math.log10(abs(value)))))}f}"


@dataclass(frozen=True)
class Table:
    """What one section found."""

    title: str
    figures: list[Figure]


def main() -> None:
    """Parse the command line; children are this file again with --child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*SECTIONS, "gpu"), help="sections; all but gpu by default")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each way (default 3)")
    parser.add_argument("--seeds", type=int, default=2, help="of the section quality (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures, round by round, to FILE")
    parser.add_argument(
        "--gpu",
        action="store_true",
        help="the section gpu, alone unless --only names others: needs CUDA with about 80 GB and 10 GB of temporary space",
    )
    parser.add_argument("--peak-tflops", type=float, help="the GPU's bfloat16 peak, where its name is not known here")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # sizes that only show that it runs
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        _child(json.loads(options.child))
        return
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("bench-distillation reads peak memory from /proc, which this system lacks: run it on Linux")
    names = options.only or (["gpu"] if options.gpu else list(SECTIONS))
    if "gpu" in names:
        _require_gpu(options)
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        for name in names:
            started = time.monotonic()
            table = _gpu(options) if name == "gpu" else SECTIONS[name](options)
            tables.append((name, table))
            print(f"\n{name}: {table.title}\n" + "\n".join(figure.line() for figure in table.figures), flush=True)
            print(f"{name} took {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps(_record(options, tables), indent=1) + "\n", encoding="utf-8")


def _record(options: argparse.Namespace, tables: list[tuple[str, Table]]) -> dict[str, Any]:
    machine = {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    sections = {
        name: {
            "title": table.title,
            "figures": [asdict(f) | {"median": statistics.median(f.values), "met": f.met} for f in table.figures],
        }
        for name, table in tables
    }
    return {"machine": machine, "rounds": options.rounds, "seeds": options.seeds, "sections": sections}


# The parent: taking turns ------------------------------------------------------------------------------------------


class ChildError(RuntimeError):
    """A way that ended before it was told to."""


class Child:
    """A way in its own process, which works when it is told to and says what that took."""

    def __init__(self, spec: dict[str, Any], *, exact_memory: bool = False) -> None:
        """With `exact_memory` every tensor is a mapping of its own: what is freed is gone at once, at the cost of time."""
        command = [sys.executable, __file__, "--child", json.dumps(spec)]
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
        if exact_memory:
            threads["MALLOC_MMAP_THRESHOLD_"] = str(1 << 16)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | threads
        )

    def ask(self, word: str) -> None:
        """`reset`: work, with the peak of memory set back before; `go`: work."""
        assert self._process.stdin
        try:
            print(word, file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise ChildError("a run ended early: what it said is above") from error

    def answer(self) -> dict[str, Any]:
        """What the last turn took, or first what it is ready with."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise ChildError(f"a run failed with status {self._process.wait()}: what it said is above")
        return json.loads(line)  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it, also when it is at work."""
        self._process.kill()
        self._process.communicate()


Rounds = list[dict[str, float]]


def _take_turns(
    ways: dict[str, dict[str, Any]], rounds: int, turns: int = 1, *, together: bool = False, exact_memory: bool = False
) -> tuple[dict[str, Rounds], Any]:
    """Per way its rounds of `turns` turns each, and what the ways said when they were ready.

    One works while the others wait; with `together`, where nothing is timed, all work at once.
    """
    children = {name: Child(spec, exact_memory=exact_memory) for name, spec in ways.items()}
    found: dict[str, Rounds] = {name: [] for name in ways}
    try:
        ready = {name: child.answer() for name, child in children.items()}
        for number in range(rounds):
            taken: dict[str, Rounds] = {name: [] for name in ways}
            for turn in range(turns):
                order = list(children) if (number + turn) % 2 else list(children)[::-1]
                for group in [order] if together else [[name] for name in order]:
                    for name in group:
                        children[name].ask("go" if turn else "reset")
                    for name in group:
                        taken[name].append(children[name].answer())
            for name, answers in taken.items():
                found[name].append(_sum(answers))
            print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    finally:
        for child in children.values():
            child.close()
    return found, ready


def _steps(ways: dict[str, dict[str, Any]], rounds: int) -> dict[str, Rounds]:
    """Times and, from other processes, peaks of training steps."""
    times, _ = _take_turns(ways, rounds, CYCLE)
    peaks, _ = _take_turns(ways, rounds, CYCLE, together=True, exact_memory=True)
    return {
        name: [t | {"peak_mib": p["peak_mib"]} for t, p in zip(times[name], peaks[name], strict=True)] for name in ways
    }


def _sum(answers: Rounds) -> dict[str, float]:
    """Of one round: times added up, the highest peak."""
    return {name: (max if name == "peak_mib" else sum)([a[name] for a in answers]) for name in answers[0]}


def _ratios(found: dict[str, Rounds], way: str, beside: str, what: str) -> list[float]:
    return [a[what] / b[what] for a, b in zip(found[way], found[beside], strict=True)]


def _values(found: dict[str, Rounds], way: str, what: str, scale: float = 1.0) -> list[float]:
    return [each[what] * scale for each in found[way]]


# The parent: sections ----------------------------------------------------------------------------------------------


def _step(options: argparse.Namespace) -> Table:
    shape = TINY if options.tiny else SMALL
    names = {"cross-entropy": "ce", "cached": "cached", "aligned every 8th": "every-8th", "aligned": "aligned"}
    names |= {"on-policy": "on-policy"}
    ways = {name: _steps_spec(options, shape, regime) for name, regime in names.items()}
    found = _steps(ways, options.rounds)
    figures = []
    for what, label, limits in (
        ("cpu_s", "time", {"cached": 1.05}),
        ("peak_mib", "peak memory", {"cached": 1.03}),
    ):
        for name in list(ways)[1:]:
            figures.append(
                Figure(f"{label}, {name}", _ratios(found, name, "cross-entropy", what), limit=limits.get(name))
            )
    for what, label in (("cpu_s", "time"), ("peak_mib", "peak memory")):
        figures.append(Figure(f"{label}, on-policy beside aligned", _ratios(found, "on-policy", "aligned", what)))
    peaks = [Figure(f"peak memory, {name}", _values(found, name, "peak_mib"), "MiB") for name in ways]
    title = f"a training step beside plain cross-entropy; {_about(shape)}"
    return Table(title, figures + peaks)


def _alignment(options: argparse.Namespace) -> Table:
    shape = TINY if options.tiny else SMALL
    names = {
        "live logits": "live",
        "with hidden states": "live-hidden",
        "with hidden states and attention rows": "live-both",
    }
    ways = {name: _steps_spec(options, shape, regime) for name, regime in names.items()}
    found = _steps(ways, options.rounds)
    figures = []
    for name in list(ways)[1:]:
        both = names[name] == "live-both"
        figures.append(
            Figure(f"time, {name}", _ratios(found, name, "live logits", "cpu_s"), limit=1.15 if both else None)
        )
        figures.append(
            Figure(f"peak memory, {name}", _ratios(found, name, "live logits", "peak_mib"), limit=1.1 if both else None)
        )
    return Table(f"a training step beside one with live logits alone; {_about(shape)}", figures)


def _about(shape: Shape) -> str:
    return (
        f"{shape.teacher_layers}:{shape.student_layers} blocks of width {shape.width}, {shape.rows:,} rows, "
        f"{shape.batch_tokens:,} tokens in rows of {shape.length:,}"
    )


def _steps_spec(options: argparse.Namespace, shape: Shape, regime: str) -> dict[str, Any]:
    folder = tempfile.mkdtemp(dir=options.folder)
    return {"kind": "steps", "shape": asdict(shape), "regime": regime, "folder": folder}


def _loss(options: argparse.Namespace) -> Table:
    tokens, rows, width = (256, 600, 32) if options.tiny else (4096, 32_512, 512)
    spec = {"kind": "loss", "tokens": tokens, "rows": rows, "width": width, "folder": str(options.folder)}
    names = {"dense": "dense", "fused, cached targets": "cached", "fused, live teacher": "live"}
    ways = {name: spec | {"way": way} for name, way in names.items()}
    found, _ = _take_turns(ways, options.rounds)
    # One round: nothing in it depends on chance or load.
    peaks, _ = _take_turns(
        {n: way | {"compare": False} for n, way in ways.items()}, 1, together=True, exact_memory=True
    )
    figures = [
        Figure(
            f"peak above the inputs, {name}",
            _values(peaks, name, "peak_mib"),
            "MiB",
            limit=None if way == "dense" else 200,
        )
        for name, way in names.items()
    ]
    for name, way in list(names.items())[1:]:
        figures.append(Figure(f"peak beside dense, {name}", _ratios(peaks, name, "dense", "peak_mib")))
        figures.append(Figure(f"time beside dense, {name}", _ratios(found, name, "dense", "cpu_s")))
        figures.append(
            Figure(f"largest gradient difference, {name}", [_gradient_difference(options.folder, way)], "of max")
        )
    title = f"cross-entropy and KL with backward, float32, {tokens:,} tokens, {rows:,} rows, width {width}"
    return Table(title, figures)


def _gradient_difference(folder: Path, way: str) -> float:
    """Largest difference of an entry between fused and dense, as a share of the dense gradient's largest entry."""
    import numpy as np

    worst = 0.0
    for name in ("hidden", "weight"):
        ours, dense = (np.load(folder / f"{kind}-{way}-{name}.npy") for kind in ("fused", "dense"))
        worst = max(worst, float(np.abs(ours - dense).max() / np.abs(dense).max()))
    return worst


def _cache(options: argparse.Namespace) -> Table:
    sequences = 100 if options.tiny else 4000
    spec = {"kind": "cache", "sequences": sequences, "folder": str(options.folder)}
    ways = {
        f"{way} K={entries}": spec | {"way": way, "entries": entries}
        for entries in (12, 16)
        for way in ("ours", "lists")
    }
    found, _ = _take_turns(ways, options.rounds)
    figures = []
    for k in (12, 16):
        ours, lists = f"ours K={k}", f"lists K={k}"
        limit = 45 if k == 12 else None  # 16 entries take 57 bytes before anything is packed
        figures += [
            Figure(f"bytes per token all in, K={k}", _values(found, ours, "bytes_per_token"), "B", limit=limit),
            Figure(f"write, K={k}", _values(found, ours, "write_mtok_s"), "Mtok/s", limit=2, at_least=True),
            # A GPU trains on less than a tenth of that; the reader decodes a sequence at a time.
            Figure(f"read into torch, K={k}", _values(found, ours, "read_mtok_s"), "Mtok/s", limit=3, at_least=True),
        ]
        for what, label in (
            ("bytes_per_token", "bytes"),
            ("write_mtok_s", "write speed"),
            ("read_mtok_s", "read speed"),
        ):
            figures.append(Figure(f"{label} beside lists in Parquet, K={k}", _ratios(found, ours, lists, what)))
    title = f"{sequences:,} sequences of {_CACHE_LENGTHS[0]} to {_CACHE_LENGTHS[1]} tokens, one core, files in memory"
    return Table(title, figures)


def _quality(options: argparse.Namespace) -> Table:
    spec = {"kind": "quality", "tiny": options.tiny}
    ways = {
        str(seed): spec | {"seed": seed, "folder": tempfile.mkdtemp(dir=options.folder)}
        for seed in range(options.seeds)
    }
    seeds, _ = _take_turns(ways, 1, together=True)
    found = [rounds[0] for rounds in seeds.values()]
    figures = [
        Figure("teacher's entropy, held out", [run["entropy"] for run in found], "nats"),
        Figure("teacher's mass beyond the likeliest 16", [run["beyond_16"] for run in found], ""),
        Figure("KL to the teacher, whole distribution live", [run["live_kl"] for run in found], "nats"),
        Figure("NLL, whole distribution live", [run["live_nll"] for run in found], "nats"),
    ]
    for way, label in _SIGNALS.items():
        limit, at_least = {"top-16": (0.2, True), "none": (None, False)}.get(way, (0.015, False))
        gaps = [run[f"{way}_kl"] - run["live_kl"] for run in found]
        figures.append(Figure(f"KL more than live, {label}", gaps, "nats", limit, at_least))
        figures.append(
            Figure(f"NLL more than live, {label}", [run[f"{way}_nll"] - run["live_nll"] for run in found], "nats")
        )
        if way != "none":
            figures.append(Figure(f"cached, {label}", [run[f"{way}_bytes"] for run in found], "B/token"))
            whole = [run[f"{way}_bytes"] / run["live_bytes"] for run in found]
            figures.append(Figure(f"cached beside the whole in float16, {label}", whole))
    return Table(f"students of one start and order, {options.seeds} seeds; held-out KL and NLL per token", figures)


SECTIONS: dict[str, Callable[[argparse.Namespace], Table]] = {
    "step": _step,
    "loss": _loss,
    "alignment": _alignment,
    "cache": _cache,
    "quality": _quality,
}
_SIGNALS = {
    "K=8": "K=8",
    "K=12": "K=12",
    "K=16": "K=16",
    "top-16": "likeliest 16 renormalised",
    "none": "true tokens alone",
}


# The parent: on a GPU ----------------------------------------------------------------------------------------------


def _require_gpu(options: argparse.Namespace) -> None:
    """Exit with what is missing; before anything is measured."""
    if options.tiny:
        return
    import torch

    if not torch.cuda.is_available():
        sys.exit(
            "the section gpu measures models of 7B and 2B parameters, and torch sees no GPU here: run it on a machine with "
            "one (CUDA, about 80 GB of its memory), or leave --gpu out"
        )
    needed, free = 5 * _parameters(RELEASED, RELEASED.student_layers), shutil.disk_usage(tempfile.gettempdir()).free
    if free < needed:
        sys.exit(
            f"{tempfile.gettempdir()} has {free / 1e9:.0f} GB free, the training loop's first checkpoint needs "
            f"{needed / 1e9:.0f}: set TMPDIR to a folder that has more"
        )


def _gpu(options: argparse.Namespace) -> Table:
    """One regime after the other, for two do not fit side by side; rounds are within a regime."""
    shape = TINY if options.tiny else RELEASED
    found: dict[str, Rounds] = {}
    device = ""
    for name, regime in (
        ("cross-entropy", "ce"),
        ("cached", "cached"),
        ("aligned every 8th", "every-8th"),
        ("aligned", "aligned"),
    ):
        spec = _steps_spec(options, shape, regime)
        try:
            rounds, ready = _take_turns({name: spec}, options.rounds, CYCLE)
        except ChildError as error:
            print(f"gpu, {name}: left out, {error}", file=sys.stderr, flush=True)
            continue
        finally:
            shutil.rmtree(spec["folder"])
        found |= rounds
        device = ready[name]["device"]
    peak = options.peak_tflops * 1e12 if options.peak_tflops else _peak_flops(device)
    figures = []
    for name in found:
        speed = [CYCLE * shape.batch_tokens / each["wall_s"] for each in found[name]]
        live = {"aligned": 1.0, "aligned every 8th": 1 / CYCLE}.get(name, 0.0)
        figures.append(Figure(f"tokens per second, {name}", speed, "1/s"))
        if peak:
            figures.append(Figure(f"MFU, {name}", [_flops(shape, live) * each / peak * 100 for each in speed], "%"))
        figures.append(Figure(f"peak memory, {name}", _values(found, name, "peak_mib"), "MiB"))
        if name != "cross-entropy" and "cross-entropy" in found:
            figures.append(
                Figure(f"step time beside cross-entropy, {name}", _ratios(found, name, "cross-entropy", "wall_s"))
            )
    return Table(f"{device}, teacher in bfloat16, student under autocast; {_about(shape)}", figures)


def _peak_flops(device: str) -> float | None:
    return next((flops for name, flops in PEAK_FLOPS.items() if all(word in device for word in name.split())), None)


def _parameters(shape: Shape, layers: int) -> int:
    block = 4 * shape.width**2 + 3 * shape.width * shape.intermediate
    return layers * block + 2 * shape.rows * shape.width


def _flops(shape: Shape, live: float) -> float:
    """Needed operations per token: the student's forward and backward pass, the teacher's blocks in a `live` share of steps.

    Two per weight and pass, the backward pass counted twice, and causal attention over a whole row.
    """

    def forward(layers: int) -> float:
        blocks = _parameters(shape, layers) - 2 * shape.rows * shape.width
        return 2 * blocks + 2 * layers * shape.length * shape.width

    head = 2 * shape.rows * shape.width
    return 3 * (forward(shape.student_layers) + head) + live * forward(shape.teacher_layers)


# A child -----------------------------------------------------------------------------------------------------------


class _Turns:
    """The child's side of the turns: waits to be told, then says what the work took."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        _give_back()
        self._base = _memory("VmRSS")

    def ready(self, **about: Any) -> None:
        print(json.dumps(about or {"ready": True}), flush=True)

    def wait(self) -> None:
        word = sys.stdin.readline().strip()
        if not word:
            raise SystemExit
        if word == "reset":
            self._reset()
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def done(self, **more: float) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        taken = {"cpu_s": time.process_time() - self._cpu, "wall_s": time.monotonic() - self._wall}
        print(json.dumps(taken | {"peak_mib": self._peak()} | more), flush=True)

    def rebase(self) -> None:
        """From now on memory is counted above what there is now."""
        _give_back()
        self._base = _memory("VmRSS")

    def _reset(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
            return
        _give_back()
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM starts again at VmRSS

    def _peak(self) -> float:
        if self.device == "cuda":
            import torch

            return torch.cuda.max_memory_allocated() / MIB
        return (_memory("VmHWM") - self._base) / MIB


def _memory(name: str) -> int:
    """Bytes of one line of /proc/self/status."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def _give_back() -> None:
    """Hand what malloc holds free back to the system, so that it does not count as memory in use."""
    import ctypes
    import gc

    import pyarrow as pa

    gc.collect()
    pa.default_memory_pool().release_unused()
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _child(spec: dict[str, Any]) -> None:
    import torch

    torch.set_num_threads(1)
    {"steps": _run_steps, "loss": _run_loss, "cache": _run_cache, "quality": _run_quality}[spec["kind"]](spec)


# A child: training steps -------------------------------------------------------------------------------------------


_FIRST_STEPS = 2  # they set up libraries, moments and blocks of memory


def _run_steps(spec: dict[str, Any]) -> None:
    import torch

    from tinywave_core.config.base import RuntimeConfig
    from tinywave_core.training.objective import LanguageModelObjective
    from tinywave_core.training.on_policy import OwnContinuations
    from tinywave_core.training.trainer import make_dataset, train

    shape, folder = Shape(**spec["shape"]), Path(spec["folder"])
    sequences = _random_sequences(64 if shape.device == "cpu" else 256, shape)
    _written(_random_targets(sequences, 4, shape.rows), folder / "first.parquet")  # sets up pyarrow in every way
    turns = _Turns(shape.device)
    config = _regime(spec["regime"], shape)
    student = _fresh(shape, shape.student_layers, torch.float32)
    dataset = make_dataset(sequences, config.training)
    objective: Any = LanguageModelObjective()
    if spec["regime"] != "ce":
        objective = _distillation(config, shape, dataset, student, folder)
    device = torch.cuda.get_device_name() if shape.device == "cuda" else "CPU"

    def on_step(step: int) -> None:
        if step < _FIRST_STEPS:
            return
        if step == _FIRST_STEPS:
            turns.ready(device=device)
        else:
            turns.done()
        turns.wait()

    runtime = RuntimeConfig(
        device="cuda" if shape.device == "cuda" else "cpu",
        threads=1,
        micro_batch_rows=shape.micro_batch_rows,
        checkpoint_every=config.training.steps,
    )
    own = None
    if config.learns_from_itself:
        own = OwnContinuations(config.on_policy, dataset, range(shape.rows), config.training)
    resume = Path(tempfile.mkdtemp(dir=folder))  # of this process alone: a start, not a resume
    train(student, dataset, objective, config.training, runtime, resume, lambda *_: None, on_step=on_step, own=own)


def _regime(name: str, shape: Shape) -> "DistillationConfig":
    """The settings of a regime; layer terms as by default where they are on."""
    from tinywave_core.config.base import TrainingConfig
    from tinywave_core.config.distillation import DistillationConfig, LossWeightsConfig

    both = LossWeightsConfig()
    training = TrainingConfig(
        steps=1_000_000, batch_tokens=shape.batch_tokens, sequence_length=shape.length, learning_rate=1e-5
    )
    choices: dict[str, dict[str, Any]] = {
        "ce": {"regime": "cached", "weights": both.model_copy(update={"hidden": 0.0, "attention": 0.0})},
        "cached": {"regime": "cached", "weights": both.model_copy(update={"hidden": 0.0, "attention": 0.0})},
        "every-8th": {"aligned_every": CYCLE},
        "aligned": {},
        "on-policy": {"regime": "on_policy", "on_policy": _on_policy(shape)},
        "live": {"logit_signal": "live", "weights": both.model_copy(update={"hidden": 0.0, "attention": 0.0})},
        "live-hidden": {"logit_signal": "live", "weights": both.model_copy(update={"attention": 0.0})},
        "live-both": {"logit_signal": "live"},
    }
    return DistillationConfig(layers=shape.student_layers, training=training, **choices[name])


def _on_policy(shape: Shape) -> dict[str, float]:
    """In every step half of the rows, each of two continuations, drawn once in a round."""
    always = {"share": 0.5, "after_share": 0.0}
    return always | {"prompt_tokens": shape.length // 8, "new_tokens": 3 * shape.length // 8, "drawn_every": CYCLE}


def _distillation(
    config: "DistillationConfig",
    shape: Shape,
    dataset: "PackedDataset",
    student: "LlamaForCausalLM",
    folder: Path,
) -> Any:
    """The project's objective, with a random teacher where it is needed; random targets in a cache are read with the dataset."""
    import torch

    from tinywave_core.losses.attention import IMPLEMENTATION
    from tinywave_core.teacher.layer_map import layer_map
    from tinywave_core.training.objective import DistillationObjective

    layers = layer_map(config.layer_map, shape.teacher_layers, shape.student_layers)
    teacher = None
    if config.live_terms:
        teacher = _fresh(shape, shape.teacher_layers, torch.bfloat16 if shape.device == "cuda" else torch.float32)
        for model in (teacher, student):
            model.set_attn_implementation(IMPLEMENTATION)
    if config.needs_cache:
        captured = _random_targets(dataset.sequences, min(12, shape.rows // 4), shape.rows)
        dataset.reader = _written(captured, folder / "logits.parquet")[0].of(dataset.sequences)
    return DistillationObjective(config, layers, 1.0, teacher)


def _fresh(shape: Shape, layers: int, dtype: "torch.dtype") -> "LlamaForCausalLM":
    """A model with random weights, made where it will be: drawing 7B weights on a CPU would take minutes."""
    import torch

    from tinywave_core.config.adaptation import FreshTeacherConfig
    from tinywave_core.models.llama import fresh_llama

    sizes = FreshTeacherConfig(layers=layers, width=shape.width, heads=shape.heads, intermediate=shape.intermediate)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(shape.device):
            return fresh_llama(sizes, shape.rows, shape.length, seed=0)
    finally:
        torch.set_default_dtype(usual)


def _random_sequences(count: int, shape: Shape) -> "list[TokenSequence]":
    import numpy as np

    from tinywave_core.sequences.table import TokenSequence

    rng = np.random.default_rng(0)
    lengths = rng.integers(shape.length // 4, shape.length, count, endpoint=True)
    draw = [rng.integers(0, shape.rows, n).astype(np.uint16) for n in lengths]
    return [TokenSequence(f"{i:032x}", f"u{i}", f"r{i}", None, ids, 1.0) for i, ids in enumerate(draw)]


def _random_targets(sequences: "Sequence[TokenSequence]", entries: int, rows: int) -> "list[Captured]":
    """Targets as the sampler makes them, of a few thousand random distributions in random order, at random ids."""
    import numpy as np
    import torch

    from tinywave_core.teacher.logit_cache import Captured, sparse_targets

    rng = np.random.default_rng(1)
    drawn, named = 4096, min(rows, 600)  # speech tokens: few of a large vocabulary
    sharpness = torch.from_numpy(rng.uniform(0.5, 4, (drawn, 1)))
    p = torch.softmax(torch.from_numpy(rng.standard_normal((drawn, named))) * sharpness, dim=-1)
    weights = sparse_targets(p, entries, torch.from_numpy(rng.random(drawn)))[1].numpy()
    entropy = -(p * p.log()).sum(-1).numpy()
    captured = []
    for sequence in sequences:
        length = len(sequence.ids)
        which, noise = rng.integers(0, drawn, length), rng.normal(1, 0.1, length)  # or repeats could be packed
        ids = rng.integers(0, named, (length, entries))
        target = -rng.exponential(3.0, length)
        scaled = weights[which] ** noise[:, None]
        captured.append(Captured(sequence.id, sequence.ids, ids, scaled, target, entropy[which] * noise))
    return captured


def _written(captured: "list[Captured]", path: Path) -> "tuple[LogitCache, float]":
    """The cache of what was captured, through the project's file, and the file's bytes per token."""
    from tinywave_core.teacher.logit_cache import LogitCache

    _write_ours(captured, path)
    return LogitCache.of_files({path.name: path}, {}), path.stat().st_size / sum(len(c.input_ids) for c in captured)


# A child: the loss -------------------------------------------------------------------------------------------------

_LM, _KL = 0.1, 0.9


def _run_loss(spec: dict[str, Any]) -> None:
    import numpy as np
    import torch

    from tinywave_core.losses.logits import LiveTeacher, TeacherTargets, fused_logit_loss

    turns = _Turns()
    n, v, d = spec["tokens"], spec["rows"], spec["width"]
    rng = torch.Generator().manual_seed(0)
    draw = lambda *size: torch.randn(*size, generator=rng)  # noqa: E731
    hidden, weight = draw(n, d).requires_grad_(), draw(v, d).mul_(2 * d**-0.5).requires_grad_()
    labels = torch.randint(v, (n,), generator=rng)
    teacher_hidden, teacher_weight = draw(n, d), draw(v, d).mul_(2 * d**-0.5)
    sparse = TeacherTargets(
        torch.randint(v, (n, 1), generator=rng).add(torch.arange(12) * 7) % v, draw(n, 12).softmax(-1), torch.zeros(n)
    )
    live = LiveTeacher(teacher_hidden, teacher_weight, v)

    def dense(target: TeacherTargets | LiveTeacher) -> None:
        log_q = torch.log_softmax(hidden @ weight.T, dim=-1)
        lm = torch.nn.functional.nll_loss(log_q, labels, reduction="sum")
        if isinstance(target, LiveTeacher):
            log_p = torch.log_softmax(teacher_hidden @ teacher_weight.T, dim=-1)
            kl = torch.nn.functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
        else:
            p = torch.zeros(n, v).scatter_add_(-1, target.ids_NK, target.weights_NK)
            kl = torch.nn.functional.kl_div(log_q, p, reduction="sum")
        (_LM * lm + _KL * kl).backward()

    def fused(target: TeacherTargets | LiveTeacher) -> None:
        settings = {"language_model": _LM, "logits": _KL, "temperature": 1.0}
        fused_logit_loss(hidden, weight, labels, target, **settings).total.backward()

    way = dense if spec["way"] == "dense" else fused
    signals: dict[str, TeacherTargets | LiveTeacher] = {"cached": sparse, "live": live}
    compared = signals if spec["way"] == "dense" else {spec["way"]: signals[spec["way"]]}
    for name, signal in compared.items() if spec.get("compare", True) else ():
        hidden.grad = weight.grad = None
        way(signal)
        for label, tensor in (("hidden", hidden), ("weight", weight)):
            assert tensor.grad is not None
            np.save(Path(spec["folder"]) / f"{way.__name__}-{name}-{label}.npy", tensor.grad.numpy())
    hidden.grad = weight.grad = None
    turns.rebase()
    turns.ready()
    while True:
        turns.wait()
        way(live if spec["way"] == "dense" else signals[spec["way"]])
        turns.done()
        hidden.grad = weight.grad = None


# A child: the cache ------------------------------------------------------------------------------------------------

_CACHE_LENGTHS = (100, 512)


def _run_cache(spec: dict[str, Any]) -> None:
    """Writes and reads the same targets again and again; the file lies in the page cache."""
    shape = replace(SMALL, rows=32_512, length=_CACHE_LENGTHS[1])
    captured = _random_targets(_random_sequences(spec["sequences"], shape), spec["entries"], shape.rows)
    tokens = sum(len(c.input_ids) for c in captured)
    path = Path(spec["folder"]) / f"{spec['way']}-{spec['entries']}.parquet"
    write, read = (_write_ours, _read_ours) if spec["way"] == "ours" else (_write_lists, _read_lists)
    turns = _Turns()
    write(captured, path)
    turns.ready()
    while True:
        turns.wait()
        started = time.process_time()
        write(captured, path)
        written = time.process_time()
        assert sum(read(path)) == tokens
        done = time.process_time()
        turns.done(
            bytes_per_token=path.stat().st_size / tokens,
            write_mtok_s=tokens / 1e6 / (written - started),
            read_mtok_s=tokens / 1e6 / (done - written),
        )


_BATCH_SEQUENCES = 32  # of a micro-batch of 8 rows


def _write_ours(captured: "list[Captured]", path: Path) -> None:
    from tinywave_core.teacher.logit_cache import FORMAT, write_shard

    about = {"format": FORMAT, "temperature": 1.0, "entries": captured[0].ids_LK.shape[1]}
    write_shard(captured, about, path)


def _read_ours(path: Path) -> Iterator[int]:
    """As training reads: sequences in any order, a batch at a time, each where it lies in the file."""
    import numpy as np

    from tinywave_core.teacher.logit_cache import LogitCache

    cache = LogitCache.of_files({path.name: path}, {})
    order = np.random.default_rng(2).permutation(len(cache))
    for start in range(0, len(order), _BATCH_SEQUENCES):
        yield len(cache.read(order[start : start + _BATCH_SEQUENCES]).entropy)


def _write_lists(captured: "list[Captured]", path: Path) -> None:
    """The straightforward way: a row per token with a list of ids and one of float16 log weights, zstd throughout."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = np.concatenate([c.ids_LK for c in captured]).astype("<u2")
    weights = np.log(np.concatenate([c.weights_LK for c in captured])).astype("<f2")
    offsets = np.arange(len(ids) + 1, dtype=np.int32) * ids.shape[1]
    table = pa.table(
        {
            "sequence": np.repeat(np.arange(len(captured), dtype=np.int32), [len(c.input_ids) for c in captured]),
            "input_id": np.concatenate([c.input_ids for c in captured]),
            "ids": pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids.reshape(-1))),
            "log_weights": pa.ListArray.from_arrays(pa.array(offsets), pa.array(weights.reshape(-1))),
            "target_logp": np.concatenate([c.target_logp for c in captured]).astype("<f2"),
            "entropy": np.concatenate([c.entropy for c in captured]).astype("<f2"),
        }
    )
    pq.write_table(table, path, compression="zstd")


def _read_lists(path: Path) -> Iterator[int]:
    """As tensors like those of the project's reader."""
    import numpy as np
    import pyarrow.parquet as pq
    import torch

    table = pq.read_table(path, columns=["sequence", "ids", "log_weights", "target_logp", "entropy"], use_threads=False)
    flat = {n: table[n].combine_chunks().flatten().to_numpy() for n in ("ids", "log_weights")}
    ids = torch.from_numpy(flat["ids"].astype(np.int64)).view(len(table), -1)
    weights = torch.from_numpy(flat["log_weights"].astype(np.float32)).view(len(table), -1).exp_()
    for name in ("target_logp", "entropy"):
        torch.from_numpy(table[name].to_numpy().astype(np.float32))
    assert ids.shape == weights.shape
    yield len(ids)


# A child: quality --------------------------------------------------------------------------------------------------


def _run_quality(spec: dict[str, Any]) -> None:
    """One seed: a teacher of a random language, and students of the same start and order for each signal."""
    turns = _Turns()
    turns.ready()
    turns.wait()
    turns.done(**_students(spec["seed"], Path(spec["folder"]), spec["tiny"]))


def _students(seed: int, folder: Path, tiny: bool) -> dict[str, float]:
    import copy

    from tinywave_core.config.adaptation import FreshTeacherConfig
    from tinywave_core.config.base import TrainingConfig
    from tinywave_core.models.llama import fresh_llama, student_from
    from tinywave_core.teacher.layer_map import layer_map
    from tinywave_core.training.objective import DistillationObjective, LanguageModelObjective

    rows, length = 256, 128
    count, held = (24, 8) if tiny else (600, 60)
    ids = _random_language(count + held, 120, rows, seed)
    sequences, held_out = _as_sequences(ids[:count]), _as_sequences(ids[count:])
    sizes = FreshTeacherConfig(layers=4, width=64, heads=4, intermediate=176)
    teacher = fresh_llama(sizes, rows, length, seed)
    training = TrainingConfig(
        steps=4 if tiny else 120, batch_tokens=1024, sequence_length=length, learning_rate=1e-2, seed=seed
    )
    _train(teacher, sequences, LanguageModelObjective(), training, folder / "teacher")
    teacher.requires_grad_(False)
    caches = _caches(teacher, sequences, seed, folder)
    result = {f"{name}_bytes": size for name, (_, size) in caches.items()} | {"live_bytes": 2.0 * rows}
    result |= _entropy(teacher, held_out)
    layers = layer_map("paper", 4, 2)
    start = student_from(teacher, layers).requires_grad_(True)
    training = training.model_copy(update={"steps": 4 if tiny else 120, "learning_rate": 3e-3})
    for name in ("live", "none", *caches):
        student = copy.deepcopy(start)
        objective: Any = LanguageModelObjective()
        if name != "none":
            config = _logits_alone("live" if name == "live" else "cached", training)
            objective = DistillationObjective(config, layers, 1.0, teacher)
        _train(student, sequences, objective, training, folder / name, caches[name][0] if name in caches else None)
        result[f"{name}_kl"], result[f"{name}_nll"] = _held_out(student, teacher, held_out)
    return result


def _random_language(count: int, length: int, rows: int, seed: int) -> "np.ndarray[Any, Any]":
    """Token ids [count, length]: what follows depends on the last token, through random vectors; many choices."""
    import torch

    rng = torch.Generator().manual_seed(seed)
    last, following = (torch.randn(rows, 4, generator=rng) for _ in range(2))
    ids = torch.randint(rows, (count, length), generator=rng)
    for t in range(1, length):
        logits = last[ids[:, t - 1]] @ following.T * 0.8
        ids[:, t] = torch.multinomial(logits.softmax(-1), 1, generator=rng)[:, 0]
    return ids.numpy()


def _as_sequences(ids: "np.ndarray[Any, Any]") -> "list[TokenSequence]":
    import hashlib

    import numpy as np

    from tinywave_core.sequences.table import TokenSequence

    made = []
    for row in ids.astype(np.uint16):
        name = hashlib.sha256(row.tobytes()).hexdigest()[:32]
        made.append(TokenSequence(name, name, name, None, row, 1.0))
    return made


def _train(
    model: "LlamaForCausalLM",
    sequences: "list[TokenSequence]",
    objective: Any,
    training: Any,
    folder: Path,
    cache: "LogitCache | None" = None,
) -> None:
    from tinywave_core.config.base import RuntimeConfig
    from tinywave_core.training.trainer import make_dataset, train

    runtime = RuntimeConfig(device="cpu", threads=1, checkpoint_every=training.steps)
    dataset = make_dataset(sequences, training)
    dataset.reader = cache.of(dataset.sequences) if cache else None
    train(model, dataset, objective, training, runtime, folder, lambda *_: None)


def _logits_alone(signal: Any, training: Any) -> "DistillationConfig":
    from tinywave_core.config.distillation import DistillationConfig, LossWeightsConfig

    return DistillationConfig(
        layers=2,
        regime="aligned" if signal == "live" else "cached",
        logit_signal=signal,
        weights=LossWeightsConfig(language_model=0.0, logits=1.0, hidden=0.0, attention=0.0),
        training=training,
    )


def _caches(
    teacher: "LlamaForCausalLM", sequences: "list[TokenSequence]", seed: int, folder: Path
) -> "dict[str, tuple[LogitCache, float]]":
    """Caches of the same teacher by name, and their bytes per token; the renormalised one exists here alone."""
    import torch

    from tinywave_core.teacher.logit_cache import Captured, sample_offsets, sparse_targets

    captured: dict[str, list[Captured]] = {}
    for part, log_p in _distributions(teacher, sequences):
        for sequence, row in zip(part, log_p.double(), strict=True):
            p = row.exp()
            offsets = torch.from_numpy(sample_offsets(seed, sequence.id, len(sequence.ids)))
            kept = {f"K={k}": sparse_targets(p, k, offsets) for k in (8, 12, 16)}
            top = p.topk(16, dim=-1)
            kept["top-16"] = (top.indices, top.values / top.values.sum(-1, keepdim=True))
            following = torch.from_numpy(sequence.ids[1:].astype("int64"))
            target = torch.zeros(len(p), dtype=p.dtype)
            target[:-1] = row[:-1].gather(-1, following[:, None])[:, 0]
            entropy = -(p * row).sum(-1)
            for name, (ids, weights) in kept.items():
                captured.setdefault(name, []).append(
                    Captured(sequence.id, sequence.ids, ids.numpy(), weights.numpy(), target.numpy(), entropy.numpy())
                )
    return {name: _written(each, folder / f"{name}.parquet") for name, each in captured.items()}


def _distributions(
    model: "LlamaForCausalLM", sequences: "list[TokenSequence]"
) -> "Iterator[tuple[list[TokenSequence], torch.Tensor]]":
    """Log-probabilities [B, T, V] of sequences of one length, a few at a time."""
    import numpy as np
    import torch

    model.eval()
    for start in range(0, len(sequences), 8):
        part = sequences[start : start + 8]
        ids = torch.from_numpy(np.stack([s.ids for s in part]).astype(np.int64))
        with torch.no_grad():  # not around the yield, or it would hold for the caller too
            log_p = model(input_ids=ids, use_cache=False).logits.log_softmax(-1)
        yield part, log_p


def _entropy(teacher: "LlamaForCausalLM", sequences: "list[TokenSequence]") -> dict[str, float]:
    entropy, beyond = [], []
    for _, log_p in _distributions(teacher, sequences):
        p = log_p.exp()
        entropy.append(float(-(p * log_p).sum(-1).mean()))
        beyond.append(float(1 - p.topk(16, dim=-1).values.sum(-1).mean()))
    return {"entropy": statistics.fmean(entropy), "beyond_16": statistics.fmean(beyond)}


def _held_out(
    student: "LlamaForCausalLM", teacher: "LlamaForCausalLM", sequences: "list[TokenSequence]"
) -> tuple[float, float]:
    """Mean KL(teacher || student) and mean NLL per token."""
    from tinywave_core.evals.scoring import mean_nll, token_log_probabilities

    both = zip(_distributions(teacher, sequences), _distributions(student, sequences), strict=True)
    kl = [float((log_p.exp() * (log_p - log_q)).sum(-1).mean()) for (_, log_p), (_, log_q) in both]
    nll = mean_nll(token_log_probabilities(student, [s.ids for s in sequences]))
    return statistics.fmean(kl), nll


if __name__ == "__main__":
    main()
