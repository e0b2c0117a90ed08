"""Whose voices a corpus is enough for: asked before anything long begins, from what its audio shards list."""

from collections import Counter

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact
from tinywave_core.synthesis.choosing import ChosenVoice, choose_voices
from tinywave_core.tokenizers.opening import choose_tokenizer


def voices_of(config: PipelineConfig, corpus: Artifact) -> list[ChosenVoice]:
    """The voices that will be made; none where the tokens have a vocoder of their own. Raises as `choose_voices` does."""
    if choose_tokenizer(config).vocoder() is not None:
        return []
    seconds: Counter[str | None] = Counter()
    dropped = {i for ids in corpus.summary["duplicates"].values() for i in ids}
    seen: set[str] = set()
    for shard in corpus.store.find_all(corpus.summary["shards"], "shard"):
        table = read_table(shard.path("utterances.parquet"), ["utterance_id", "speaker", "num_samples", "split"])
        for row in table.to_pylist():
            if row["split"] == "train" and row["utterance_id"] not in seen | dropped:
                seen.add(row["utterance_id"])
                seconds[row["speaker"] or None] += row["num_samples"] / SAMPLE_RATE
    return choose_voices(config.generation.vocoder, seconds)


def check_voices(config: PipelineConfig, corpus: Artifact) -> None:
    """Raise the error with which a voice would end in hours. Who only plans has no corpus yet, and is told nothing."""
    if corpus.complete:
        voices_of(config, corpus)
