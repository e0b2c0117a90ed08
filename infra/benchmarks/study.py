"""Does distillation help, and what of it? Teacher, distilled students and undistilled control, three seeds: `make study`.

The pipeline's own stages train everything, in a store of its own, so that a study that was stopped goes on where it was.
One teacher; then for every seed (order of batches, sampled attention rows) and every arm the same student: the same blocks of
the teacher to start from, the same steps and batches. All are compared on held-out speakers. Intervals are 95 %, over
utterances and seeds drawn anew together, and paired: all arms see the same draws.

- NLL: nats per token. KL: from the teacher's whole distribution to the model's. Agreement: how often both have the same likeliest token.
- Next token: how often the likeliest token is right; its chance is the share of the most frequent token.
- Choice: two continuations of a prompt, the true one against another speaker's (`cloze`) or against its own parts in another
  order (`order`); the higher mean log-probability counts. Chance is one half.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tinywave_core.config.load import load_config  # noqa: E402
from tinywave_core.config.pipeline import PipelineConfig  # noqa: E402
from tinywave_core.run.pipeline import Look, build_stage, run_pipeline  # noqa: E402
from tinywave_core.steps.base import Outputs, compute  # noqa: E402
from tinywave_core.storage.store import Artifact, Store  # noqa: E402

Array = npt.NDArray[np.float64]

SETTINGS = {  # on top of the preset demo: 8 blocks to 2, 3.4 times fewer parameters
    "adaptation.teacher": "fresh",
    "adaptation.fresh.layers": "8",
    "ingestion.held_out_fraction": "0.2",
}
NO_LAYERS = {"distillation.weights.hidden": "0", "distillation.weights.attention": "0", "distillation.regime": "cached"}
ARMS: dict[str, tuple[str, dict[str, str]]] = {
    "logits": ("logits, cached", NO_LAYERS),
    "live": ("logits, live", NO_LAYERS | {"distillation.regime": "aligned", "distillation.logit_signal": "live"}),
    "hidden": ("logits + hidden", {"distillation.weights.attention": "0"}),
    "full": ("logits + hidden + attention", {}),
    "warmup": ("the same, teacher in the first 15 %", {"distillation.regime": "aligned-warmup"}),
}
CONTROL = "control"
TITLES = {name: title for name, (title, _) in ARMS.items()} | {CONTROL: "undistilled control"}
MAIN = "full"  # the paper's objective: the arm that the goals are about
CHOICES = ("cloze", "order")
SHARES, FOILS = (0.35, 0.5, 0.65), 2
DRAWS = 2000


def main() -> None:
    """Parse the command line, train what is missing, compare, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default=str(ROOT / "examples" / "speech"), help="folder of audio")
    parser.add_argument("--preset", default="demo", help="preset under the study's own settings (default: demo)")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings on top, as in `tinywave run`"
    )
    parser.add_argument("--root", default=str(ROOT / "store" / "study"), help="the study's store and report")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS), help="default: all")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="students trained side by side, one thread each"
    )
    options = parser.parse_args()
    settings = SETTINGS | dict(text.split("=", 1) for text in options.set)
    study = Study(
        options.preset, settings | {"source": options.source, "root": options.root}, options.arms, options.seeds
    )
    started = time.monotonic()
    study.train(options.workers)
    results = study.compare(options.workers)
    results["minutes"] = (time.monotonic() - started) / 60
    folder = Path(options.root)
    (folder / "study.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (folder / "study.html").write_text(render(results, study), encoding="utf-8")
    print(text_table(results))
    print(f"\n{results['minutes']:.1f} minutes; report: {folder / 'study.html'}")


@dataclass(frozen=True)
class Study:
    """Which arms and seeds, over one corpus and one teacher."""

    preset: str
    settings: dict[str, str]
    arms: list[str]
    seeds: int

    def config(self, arm: str = MAIN, seed: int = 0) -> PipelineConfig:
        """The pipeline's config of one student."""
        _, own = ARMS[arm]
        return load_config(self.preset, self.settings | own | {"distillation.training.seed": str(seed)})

    @cached_property
    def shared(self) -> Outputs:
        """Corpus, tokens, teacher and cached logits; computed if they are not there."""
        config = self.config()
        for stage in ("ingestion", "tokenization", "adaptation", "logit_caching"):
            print(f"{stage} …", flush=True)
            done = run_pipeline(config, Store(config.root), until=stage)
        return done

    def students(self, arm: str, seed: int) -> Outputs:
        """`student` and `control` of one arm and seed, complete or not; controls of all arms are the same."""
        config = self.config(arm, seed)
        return build_stage("distillation", config, Store(config.root), self.shared, Look())

    def runs(self) -> dict[tuple[str, int], Artifact]:
        """Every trained model by arm and seed."""
        found = {(arm, seed): self.students(arm, seed)["student"] for seed in range(self.seeds) for arm in self.arms}
        return found | {(CONTROL, seed): self.students(self.arms[0], seed)["control"] for seed in range(self.seeds)}

    def train(self, workers: int) -> None:
        """Train what is not in the store, side by side."""
        missing = [run for run, artifact in self.runs().items() if not artifact.complete]
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            jobs = {pool.submit(_train, self, *run): run for run in missing}
            for done, job in enumerate(as_completed(jobs), 1):
                arm, seed = jobs[job]
                print(f"[{done}/{len(jobs)}] {TITLES[arm]}, seed {seed}: {job.result():.0f} s", flush=True)

    def compare(self, workers: int) -> dict[str, Any]:
        """Figures of every arm with intervals, and the goals."""
        test, runs = HeldOut.of(self), self.runs()
        folders = [self.shared["teacher"].path("teacher"), *(artifact.path("model") for artifact in runs.values())]
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            found = []
            for folder, one in zip(folders, pool.map(_measure, [self] * len(folders), folders), strict=True):
                found.append(one)
                print(f"[{len(found)}/{len(folders)}] compared {folder.parent.name[:8]}", flush=True)
        measured: dict[str, list[Measured]] = {}
        for (arm, _), one in zip(runs, found[1:], strict=True):
            measured.setdefault(arm, []).append(one)
        return summarise(test, found[0], measured, test.floors(self))


def _measure(study: Study, folder: Path) -> "Measured":
    """One model in a process of its own, on one thread."""
    import torch

    torch.set_num_threads(1)
    return HeldOut.of(study).measure(folder)


def _train(study: Study, arm: str, seed: int) -> float:
    """Train one model in a process of its own; seconds."""
    started = time.monotonic()
    config = study.config(study.arms[0] if arm == CONTROL else arm, seed)
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"threads": 1})})
    look = Look()
    build_stage("distillation", config, Store(config.root), study.shared, look)
    part = "control" if arm == CONTROL else "student"
    compute(next(step for step, _ in look.steps if step.part == part))
    return time.monotonic() - started


# Measures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Sums of one model over each of U held-out utterances: [U], in the order of HeldOut."""

    parameters: int
    nll: Array
    kl: Array
    agreement: Array
    next_token: Array
    choices: dict[str, Array]


@dataclass
class HeldOut:
    """Held-out speech, what the teacher says of it, and the items of the choices."""

    sequences: list[Any]
    items: dict[str, list[Any]]
    utterances: list[str]
    teacher: Any
    chance: float
    """Share of the most frequent token among those to be predicted."""

    @classmethod
    def of(cls, study: Study) -> "HeldOut":
        from tinywave_core.models.llama import load_llama
        from tinywave_core.sequences.index import load_sequences
        from tinywave_core.steps.inputs import held_out_shards

        config = study.config()
        length = config.distillation.training.sequence_length
        sequences = load_sequences(held_out_shards(study.shared["tokens"]), "held_out", length)
        targets = np.concatenate([s.ids[1:] for s in sequences])
        teacher = load_llama(study.shared["teacher"].path("teacher")).eval()
        utterances = sorted({s.utterance_id for s in sequences})
        items = {"cloze": _cloze(sequences, config), "order": _order(sequences, config)}
        return cls(sequences, items, utterances, teacher, float(np.bincount(targets).max() / len(targets)))

    def measure(self, folder: Path) -> Measured:
        """One model on all of it."""
        import torch

        from tinywave_core.evals.continuation_cloze import credits
        from tinywave_core.evals.scoring import token_log_probabilities
        from tinywave_core.models.llama import load_llama

        model = load_llama(folder).eval()
        sums = {name: self._zeros() for name in ("nll", "kl", "agreement", "next_token")}
        for s in self.sequences:
            with torch.no_grad():
                ids = torch.from_numpy(s.ids.astype(np.int64))[None]
                log_p, log_q = (torch.log_softmax(m(ids).logits[0, :-1].double(), -1) for m in (self.teacher, model))
            guess, target, u = log_q.argmax(-1), ids[0, 1:], self.utterances.index(s.utterance_id)
            sums["nll"][u] -= float(log_q.gather(-1, target[:, None]).sum())
            sums["kl"][u] += float((log_p.exp() * (log_p - log_q)).sum())
            sums["agreement"][u] += float((guess == log_p.argmax(-1)).sum())
            sums["next_token"][u] += float((guess == target).sum())
        choices = {}
        for name, items in self.items.items():
            texts = [i.right for i in items] + [i.wrong for i in items]
            scores = token_log_probabilities(model, texts)
            choices[name] = self._zeros()
            for item, credit in zip(items, credits(items, scores[: len(items)], scores[len(items) :]), strict=True):
                choices[name][self.utterances.index(item.utterance_id)] += credit
        return Measured(sum(p.numel() for p in model.parameters()), choices=choices, **sums)

    def floors(self, study: Study) -> dict[str, Array]:
        """NLL of each utterance by guessing and by counts of the training tokens: [U] by what it is called."""
        from tinywave_core.evals.floors import floor_scores
        from tinywave_core.sequences.index import load_sequences
        from tinywave_core.steps.inputs import training_shards
        from tinywave_core.tokenizers.vocabulary import Vocabulary

        tokens, config = study.shared["tokens"], study.config()
        train = load_sequences(training_shards(tokens), "train", config.distillation.training.sequence_length)
        vocabulary = Vocabulary.from_json(tokens.summary["vocabulary"])
        sums = {}
        for name, scores in floor_scores(train, self.sequences, vocabulary.tokens).items():
            sums[name] = self._zeros()
            for s, log_p in zip(self.sequences, scores, strict=True):
                sums[name][self.utterances.index(s.utterance_id)] -= log_p.sum()
        return sums

    def _zeros(self) -> Array:
        return np.zeros(len(self.utterances))

    @cached_property
    def tokens(self) -> Array:
        """Predicted tokens of each utterance."""
        count = self._zeros()
        for s in self.sequences:
            count[self.utterances.index(s.utterance_id)] += len(s.ids) - 1
        return count

    def count(self, choice: str) -> Array:
        """Items of each utterance."""
        count = self._zeros()
        for item in self.items[choice]:
            count[self.utterances.index(item.utterance_id)] += 1
        return count


def _cloze(sequences: list[Any], config: PipelineConfig) -> list[Any]:
    """True continuations against those of other speakers: three prompts of each utterance, two foils of each."""
    from tinywave_core.evals.continuation_cloze import cloze_items

    return [
        item
        for share in SHARES
        for seed in range(FOILS)
        for item in cloze_items(
            sequences, config.evaluation.model_copy(update={"cloze_prompt_share": share, "seed": seed})
        )
    ]


def _order(sequences: list[Any], config: PipelineConfig) -> list[Any]:
    """True continuations against the same tokens with two of four parts exchanged."""
    from tinywave_core.evals.continuation_cloze import ClozeItem

    items = []
    for s in sequences:
        for share in SHARES:
            at = round(len(s.ids) * share)
            prompt, own = s.ids[:at], s.ids[at:-1]
            if min(len(prompt), len(own)) < config.evaluation.cloze_min_tokens:
                continue
            parts = np.array_split(own, 4)
            for a, b in ((0, 2), (1, 3), (0, 3), (1, 2))[:FOILS]:
                swapped = list(parts)
                swapped[a], swapped[b] = parts[b], parts[a]
                wrong = np.concatenate([prompt, *swapped])
                items.append(ClozeItem(s.utterance_id, s.utterance_id, at, np.concatenate([prompt, own]), wrong))
    return items


# Figures ---------------------------------------------------------------------------------------------------------


def summarise(
    test: HeldOut, teacher: Measured, measured: dict[str, list[Measured]], floors: dict[str, Array]
) -> dict[str, Any]:
    """Figures of every arm and floor, [value, low, high], differences that are of interest, and the goals."""
    draw = _Draws(len(test.utterances), len(next(iter(measured.values()))))
    figures: dict[str, dict[str, Array]] = {}
    for arm, models in {"teacher": [teacher] * draw.seeds, **measured}.items():
        own = {name: draw(np.stack([getattr(m, name) for m in models]), test.tokens) for name in _PER_TOKEN}
        own |= {name: draw(np.stack([m.choices[name] for m in models]), test.count(name)) for name in CHOICES}
        above = [own[name] - 0.5 for name in CHOICES]
        figures[arm] = own | {"above_next": own["next_token"] - test.chance, "above_choice": sum(above) / len(above)}
    of, control = figures["teacher"], figures.get(CONTROL)
    for own in figures.values():
        own["retention_next"] = own["above_next"] / of["above_next"]
        own["retention_choice"] = own["above_choice"] / of["above_choice"]
        if control is not None:
            own["gap_closed"] = (control["nll"] - own["nll"]) / (control["nll"] - of["nll"])
    differences = {
        f"{a} − {b}": {name: _interval(figures[a][name] - figures[b][name]) for name in ("nll", "kl", "above_choice")}
        for a, b in (
            ("logits", "live"),
            ("hidden", "logits"),
            ("full", "hidden"),
            ("warmup", "full"),
            ("full", CONTROL),
        )
        if a in figures and b in figures
    }
    return {
        "arms": {
            arm: {name: _interval(values) for name, values in own.items()}
            | {"nll_by_seed": [float(m.nll.sum() / test.tokens.sum()) for m in measured.get(arm, [teacher])]}
            for arm, own in figures.items()
        },
        "floors": {
            name: {"nll": _interval(draw(np.stack([nll] * draw.seeds), test.tokens))} for name, nll in floors.items()
        },
        "differences": differences,
        "parameters": {"teacher": teacher.parameters, "student": next(iter(measured.values()))[0].parameters},
        "held_out": {
            "utterances": len(test.utterances),
            "tokens": int(test.tokens.sum()),
            "items": {name: len(test.items[name]) for name in CHOICES},
            "chance_next_token": test.chance,
        },
        "seeds": draw.seeds,
    }


_PER_TOKEN = ("nll", "kl", "agreement", "next_token")


class _Draws:
    """Figures over all utterances and seeds (index 0), and over DRAWS samples of both: paired, since all use the same."""

    def __init__(self, utterances: int, seeds: int) -> None:
        random, self.seeds = np.random.default_rng(0), seeds
        self.picked = [np.arange(utterances), *random.integers(0, utterances, (DRAWS, utterances))]
        self.of_seeds = [np.arange(seeds), *random.integers(0, seeds, (DRAWS, seeds))]

    def __call__(self, sums_SU: Array, counts_U: Array) -> Array:
        """sum / count of each draw: [1 + DRAWS]."""
        pairs = zip(self.of_seeds, self.picked, strict=True)
        return np.array([sums_SU[seeds].mean(0)[drawn].sum() / counts_U[drawn].sum() for seeds, drawn in pairs])


def _interval(values: Array) -> list[float]:
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return [float(values[0]), float(low), float(high)]


# What people see -------------------------------------------------------------------------------------------------

COLUMNS = {
    "nll": "NLL",
    "kl": "KL from teacher",
    "agreement": "agreement",
    "next_token": "next token",
    "cloze": "cloze",
    "order": "order",
    "gap_closed": "gap closed",
    "retention_next": "retention, next token",
    "retention_choice": "retention, choice",
}
_SHARES = ("agreement", "next_token", "cloze", "order", "gap_closed", "retention_next", "retention_choice")


def rows(results: dict[str, Any]) -> list[dict[str, str]]:
    """One row per arm and then per floor, which have an NLL alone, every figure with its interval."""
    of = results["arms"] | results["floors"]
    names = ["teacher", CONTROL, *(arm for arm in results["arms"] if arm not in ("teacher", CONTROL))]
    return [
        {"model": TITLES.get(name, name)}
        | {title: _shown(column, of[name].get(column)) for column, title in COLUMNS.items()}
        for name in [*names, *results["floors"]]
        if name in of
    ]


def _shown(name: str, figure: list[float] | None) -> str:
    if figure is None:
        return ""
    scale, digits = (100, 1) if name in _SHARES else (1, 3)
    value, low, high = (f"{x * scale:.{digits}f}" for x in figure)
    return value if low == high else f"{value} ({low} to {high})"


def goals(results: dict[str, Any]) -> list[dict[str, str]]:
    """What was aimed at beside what came out."""
    arms, sizes = results["arms"], results["parameters"]
    best = arms.get(MAIN)
    found = []
    if best:
        found += [
            (
                "above-chance accuracy kept, next token",
                "≥ 97 %",
                best["retention_next"][0] >= 0.97,
                _shown("retention_next", best["retention_next"]),
            ),
            (
                "above-chance accuracy kept, choice",
                "≥ 97 %",
                best["retention_choice"][0] >= 0.97,
                _shown("retention_choice", best["retention_choice"]),
            ),
            (
                "NLL gap of the control closed",
                "≥ 60 %",
                best["gap_closed"][0] >= 0.6,
                _shown("gap_closed", best["gap_closed"]),
            ),
        ]
    ratio = sizes["teacher"] / sizes["student"]
    found.append(("fewer parameters than the teacher", "≥ 3 ×", ratio >= 3, f"{ratio:.2f} ×"))
    if pair := results["differences"].get("logits − live"):
        found.append(("KL, cached above live", "≤ 0.015 nats", pair["kl"][0] <= 0.015, _shown("kl", pair["kl"])))
    return [{"goal": g, "aim": aim, "measured": m, "reached": "yes" if ok else "no"} for g, aim, ok, m in found]


def text_table(results: dict[str, Any]) -> str:
    """The figures for a terminal."""
    lines = []
    for table in (rows(results), goals(results)):
        widths = {key: max(len(key), *(len(row[key]) for row in table)) for key in table[0]}
        lines.append("  ".join(key.ljust(width) for key, width in widths.items()))
        lines += ["  ".join(row[key].ljust(width) for key, width in widths.items()) for row in table]
        lines.append("")
    for name, of in results["differences"].items():
        lines.append(f"{name}: " + ", ".join(f"{COLUMNS.get(k, k)} {_shown(k, v)}" for k, v in of.items()))
    return "\n".join(lines)


def render(results: dict[str, Any], study: Study) -> str:
    """One page that needs nothing else."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    import tinywave_core.reporting

    folders = [Path(__file__).parent, Path(str(tinywave_core.reporting.__file__)).parent]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("study.html.jinja").render(
        results=results,
        rows=rows(results),
        goals=goals(results),
        differences=[
            {"difference": " − ".join(TITLES.get(part, part) for part in name.split(" − "))}
            | {
                "NLL": _shown("nll", of["nll"]),
                "KL": _shown("kl", of["kl"]),
                "choice": _shown("nll", of["above_choice"]),
            }
            for name, of in results["differences"].items()
        ],
        plots=[Markup(svg) for svg in pictures(results, study)],
        settings=study.settings,
    )


def pictures(results: dict[str, Any], study: Study) -> list[str]:
    """Curves of the cross-entropy, and held-out NLL and KL by arm."""
    from tinywave_core import plots
    from tinywave_core.training.curves import curves_of

    colours = {
        "live": "teacher",
        "logits": "logits",
        "hidden": "hidden",
        "full": "student",
        "warmup": "attention",
        CONTROL: "control",
    }
    runs = study.runs()
    lines = []
    for arm in (*study.arms, CONTROL):
        curves = [plots.series_of(curves_of(runs[arm, seed]), "language_model") for seed in range(study.seeds)]
        mean = np.mean([y for _, y in curves], axis=0)
        lines.append(plots.Line(TITLES[arm], curves[0][0], mean, colours[arm], dashed=arm == CONTROL))
    title = "Training: cross-entropy on the true tokens, mean of the seeds"
    figures = [(title, plots.line_svg(lines, title=title, x_label="optimiser step", y_label="nats per token"))]
    order = [arm for arm in (*study.arms, CONTROL) if arm in results["arms"]]
    bars = {
        "gap_closed": ("NLL gap between control and teacher that was closed", "per cent", 100),
        "kl": ("Held-out KL from the teacher", "nats per token", 1),
    }
    for name, (title, unit, scale) in bars.items():
        values = [results["arms"][arm][name][0] * scale for arm in order]
        picture = plots.bars_svg(order, [plots.Bars("", list(values), "student")], title=title, y_label=unit)
        figures.append((title, picture))
    return [f"<figure><figcaption>{title}</figcaption>{svg}</figure>" for title, svg in figures]


if __name__ == "__main__":
    main()
