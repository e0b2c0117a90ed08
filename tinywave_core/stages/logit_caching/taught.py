"""Training speech that goes on as the teacher has it: sequence-level distillation (Kim and Rush, arXiv 1606.07947), sampled.

Part `taught`, one per token shard of speech: tokens.parquet, read as that of a token shard, without the streams. In a share of the training
utterances, drawn by a hash of their ids, what follows the first tokens is a continuation by the teacher; all others are as they were. Which utterances, and the random numbers of each, belong to (seed, utterance id). Only the student learns from these, and its logits
are captured on them: the control, the validation speech and all evaluation have the recordings.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tinywave_core.config.distillation import SequenceLevelConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.stages.logit_caching.summary import TaughtSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import training_shards
from tinywave_core.storage.schemas import TOKENS_FILE
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import EOS_ID, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.tokenizers.vocabulary import Ids

VERSION = 1
TaughtStep = Step[SequenceLevelConfig, TaughtSummary]
_COLUMNS = ("utterance_id", "recording_id", "speaker", "split", "num_samples", "ids")


def build(config: PipelineConfig, tokens: Artifact, teacher: Artifact, execute: Execute) -> list[Artifact]:
    """The shards that the student learns from, in the order of the training shards; these themselves where the share is 0.

    Shards of text stay as they are.
    """
    asked, shards = config.distillation.sequence_level, training_shards(tokens)
    if not asked.share:
        return shards
    spoken = [shard for shard in shards if shard.part == "shard"]
    made = execute(
        [
            Step(
                store=tokens.store,
                stage="logit_caching",
                part="taught",
                version=VERSION,
                run=run_taught,
                config=asked,
                inputs={"tokens": [shard], "teacher": [teacher]},
                runtime=config.runtime,
            )
            for shard in spoken
        ]
    )
    instead = {shard.id: taught for shard, taught in zip(spoken, made, strict=True)}
    return [instead.get(shard.id, shard) for shard in shards]


def check_taught(config: PipelineConfig) -> None:
    """Refuse speech and text in turns, of which the teacher would have to choose when to change."""
    policy = config.tokenization.interleaving.policy
    if config.distillation.sequence_level.share and policy != "speech":
        raise ConfigError(
            f"distillation.sequence_level.share is {config.distillation.sequence_level.share:g}, which goes on with speech alone, but "
            f"tokenization.interleaving.policy is {policy}: take share 0, or policy speech"
        )


def run_taught(step: TaughtStep, output: Output) -> TaughtSummary:
    """Continue the utterances that were drawn; all rows of training speech are written, and none that is held out."""
    import pyarrow.compute as pc

    shard, config = step.input("tokens"), step.config
    table = read_table(shard.path(TOKENS_FILE), list(_COLUMNS))
    table = table.filter(pc.equal(table["split"], "train"))
    names = table["utterance_id"].to_pylist()
    ids = [np.asarray(row, np.int64) for row in table["ids"].to_pylist()]
    drawn = [i for i, name in enumerate(names) if is_drawn(config, name)]
    able = [i for i in drawn if len(ids[i]) > config.prompt_tokens]
    new = _continued(step, output, [ids[i][: config.prompt_tokens] for i in able], [names[i] for i in able])
    for i, own in zip(able, new, strict=True):
        ids[i] = np.concatenate([ids[i][: config.prompt_tokens], own])
    column = pa.array([row.astype(np.uint16) for row in ids], pa.list_(pa.uint16()))
    made = table.set_column(table.schema.get_field_index("ids"), pa.field("ids", column.type, nullable=False), column)
    write_table(made.append_column("taught", pa.array(np.isin(np.arange(len(ids)), able))), output.folder / TOKENS_FILE)
    return TaughtSummary(
        vocabulary=shard.summary["vocabulary"],
        utterances=len(names),
        taught=len(able),
        too_short=len(drawn) - len(able),
        taught_tokens=sum(map(len, new)),
        ended=sum(bool(len(own)) and int(own[-1]) == EOS_ID for own in new),
    )


def is_drawn(config: SequenceLevelConfig, utterance_id: str) -> bool:
    """Whether the teacher goes on with this utterance."""
    return int.from_bytes(_hash(config, utterance_id)[:8], "big") < config.share * 2.0**64


def _hash(config: SequenceLevelConfig, utterance_id: str) -> bytes:
    return hashlib.sha256(f"sequence_level/{config.seed}/{utterance_id}".encode()).digest()


def _continued(
    step: TaughtStep, output: Output, prompts: "Sequence[Ids]", names: Sequence[str]
) -> "list[np.ndarray[Any, np.dtype[np.int64]]]":
    """The teacher's continuations with their </s> where they ended; prompts that have the same length go side by side."""
    from tinywave_core.devices import frozen_dtype, pick_device
    from tinywave_core.evals.continuations import continuations
    from tinywave_core.models.llama import load_llama, on_device
    from tinywave_core.threads import use_one_thread
    from tinywave_core.tokenizers.directory import read_directory

    if not prompts:
        return []
    use_one_thread()  # shards are worked on side by side, a thread each
    config, folder = step.config, step.input("teacher").path("teacher")
    vocabulary = Vocabulary.from_json(step.input("tokens").summary["vocabulary"])
    read_directory(folder).require_same(vocabulary, "the teacher", "the token shards")
    device = pick_device(output.runtime)
    model = on_device(load_llama(folder, dtype=frozen_dtype(device)), device).eval().requires_grad_(False)
    new = continuations(
        model,
        prompts,
        vocabulary,
        [int.from_bytes(_hash(config, name)[8:14], "big") for name in names],
        max_new_tokens=config.new_tokens,
        temperature=config.temperature,
        top_k=config.top_k,
        progress=output.progress,
    )
    # One that is shorter than it may be has ended: its last token is taken off by `continuations`.
    return [np.append(own, EOS_ID) if len(own) < config.new_tokens else own for own in new]
