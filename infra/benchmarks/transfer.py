"""What a teacher that knows more leaves behind, and where each term of the loss earns its keep: `make study-transfer`.

The situation of the paper in miniature: the teacher is trained on all training speech at hand, student and control on a share of its
recordings (5, 10, 25, 100 %; a smaller share lies within a larger one), and all are compared on the same held-out speakers. What
validates is the same for all. Every training stops where validation speech no longer improves, and its best weights count.

Main arms are trained at every share: the control, cached logits, and logits with hidden states, attention maps and both. The others
at --other-share alone: logits live, alignment in the first steps only, heavier layer terms, other layer maps, other temperatures, and
students of random weights in place of the teacher's blocks (with a control of their own).

Speech: the folders of --source. A file name that came before is left out, and so are folders of --leave-out; recordings without a known
speaker, and speakers of more than 2 minutes, are trained on: no voice is on both sides, and no single one is most of the held-out speech.
Intervals are 95 %, over utterances and seeds drawn anew together, and paired. A training that breaks is told in its row; the rest goes on.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from infra.benchmarks.arms import (  # noqa: E402
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
from infra.benchmarks.speech import Recording, minutes_of, recordings_of, write_folder  # noqa: E402
from tinywave_core.audio.cutting import split_of  # noqa: E402
from tinywave_core.config.ingestion import IngestionConfig  # noqa: E402
from tinywave_core.config.load import load_config  # noqa: E402
from tinywave_core.storage.fingerprint import place_of  # noqa: E402

SOURCES = (ROOT.parent / "shared" / "data" / "speech", ROOT / "examples" / "speech")
LEAVE_OUT = ("long_recordings", "odd_encodings", "non_speech_ogg", "not_speech")
MOST_HELD_OUT = 2.0  # minutes of one speaker
SETTINGS = {  # on top of the preset demo; steps are what validation leaves of them
    "adaptation.teacher": "fresh",
    "adaptation.fresh.layers": "6",
    "adaptation.fresh.width": "96",
    "adaptation.fresh.intermediate": "256",
    "adaptation.training.steps": "1300",
    "adaptation.training.passes": "7",
    "adaptation.floor": "none",
    "ingestion.held_out_fraction": "0.2",
    "distillation.training.steps": "800",
    "distillation.training.passes": "20",
}
LOGITS_ALONE = {
    "distillation.weights.hidden": "0",
    "distillation.weights.attention": "0",
    "distillation.regime": "cached",
}
REPORTED = {"runtime.gradient_report_every": "40"}
FRESH = {"distillation.start": "fresh"}


@dataclass(frozen=True)
class Arm:
    """A way to learn."""

    title: str
    own: Mapping[str, str]
    against: str = "logits"
    """What it is compared with, beside its control: what it adds to."""
    control: str = CONTROL


MAIN = {
    "logits": Arm("logits", LOGITS_ALONE, CONTROL),
    "hidden": Arm("logits + hidden", {"distillation.weights.attention": "0"}),
    "attention": Arm("logits + attention", {"distillation.weights.hidden": "0"}),
    "all": Arm("logits + hidden + attention", REPORTED),
}
FRESH_CONTROL = "fresh-control"
OTHER = {
    "fresh-logits": Arm("from random weights: logits", LOGITS_ALONE | FRESH, FRESH_CONTROL, FRESH_CONTROL),
    "fresh-all": Arm("from random weights: all terms", FRESH | REPORTED, "fresh-logits", FRESH_CONTROL),
    "heavy": Arm(
        "all, layer terms 5 times as heavy",
        {"distillation.weights.hidden": "2.5", "distillation.weights.attention": "0.5"},
    ),
    "early": Arm("all, layers in the first 15 % of the steps", {"distillation.regime": "aligned-warmup"}),
    "live": Arm(
        "logits live",
        LOGITS_ALONE | {"distillation.regime": "aligned", "distillation.logit_signal": "live"},
    ),
    "segment": Arm(
        "all, block 1 learns the input of block 2",
        {
            "distillation.layer_map": "explicit",
            "distillation.layer_pairs": "0:4",
            "distillation.copied_blocks": "2,5",
        },
    ),
    "fresh-heavy": Arm(
        "from random weights: all, layer terms 5 times as heavy",
        FRESH | {"distillation.weights.hidden": "2.5", "distillation.weights.attention": "0.5"},
        "fresh-logits",
        FRESH_CONTROL,
    ),
    "pure": Arm(
        "logits alone, no true tokens",
        LOGITS_ALONE | {"distillation.weights.language_model": "0", "distillation.weights.logits": "1"},
    ),
    "warm": Arm("logits at temperature 2", LOGITS_ALONE | {"logit_caching.temperature": "2"}),
    "cold": Arm("logits at temperature 0.7", LOGITS_ALONE | {"logit_caching.temperature": "0.7"}),
}
ARMS = MAIN | OTHER
CONTROLS = {CONTROL: "control", FRESH_CONTROL: "from random weights: control"}
TITLES = {name: arm.title for name, arm in ARMS.items()} | CONTROLS
LAYER_ARMS = [name for name in ARMS if name not in ("logits", "fresh-logits", "live", "pure", "warm", "cold")]
AIM = 0.15
Cell = tuple[str, float]


def main() -> None:
    """Parse the command line, train what is missing, compare, write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", nargs="*", default=[str(s) for s in SOURCES if s.is_dir()], help="folders of audio")
    parser.add_argument("--leave-out", nargs="*", default=list(LEAVE_OUT), help="names of folders below them")
    parser.add_argument("--preset", default="demo", help="preset under the study's own settings (default: demo)")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings on top")
    parser.add_argument("--encoder", help="folder of a pretrained encoder: units are its, in place of MFCCs'")
    parser.add_argument("--encoder-layer", default="9", help="whose output the units are made of")
    parser.add_argument("--root", default=str(ROOT / "store" / "study-transfer"), help="where all of it lies")
    parser.add_argument("--shares", nargs="*", type=float, default=[0.05, 0.1, 0.25, 1.0])
    parser.add_argument("--other-share", type=float, default=0.1, help="share at which the other arms are trained")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS), help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="students side by side, one thread each"
    )
    options = parser.parse_args()
    root = Path(options.root).resolve()
    settings = {**SETTINGS, **units_of(options.encoder, options.encoder_layer)}
    settings |= dict(text.split("=", 1) for text in options.set)
    ingestion = load_config(options.preset, settings | {"root": "unused"}).ingestion
    recordings = chosen([Path(s).resolve() for s in options.source], options.leave_out, ingestion)
    settings |= {"source": str(write_folder(root / "speech", recordings)), "root": str(root)}
    study = Study(
        Bench(options.preset, settings), tuple(options.arms), tuple(options.shares), options.other_share, options.seeds
    )
    started = time.monotonic()
    broken = study.bench.train(list(study.runs.values()), options.workers)
    results = study.compare(broken, options.workers)
    results |= {"minutes": (time.monotonic() - started) / 60, "speech": minutes_of(recordings), "settings": settings}
    (root / "transfer.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (root / "transfer.html").write_text(render(results), encoding="utf-8")
    print("\n".join(text(results)))
    print(f"\n{results['minutes']:.1f} minutes; report: {root / 'transfer.html'}")


def units_of(encoder: str | None, layer: str) -> dict[str, str]:
    """Settings of units from an encoder, where one is given."""
    if not encoder:
        return {}
    kind = {"kind": "encoder", "encoder": encoder, "layer": layer, "clusters": "500"}
    return {f"tokenization.units.{name}": value for name, value in kind.items()}


def chosen(sources: list[Path], leave_out: Sequence[str], config: IngestionConfig) -> list[Recording]:
    """The recordings of the study, each once, with speakers that the pipeline splits as the study wants."""
    once: dict[str, Recording] = {}
    for recording in recordings_of(sources):
        path = Path(recording.path)
        if not set(path.parts) & set(leave_out):
            once.setdefault(path.stem, recording)
    minutes = Counter[str]()
    for recording in once.values():
        minutes[recording.speaker] += recording.minutes
    named = [
        replace(r, speaker=r.speaker if minutes[r.speaker] <= MOST_HELD_OUT and r.speaker else trained_on(config, r))
        for r in once.values()
    ]
    return sorted(named, key=lambda r: (place_of(r.path), r.path))


def trained_on(config: IngestionConfig, recording: Recording) -> str:
    """A name for its speaker that the hash does not hold out."""
    name = recording.speaker or "unnamed"
    while split_of(config, name, "") == "held_out":
        name += "~"
    return name


@dataclass(frozen=True)
class Study:
    """Which arms at which shares, with how many seeds."""

    bench: Bench
    arms: tuple[str, ...]
    shares: tuple[float, ...]
    other_share: float
    seeds: int

    @cached_property
    def cells(self) -> list[Cell]:
        """Arms at shares, what matters most first, since a study may be stopped: the other share, then the rest."""
        shares = sorted(self.shares, key=lambda share: (share != self.other_share, share))
        found: list[Cell] = []
        for share in shares:
            found += [(CONTROL, share), *((arm, share) for arm in MAIN if arm in self.arms)]
            if share == self.other_share:
                others = [arm for arm in OTHER if arm in self.arms]
                if any(OTHER[arm].control == FRESH_CONTROL for arm in others):
                    found.append((FRESH_CONTROL, share))
                found += [(arm, share) for arm in others]
        return found

    @cached_property
    def runs(self) -> dict[tuple[Cell, int], Run]:
        """What is trained, by cell and seed."""
        return {(cell, seed): self.run(*cell, seed) for cell in self.cells for seed in range(self.seeds)}

    def run(self, arm: str, share: float, seed: int) -> Run:
        """One training."""
        own = {"distillation.share": str(share)}
        if arm in CONTROLS:
            return Run.of(arm, LOGITS_ALONE | (FRESH if arm == FRESH_CONTROL else {}) | own, seed, "control")
        return Run.of(arm, {**ARMS[arm].own, **own}, seed)

    def compare(self, broken: Mapping[Run, str], workers: int) -> dict[str, Any]:
        """Figures of every cell, differences, and what they say."""
        bench, whole = self.bench, {key: run for key, run in self.runs.items() if run not in broken}
        test, teacher = HeldOut.of(bench), bench.inputs()["teacher"].path("teacher")
        artifacts = {key: bench.artifact(run) for key, run in whole.items()}
        found = bench.measure([teacher, *(a.path("model") for a in artifacts.values())], workers, choices=False)
        measured: dict[Cell, dict[int, Measured]] = {cell: {} for cell in self.cells}
        for (cell, seed), one in zip(artifacts, found[1:], strict=True):
            measured[cell][seed] = one
        figures = Figures(test, found[0], measured)
        rows = {cell: figures.row(cell) for cell in self.cells if measured[cell]}
        differences = list(figures.differences())
        return {
            "cells": [
                {"arm": arm, "share": share, **rows.get((arm, share), {}), **self._trained((arm, share), artifacts)}
                | {
                    "broken": [
                        f"seed {r.seed}: {why}" for r, why in broken.items() if r == self.run(arm, share, r.seed)
                    ]
                }
                for arm, share in self.cells
            ],
            "teacher": figures.of_teacher(),
            "differences": differences,
            "floors": {
                f"{share:g}": min(float(nll.sum() / test.tokens.sum()) for nll in test.floors(bench, share).values())
                for share in sorted(self.shares)
            },
            "curves": self._curves(artifacts),
            "gradients": self._gradients(artifacts),
            "parameters": {"teacher": found[0].parameters, "student": found[-1].parameters},
            "held_out": {"utterances": len(test.utterances), "tokens": int(test.tokens.sum()), "chance": test.chance},
            "tokens": {
                key: bench.inputs()["tokens"].summary[key]
                for key in ("train_tokens", "train_seconds", "held_out_tokens")
            },
            "seeds": self.seeds,
            "other_share": self.other_share,
            "aim": AIM,
        }

    def _trained(self, cell: Cell, artifacts: Mapping[tuple[Cell, int], Any]) -> dict[str, Any]:
        summaries = [a.summary for (own, _), a in artifacts.items() if own == cell]
        return {
            "steps": [s["steps"] for s in summaries],
            "best_step": [s["training"]["best_step"] for s in summaries],
            "train_tokens": summaries[0]["new_tokens"] if summaries else 0,
            "seconds": [a.manifest.seconds for (own, _), a in artifacts.items() if own == cell],
        }

    def _curves(self, artifacts: Mapping[tuple[Cell, int], Any]) -> dict[str, Any]:
        """NLL on validation speech by step, of the first seed, at the share of the other arms."""
        from tinywave_core import plots
        from tinywave_core.training.curves import curves_of

        curves = {}
        for ((arm, share), seed), artifact in artifacts.items():
            if seed == 0 and share == self.other_share:
                x, y = plots.series_of(curves_of(artifact), "validation")
                curves[arm] = [x.tolist(), y.tolist()]
        return curves

    def _gradients(self, artifacts: Mapping[tuple[Cell, int], Any]) -> dict[str, Any]:
        """Norms and cosines of the terms, of each arm at each share, in the first seed that has them."""
        from tinywave_core.training.curves import gradients_of

        found: dict[str, Any] = {}
        for ((arm, share), _), artifact in artifacts.items():
            if columns := gradients_of(artifact):
                found.setdefault(f"{arm} at {_share(share)}", columns)
        return found


# Figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """Held-out figures of every cell, and paired differences."""

    test: HeldOut
    teacher: Measured
    measured: Mapping[Cell, Mapping[int, Measured]]

    def drawn(self, cell: Cell, seeds: Sequence[int], name: str) -> Array:
        """A figure per token, over all draws."""
        draws = Draws(len(self.test.utterances), len(seeds))
        return draws(np.stack([getattr(self.measured[cell][seed], name) for seed in seeds]), self.test.tokens)

    def row(self, cell: Cell) -> dict[str, Any]:
        """Value, low and high of each."""
        seeds = sorted(self.measured[cell])
        found: dict[str, Any] = {name: interval(self.drawn(cell, seeds, name)) for name in PER_TOKEN}
        found["above_chance"] = [v - self.test.chance for v in found["next_token"]]
        return found

    def of_teacher(self) -> dict[str, Any]:
        """The same of the teacher."""
        draws = Draws(len(self.test.utterances), 1)
        found: dict[str, Any] = {
            name: interval(draws(getattr(self.teacher, name)[None], self.test.tokens)) for name in PER_TOKEN
        }
        found["above_chance"] = [v - self.test.chance for v in found["next_token"]]
        return found

    def differences(self) -> Iterator[dict[str, Any]]:
        """Of each arm to its control, and to what it adds to, at the same share, over the seeds that both have; less is better."""
        for arm, share in self.measured:
            if arm not in ARMS:
                continue
            others = dict.fromkeys([ARMS[arm].control, ARMS[arm].against])
            if ARMS[arm].control != CONTROL and arm == "fresh-logits":
                others["logits"] = None
            for other in others:
                seeds = sorted(set(self.measured[arm, share]) & set(self.measured.get((other, share), {})))
                if seeds:
                    pair = {
                        name: interval(self.drawn((arm, share), seeds, name) - self.drawn((other, share), seeds, name))
                        for name in ("nll", "kl", "next_token")
                    }
                    yield {"arm": arm, "against": other, "share": share, "seeds": len(seeds), **pair}


# What people see -------------------------------------------------------------------------------------------------


def gain(results: Mapping[str, Any], arm: str, against: str, share: float) -> list[float] | None:
    """Nats per token that an arm is better by, and its interval."""
    for d in results["differences"]:
        if (d["arm"], d["against"], d["share"]) == (arm, against, share):
            value, low, high = d["nll"]
            return [-value, -high, -low]
    return None


def regions(results: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], int]:
    """Where layer terms help beside logits, where they hurt, and how many comparisons there are."""
    pairs = [d for d in results["differences"] if d["arm"] in LAYER_ARMS and d["against"] in ("logits", "fresh-logits")]
    return [d for d in pairs if d["nll"][2] < 0], [d for d in pairs if d["nll"][1] > 0], len(pairs)


def verdict(results: Mapping[str, Any]) -> list[str]:
    """What the study found, in sentences."""
    share, said = results["other_share"], []
    gains = {arm: g for arm in MAIN if (g := gain(results, arm, CONTROL, share))}
    if gains:
        best = max(gains, key=lambda arm: gains[arm][0])
        reached = "reached" if gains[best][0] >= results["aim"] else "missed"
        said.append(
            f"At {_share(share)} of the speech distillation gains {shown(gains[best])} nats per token over the control ({TITLES[best]}): the aim "
            f"of {results['aim']:g} is {reached}."
        )
    if fresh := gain(results, "fresh-logits", FRESH_CONTROL, share):
        said.append(
            f"Where both start from random weights the gain is {shown(fresh)}: a control that starts from the teacher's blocks has "
            "had much of what the teacher knows."
        )
    helps, hurts, count = regions(results)
    said.append(
        f"Layer terms beside logits, {count} comparisons: "
        + (f"they help at {_places(helps)}" if helps else "none in which they help")
        + "; "
        + (f"they hurt at {_places(hurts)}." if hurts else "none in which they hurt.")
    )
    if count and (helps or hurts):
        said.append(f"Of so many intervals of 95 % about {count / 20:.1f} would leave 0 out by chance.")
    return said


def _places(found: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(
        f"{_share(d['share'])} ({TITLES[d['arm']]}, {shown([-d['nll'][0], -d['nll'][2], -d['nll'][1]])})" for d in found
    )


def shown(figure_: Sequence[float], digits: int = 3, *, sign: bool = False) -> str:
    """Value (low to high)."""
    value, low, high = (f"{v:{'+' if sign else ''}.{digits}f}" for v in figure_)
    return value if low == high else f"{value} ({low} to {high})"


def cell_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """A row per cell, by share and arm; the teacher first."""
    of = results["teacher"]
    rows = [
        {
            "share": "all",
            "model": "teacher",
            "NLL": shown(of["nll"]),
            "KL from teacher": "",
            "next token, above chance": _percent(of["above_chance"]),
            "steps": "",
            "note": "",
        }
    ]
    order = {name: number for number, name in enumerate(TITLES)} | {CONTROL: -1}
    for cell in sorted(results["cells"], key=lambda c: (c["share"], order[c["arm"]])):
        trained = "nll" in cell
        note = [f"broke: {why}" for why in cell["broken"]]
        if trained and 0 in cell["best_step"]:
            note.append("kept the weights of the start: training made it worse")
        rows.append(
            {
                "share": _share(cell["share"]),
                "model": TITLES[cell["arm"]],
                "NLL": shown(cell["nll"]) if trained else "–",
                "KL from teacher": shown(cell["kl"]) if trained else "–",
                "next token, above chance": _percent(cell["above_chance"]) if trained else "–",
                "steps": "/".join(map(str, cell["best_step"])) if trained else "–",
                "note": "; ".join(note),
            }
        )
    return rows


def _share(share: float) -> str:
    return f"{share * 100:g} %"


def _percent(figure_: Sequence[float]) -> str:
    return f"{shown([v * 100 for v in figure_], 1)} %"


def difference_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Paired differences, to controls first."""
    order = sorted(results["differences"], key=lambda d: (d["against"] not in CONTROLS, d["share"]))
    return [
        {
            "share": _share(d["share"]),
            "model": TITLES[d["arm"]],
            "against": TITLES[d["against"]],
            "NLL": shown(d["nll"], sign=True),
            "KL": shown(d["kl"], sign=True),
            "next token, points": shown([v * 100 for v in d["next_token"]], 1, sign=True),
            "tells": "nothing" if d["nll"][1] <= 0 <= d["nll"][2] else "better" if d["nll"][0] < 0 else "worse",
        }
        for d in order
    ]


def pull_sentences(results: Mapping[str, Any]) -> list[str]:
    """What the gradients say, by arm and share."""
    from tinywave_core.stages.distillation.pull import advice

    said = []
    for key, columns in results["gradients"].items():
        arm, _, share = key.partition(" at ")
        said.append(f"{TITLES[arm]}, {share}: {advice(columns)}.")
    return said


def text(results: Mapping[str, Any]) -> list[str]:
    """All of it for a terminal."""
    parts = [*verdict(results), "", *text_rows(cell_rows(results)), ""]
    if results["differences"]:
        parts += [*text_rows(difference_rows(results)), ""]
    return parts + pull_sentences(results)


def render(results: Mapping[str, Any]) -> str:
    """The page."""
    from markupsafe import Markup

    return page(
        "transfer.html.jinja",
        results=results,
        verdict=verdict(results),
        rows=cell_rows(results),
        differences=difference_rows(results),
        pulls=pull_sentences(results),
        plots=[Markup(svg) for svg in pictures(results)],
        gradient_plots=[Markup(svg) for svg in gradient_pictures(results)],
    )


COLOURS = {
    CONTROL: "control",
    "logits": "logits",
    "hidden": "hidden",
    "attention": "attention",
    "all": "student",
    FRESH_CONTROL: "floor",
    "fresh-logits": "teacher",
}


def pictures(results: Mapping[str, Any]) -> Iterator[str]:
    """Against the share: NLL and accuracy; against the steps: NLL on validation speech."""
    from tinywave_core import plots

    shares = sorted({cell["share"] for cell in results["cells"]})
    by_cell = {(cell["arm"], cell["share"]): cell for cell in results["cells"]}
    for name, title, unit, scale in (
        ("nll", "Held-out NLL by share of the speech", "nats per token", 1),
        ("above_chance", "Next token, accuracy above chance", "per cent", 100),
    ):
        series = []
        for arm in (CONTROL, *MAIN):
            found = [by_cell.get((arm, share), {}).get(name) for share in shares]
            points = [None if f is None else (f[0] * scale, f[1] * scale, f[2] * scale) for f in found]
            series.append(plots.Points(TITLES[arm], points, COLOURS[arm]))
        across = results["teacher"][name][0] * scale
        groups = [_share(share) for share in shares]
        svg = plots.points_svg(groups, series, title=title, y_label=unit, across=("teacher", across))
        yield figure(f"{title}, with 95 % intervals; the line is the teacher", svg)
    lines = [
        plots.Line(TITLES[arm], np.array(x), np.array(y), COLOURS[arm], dashed=arm in CONTROLS, noisy=False)
        for arm, (x, y) in results["curves"].items()
        if arm in COLOURS
    ]
    title = f"NLL on validation speech by step, {_share(results['other_share'])} of the speech, first seed"
    yield figure(title, plots.line_svg(lines, title=title, x_label="optimiser step", y_label="nats per token"))


def gradient_pictures(results: Mapping[str, Any]) -> Iterator[str]:
    """How hard the terms pull, and which way, of each arm that was reported."""
    from tinywave_core import plots

    for key, columns in results["gradients"].items():
        arm, _, share = key.partition(" at ")
        cosines = {name: name.removeprefix("cosine/").split("/") for name in columns if name.startswith("cosine/")}
        beside = {name: next(t for t in pair if t != "logits") for name, pair in cosines.items() if "logits" in pair}
        sizes = {name: name.removeprefix("weighted/") for name in columns if name.startswith("weighted/")}
        terms = list(sizes.values())
        for title, unit, labels in (
            ("norm of the weighted gradient", "norm", sizes),
            ("cosine with the logits' gradient", "cosine", beside),
        ):
            lines = [
                plots.Line(
                    term.replace("_", " "),
                    *plots.series_of(columns, name),
                    plots.TERMS[terms.index(term) % len(plots.TERMS)],
                    noisy=False,
                )
                for name, term in labels.items()
            ]
            told = f"{TITLES[arm]}, {share}: {title}"
            yield figure(told, plots.line_svg(lines, title=told, x_label="optimiser step", y_label=unit))


if __name__ == "__main__":
    main()
