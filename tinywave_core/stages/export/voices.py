"""Whose recordings become voices: decided from seconds of training speech by speaker, and asked before anything long begins."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from tinywave_core.audio.utterances import UTTERANCES_FILE
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.vocoder import VocoderConfig
from tinywave_core.errors import ConfigError, MissingInputError
from tinywave_core.escaping import visible
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import rows_of, where
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.opening import choose_tokenizer

LEAST_S = 20.0  # of training speech in a voice: less has too few units to choose from
MOST_VOICES = 4  # that are made without being named
MIXTURE = "mixture"
"""Name of the voice that is made of all speakers."""


@dataclass(frozen=True)
class ChosenVoice:
    """A voice before it is made."""

    name: str
    speaker: str | None
    """None: recordings of everybody, those without a speaker too."""
    seconds: float
    """Of training speech that there is for it."""


def choose_voices(config: VocoderConfig, seconds: Mapping[str | None, float]) -> list[ChosenVoice]:
    """The voices that settings ask for; `seconds` is by speaker, None where the recordings name none.

    ConfigError for a speaker who is not there or has said too little, MissingInputError where there is too little speech at all.
    """
    total = sum(seconds.values())
    if total <= 0:
        raise MissingInputError(
            "there is no training speech to make a voice of: add recordings, or lower --ingestion.held_out_fraction"
        )
    spoken = {name: s for name, s in seconds.items() if name}
    ranked = sorted(spoken, key=lambda name: (-spoken[name], name))
    for name in config.speakers:
        _require(name, spoken, ranked)
    least = max(60 * config.speaker_minutes, LEAST_S)
    names = list(dict.fromkeys(config.speakers)) or [n for n in ranked if spoken[n] >= least][:MOST_VOICES]
    if names:
        return [ChosenVoice(name, name, spoken[name]) for name in names]
    return [ChosenVoice(MIXTURE, None, total)]


def _require(name: str, spoken: Mapping[str, float], ranked: list[str]) -> None:
    if name not in spoken:
        there = ", ".join(visible(each) for each in ranked[:5]) or "no speaker by name"
        raise ConfigError(
            f"--generation.vocoder.speakers has {visible(name)!r}, who has no training speech here; the most have {there}"
        )
    if spoken[name] < LEAST_S:
        raise ConfigError(
            f"--generation.vocoder.speakers has {visible(name)!r} with {spoken[name]:.1f} s of training speech; a voice needs "
            f"{LEAST_S:g} s: add recordings, or name another speaker"
        )


def sentence(kind: str, voices: list[ChosenVoice]) -> str:
    """What a person is told before hours are spent; `kind` is that of generation.vocoder."""
    if voices[0].speaker is None:
        return (
            f"no speaker has enough speech for a voice: it will be a mixture of all, {voices[0].seconds / 60:.1f} min "
            "(--generation.vocoder.speaker_minutes)"
        )
    told = ", ".join(f"{visible(voice.name)} ({voice.seconds / 60:.1f} min)" for voice in voices)
    return f"{'speaks with' if kind == 'voice' else 'a network is trained on'} recordings of {told}"


def voices_of(config: PipelineConfig, corpus: Artifact) -> list[ChosenVoice]:
    """The voices that will be made; none where the tokens have a vocoder of their own. Raises as `choose_voices` does."""
    if choose_tokenizer(config).vocoder() is not None:
        return []
    seconds: Counter[str | None] = Counter()
    columns = ["utterance_id", "speaker", "num_samples", "split"]
    for shard in corpus.store.find_all(corpus.summary["shards"], "shard"):
        # What an earlier shard has is listed; what the shard itself has twice is not.
        counted = set(corpus.summary["duplicates"].get(shard.id, ()))
        for row in rows_of(shard.path(UTTERANCES_FILE), columns, where("split", "train")):
            if row["utterance_id"] not in counted:
                counted.add(row["utterance_id"])
                seconds[row["speaker"] or None] += row["num_samples"] / SAMPLE_RATE
    return choose_voices(config.generation.vocoder, seconds)
