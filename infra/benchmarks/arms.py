"""What the studies of distillation share: students trained side by side in one store, measured on held-out speech, compared in pairs.

The pipeline's own stages train everything, so that a study that was stopped goes on where it was: corpus, tokens, teacher and cached
logits are there once, each student and control is an artifact, and what was measured of a model is kept beside the store.
A training that breaks is told and leaves its place empty; the others go on.
Legend: U held-out utterances, S seeds.
"""

import json
import multiprocessing
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.config.load import load_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import TrainingError
from tinywave_core.run.pipeline import Look, build_stage, run_pipeline
from tinywave_core.steps.base import Outputs, compute
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.store import Artifact, Store

Array = npt.NDArray[np.float64]

CONTROL = "control"
CHOICES = ("cloze", "order")
PER_TOKEN = ("nll", "kl", "agreement", "next_token")
SHARES, FOILS = (0.35, 0.5, 0.65), 2
DRAWS = 2000
_STAGES = ("ingestion", "tokenization", "adaptation", "logit_caching")


# Training --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One student, or control, to be trained."""

    arm: str
    own: tuple[tuple[str, str], ...]
    """Settings on top of the bench's."""
    seed: int
    part: str
    """`student` or `control`."""

    @classmethod
    def of(cls, arm: str, own: Mapping[str, str], seed: int, part: str = "student") -> "Run":
        """These settings, in a form that can be a key."""
        return cls(arm, tuple(sorted(own.items())), seed, part)


@dataclass(frozen=True)
class Bench:
    """One corpus and one teacher, and all that is trained with it."""

    preset: str
    settings: dict[str, str]
    ready: dict[str, Outputs] = field(default_factory=dict)
    """Corpus, tokens, teacher and logits by the settings that are not the student's."""

    def config(self, own: Mapping[str, str] = {}, seed: int = 0) -> PipelineConfig:
        """The pipeline's config of one student."""
        return load_config(self.preset, self.settings | dict(own) | {"distillation.training.seed": str(seed)})

    def inputs(self, own: Mapping[str, str] = {}) -> Outputs:
        """Corpus, tokens, teacher and cached logits; computed if they are not there."""
        others = {name: value for name, value in own.items() if not name.startswith(("distillation.", "runtime."))}
        key = json.dumps(others, sort_keys=True)
        if key not in self.ready:
            config = self.config(others)
            for stage in _STAGES:
                print(f"{stage} …", flush=True)
                self.ready[key] = run_pipeline(config, Store(config.root), until=stage)
        return self.ready[key]

    def artifact(self, run: Run) -> Artifact:
        """What a run trains, complete or not."""
        config = self.config(dict(run.own), run.seed)
        return build_stage("distillation", config, Store(config.root), self.inputs(dict(run.own)), Look())[run.part]

    def train(self, runs: Sequence[Run], workers: int) -> dict[Run, str]:
        """Train what is not in the store, in this order and side by side; why, for those that broke."""
        own = {run: self.artifact(run) for run in runs}
        first = {artifact.id: run for run, artifact in reversed(own.items())}  # arms share their controls
        missing = [run for run, artifact in own.items() if first[artifact.id] is run and not artifact.complete]
        broken: dict[str, str] = {}
        with _pool(workers) as pool:
            jobs = {pool.submit(_train, self, run): run for run in missing}
            for done, job in enumerate(as_completed(jobs), 1):
                run = jobs[job]
                try:
                    told = f"{job.result():.0f} s"
                except TrainingError as error:
                    told = broken[own[run].id] = str(error)
                print(f"[{done}/{len(jobs)}] {run.arm}, seed {run.seed}: {told}", flush=True)
        return {run: broken[artifact.id] for run, artifact in own.items() if artifact.id in broken}

    def measure(self, folders: Sequence[Path], workers: int, *, choices: bool = True) -> list["Measured"]:
        """All of these models on held-out speech, in this order."""
        different = list(dict.fromkeys(folders))
        with _pool(workers) as pool:
            jobs = [pool.submit(_measure, self, folder, choices) for folder in different]
            found = {}
            for folder, job in zip(different, jobs, strict=True):
                found[folder] = job.result()
                print(f"[{len(found)}/{len(jobs)}] compared {folder.parent.name[:8]}", flush=True)
        return [found[folder] for folder in folders]


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))


def _train(bench: Bench, run: Run) -> float:
    """Train one model in a process of its own, on one thread; seconds."""
    started = time.monotonic()
    config = bench.config(dict(run.own), run.seed)
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"threads": 1})})
    look = Look()
    build_stage("distillation", config, Store(config.root), bench.inputs(dict(run.own)), look)
    compute(next(step for step, _ in look.steps if step.part == run.part))
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
    """Empty where they were not asked for."""


def _measure(bench: Bench, folder: Path, choices: bool) -> Measured:
    """One model in a process of its own, on one thread; what was measured before is read."""
    import torch

    shared = bench.inputs()
    key = fingerprint([shared["tokens"].id, shared["teacher"].id, str(folder), choices])
    kept = Path(bench.settings["root"]) / "measured" / f"{key}.npz"
    if not kept.is_file():
        torch.set_num_threads(1)
        found = _held_out(json.dumps(bench.settings), bench).measure(folder, choices=choices)
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(".partial.npz")
        np.savez(partial, parameters=found.parameters, **{n: getattr(found, n) for n in PER_TOKEN}, **found.choices)
        partial.rename(kept)
    with np.load(kept) as arrays:
        own = {name: arrays[name] for name in PER_TOKEN}
        return Measured(int(arrays["parameters"]), **own, choices={n: arrays[n] for n in CHOICES if n in arrays})


_OPEN: dict[str, "HeldOut"] = {}


def _held_out(key: str, bench: Bench) -> "HeldOut":
    """Once in a process: what the teacher says of held-out speech is kept."""
    if key not in _OPEN:
        _OPEN[key] = HeldOut.of(bench)
    return _OPEN[key]


@dataclass
class HeldOut:
    """Held-out speech, what the teacher says of it, and the items of the choices.

    NLL: nats per token. KL: from the teacher's whole distribution to the model's. Agreement: how often both have the same likeliest
    token. Next token: how often the likeliest token is right; its chance is the share of the most frequent token.
    """

    sequences: list[Any]
    items: dict[str, list[Any]]
    utterances: list[str]
    teacher: Any
    chance: float
    """Share of the most frequent token among those to be predicted."""

    @classmethod
    def of(cls, bench: Bench) -> "HeldOut":
        from tinywave_core.models.llama import load_llama
        from tinywave_core.sequences.index import load_sequences
        from tinywave_core.steps.inputs import held_out_shards

        config, shared = bench.config(), bench.inputs()
        length = config.distillation.training.sequence_length
        sequences = list(load_sequences(held_out_shards(shared["tokens"]), "held_out", length))
        targets = np.concatenate([s.ids[1:] for s in sequences])
        teacher = load_llama(shared["teacher"].path("teacher")).eval()
        utterances = sorted({s.utterance_id for s in sequences})
        items = {"cloze": _cloze(sequences, config), "order": _order(sequences, config)}
        return cls(sequences, items, utterances, teacher, float(np.bincount(targets).max() / len(targets)))

    def measure(self, folder: Path, *, choices: bool) -> Measured:
        """One model on all of it."""
        import torch

        from tinywave_core.models.llama import load_llama

        model = load_llama(folder).eval()
        sums = {name: self._zeros() for name in PER_TOKEN}
        for s, log_p in zip(self.sequences, self.of_teacher, strict=True):
            ids = torch.from_numpy(s.ids.astype(np.int64))[None]
            log_q = _log_likelihoods(model, ids)
            guess, target, u = log_q.argmax(-1), ids[0, 1:], self.utterances.index(s.utterance_id)
            sums["nll"][u] -= float(log_q.gather(-1, target[:, None]).sum())
            sums["kl"][u] += float((log_p.exp() * (log_p - log_q)).sum())
            sums["agreement"][u] += float((guess == log_p.argmax(-1)).sum())
            sums["next_token"][u] += float((guess == target).sum())
        chosen = self._choices(model) if choices else {}
        return Measured(sum(p.numel() for p in model.parameters()), choices=chosen, **sums)

    def _choices(self, model: Any) -> dict[str, Array]:
        from tinywave_core.evals.continuation_cloze import credits
        from tinywave_core.evals.scoring import token_log_probabilities

        choices = {}
        for name, items in self.items.items():
            texts = [i.right for i in items] + [i.wrong for i in items]
            scores = token_log_probabilities(model, texts)
            choices[name] = self._zeros()
            for item, credit in zip(items, credits(items, scores[: len(items)], scores[len(items) :]), strict=True):
                choices[name][self.utterances.index(item.utterance_id)] += credit
        return choices

    @cached_property
    def of_teacher(self) -> list[Any]:
        """The teacher's log-probabilities of each sequence: [tokens - 1, vocabulary]."""
        import torch

        return [_log_likelihoods(self.teacher, torch.from_numpy(s.ids.astype(np.int64))[None]) for s in self.sequences]

    def floors(self, bench: Bench, share: float = 1.0) -> dict[str, Array]:
        """NLL of each utterance by guessing and by counts of the training tokens, or of a share: [U] by what it is called."""
        from tinywave_core.evals.floors import floor_scores
        from tinywave_core.sequences.index import load_sequences
        from tinywave_core.stages.distillation.student import share_of
        from tinywave_core.steps.inputs import training_shards
        from tinywave_core.tokenizers.vocabulary import Vocabulary

        tokens, config = bench.inputs()["tokens"], bench.config()
        train = load_sequences(training_shards(tokens), "train", config.distillation.training.sequence_length)
        vocabulary = Vocabulary.from_json(tokens.summary["vocabulary"])
        sums = {}
        for name, scores in floor_scores(share_of(train, share), self.sequences, vocabulary.tokens).items():
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


def _log_likelihoods(model: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad():
        return torch.log_softmax(model(ids).logits[0, :-1].double(), -1)


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


# Intervals -------------------------------------------------------------------------------------------------------


class Draws:
    """Figures over all utterances and seeds (index 0), and over DRAWS samples of both: paired, since all use the same."""

    def __init__(self, utterances: int, seeds: int) -> None:
        random, self.seeds = np.random.default_rng(0), seeds
        self.picked = [np.arange(utterances), *random.integers(0, utterances, (DRAWS, utterances))]
        self.of_seeds = [np.arange(seeds), *random.integers(0, seeds, (DRAWS, seeds))]

    def __call__(self, sums_SU: Array, counts_U: Array) -> Array:
        """sum / count of each draw: [1 + DRAWS]."""
        pairs = zip(self.of_seeds, self.picked, strict=True)
        return np.array([sums_SU[seeds].mean(0)[drawn].sum() / counts_U[drawn].sum() for seeds, drawn in pairs])


def interval(values: Array) -> list[float]:
    """Value, low and high of 95 %."""
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return [float(values[0]), float(low), float(high)]


# Pages -----------------------------------------------------------------------------------------------------------


def page(template: str, **parts: Any) -> str:
    """One page that needs nothing else, from a template beside this file."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    import tinywave_core.reporting

    folders = [Path(__file__).parent, Path(str(tinywave_core.reporting.__file__)).parent]
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**parts)


def figure(title: str, svg: str) -> str:
    """A picture with its title, both trusted."""
    return f"<figure><figcaption>{title}</figcaption>{svg}</figure>" if svg else ""


def text_rows(table: Sequence[Mapping[str, str]]) -> list[str]:
    """A table for a terminal."""
    widths = {key: max(len(key), *(len(row[key]) for row in table)) for key in table[0]}
    return [
        "  ".join(key.ljust(width) for key, width in widths.items()),
        *("  ".join(row[key].ljust(width) for key, width in widths.items()) for row in table),
    ]
