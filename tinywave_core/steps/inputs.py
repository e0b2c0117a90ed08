"""Inputs that several stages take: shards by split, their recordings and hours, and the key of a corpus."""

from collections.abc import Sequence
from dataclasses import replace

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.store import Artifact

CORPUS_VERSION = 1
"""Version of ingestion. Catalogs bear it in their name, which other stages ask for."""


def training_shards(tokens: Artifact) -> list[Artifact]:
    """Token shards with training speech; teacher targets and students depend on these only."""
    return _shards(tokens, "train_utterances")


def held_out_shards(tokens: Artifact) -> list[Artifact]:
    """Token shards with held-out speech; evaluation depends on these only."""
    return _shards(tokens, "held_out_utterances")


def _shards(tokens: Artifact, split: str) -> list[Artifact]:
    listed = {s["id"]: s.get("part", "shard") for s in tokens.summary["shards"] if s[split]}
    artifacts = tokens.store.find_all(list(listed))
    return [a if a.complete else replace(a, part=listed[a.id]) for a in artifacts]


def training_hours(tokens: Artifact) -> float:
    """Hours of training speech behind a `tokens` artifact."""
    return float(sum(shard["train_seconds"] for shard in tokens.summary["shards"])) / 3600


def audio_of(shards: Sequence[Artifact]) -> list[Artifact]:
    """The audio shards behind token shards, interleaved or not; text has none."""
    audio: dict[str, Artifact] = {}
    for shard in shards:
        inputs = shard.manifest.inputs  # type: ignore[union-attr]
        for i in inputs.get("tokens", []):
            inputs = shard.store.find(i, "shard").manifest.inputs  # type: ignore[union-attr]
        audio |= {i: shard.store.find(i, "shard") for i in inputs.get("audio", [])}
    return list(audio.values())


def corpus_key(config: PipelineConfig) -> str:
    """Name of a corpus's catalog: the corpus and a hash of the settings that shape its shards."""
    return f"{config.ingestion.corpus}-{fingerprint([CORPUS_VERSION, config.ingestion])[:12]}"
