"""`tinywave evaluate`: a speech language model on public benchmarks, or your own pairs, with intervals, alone or beside another."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.console import console
from tasks import terminal
from tinywave_core.errors import ConfigError
from tinywave_core.evals.suites.base import Suite
from tinywave_core.evals.suites.opening import Kind, detect, kind_of, open_suite, split_word

if TYPE_CHECKING:
    from tinywave_core.evals.benchmark import Pool, Result
    from tinywave_core.evals.intervals import McNemar
    from tinywave_core.evals.pair_scores import Accuracy, Definition
    from tinywave_core.evals.suites.zerospeech import Task


@dataclass(frozen=True)
class Asked:
    """One --suite: what to score, and under which name."""

    label: str
    kind: Kind
    folder: Path
    suite: Suite | None
    """None where there are recordings to score for a submission, but no gold.csv to pair them."""

    @property
    def task(self) -> "Task | None":
        return _task(self.kind)


@dataclass(frozen=True)
class Scored:
    """A model on all suites."""

    about: dict[str, Any]
    results: dict[str, "Result"]
    """By label."""
    files: list[str]


def evaluate(
    model: str,
    suites: Sequence[str],
    definition: "Definition",
    spiritlm_dir: str | None,
    device: str,
    out: str | None,
    against: str | None,
    *,
    submission: bool,
) -> int:
    """Print a table per suite; with `out` write scores as Parquet, evaluation.json and, where asked for, score files to submit."""
    asked = ask(suites, submission=submission)
    if submission and not (out and any(entry.task for entry in asked)):
        raise ConfigError("--submission writes score files of swuggy and sblimp: pass such a --suite, and --out FOLDER")
    folder = Path(out).expanduser() if out else None
    pool: Pool = {}
    own = _score(model, asked, definition, spiritlm_dir, device, pool, folder, submission=submission)
    other = _score(against, asked, definition, spiritlm_dir, device, pool, None) if against else None
    summaries: list[dict[str, Any]] = []
    for entry in asked:
        if entry.suite is not None:
            result, beside = own.results[entry.label], other.results[entry.label] if other else None
            compared = _compared(result, beside, entry.suite)
            terminal.say(f"{entry.label} ({entry.folder}): {_told(result)}")
            console().print(_shown(result, beside, compared))
            summaries.append(_summary(entry, result, beside, compared))
    if folder:
        about = {"definition": asdict(definition), "model": own.about, "against": other and other.about}
        _write(folder, own, other, about | {"suites": summaries})
    return 0


def ask(suites: Sequence[str], *, submission: bool = False) -> list[Asked]:
    """Open every KIND=DIR or DIR before a model is loaded, so that what is wrong with one is said at once."""
    from tinywave_core.evals.suites.zerospeech import has_pairs

    asked: list[Asked] = []
    for word in suites:
        name, folder = split_word(word)
        kind = kind_of(name) if name is not None else None
        if kind is None and folder.exists():
            kind = detect(folder)
        task = _task(kind)
        unpaired = submission and task is not None and folder.is_dir() and not has_pairs(task, folder)
        suite = None if unpaired else open_suite(kind, folder)
        assert kind is not None
        before = sum(each.kind == kind for each in asked)
        asked.append(Asked(f"{kind}-{before + 1}" if before else kind, kind, folder, suite))
    return asked


def _task(kind: Kind | None) -> "Task | None":
    return kind if kind == "swuggy" or kind == "sblimp" else None  # noqa: PLR1714 (mypy narrows these only)


def _score(
    model: str,
    asked: Sequence[Asked],
    definition: "Definition",
    spiritlm_dir: str | None,
    device: str,
    pool: "Pool",
    out: Path | None,
    *,
    submission: bool = False,
) -> Scored:
    from tinywave_core.evals.benchmark import SpeechLM, run_suite, score_recordings
    from tinywave_core.evals.suites.zerospeech import FOLDER, recordings, score_lines

    lm = SpeechLM.load(model, spiritlm_dir, device, pool)
    results: dict[str, Result] = {}
    files: list[str] = []
    for entry in asked:
        progress = terminal.progress(f"{Path(model).name}, {entry.label}")
        if entry.suite is not None:
            results[entry.label] = run_suite(lm, entry.suite, definition, progress)
        if submission and out and entry.task:
            part, wavs = recordings(entry.task, entry.folder)
            path = out / "submission" / FOLDER[entry.task] / f"{part}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(score_lines(wavs, score_recordings(lm, wavs, definition, progress)), encoding="utf-8")
            terminal.say(f"{len(wavs)} scores to submit: {path}")
            files.append(str(path.relative_to(out)))
    return Scored({"folder": model, "digest": lm.digest, "parameters": lm.parameters}, results, files)


@dataclass(frozen=True)
class _Compared:
    """Two models on the same pairs, by subset; empty where there is one model."""

    gaps: "dict[str, Accuracy]"
    tests: "dict[str, McNemar]"


def _compared(result: "Result", beside: "Result | None", suite: Suite) -> _Compared:
    from tinywave_core.evals.pair_scores import differences, paired_tests

    if beside is None:
        return _Compared({}, {})
    tables = (result.table, beside.table)
    return _Compared(differences(*tables, suite.subsets), paired_tests(*tables, suite.subsets))


def _shown(result: "Result", beside: "Result | None", compared: _Compared) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("subset", overflow="fold")
    paired = ("against", "difference", "95 %, paired", "McNemar") if beside else ()
    for name in ("items", "pairs", "accuracy", "95 %", *paired):
        table.add_column(name, justify="right")
    for name, accuracy in result.accuracies.items():
        cells = [
            name,
            f"{accuracy.items:,}",
            f"{accuracy.pairs:,}",
            _percent(accuracy.value),
            _interval(accuracy.interval),
        ]
        if beside:
            gap, test = compared.gaps.get(name), compared.tests.get(name)
            other = beside.accuracies.get(name)
            cells.append(_percent(other.value) if other else "–")
            cells += [f"{100 * gap.value:+.1f}", _points(gap.interval)] if gap else ["–", "–"]
            cells.append(f"{test.first_only} : {test.second_only}, p = {test.p:.2g}" if test else "–")
        table.add_row(*cells)
    return table


def _told(result: "Result") -> str:
    out, pairs = result.left_out, result.table.num_rows
    left_out = f"; {out} of {pairs} pairs left out, the Parquet file of --out has their reasons" if out else ""
    return f"{result.definition}; chance is 50 %{left_out}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def _points(interval: tuple[float, float]) -> str:
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


def _summary(entry: Asked, result: "Result", beside: "Result | None", compared: _Compared) -> dict[str, Any]:
    summary = {"label": entry.label, "folder": str(entry.folder)} | result.to_json()
    if beside:
        summary["against"] = beside.to_json()
        summary["differences"] = {name: asdict(gap) for name, gap in compared.gaps.items()}
        summary["mcnemar"] = {name: asdict(test) for name, test in compared.tests.items()}
    return summary


def _write(folder: Path, own: Scored, other: Scored | None, summary: dict[str, Any]) -> None:
    from tinywave_core.storage.shards import write_table

    files = list(own.files)
    for place, scored in (("scores", own), ("against", other)):
        for label, result in (scored.results if scored else {}).items():
            path = folder / place / f"{label}.{result.definition.slug}.parquet"
            about = json.dumps(result.to_json() | {"model": scored.about if scored else None})
            write_table(result.table.replace_schema_metadata({"tinywave": about}), path)
            files.append(str(path.relative_to(folder)))
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(summary | {"files": files}, ensure_ascii=False, indent=1)
    (folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    terminal.say(f"scores and evaluation.json: {folder}")
