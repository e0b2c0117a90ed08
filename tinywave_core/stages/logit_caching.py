"""Logit caching: the adapted teacher's predictions on every training sequence, once, as sparse targets in Parquet.

One shard of logits per shard of tokens, joined by sequence id: new audio adds shards and touches none. A token shard
without training sequences needs no logits. Files: logits.parquet ("tw-logits/1", see teacher/logit_cache.py).
"""


import numpy as np
import pyarrow as pa

from tinywave_core.config.logit_caching import LogitCachingConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.stages.base import Execute, Output, Step, Summary
from tinywave_core.storage.fingerprint import canonical_json
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary

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
    return [tokens.store.find(s["id"], "shard") for s in tokens.summary["shards"] if s["train_utterances"]]


def held_out_shards(tokens: Artifact) -> list[Artifact]:
    """Token shards that hold held-out speech: what evaluation depends on."""
    return [tokens.store.find(s["id"], "shard") for s in tokens.summary["shards"] if s["held_out_utterances"]]


def run_shard(step: Step, output: Output) -> Summary:
    """Capture the targets of one token shard."""
    import torch

    from tinywave_core.models.llama import load_llama, pick_device
    from tinywave_core.sequences.dataset import PackedDataset, load_sequences, pack
    from tinywave_core.storage.shards import write_table
    from tinywave_core.teacher.logit_cache import LOGITS, encode
    from tinywave_core.threads import use_one_thread
    from tinywave_core.training.objective import forward

    config = step.config
    assert isinstance(config, LogitCachingConfig)
    tokens, teacher = step.input("tokens"), step.input("teacher")
    length = step.params["sequence_length"]
    sequences = load_sequences([tokens], "train", length)
    use_one_thread()
    device = pick_device(output.runtime)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = load_llama(teacher.path("teacher"), dtype=dtype).to(device).eval().requires_grad_(False)
    vocabulary = Vocabulary.from_json(tokens.summary["vocabulary"])
    if config.entries >= model.config.vocab_size:
        raise ConfigError(
            f"logit_caching.entries is {config.entries}, but the teacher's vocabulary has only {model.config.vocab_size} rows"
        )

    dataset = PackedDataset(sequences, length, _CAPTURE_ROWS, seed=0)
    rows = pack(range(len(sequences)), [len(s.ids) for s in sequences], length)
    captured: dict[str, dict] = {}
    done = 0
    for start in range(0, len(rows), _CAPTURE_ROWS):
        batch = dataset.collate(rows[start : start + _CAPTURE_ROWS])
        hidden = forward(model, batch).last_BTD
        for r, row in enumerate(batch.rows):
            at = 0
            for index in row:
                sequence = sequences[index]
                h = hidden[r, at : at + len(sequence.ids)]
                captured[sequence.id] = _capture(model, h, sequence.id, sequence.ids, config, vocabulary)
                at += len(sequence.ids)
                done += len(sequence.ids)
        output.progress(done, sum(len(s.ids) for s in sequences), "tokens")

    records = [
        {
            "seq_id": s.id,
            "n_tokens": len(s.ids),
            "input_ids": s.ids.astype("<u2").tobytes(),
            **encode(captured[s.id]["ids"], captured[s.id]["weights"]),
            "target_logp": captured[s.id]["target_logp"].astype("<f2").tobytes(),
            "entropy": captured[s.id]["entropy"].astype("<f2").tobytes(),
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


def _capture(model, hidden_LD, seq_id, ids, config, vocabulary) -> dict:  # noqa: ANN001
    """Targets and diagnostics of one sequence; probabilities in float64, padding rows of the head left out."""
    import torch

    from tinywave_core.teacher.logit_cache import sample_offsets, sparse_targets

    logits = model.lm_head(hidden_LD)[:, : vocabulary.tokens].double()
    log_p = torch.log_softmax(logits / config.temperature, dim=-1)
    p = log_p.exp()
    offsets = torch.from_numpy(sample_offsets(config.seed, seq_id, len(ids))).to(p.device)
    chosen, weights = sparse_targets(p, config.entries, offsets)
    following = torch.from_numpy(ids[1:].astype(np.int64)).to(p.device)
    plain = log_p if config.temperature == 1 else torch.log_softmax(logits, dim=-1)
    target = torch.zeros(len(ids), dtype=torch.float64)
    target[:-1] = plain[:-1].gather(-1, following[:, None])[:, 0].cpu()
    top = p.topk(config.entries, dim=-1).values.sum(-1)
    return {
        "ids": chosen,
        "weights": weights,
        "target_logp": target.numpy(),
        "entropy": -(p * log_p).sum(-1).cpu().numpy(),
        "beyond": (1 - top).cpu().numpy(),
    }


def _by_kind(captured: list[dict], sequences: list, vocabulary: Vocabulary) -> dict[str, dict[str, float]]:
    """Per kind of the token that is to be predicted: count, teacher NLL, entropy, mass beyond the K likeliest."""
    columns = {
        name: np.concatenate([c[name][:-1] for c in captured] or [np.zeros(0)])
        for name in ("target_logp", "entropy", "beyond")
    }
    kinds = vocabulary.kinds(np.concatenate([s.ids[1:] for s in sequences] or [np.zeros(0, np.uint16)]))
    out = {}
    for index, kind in enumerate(KINDS):
        own = kinds == index
        if own.any():
            out[kind] = {
                "tokens": int(own.sum()),
                "teacher_nll": -float(columns["target_logp"][own].mean()),
                "entropy": float(columns["entropy"][own].mean()),
                "mass_beyond_k": float(columns["beyond"][own].mean()),
            }
    return out


def run_logits(step: Step, output: Output) -> Summary:
    """Totals over all shards."""
    summaries = [shard.summary for shard in step.inputs["shards"]]
    tokens = sum(s["tokens"] for s in summaries)
    kinds = {}
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
