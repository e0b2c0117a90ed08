"""Logit caching: the adapted teacher's predictions on every training sequence, once, as sparse targets in Parquet.

One shard of logits per shard of tokens, joined by sequence id: new audio adds shards and touches none. A token shard
without training sequences needs no logits. Files: logits.parquet ("tw-logits/2", see teacher/logit_cache.py).
"""

from importlib.metadata import version
from typing import Any

from tinywave_core.config.logit_caching import LogitCachingConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.stages.logit_caching import taught
from tinywave_core.stages.logit_caching.summary import LogitShardSummary, LogitsSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.store import Artifact
from tinywave_core.teacher.figures import figures_by_kind, pooled
from tinywave_core.tokenizers.vocabulary import Vocabulary

VERSION = 3
# Rows that go through the teacher at once: part of the method, not of the runtime, because the last bits of a
# probability can depend on the shape of the batch and would move a sampled entry.
_CAPTURE_ROWS = 8


def build(config: PipelineConfig, tokens: Artifact, teacher: Artifact, execute: Execute) -> Artifact:
    """The `logits` artifact over one logit shard per token shard that has training sequences."""
    length = config.distillation.training.sequence_length
    shards = execute(
        [
            Step(
                store=tokens.store,
                stage="logit_caching",
                part="shard",
                version=VERSION,
                run=run_shard,
                config=config.logit_caching,
                params={"sequence_length": length},
                inputs={"tokens": [shard], "teacher": [teacher]},
                runtime=config.runtime,
            )
            for shard in taught.build(config, tokens, teacher, execute)
        ]
    )
    (logits,) = execute(
        [
            Step(
                store=tokens.store,
                stage="logit_caching",
                part="logits",
                version=VERSION,
                run=run_logits,
                config=config.logit_caching,
                inputs={"shards": shards},
                runtime=config.runtime,
            )
        ]
    )
    return logits


def run_shard(step: Step[LogitCachingConfig, LogitShardSummary], output: Output) -> LogitShardSummary:
    """Capture the targets of one token shard."""
    from tinywave_core.devices import frozen_dtype, pick_device
    from tinywave_core.models.attention import BLOCK_SPARSE, is_block_sparse
    from tinywave_core.models.forward import forward
    from tinywave_core.models.llama import load_llama, on_device
    from tinywave_core.sequences.dataset import PackedDataset
    from tinywave_core.sequences.index import load_sequences
    from tinywave_core.sequences.packing import pack
    from tinywave_core.teacher.capture import CapturedSequence, capture_batch
    from tinywave_core.teacher.logit_cache import FORMAT, write_shard
    from tinywave_core.threads import use_one_thread
    from tinywave_core.tokenizers.directory import read_directory

    config, tokens, teacher = step.config, step.input("tokens"), step.input("teacher")
    length = step.params["sequence_length"]
    # Two drawings of an utterance can be the same sequence.
    sequences = list({s.id: s for s in load_sequences([tokens], "train", length)}.values())
    use_one_thread()  # shards are worked on side by side, a thread each
    device = pick_device(output.runtime)
    dtype = frozen_dtype(device)
    model = on_device(load_llama(teacher.path("teacher"), dtype=dtype), device).eval().requires_grad_(False)
    if is_block_sparse(output.runtime, model, device):
        model.set_attn_implementation(BLOCK_SPARSE)
    vocabulary = Vocabulary.from_json(tokens.summary["vocabulary"])
    read_directory(teacher.path("teacher")).require_same(vocabulary, "the teacher", "the token shards")
    if config.entries >= model.config.vocab_size:
        raise ConfigError(
            f"logit_caching.entries is {config.entries}, but the teacher's vocabulary has only {model.config.vocab_size} rows"
        )

    dataset = PackedDataset(sequences, length, _CAPTURE_ROWS, seed=0)
    rows = pack(range(len(sequences)), [len(s.ids) for s in sequences], length).lists()
    n_tokens = sum(len(s.ids) for s in sequences)
    captured: dict[str, CapturedSequence] = {}
    done = 0
    for start in range(0, len(rows), _CAPTURE_ROWS):
        batch = dataset.collate(rows[start : start + _CAPTURE_ROWS])
        for one in capture_batch(model, forward(model, batch).last_BTD, batch, sequences, config, vocabulary):
            captured[one.captured.seq_id] = one
            done += len(one.captured.input_ids)
        output.progress(done, n_tokens, "tokens")

    path = output.folder / "logits.parquet"
    about = _about(step, teacher, vocabulary) | {"format": FORMAT, "dtype": str(dtype).removeprefix("torch.")}
    write_shard((captured[s.id].captured for s in sequences), about, path)
    return LogitShardSummary(
        sequences=len(sequences),
        tokens=n_tokens,
        bytes=path.stat().st_size,
        bytes_per_token=path.stat().st_size / max(n_tokens, 1),
        kinds=figures_by_kind([captured[s.id] for s in sequences], [s.ids for s in sequences], vocabulary),
    )


def _about(
    step: Step[LogitCachingConfig, LogitShardSummary], teacher: Artifact, vocabulary: Vocabulary
) -> dict[str, Any]:
    """What a shard says of itself."""
    config = step.config
    assert teacher.manifest is not None
    weights = {f.name: f.sha256 for f in teacher.manifest.files if f.name.endswith(".safetensors")}
    return {
        "entries": config.entries,
        "temperature": config.temperature,
        "seed": config.seed,
        "vocabulary": vocabulary.to_json(),
        "vocabulary_tokens": vocabulary.tokens,
        "teacher": teacher.id,
        "teacher_weights": fingerprint(weights),
        "tokens": step.input("tokens").id,
        "sequence_length": step.params["sequence_length"],
        "code_version": version("tinywave"),
    }


def run_logits(step: Step[LogitCachingConfig, LogitsSummary], _: Output) -> LogitsSummary:
    """Totals over all shards."""
    parts = [LogitShardSummary.of(shard) for shard in step.inputs["shards"]]
    tokens, written = sum(part.tokens for part in parts), sum(part.bytes for part in parts)
    return LogitsSummary(
        shards=[shard.id for shard in step.inputs["shards"]],
        sequences=sum(part.sequences for part in parts),
        tokens=tokens,
        bytes=written,
        bytes_per_token=written / max(tokens, 1),
        kinds=pooled([part.kinds for part in parts]),
    )
