"""Logit caching: the adapted teacher's predictions on every training sequence, once, as sparse targets in Parquet.

One shard of logits per shard of tokens, joined by sequence id: new audio adds shards and touches none. A token shard
without training sequences needs no logits. Files: logits.parquet ("tw-logits/1", see teacher/logit_cache.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinywave_core.config.logit_caching import LogitCachingConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.steps.base import Execute, Output, Step, SummaryDict
from tinywave_core.steps.inputs import training_shards
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

    from tinywave_core.sequences.dataset import TokenSequence
    from tinywave_core.teacher.logit_cache import Captured

VERSION = 2
FORMAT = "tw-logits/1"
SWITCH = "switch"  # tokens at a change of modality, counted under their own kind as well
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


def run_shard(step: Step, output: Output) -> SummaryDict:
    """Capture the targets of one token shard."""

    from tinywave_core.devices import frozen_dtype, pick_device
    from tinywave_core.models.llama import load_llama, on_device
    from tinywave_core.sequences.dataset import PackedDataset, load_sequences, pack
    from tinywave_core.teacher.logit_cache import write_shard
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
    dtype = frozen_dtype(device)
    model = on_device(load_llama(teacher.path("teacher"), dtype=dtype), device).eval().requires_grad_(False)
    vocabulary = Vocabulary.from_json(tokens.summary["vocabulary"])
    read_directory(teacher.path("teacher")).require_same(vocabulary, "the teacher", "the token shards")
    if config.entries >= model.config.vocab_size:
        raise ConfigError(
            f"logit_caching.entries is {config.entries}, but the teacher's vocabulary has only {model.config.vocab_size} rows"
        )

    dataset = PackedDataset(sequences, length, _CAPTURE_ROWS, seed=0)
    rows = pack(range(len(sequences)), [len(s.ids) for s in sequences], length)
    captured: dict[str, CapturedSequence] = {}
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

    path = output.folder / "logits.parquet"
    about = _about(step, teacher, vocabulary) | {"dtype": str(dtype).removeprefix("torch.")}
    write_shard((captured[s.id].captured for s in sequences), about, path)
    n_tokens = sum(len(s.ids) for s in sequences)
    return {
        "sequences": len(sequences),
        "tokens": n_tokens,
        "bytes": path.stat().st_size,
        "bytes_per_token": path.stat().st_size / max(n_tokens, 1),
        "kinds": by_kind([captured[s.id] for s in sequences], [s.ids for s in sequences], vocabulary),
    }


def _about(step: Step, teacher: Artifact, vocabulary: Vocabulary) -> dict[str, Any]:
    """What a shard says of itself."""
    config = step.config
    assert isinstance(config, LogitCachingConfig)
    assert teacher.manifest is not None
    weights = {f.name: f.sha256 for f in teacher.manifest.files if f.name.endswith(".safetensors")}
    return {
        "format": FORMAT,
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


@dataclass(frozen=True)
class CapturedSequence:
    """Targets of one sequence of L tokens, and what only the summary needs."""

    captured: "Captured"
    beyond_L: npt.NDArray[np.float64]
    """Mass beyond the K likeliest tokens."""


def _capture(
    model: "LlamaForCausalLM",
    hidden_LD: "torch.Tensor",
    sequence: "TokenSequence",
    config: LogitCachingConfig,
    vocabulary: Vocabulary,
) -> CapturedSequence:
    """Targets and diagnostics of one sequence; probabilities in float64, padding rows of the head left out."""
    import torch

    from tinywave_core.devices import double
    from tinywave_core.teacher.logit_cache import Captured, sample_offsets, sparse_targets

    ids = sequence.ids
    logits = double(model.lm_head(hidden_LD)[:, : vocabulary.tokens])
    log_p = torch.log_softmax(logits / config.temperature, dim=-1)
    p = log_p.exp()
    offsets = torch.from_numpy(sample_offsets(config.seed, sequence.id, len(ids))).to(p.device)
    chosen, weights = sparse_targets(p, config.entries, offsets)
    following = torch.from_numpy(ids[1:].astype(np.int64)).to(p.device)
    plain = log_p if config.temperature == 1 else torch.log_softmax(logits, dim=-1)
    target = torch.zeros(len(ids), dtype=torch.float64)
    target[:-1] = plain[:-1].gather(-1, following[:, None])[:, 0].cpu()
    top = p.topk(config.entries, dim=-1).values.sum(-1)
    captured = Captured(
        seq_id=sequence.id,
        input_ids=ids,
        ids_LK=chosen.cpu().numpy(),
        weights_LK=weights.cpu().numpy(),
        target_logp=target.numpy(),
        entropy=-(p * log_p).sum(-1).cpu().numpy(),
    )
    return CapturedSequence(captured, (1 - top).cpu().numpy())


def by_kind(
    captured: "Sequence[CapturedSequence]", ids: "Sequence[npt.NDArray[np.uint16]]", vocabulary: Vocabulary
) -> dict[str, dict[str, float]]:
    """Per kind of the token that is to be predicted: count, teacher NLL, entropy, mass beyond the K likeliest."""
    from tinywave_core.sequences.interleaving import switches

    if not captured:
        return {}
    # The last position of a sequence has no next token; the first token is predicted by none.
    target_logp = np.concatenate([c.captured.target_logp[:-1] for c in captured])
    entropy = np.concatenate([c.captured.entropy[:-1] for c in captured])
    beyond = np.concatenate([c.beyond_L[:-1] for c in captured])
    kinds = vocabulary.kinds(np.concatenate([each[1:] for each in ids]))
    own: dict[str, npt.NDArray[np.bool_]] = {kind: kinds == index for index, kind in enumerate(KINDS)}
    own[SWITCH] = np.concatenate([switches(each, vocabulary)[1:] for each in ids])
    return {
        kind: {
            "tokens": int(which.sum()),
            "teacher_nll": -float(target_logp[which].mean()),
            "entropy": float(entropy[which].mean()),
            "mass_beyond_k": float(beyond[which].mean()),
        }
        for kind, which in own.items()
        if which.any()
    }


def run_logits(step: Step, _: Output) -> SummaryDict:
    """Totals over all shards."""
    summaries = [shard.summary for shard in step.inputs["shards"]]
    tokens = sum(s["tokens"] for s in summaries)
    kinds: dict[str, dict[str, float]] = {}
    for kind in (*KINDS, SWITCH):
        parts = [s["kinds"][kind] for s in summaries if kind in s["kinds"]]
        count = sum(p["tokens"] for p in parts)
        if count:
            means = ("teacher_nll", "entropy", "mass_beyond_k")
            kinds[kind] = {"tokens": count} | {m: sum(p[m] * p["tokens"] for p in parts) / count for m in means}
    return {
        "shards": [shard.id for shard in step.inputs["shards"]],
        "sequences": sum(s["sequences"] for s in summaries),
        "tokens": tokens,
        "bytes": sum(s["bytes"] for s in summaries),
        "bytes_per_token": sum(s["bytes"] for s in summaries) / max(tokens, 1),
        "kinds": kinds,
    }
