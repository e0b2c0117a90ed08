"""The voice: stretches of training recordings with their units, out of which the export speaks.

It is fitted once, as codebooks are, and pinned: new audio leaves it as it is until a re-fit is asked for or other units come.
Held-out recordings are never in it. A tokenizer that brings its own vocoder (SpiritLM's release) has none.

Files: voice.flac, voice.safetensors and voice.json, which the export copies. The summary names speakers and recordings, and says
how close resynthesised held-out speech is to the recordings, beside a floor and a ceiling.
"""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.vocoder import VocoderConfig
from tinywave_core.stages.export.speech import Rows, draw_clips, draw_minutes, read_recordings, spoken, streams_of
from tinywave_core.stages.export.summary import Resemblance, VocoderQuality, VocoderSummary, VoiceSummary
from tinywave_core.stages.export.voices import ChosenVoice, choose_voices
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import (
    audio_of,
    each_held_out_row,
    each_training_row,
    held_out_shards,
    training_hours,
    training_key,
    training_shards,
)
from tinywave_core.steps.pins import pinned
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import Keep, where
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.opening import choose_tokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tinywave_core.synthesis.speaking import Speaker
    from tinywave_core.synthesis.voice import Voice

VERSION = 3
COLUMNS = ("utterance_id", "recording_id", "speaker", "num_samples", "units", "pitch", "style")
SOUND_MINUTES = 30.0  # of anybody's training speech, by which units are known that the voice never says

Samples = npt.NDArray[np.float32]
VocoderStep = Step[VocoderConfig, VocoderSummary]


def build(config: PipelineConfig, tokens: Artifact, execute: Execute) -> dict[str, Artifact]:
    """The artifact `vocoder`; none where the tokens have a vocoder of their own."""
    if choose_tokenizer(config).vocoder() is not None:
        return {}
    shards = {shard.id: shard for shard in training_shards(tokens) + held_out_shards(tokens) if shard.part != "text"}
    spoken = [shards[i] for i in sorted(shards)]
    tokenizer = TokensSummary.of(tokens).tokenizer_artifact(tokens)
    step = Step(
        store=tokens.store,
        stage="export",
        part="vocoder",
        version=VERSION,
        run=run_vocoder,
        config=config.generation.vocoder,
        params={"tokenizer": tokenizer.id},  # a pin's name has no inputs: other units are another voice
        inputs={"tokens": spoken, "audio": audio_of(spoken), "tokenizer": [tokenizer]},
        runtime=config.runtime,
    )
    policy = config.refresh.vocoder
    hours = training_hours(tokens)
    return {
        "vocoder": pinned(step, policy, config.refresh, lambda: hours, execute, corpus=training_key(config, tokens))
    }


def run_vocoder(step: VocoderStep, output: Output) -> VocoderSummary:
    """Keep recordings (or train on them), save, and resynthesise held-out speech."""
    from tinywave_core.synthesis.speaking import VoiceSpeaker
    from tinywave_core.threads import use_one_thread

    use_one_thread()
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    chosen = choose_voices(step.config, _seconds(step))
    if step.config.kind == "hifigan":
        return _hifigan(step, vocabulary, output)
    taken = {voice.name: _taken(step, voice) for voice in chosen}
    heard = draw_minutes(_training_speech(step), "sounds", step.config.seed, SOUND_MINUTES)
    rows = {i: row for drawn in (heard, *taken.values()) for i, row in drawn.items()}
    voice = _fit(step, rows, {name: sorted(drawn) for name, drawn in taken.items()}, set(heard), vocabulary, output)
    voice.save(output.folder)
    return VocoderSummary(
        voices=[
            VoiceSummary(
                name=part.name,
                speakers=list(part.speakers),
                recordings=sorted({rows[i]["recording_id"] for i in part.recordings}),
                utterances=len(part.recordings),
                seconds=part.selection.recordings.seconds,
                runs=len(part.selection.recordings.units),
            )
            for part in voice.parts
        ],
        quality=_quality(step, VoiceSpeaker(voice, vocabulary), vocabulary, output),
    )


def _training_speech(step: VocoderStep, keep: Keep | None = None) -> Iterator[dict[str, Any]]:
    """Rows of all training speech, or of what `keep` keeps, one after the other."""
    return spoken(each_training_row(step.inputs["tokens"], COLUMNS, keep))


def _seconds(step: VocoderStep) -> Counter[str | None]:
    """Seconds of training speech by speaker, None for recordings that name none."""
    seconds: Counter[str | None] = Counter()
    for shard in step.inputs["tokens"]:
        seen: set[str] = set()  # what an earlier shard has is in none of them; what the shard itself has twice is
        columns = ["utterance_id", "speaker", "num_samples"]
        for row in each_training_row([shard], columns, _has_units, ["units"]):
            if row["num_samples"] and row["utterance_id"] not in seen:
                seen.add(row["utterance_id"])
                seconds[row["speaker"] or None] += row["num_samples"] / SAMPLE_RATE
    return seconds


def _has_units(table: pa.Table) -> pa.ChunkedArray:
    return pc.greater(pc.list_value_length(table["units"]), 0)


def _hifigan(step: VocoderStep, vocabulary: Vocabulary, output: Output) -> VocoderSummary:
    """A unit HiFi-GAN in place of the voice."""
    from tinywave_core.stages.export.hifigan import draw_speech, fit_hifigan
    from tinywave_core.synthesis.speaking import UnitHifiganSpeaker
    from tinywave_core.threads import use_threads

    use_threads(output.runtime)
    rows = draw_speech(step.config, _training_speech(step), vocabulary)
    made, trained, voices = fit_hifigan(step.config, step.inputs["audio"], rows, vocabulary, output)
    quality = _quality(step, UnitHifiganSpeaker(made, vocabulary), vocabulary, output)
    return VocoderSummary(voices=voices, quality=quality, trained=trained)


# What it is made of ---------------------------------------------------------------------------------------------


def _fit(
    step: VocoderStep,
    rows: Rows,
    taken: dict[str, list[str]],
    heard: set[str],
    vocabulary: Vocabulary,
    output: Output,
) -> "Voice":
    """The voices that are made of the utterances `taken` for each, with sounds of what is `heard` beside them."""
    from tinywave_core.synthesis.recordings import Recordings, UnitSounds
    from tinywave_core.synthesis.selection import Selection
    from tinywave_core.synthesis.voice import Part, Voice

    kept = {i for ids in taken.values() for i in ids}
    sounds = UnitSounds(vocabulary.hubert)
    samples: dict[str, Samples] = {}
    for number, (i, own) in enumerate(read_recordings(step.inputs["audio"], heard | kept), start=1):
        sounds.add(own, streams_of(rows[i]).units, vocabulary.rates)
        if i in kept:
            samples[i] = own
        output.progress(number, len(heard | kept), "recordings")
    centres = sounds.centres()
    parts = []
    for name, ids in taken.items():
        speakers = sorted({rows[i]["speaker"] for i in ids} - {None, ""})
        numbers = {name: number for number, name in enumerate(speakers, start=1)}
        utterances = [(samples[i], streams_of(rows[i]), numbers.get(rows[i]["speaker"], 0)) for i in ids]
        recordings = Recordings.of(utterances, vocabulary.rates)
        parts.append(Part(name, tuple(speakers), tuple(ids), Selection(recordings, centres)))
    return Voice(vocabulary, tuple(parts))


def _taken(step: VocoderStep, voice: ChosenVoice) -> Rows:
    """The utterances that a voice is made of."""
    own = _training_speech(step, None if voice.speaker is None else where("speaker", voice.speaker))
    return draw_minutes(own, "voice", step.config.seed, step.config.minutes)


# How close it comes ---------------------------------------------------------------------------------------------


def _quality(step: VocoderStep, speaker: "Speaker", vocabulary: Vocabulary, output: Output) -> VocoderQuality:
    """Figures of held-out utterances, each resynthesised from its tokens; none without held-out speech."""
    from tinywave_core.synthesis.quality import figures
    from tinywave_core.tokenizers.speech import merge

    config = step.config
    rows = draw_clips(
        spoken(each_held_out_row(step.inputs["tokens"], COLUMNS)), "quality", config.seed, config.quality_clips
    )
    chosen = list(rows)
    clips = dict(read_recordings(step.inputs["audio"], set(chosen)))
    chosen = [i for i in chosen if i in clips]
    # The floor is another recording's speech: one alone has none.
    if len(chosen) < 2:
        return VocoderQuality()
    output.progress(len(chosen), len(chosen), "resynthesising held-out speech")
    ids = [merge(streams_of(rows[i]), vocabulary) for i in chosen]
    means = figures([clips[i] for i in chosen], {"voice": lambda number: speaker(ids[number])})
    return VocoderQuality(clips=len(chosen), vocoders={name: Resemblance(**values) for name, values in means.items()})
