"""Pairs of the student's own continuations, ranked by a judge: what preference tuning learns from.

Part `pairs`: pairs.parquet, a row per pair with its prompt, both continuations, their scores and how much they repeat themselves. Prompts are
the beginnings of sequences that the student was trained on, and of those that validated: no held-out speech. What is drawn for a prompt
belongs to (seed, sequence id). What makes no pair is counted by reason.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.preference import PreferenceConfig
from tinywave_core.counts import count
from tinywave_core.errors import ConfigError, TrainingError
from tinywave_core.evals.ranking import ALIKE, FEW, REPEATS, Verdict, choose, repetition
from tinywave_core.stages.adaptation.teacher import training_parts, validation_of
from tinywave_core.stages.distillation.judging import Judging, check_judge, judge_of, load_judging
from tinywave_core.stages.distillation.summary import PairsSummary
from tinywave_core.stages.evaluation.continuations import kept
from tinywave_core.steps.base import Execute, Inputs, Output, Step
from tinywave_core.steps.inputs import training_shards
from tinywave_core.storage.fingerprint import place_of
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import Ids, Vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from tinywave_core.sequences.table import SequenceTable, TokenSequence

VERSION = 1
PairsStep = Step[PreferenceConfig, PairsSummary]
FILE = "pairs.parquet"
_SCHEMA = pa.schema(
    [
        ("sequence_id", pa.string()),
        ("utterance_id", pa.string()),
        ("validates", pa.bool_()),
        ("prompt", pa.list_(pa.uint16())),
        ("better", pa.list_(pa.uint16())),
        ("worse", pa.list_(pa.uint16())),
        ("better_score", pa.float64()),
        ("worse_score", pa.float64()),
        ("better_repetition", pa.float64()),
        ("worse_repetition", pa.float64()),
    ]
)
SHORT = "the continuation ended early"
_AT_ONCE = 32  # prompts between two places to go on from
_REMEDY = {
    FEW: "lower new_tokens if continuations end early, or raise candidates",
    ALIKE: "lower least_gap, or raise candidates or temperature",
    REPEATS: "raise more_repetition, or candidates",
    "": "raise share, or add recordings",
}


def check_preference(config: PipelineConfig) -> None:
    """Refuse what preference tuning cannot do, before anything starts."""
    asked, policy = config.distillation.preference, config.tokenization.interleaving.policy
    if not asked.share:
        return
    if policy != "speech":
        raise ConfigError(
            f"distillation.preference.share is {asked.share:g}, which compares speech alone, but tokenization.interleaving.policy is "
            f"{policy}: take share 0, or policy speech"
        )
    if config.runtime.all_training_processes > 1:
        raise ConfigError(
            f"distillation.preference.share is {asked.share:g}, which trains in one process, but the runtime asks for "
            f"{config.runtime.all_training_processes}: take share 0, or training_processes and training_nodes 1"
        )
    check_judge(config)


def build(config: PipelineConfig, tokens: Artifact, teacher: Artifact, student: Artifact, execute: Execute) -> Artifact:
    """The artifact `pairs` of a distilled student."""
    check_preference(config)
    inputs, params, context = judge_of(config, tokens, teacher, execute)
    (pairs,) = execute(
        [
            Step(
                store=tokens.store,
                stage="distillation",
                part="pairs",
                version=VERSION,
                run=run_pairs,
                config=config.distillation.preference.of_pairs(),
                params={**params, **heard_by(config), "share": config.distillation.share},
                inputs={**shards_of(student, tokens), "student": [student], **inputs},
                context=context,
                runtime=config.runtime,
            )
        ]
    )
    return pairs


def heard_by(config: PipelineConfig) -> dict[str, Any]:
    """Parameters by which the sequences of a student's training are found again."""
    return {"validation": validation_of(config), "sequence_length": config.distillation.training.sequence_length}


def shards_of(student: Artifact, tokens: Artifact) -> Inputs:
    """The token shards that a student was trained on: its own, not those of today, or new speech would tune it anew."""
    if student.manifest is None:
        return {"tokens": training_shards(tokens)}
    listed = student.manifest.inputs
    return {name: tokens.store.find_all(listed[name]) for name in ("tokens", "heard") if listed.get(name)}


# The work ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """The beginning of a training sequence, in ids of the token shards."""

    sequence_id: str
    utterance_id: str
    recording_id: str
    validates: bool
    ids: Ids


def run_pairs(step: PairsStep, output: Output) -> PairsSummary:
    """Continue, rank, and pair; what a crash left of it is used. TrainingError where too few pairs are found."""
    from tinywave_core.threads import use_threads

    use_threads(output.runtime)
    config = step.config
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    prompts, short = _prompts(step)
    candidates = _candidates(step, output, prompts, vocabulary)
    found = Found(config)
    for prompt, (new, verdicts) in zip(prompts, candidates, strict=True):
        found.add(prompt, new, verdicts)
    summary = PairsSummary(
        judge=config.judge,
        vocabulary=step.inputs["tokens"][0].summary["vocabulary"],
        too_short=short,
        candidates=sum(len(new) for new, _ in candidates),
        **found.figures(),
    )
    require_enough(config, summary)
    write_table(pa.Table.from_pylist(found.rows, schema=_SCHEMA), output.folder / FILE)
    return summary


def _prompts(step: PairsStep) -> "tuple[list[Prompt], int]":
    """Prompts of training, and all that validate, in the order of their ids; and how many sequences were too short for one."""
    from tinywave_core.sequences.index import load_sequences
    from tinywave_core.stages.distillation.student import share_of

    spoken = [s for name in ("tokens", "heard") for s in step.inputs.get(name, []) if s.part == "shard"]
    sequences = load_sequences(spoken, "train", step.params["sequence_length"])
    train, validation = training_parts(sequences, step.params["validation"])
    drawn = _drawn(share_of(train, step.params["share"]), step.config)
    prompts, short = [], 0
    for table, validates in ((drawn, False), (validation, True)):
        long = table.lengths > step.config.prompt_tokens
        short += int((~long).sum())
        prompts += [prompt_of(s, step.config, validates=validates) for s in table.take(long)]
    return prompts, short


def _drawn(sequences: "SequenceTable", config: PreferenceConfig) -> "SequenceTable":
    """The share of the sequences that are prompts: a larger share draws the same and more."""
    places = [place_of(f"preference/{config.seed}/{sequences.id(n)}") for n in range(len(sequences))]
    return sequences.take(np.array(places) < config.share)


def prompt_of(sequence: "TokenSequence", config: PreferenceConfig, *, validates: bool = False) -> Prompt:
    """The prompt that a sequence begins with."""
    ids = sequence.ids[: config.prompt_tokens].astype(np.int64)
    return Prompt(sequence.id, sequence.utterance_id, sequence.recording_id, validates, ids)


def _candidates(
    step: PairsStep, output: Output, prompts: Sequence[Prompt], vocabulary: Vocabulary
) -> list[tuple[list[Ids], list[Verdict]]]:
    """By prompt: what the student says, and the judge of it."""
    from tinywave_core.devices import pick_device
    from tinywave_core.models.llama import load_llama, on_device

    model = on_device(load_llama(step.input("student").path("model")), pick_device(output.runtime)).eval()
    judging = load_judging(step, output, vocabulary)
    made = []
    for start in range(0, len(prompts), _AT_ONCE):
        some = prompts[start : start + _AT_ONCE]
        made += kept(
            output.resume / f"from-{start:06d}.json",
            partial(_made, model, judging, some, vocabulary, step.config),
        )
        output.progress(min(start + _AT_ONCE, len(prompts)), len(prompts), "prompts continued and ranked")
    return [
        ([np.array(ids, np.int64) for ids in each["new"]], [Verdict(**verdict) for verdict in each["verdicts"]])
        for each in made
    ]


def _made(
    model: "LlamaForCausalLM",
    judging: Judging,
    prompts: Sequence[Prompt],
    vocabulary: Vocabulary,
    config: PreferenceConfig,
) -> list[dict[str, Any]]:
    """As JSON, by prompt."""
    from tinywave_core.evals.continuations import continuations

    repeated = [prompt for prompt in prompts for _ in range(config.candidates)]
    seeds = [seed_of(config, p.sequence_id, n) for p in prompts for n in range(config.candidates)]
    new = continuations(model, [prompt.ids for prompt in repeated], vocabulary, seeds, **config.sampling)
    whole = [i for i, ids in enumerate(new) if len(ids) == config.new_tokens]
    asked = judging([repeated[i].ids for i in whole], [new[i] for i in whole])
    verdicts = dict(zip(whole, asked, strict=True))
    found = [
        {"new": ids.tolist(), "verdict": asdict(verdicts.get(i, Verdict(None, SHORT)))} for i, ids in enumerate(new)
    ]
    each = config.candidates
    return [
        {"new": [one["new"] for one in some], "verdicts": [one["verdict"] for one in some]}
        for some in (found[at : at + each] for at in range(0, len(found), each))
    ]


def seed_of(config: PreferenceConfig, sequence_id: str, number: int) -> int:
    """Of the sampling of one continuation."""
    return int.from_bytes(
        hashlib.sha256(f"preference/{config.seed}/{sequence_id}/{number}".encode()).digest()[:6], "big"
    )


class Found:
    """Pairs as they are found, and what is left out by reason."""

    def __init__(self, config: PreferenceConfig) -> None:
        self._config = config
        self.rows: list[dict[str, Any]] = []
        self._prompts, self._without, self._failures = Counter[str](), Counter[str](), Counter[str]()

    def add(self, prompt: Prompt, new: Sequence[Ids], verdicts: Sequence[Verdict]) -> None:
        """The pairs of one prompt."""
        config = self._config
        repetitions = [repetition(ids.tolist()) for ids in new]
        self._prompts[_split(prompt.validates)] += 1
        self._failures.update(verdict.failure for verdict in verdicts if verdict.score is None)
        pairs, why = choose(
            verdicts,
            repetitions,
            least_gap=config.least_gap,
            more_repetition=config.more_repetition,
            most=config.pairs_per_prompt,
        )
        if why:
            self._without[why] += 1
        about = {"sequence_id": prompt.sequence_id, "utterance_id": prompt.utterance_id}
        for pair in pairs:
            row: dict[str, Any] = {**about, "validates": prompt.validates, "prompt": prompt.ids.tolist()}
            for name, number in (("better", pair.better), ("worse", pair.worse)):
                row[name] = new[number].tolist()
                row[f"{name}_score"] = verdicts[number].score
                row[f"{name}_repetition"] = repetitions[number]
            self.rows.append(row)

    def figures(self) -> dict[str, Any]:
        """For the summary."""
        pairs = Counter(_split(row["validates"]) for row in self.rows)
        return {
            "prompts": dict(self._prompts),
            "failures": dict(self._failures),
            "without_pair": dict(self._without),
            "pairs": {name: pairs[name] for name in ("train", "validation")},
            "scores": {name: self._mean(f"{name}_score") for name in ("better", "worse")},
            "repetition": {name: self._mean(f"{name}_repetition") for name in ("better", "worse")},
        }

    def _mean(self, name: str) -> float | None:
        return float(np.mean([row[name] for row in self.rows])) if self.rows else None


def _split(validates: bool) -> str:
    return "validation" if validates else "train"


def require_enough(config: PreferenceConfig, summary: PairsSummary) -> None:
    """TrainingError where there are too few pairs to train on, with what to change."""
    if summary.pairs["train"] >= config.least_pairs:
        return
    reasons = sorted(summary.without_pair.items(), key=lambda each: -each[1])
    told = "; ".join(f"{number} without a pair, for {why}" for why, number in reasons) or "each made its pairs"
    failed = ", ".join(f"{number} for {why}" for why, number in summary.failures.items())
    raise TrainingError(
        f"preference tuning found {count(summary.pairs['train'], 'pair')} to train on, least_pairs is {config.least_pairs}: "
        f"{count(sum(summary.prompts.values()), 'prompt')}, {told}; {count(summary.too_short, 'sequence')} too short for a prompt of "
        f"{config.prompt_tokens} tokens{f'; continuations without a score: {failed}' if failed else ''}. Change distillation.preference: "
        f"{_REMEDY[reasons[0][0] if reasons else '']}"
    )


# What others read --------------------------------------------------------------------------------------------------


def read_pairs(pairs: Artifact, *, validates: bool) -> "list[TokenSequence]":
    """The pairs to train on, or those that validate, each as one sequence: prompt and better continuation, prompt and worse one."""
    from tinywave_core.sequences.table import TokenSequence

    found = []
    for number, row in enumerate(read_table(pairs.path(FILE)).to_pylist()):
        if row["validates"] == validates:
            ids = np.array([*row["prompt"], *row["better"], *row["prompt"], *row["worse"]], np.uint16)
            name = hashlib.sha256(f"{row['sequence_id']}/{number}".encode()).hexdigest()[:32]
            found.append(TokenSequence(name, row["utterance_id"], row["utterance_id"], None, ids, 0.0))
    return sorted(found, key=lambda pair: pair.id)
