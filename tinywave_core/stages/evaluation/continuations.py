"""Continuations of held-out prompts as part of evaluation: sampled from teacher, student and control, for all who judge them.

Part `continuations`: continuations.parquet, the token ids of every continuation, in those of the token shards. Beside the three
models stands `recording`: how the utterance really went on, as long at most.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinywave_core.config.evaluation import GeneratedConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.drawing import draw
from tinywave_core.evals.figures import MODELS
from tinywave_core.stages.evaluation.summary import ContinuationsSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import each_held_out_row, held_out_shards
from tinywave_core.storage.records import RecordFault, seal, unseal
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tinywave_core.tokenizers.vocabulary import Ids

VERSION = 1
ContinuationsStep = Step[GeneratedConfig, ContinuationsSummary]
FILE = "continuations.parquet"
SOURCES = (*MODELS, "recording")
_SCHEMA = pa.schema([("utterance_id", pa.string()), ("source", pa.string()), ("ids", pa.list_(pa.uint16()))])


def build(
    config: PipelineConfig, tokens: Artifact, teacher: Artifact, student: Artifact, control: Artifact, execute: Execute
) -> dict[str, Artifact]:
    """The artifact `continuations`."""
    (made,) = execute(
        [
            Step(
                store=tokens.store,
                stage="evaluation",
                part="continuations",
                version=VERSION,
                run=run_continuations,
                config=config.evaluation.generated.of_continuations(config.evaluation.continued()),
                inputs={
                    "tokens": [shard for shard in held_out_shards(tokens) if shard.part != "text"],
                    "teacher": [teacher],
                    "student": [student],
                    "control": [control],
                },
                runtime=config.runtime,
            )
        ]
    )
    return {"continuations": made}


# What others read --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Continued:
    """The continuations of an artifact, all sources on the same prompts in the same order."""

    utterance_ids: list[str]
    ids: dict[str, list[list[int]]]
    """By source."""
    vocabulary: Vocabulary
    why: str
    """Why there are none; empty where there are some."""

    @property
    def items(self) -> int:
        return len(self.utterance_ids)


def continued(artifact: Artifact, items: int) -> Continued:
    """The continuations of the first so many prompts."""
    summary = ContinuationsSummary.of(artifact)
    rows = read_table(artifact.path(FILE)).to_pylist()
    ids = {source: [row["ids"] for row in rows if row["source"] == source][:items] for source in SOURCES}
    names = [row["utterance_id"] for row in rows if row["source"] == SOURCES[0]]
    return Continued(names[:items], ids, Vocabulary.from_json(summary.vocabulary), summary.why)


def speaks(ids: Sequence[int], vocabulary: Vocabulary) -> bool:
    """Whether there is a unit among them: without one there is nothing to hear."""
    units = range(vocabulary.first["hubert"], vocabulary.first["hubert"] + vocabulary.hubert)
    return any(i in units for i in ids)


class Progress:
    """Samples that were made or judged, over all sources."""

    def __init__(self, output: Output, total: int) -> None:
        self.output, self.total, self.before = output, total, 0

    def __call__(self, done: int, total: int, note: str = "") -> None:  # noqa: ARG002 (a source does not know the others)
        self.output.progress(self.before + done, self.total, note)

    def reached(self, more: int) -> None:
        """One source is through."""
        self.before += more


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What an earlier try of this very step wrote to a file, if that is as it was; else what is made now and written there."""
    with contextlib.suppress(FileNotFoundError, RecordFault):
        return unseal(path.read_bytes())["made"]
    made = make()
    # Under another name until it is whole: a killed run leaves no half file to be read.
    unfinished = path.with_suffix(".partial")
    unfinished.write_bytes(seal({"made": made}))
    unfinished.replace(path)
    return made


def drawing_key(seed: int, utterance_id: str) -> bytes:
    """Utterances are drawn in the order of this hash, and it is the seed of their continuation."""
    return hashlib.sha256(f"generated/{seed}/{utterance_id}".encode()).digest()


# The work ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """The beginning of a held-out utterance, and how it went on, in ids of the token shards."""

    utterance_id: str
    ids: "Ids"
    recording: "Ids"


def run_continuations(step: ContinuationsStep, output: Output) -> ContinuationsSummary:
    """Continue with each model; what a crash left of a model's continuations is used."""
    from tinywave_core.threads import use_threads

    use_threads(output.runtime)
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    prompts = held_out_prompts(step.config, step.inputs["tokens"], vocabulary)
    progress = Progress(output, len(MODELS) * len(prompts))
    ids = {name: _continued(step, output, name, prompts, vocabulary, progress) for name in MODELS if prompts}
    ids["recording"] = [prompt.recording.tolist() for prompt in prompts]
    rows = [
        {"utterance_id": prompt.utterance_id, "source": source, "ids": new}
        for source, continuations in ids.items()
        for prompt, new in zip(prompts, continuations, strict=True)
    ]
    write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), output.folder / FILE)
    lacking = f"no held-out utterance has {2 * step.config.prompt_s:g} s, twice the prompt"
    return ContinuationsSummary(
        items=len(prompts), why="" if prompts else lacking, vocabulary=step.inputs["tokens"][0].summary["vocabulary"]
    )


def held_out_prompts(config: GeneratedConfig, shards: Sequence[Artifact], vocabulary: Vocabulary) -> list[Prompt]:
    """Held-out utterances at least twice as long as the prompt, in an order that a hash of their id decides."""
    from tinywave_core.tokenizers.speech import Streams, encode_utterance, merged_before

    rows = each_held_out_row(shards, ["utterance_id", "num_samples", "units", "pitch", "style"])
    long = (row for row in rows if row["num_samples"] >= 2 * config.prompt_s * SAMPLE_RATE)
    prompts = []
    for row in draw(long, lambda row: drawing_key(config.seed, row["utterance_id"]), config.items):
        streams = Streams.of_row(row)
        whole = encode_utterance(streams, vocabulary)[:-1]
        opening = len(vocabulary.prompt_ids(vocabulary.speech_marker))
        cut = opening + merged_before(streams, config.prompt_s, vocabulary.rates)
        prompts.append(Prompt(row["utterance_id"], whole[:cut], whole[cut:][: config.max_new_tokens]))
    return prompts


def _continued(
    step: ContinuationsStep,
    output: Output,
    name: str,
    prompts: list[Prompt],
    vocabulary: Vocabulary,
    progress: Progress,
) -> list[list[int]]:
    """Ids of one model's continuations."""

    def make() -> list[list[int]]:
        from tinywave_core.devices import pick_device
        from tinywave_core.evals.continuations import continuations
        from tinywave_core.models.llama import load_llama, on_device

        config = step.config
        folder = step.input(name).path("teacher" if name == "teacher" else "model")
        model = on_device(load_llama(folder), pick_device(output.runtime)).eval()
        new = continuations(
            model,
            [prompt.ids.astype(np.uint16) for prompt in prompts],
            vocabulary,
            [int.from_bytes(drawing_key(config.seed, prompt.utterance_id)[:6], "little") for prompt in prompts],
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_k=config.top_k,
            progress=progress,
        )
        return [ids.tolist() for ids in new]

    found: list[list[int]] = kept(output.resume / f"{name}.json", make)
    progress.reached(len(prompts))
    return found
