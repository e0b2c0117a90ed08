"""Whether a corpus has held-out utterances that are long enough to be continued: known after ingestion, needed by the last stage.

In: the settings and a corpus. Out: what is wrong, in words; empty where nothing is.
"""

import pyarrow.compute as pc

from tinywave_core.audio.utterances import UTTERANCES_FILE
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import TinyWaveError
from tinywave_core.stages.ingestion.summary import CorpusSummary
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Artifact

BEYOND_S = 1.0
"""What was really said has to go on for so long after the prompt, or there is nothing to compare a continuation with."""


def shortest_samples(prompt_s: float) -> float:
    """An utterance must have more samples than these."""
    return (prompt_s + BEYOND_S) * SAMPLE_RATE


def too_short(prompt_s: float, longest_samples: int) -> str:
    """The error where no held-out utterance is long enough."""
    longest, least = longest_samples / SAMPLE_RATE, BEYOND_S + 0.2
    shorter = (
        f"pass --generation.prompt_s with less than {longest - BEYOND_S:.1f}"
        if longest > least
        else f"add held-out speech of more than {least:g} s in one piece"
    )
    return (
        f"generation.prompt_s is {prompt_s:g}, but no held-out utterance is a second longer than that (the longest has "
        f"{longest:.1f} s): {shorter}"
    )


def why_no_prompt(config: PipelineConfig, corpus: Artifact) -> str:
    """Why generation cannot have a prompt of this corpus; empty if it can, and where nothing is held out, which others say."""
    longest = 0
    for shard in corpus.store.find_all(CorpusSummary.of(corpus).shards):
        table = read_table(shard.path(UTTERANCES_FILE), ["split", "num_samples"])
        longest = max(longest, pc.max(table.filter(pc.equal(table["split"], "held_out"))["num_samples"]).as_py() or 0)
        if longest > shortest_samples(config.generation.prompt_s):
            return ""
    return too_short(config.generation.prompt_s, longest) if longest else ""


def require_prompt(config: PipelineConfig, corpus: Artifact) -> None:
    """TinyWaveError before hours are spent on models whose generation must fail."""
    if fault := why_no_prompt(config, corpus):
        raise TinyWaveError(fault)
