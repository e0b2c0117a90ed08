"""Logit caching: the adapted teacher's predictions on every training sequence, once, as sparse targets in Parquet.

One shard of logits per shard of tokens, joined by sequence id: new audio adds shards and touches none. A token shard
without training sequences needs no logits. Files: logits.parquet ("tw-logits/1", see teacher/logit_cache.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tinywave_core.config.logit_caching import LogitCachingConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.stages.base import Execute, Output, Step, Summary
from tinywave_core.storage.fingerprint import canonical_json
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

    from tinywave_core.sequences.dataset import TokenSequence

VERSION = 1
FORMAT = "tw-logits/1"
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
            for shard in training_shards(tokens)
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


def training_shards(tokens: Artifact) -> list[Artifact]:
    """Token shards that hold training speech: what teacher targets and students depend on."""
    return [tokens.store.find(s["id"], _part(s)) for s in tokens.summary["shards"] if s["train_utterances"]]


def held_out_shards(tokens: Artifact) -> list[Artifact]:
    """Token shards that hold held-out speech: what evaluation depends on."""
    return [tokens.store.find(s["id"], _part(s)) for s in tokens.summary["shards"] if s["held_out_utterances"]]


def _part(shard: dict[str, Any]) -> str:
    return str(shard.get("part", "shard"))


def run_shard(step: Step, output: Output) -> Summary:
    """Capture the targets of one token shard."""
    import torch

    from tinywave_core.models.llama import load_llama, on_device, pick_device
    from tinywave_core.sequences.dataset import PackedDataset, load_sequences, pack
    from tinywave_core.storage.shards import write_table
    from tinywave_core.teacher.logit_cache import LOGITS, encode
    from tinywave_core.threads import use_one_thread
    from tinywave_core.tokenizers.directory import read_directory
    from tinywave_core.training.objective import forward

    config = step.config
    assert isinstance(config, LogitCachingConfig)
    tokens, teacher = step.input("tokens"), step.input("teacher")
    length = step.params["sequence_length"]
    # Two drawings of an utterance can be the same sequence.
    sequences = list({s.id: s for s in load_sequences([tokens], "train", length)}.values())
    use_one_thread()
    device = pick_device(output.runtime)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = on_device(load_llama(teacher.path("teacher"), dtype=dtype), device).eval().requires_grad_(False)
    vocabulary = Vocabulary.from_json(tokens.summary["vocabulary"])
    read_directory(teacher.path("teacher")).require_same(vocabulary, "the teacher", "the token shards")
    if config.entries >= model.config.vocab_size:
        raise ConfigError(
            f"logit_caching.entries is {config.entries}, but the teacher's vocabulary has only {model.config.vocab_size} rows"
        )

    dataset = PackedDataset(sequences, length, _CAPTURE_ROWS, seed=0)
    rows = pack(range(len(sequences)), [len(s.ids) for s in sequences], length)
    captured: dict[str, _Captured] = {}
    done = 0
    for start in range(0, len(rows), _CAPTURE_ROWS):
        batch = dataset.collate(rows[start : start + _CAPTURE_ROWS])
        hidden = forward(model, batch).last_BTD
        for r, row in enumerate(batch.rows):
            at = 0
            for index in row:
                sequence = sequences[index]
                h = hidden[r, at : at + len(sequence.ids)]
                captured[sequence.id] = _capture(model, h, sequence, config, vocabulary)
                at += len(sequence.ids)
                done += len(sequence.ids)
        output.progress(done, sum(len(s.ids) for s in sequences), "tokens")

    records = [
        {
            "seq_id": s.id,
            "n_tokens": len(s.ids),
            "input_ids": s.ids.astype("<u2").tobytes(),
            **encode(captured[s.id].ids_LK, captured[s.id].weights_LK),
            "target_logp": captured[s.id].target_logp_L.astype("<f2").tobytes(),
            "entropy": captured[s.id].entropy_L.astype("<f2").tobytes(),
        }
        for s in sequences
    ]
    about = {
        "format": FORMAT,
        "entries": config.entries,
        "temperature": config.temperature,
        "seed": config.seed,
        "vocabulary": vocabulary.to_json(),
        "teacher": teacher.id,
        "tokens": tokens.id,
        "sequence_length": length,
        "capture_dtype": str(dtype).removeprefix("torch."),
    }
    schema = LOGITS.with_metadata({"tinywave": canonical_json(about)})
    path = output.folder / "logits.parquet"
    write_table(pa.Table.from_pylist(records, schema=schema), path, compression="none", row_group_rows=64)
    n_tokens = sum(len(s.ids) for s in sequences)
    return {
        "sequences": len(sequences),
        "tokens": n_tokens,
        "bytes_per_token": path.stat().st_size / max(n_tokens, 1),
        "kinds": _by_kind(list(captured.values()), sequences, vocabulary),
    }


@dataclass(frozen=True)
class _Captured:
    """Targets and diagnostics of one sequence of L tokens, K entries each."""

    ids_LK: "torch.Tensor"
    weights_LK: "torch.Tensor"
    target_logp_L: npt.NDArray[np.float64]
    """Teacher's log-probability of the true next token; the last is 0."""
    entropy_L: npt.NDArray[np.float64]
    beyond_L: npt.NDArray[np.float64]
    """Mass beyond the K likeliest tokens."""


def _capture(
    model: "LlamaForCausalLM",
    hidden_LD: "torch.Tensor",
    sequence: "TokenSequence",
    config: LogitCachingConfig,
    vocabulary: Vocabulary,
) -> _Captured:
    """Targets and diagnostics of one sequence; probabilities in float64, padding rows of the head left out."""
    import torch

    from tinywave_core.teacher.logit_cache import sample_offsets, sparse_targets

    ids = sequence.ids
    logits = model.lm_head(hidden_LD)[:, : vocabulary.tokens].double()
    log_p = torch.log_softmax(logits / config.temperature, dim=-1)
    p = log_p.exp()
    offsets = torch.from_numpy(sample_offsets(config.seed, sequence.id, len(ids))).to(p.device)
    chosen, weights = sparse_targets(p, config.entries, offsets)
    following = torch.from_numpy(ids[1:].astype(np.int64)).to(p.device)
    plain = log_p if config.temperature == 1 else torch.log_softmax(logits, dim=-1)
    target = torch.zeros(len(ids), dtype=torch.float64)
    target[:-1] = plain[:-1].gather(-1, following[:, None])[:, 0].cpu()
    top = p.topk(config.entries, dim=-1).values.sum(-1)
    return _Captured(
        ids_LK=chosen,
        weights_LK=weights,
        target_logp_L=target.numpy(),
        entropy_L=-(p * log_p).sum(-1).cpu().numpy(),
        beyond_L=(1 - top).cpu().numpy(),
    )


def _by_kind(
    captured: Sequence[_Captured], sequences: "Sequence[TokenSequence]", vocabulary: Vocabulary
) -> dict[str, dict[str, float]]:
    """Per kind of the token that is to be predicted: count, teacher NLL, entropy, mass beyond the K likeliest."""
    target_logp = _targets_only([c.target_logp_L for c in captured])
    entropy = _targets_only([c.entropy_L for c in captured])
    beyond = _targets_only([c.beyond_L for c in captured])
    kinds = vocabulary.kinds(np.concatenate([s.ids[1:] for s in sequences] or [np.zeros(0, np.uint16)]))
    out: dict[str, dict[str, float]] = {}
    for index, kind in enumerate(KINDS):
        own = kinds == index
        if own.any():
            out[kind] = {
                "tokens": int(own.sum()),
                "teacher_nll": -float(target_logp[own].mean()),
                "entropy": float(entropy[own].mean()),
                "mass_beyond_k": float(beyond[own].mean()),
            }
    return out


def _targets_only(columns: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """All values of a column but the last of every sequence, which has no next token."""
    return np.concatenate([column[:-1] for column in columns] or [np.zeros(0)])


def run_logits(step: Step, _: Output) -> Summary:
    """Totals over all shards."""
    summaries = [shard.summary for shard in step.inputs["shards"]]
    tokens = sum(s["tokens"] for s in summaries)
    kinds: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        parts = [s["kinds"][kind] for s in summaries if kind in s["kinds"]]
        count = sum(p["tokens"] for p in parts)
        if count:
            means = ("teacher_nll", "entropy", "mass_beyond_k")
            kinds[kind] = {"tokens": count} | {m: sum(p[m] * p["tokens"] for p in parts) / count for m in means}
    return {
        "shards": [shard.id for shard in step.inputs["shards"]],
        "sequences": sum(s["sequences"] for s in summaries),
        "tokens": tokens,
        "bytes_per_token": sum(s["bytes_per_token"] * s["tokens"] for s in summaries) / max(tokens, 1),
        "kinds": kinds,
    }
