"""Does distillation help, and what of it? Teacher, distilled students and undistilled control, three seeds: `make study`.

The pipeline's own stages train everything, in a store of its own, so that a study that was stopped goes on where it was.
One teacher; then for every seed (order of batches, sampled attention rows) and every arm the same student: the same blocks of
the teacher to start from, the same steps and batches. All are compared on held-out speakers. Intervals are 95 %, over
utterances and seeds drawn anew together, and paired: all arms see the same draws.

- Choice: two continuations of a prompt, the true one against another speaker's (`cloze`) or against its own parts in another
  order (`order`); the higher mean log-probability counts. Chance is one half.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from infra.benchmarks.arms import (  # noqa: E402
    CHOICES,
    CONTROL,
    PER_TOKEN,
    Array,
    Bench,
    Draws,
    HeldOut,
    Measured,
    Run,
    figure,
    interval,
    page,
    text_rows,
)
from tinywave_core.storage.store import Artifact  # noqa: E402

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
TITLES = {name: title for name, (title, _) in ARMS.items()} | {CONTROL: "undistilled control"}
MAIN = "full"  # the paper's objective: the arm that the goals are about


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

    @cached_property
    def bench(self) -> Bench:
        """Where they are trained."""
        return Bench(self.preset, self.settings)

    @cached_property
    def runs(self) -> dict[tuple[str, int], Run]:
        """What is trained, by arm and seed; controls of all arms are the same."""
        found = {(arm, seed): Run.of(arm, ARMS[arm][1], seed) for seed in range(self.seeds) for arm in self.arms}
        own = ARMS[self.arms[0]][1]
        return found | {(CONTROL, seed): Run.of(CONTROL, own, seed, CONTROL) for seed in range(self.seeds)}

    def models(self) -> dict[tuple[str, int], Artifact]:
        """Every trained model by arm and seed."""
        return {key: self.bench.artifact(run) for key, run in self.runs.items()}

    def train(self, workers: int) -> None:
        """Train what is not in the store, side by side."""
        if broken := self.bench.train(list(self.runs.values()), workers):
            raise SystemExit("\n".join(f"{run.arm}, seed {run.seed}: {why}" for run, why in broken.items()))

    def compare(self, workers: int) -> dict[str, Any]:
        """Figures of every arm with intervals, and the goals."""
        test, models = HeldOut.of(self.bench), self.models()
        teacher = self.bench.inputs()["teacher"].path("teacher")
        found = self.bench.measure([teacher, *(m.path("model") for m in models.values())], workers)
        measured: dict[str, list[Measured]] = {}
        for (arm, _), one in zip(models, found[1:], strict=True):
            measured.setdefault(arm, []).append(one)
        return summarise(test, found[0], measured, test.floors(self.bench))


# Figures ---------------------------------------------------------------------------------------------------------


def summarise(
    test: HeldOut, teacher: Measured, measured: dict[str, list[Measured]], floors: dict[str, Array]
) -> dict[str, Any]:
    """Figures of every arm and floor, [value, low, high], differences that are of interest, and the goals."""
    draw = Draws(len(test.utterances), len(next(iter(measured.values()))))
    figures: dict[str, dict[str, Array]] = {}
    for arm, models in {"teacher": [teacher] * draw.seeds, **measured}.items():
        own = {name: draw(np.stack([getattr(m, name) for m in models]), test.tokens) for name in PER_TOKEN}
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
        f"{a} − {b}": {name: interval(figures[a][name] - figures[b][name]) for name in ("nll", "kl", "above_choice")}
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
            arm: {name: interval(values) for name, values in own.items()}
            | {"nll_by_seed": [float(m.nll.sum() / test.tokens.sum()) for m in measured.get(arm, [teacher])]}
            for arm, own in figures.items()
        },
        "floors": {
            name: {"nll": interval(draw(np.stack([nll] * draw.seeds), test.tokens))} for name, nll in floors.items()
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
    lines = [*text_rows(rows(results)), "", *text_rows(goals(results)), ""]
    for name, of in results["differences"].items():
        lines.append(f"{name}: " + ", ".join(f"{COLUMNS.get(k, k)} {_shown(k, v)}" for k, v in of.items()))
    return "\n".join(lines)


def render(results: dict[str, Any], study: Study) -> str:
    """One page that needs nothing else."""
    from markupsafe import Markup

    return page(
        "study.html.jinja",
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
    models = study.models()
    lines = []
    for arm in (*study.arms, CONTROL):
        curves = [plots.series_of(curves_of(models[arm, seed]), "language_model") for seed in range(study.seeds)]
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
    return [figure(title, svg) for title, svg in figures]


if __name__ == "__main__":
    main()
