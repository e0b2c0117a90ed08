"""The student before and after preference tuning, on held-out prompts and in likelihood: so that harm shows.

Part `preference`: preference.parquet, what both say after the same held-out prompts with the same random numbers, with the teacher's score, that of
the judge that ranked, repetition and length. Held-out likelihood is part `against`, as for a student and the published one. Sampling is
that of the pairs; intervals are over recordings.
"""

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.preference import PreferenceConfig
from tinywave_core.evals.ranking import Verdict, repetition
from tinywave_core.stages.distillation.judging import by_teacher, judge_of, load_judging
from tinywave_core.stages.distillation.pairs import Prompt, prompt_of, seed_of
from tinywave_core.stages.evaluation import scores
from tinywave_core.stages.evaluation.continuations import kept
from tinywave_core.stages.evaluation.summary import BeforeAndAfter, PreferenceSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import held_out_shards
from tinywave_core.storage.fingerprint import place_of
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import Ids, Vocabulary

VERSION = 1
ComparisonStep = Step[PreferenceConfig, PreferenceSummary]
FILE = "preference.parquet"
BEFORE, AFTER = "distilled", "student"
MEASURES = ("teacher", "judge", "repetition", "tokens")
_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("recording_id", pa.string()),
        ("model", pa.string()),
        ("ids", pa.list_(pa.uint16())),
        ("teacher", pa.float64()),  # null where it said nothing
        ("judge", pa.float64()),  # null where it is the teacher, or has no score
        ("failure", pa.string()),  # of the judge
        ("repetition", pa.float64()),
        ("tokens", pa.int64()),
    ]
)


def build(
    config: PipelineConfig, tokens: Artifact, teacher: Artifact, done: dict[str, Artifact], execute: Execute
) -> dict[str, Artifact]:
    """The artifacts `preference` and `against`; none where no student was tuned, or no comparison is wanted."""
    if BEFORE not in done or not config.evaluation.preferred_prompts:
        return {}
    inputs, params, context = judge_of(config, tokens, teacher, execute)
    (compared,) = execute(
        [
            Step(
                store=tokens.store,
                stage="evaluation",
                part="preference",
                version=VERSION,
                run=run_preference,
                config=config.distillation.preference.of_comparison(),
                params={
                    **params,
                    "prompts": config.evaluation.preferred_prompts,
                    "sequence_length": config.distillation.training.sequence_length,
                },
                inputs={
                    **inputs,
                    "tokens": [shard for shard in held_out_shards(tokens) if shard.part != "text"],
                    "teacher": [teacher],
                    BEFORE: [done[BEFORE]],
                    AFTER: [done[AFTER]],
                },
                context=context,
                runtime=config.runtime,
            )
        ]
    )
    return {
        "preference": compared,
        "against": scores.against(config, tokens, done[AFTER], done[BEFORE], execute),
    }


def run_preference(step: ComparisonStep, output: Output) -> PreferenceSummary:
    """Let both continue, and measure; what a crash left of a model's continuations is used."""
    from tinywave_core.threads import use_threads

    use_threads(output.runtime)
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    prompts = held_out_prompts(step)
    if not prompts:
        write_table(_SCHEMA.empty_table(), output.folder / FILE)
        why = f"no held-out sequence is longer than a prompt of {step.config.prompt_tokens} tokens"
        return PreferenceSummary(judge=step.config.judge, prompts=0, recordings=0, why=why, measures={}, failures={})
    rows = {}
    for name in (BEFORE, AFTER):
        rows[name] = kept(output.resume / f"{name}.json", partial(_measured, step, output, name, prompts, vocabulary))
        output.progress(len(rows), 2, "models measured")
    about = [{"utterance_id": prompt.utterance_id, "recording_id": prompt.recording_id} for prompt in prompts]
    table = [
        {**prompt, "model": name, **row} for name, own in rows.items() for prompt, row in zip(about, own, strict=True)
    ]
    write_table(pa.Table.from_pylist(table, schema=_SCHEMA), output.folder / FILE)
    recordings = [prompt.recording_id for prompt in prompts]
    seed = step.config.seed
    compared = {m: before_and_after(recordings, *_columns(rows, m), seed) for m in MEASURES}
    return PreferenceSummary(
        judge=step.config.judge,
        prompts=len(prompts),
        recordings=len(set(recordings)),
        measures={name: found for name, found in compared.items() if found is not None},
        failures={name: dict(Counter(row["failure"] for row in own if row["failure"])) for name, own in rows.items()},
    )


def held_out_prompts(step: ComparisonStep) -> list[Prompt]:
    """Beginnings of held-out sequences, the first ones by a hash of their ids."""
    from tinywave_core.sequences.index import load_sequences

    table = load_sequences(step.inputs["tokens"], "held_out", step.params["sequence_length"])
    long = table.take(table.lengths > step.config.prompt_tokens)
    places = [place_of(f"preferred/{step.config.seed}/{long.id(n)}") for n in range(len(long))]
    drawn = np.argsort(places, kind="stable")[: step.params["prompts"]]
    return [prompt_of(sequence, step.config) for sequence in long.take(np.sort(drawn))]


def _measured(
    step: ComparisonStep, output: Output, name: str, prompts: Sequence[Prompt], vocabulary: Vocabulary
) -> list[dict[str, Any]]:
    """What one model says after each prompt, and what that is worth."""
    from tinywave_core.devices import pick_device
    from tinywave_core.evals.continuations import continuations
    from tinywave_core.models.llama import load_llama, on_device

    model = on_device(load_llama(step.input(name).path("model")), pick_device(output.runtime)).eval()
    heads = [prompt.ids for prompt in prompts]
    seeds = [seed_of(step.config, prompt.sequence_id, 0) for prompt in prompts]
    new: list[Ids] = continuations(model, heads, vocabulary, seeds, **step.config.sampling)
    of_teacher = by_teacher(step, output)(heads, new)
    others = [Verdict(None)] * len(new)
    if step.config.judge != "teacher":
        others = load_judging(step, output, vocabulary)(heads, new)
    return [
        {
            "ids": ids.tolist(),
            "teacher": likelihood.score,
            "judge": judged.score,
            "failure": judged.failure or likelihood.failure,
            "repetition": repetition(ids.tolist()),
            "tokens": len(ids),
        }
        for ids, likelihood, judged in zip(new, of_teacher, others, strict=True)
    ]


def _columns(rows: dict[str, list[dict[str, Any]]], measure: str) -> tuple[list[float | None], list[float | None]]:
    return [row[measure] for row in rows[BEFORE]], [row[measure] for row in rows[AFTER]]


def before_and_after(
    recordings: Sequence[str], before: Sequence[float | None], after: Sequence[float | None], seed: int
) -> BeforeAndAfter | None:
    """Means over the prompts of which both have a value, and the paired difference; None where there is no such prompt."""
    from tinywave_core.evals.comparison import by_recording, paired_difference

    both = [(a, b) if a is not None and b is not None else None for a, b in zip(before, after, strict=True)]
    names = [name for name, each in zip(recordings, both, strict=True) if each]
    values_P2 = np.array([each for each in both if each], np.float64)
    if not names:
        return None
    gaps = by_recording(names, values_P2[:, 1] - values_P2[:, 0])
    difference, interval = paired_difference(gaps, by_recording(names, np.ones(len(names))), seed)
    first, second = values_P2.mean(axis=0).tolist()
    return BeforeAndAfter(before=first, after=second, difference=difference, interval=interval, prompts=len(names))
