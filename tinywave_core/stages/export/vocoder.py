"""The light vocoder as a part of export: trained on the tokens and the audio of the training speech, pinned after its first fit.

Files: light_vocoder.safetensors and light_vocoder.json, which the export copies, and curves.parquet. The summary says how
close resynthesised held-out speech is to the recordings, beside the draft vocoder's, a floor and a ceiling.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.vocoder import VocoderConfig
from tinywave_core.errors import MissingInputError
from tinywave_core.stages.export.summary import Resemblance, VocoderQuality, VocoderSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import (
    audio_of,
    corpus_key,
    held_out_rows,
    held_out_shards,
    training_hours,
    training_rows,
    training_shards,
)
from tinywave_core.steps.pins import pinned
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tinywave_core.synthesis.light import LightVocoder
    from tinywave_core.synthesis.light_model import LightNetwork
    from tinywave_core.synthesis.quality import Synthesize
    from tinywave_core.tokenizers.speech import Streams
    from tinywave_core.training.vocoder import Recording

VERSION = 2
CURVES = "curves.parquet"
COLUMNS = ("utterance_id", "speaker", "num_samples", "units", "pitch", "style")

Samples = npt.NDArray[np.float32]
VocoderStep = Step[VocoderConfig, VocoderSummary]


def build(config: PipelineConfig, tokens: Artifact, execute: Execute) -> dict[str, Artifact]:
    """The artifact `vocoder`; none where the one that comes with the tokens is to speak."""
    if config.generation.vocoder.kind != "light":
        return {}
    shards = {shard.id: shard for shard in training_shards(tokens) + held_out_shards(tokens) if shard.part != "text"}
    spoken = [shards[i] for i in sorted(shards)]
    tokenizer = tokens.store.find(tokens.summary["tokenizer"], tokens.summary["tokenizer_kind"])
    step = Step(
        store=tokens.store,
        stage="export",
        part="vocoder",
        version=VERSION,
        run=run_vocoder,
        config=config.generation.vocoder,
        params={"tokenizer": tokenizer.id},  # a pin's name has no inputs: other units are another vocoder
        inputs={"tokens": spoken, "audio": audio_of(spoken), "tokenizer": [tokenizer]},
        runtime=config.runtime,
    )
    policy = config.refresh.vocoder
    hours = training_hours(tokens)
    return {"vocoder": pinned(step, policy, config.refresh, lambda: hours, execute, corpus=corpus_key(config))}


def run_vocoder(step: VocoderStep, output: Output) -> VocoderSummary:
    """Train, save, and resynthesise held-out speech."""
    from tinywave_core.synthesis.light import LightVocoder
    from tinywave_core.threads import use_threads

    config = step.config
    use_threads(output.runtime)
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    chosen = _chosen(step)
    material = _material(step, chosen, vocabulary, output)
    network, curves = _train(config, material, vocabulary, output)
    vocoder = LightVocoder(
        network, vocabulary, material.frames_per_run, material.voices, np.asarray(material.median_hz)
    )
    vocoder.save(output.folder)
    write_table(pa.Table.from_pylist(curves), output.folder / CURVES)
    return VocoderSummary(
        parameters=sum(p.numel() for p in network.parameters()),
        hours=sum(r.frames for r in material.recordings) / 25 / 3600,
        utterances=len(material.recordings),
        voices=list(material.voices),
        steps=config.steps,
        look_ahead_frames=vocoder.look_ahead,
        final={name: value for name, value in curves[-1].items() if name != "step"},
        quality=_quality(step, vocoder, output),
    )


def _train(
    config: VocoderConfig, material: "_Material", vocabulary: Vocabulary, output: Output
) -> tuple["LightNetwork", list[dict[str, float]]]:
    """The trained network on the CPU, and its curve."""
    import torch

    from tinywave_core.devices import pick_device
    from tinywave_core.synthesis.light import table_sizes
    from tinywave_core.synthesis.light_model import LightNetwork
    from tinywave_core.training.vocoder import mean_envelopes, train_vocoder

    # Weights from the seed alone: whatever drew random numbers in this process before must not matter.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = LightNetwork(table_sizes(vocabulary, len(material.voices)), config.channels, config.blocks)
        network.envelopes.data.copy_(mean_envelopes(material.recordings, vocabulary.hubert))
    curves = train_vocoder(
        network.to(pick_device(output.runtime)),
        material.recordings,
        steps=config.steps,
        rows=config.batch_clips,
        frames=config.clip_frames,
        peak_rate=config.learning_rate,
        seed=config.seed,
        checkpoint_every=output.runtime.checkpoint_every,
        resume=output.resume,
        progress=output.progress,
    )
    return network.to("cpu").requires_grad_(False), curves


# What is learned from -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Material:
    """Training speech with what it is described by."""

    recordings: "list[Recording]"
    voices: tuple[str, ...]
    median_hz: list[float]  # of the unnamed voice, and of the others
    frames_per_run: npt.NDArray[np.float64]


def _chosen(step: VocoderStep) -> dict[str, dict[str, Any]]:
    """Token rows of the training utterances that are learned from, by id: by a hash of their ids, in that order."""
    config = step.config
    rows = _spoken(training_rows(step.inputs["tokens"], COLUMNS))
    rows = {i: row for i, row in rows.items() if len(row["units"]) >= config.clip_frames}
    chosen: dict[str, dict[str, Any]] = {}
    room = config.hours * 3600 * SAMPLE_RATE
    for i in _shuffled(rows, "vocoder", config.seed):
        if room <= 0:
            break
        chosen[i] = rows[i]
        room -= rows[i]["num_samples"]
    if not chosen:
        raise MissingInputError(
            f"no training utterance has the {config.clip_frames} frames of generation.vocoder.clip_frames to train a vocoder "
            "on: lower it, or add recordings"
        )
    return chosen


def _spoken(rows: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Rows of recordings by utterance; rows of text have neither samples nor units."""
    return {row["utterance_id"]: row for row in rows if row["num_samples"] and row["units"]}


def _shuffled(ids: Iterable[str], what: str, seed: int) -> list[str]:
    return sorted(ids, key=lambda i: hashlib.sha256(f"{what}/{seed}/{i}".encode()).digest())


def _material(
    step: VocoderStep, chosen: dict[str, dict[str, Any]], vocabulary: Vocabulary, output: Output
) -> _Material:
    seconds: Counter[str] = Counter()
    for row in chosen.values():
        if row["speaker"]:
            seconds[row["speaker"]] += row["num_samples"] / SAMPLE_RATE
    voices = tuple(sorted(name for name, spoken in seconds.items() if spoken >= 60 * step.config.voice_minutes))
    by_id: dict[str, Recording] = {}
    for i, samples in _recordings(step, set(chosen)):
        speaker = chosen[i]["speaker"]
        voice = 1 + voices.index(speaker) if speaker in voices else 0
        by_id[i] = _recording(samples, _streams(chosen[i]), voice)
        output.progress(len(by_id), len(chosen), "recordings")
    # Sorted: they come in the order of shards, and training draws them by number.
    recordings = [by_id[i] for i in sorted(by_id)]
    medians = [[r.median_hz for r in recordings if n in (0, r.codes["voice"][0])] for n in range(1 + len(voices))]
    units = [_streams(chosen[i]).units for i in sorted(by_id)]
    runs = _frames_per_run(units, vocabulary.hubert)
    return _Material(recordings, voices, [float(np.median(hz)) for hz in medians], runs)


def _recordings(step: VocoderStep, wanted: set[str]) -> Iterator[tuple[str, Samples]]:
    """Each wanted utterance once."""
    from tinywave_core.audio.utterances import read_utterances

    seen: set[str] = set()
    for shard in step.inputs["audio"]:
        for utterance in read_utterances(shard, wanted):
            if utterance.utterance_id not in seen:
                seen.add(utterance.utterance_id)
                yield utterance.utterance_id, utterance.samples


def _streams(row: dict[str, Any]) -> "Streams":
    from tinywave_core.tokenizers.speech import Streams

    return Streams(*(np.asarray(row[name], np.int64) for name in ("units", "pitch", "style")))


def _recording(samples: Samples, streams: "Streams", voice: int) -> "Recording":
    from tinywave_core.synthesis.light import frames_of_streams
    from tinywave_core.tokenizers import f0
    from tinywave_core.training.vocoder import FRAME_SAMPLES, Recording

    frames = min(len(streams.units), len(samples) // FRAME_SAMPLES)
    codes = np.array(frames_of_streams(streams)[:frames], np.int64).reshape(frames, 3)
    f0_hz = f0.f0_hz(samples[: frames * FRAME_SAMPLES])
    voiced = f0_hz > 0
    median_hz = float(np.median(f0_hz[voiced])) if voiced.any() else 150.0
    semitones = np.where(voiced, 12 * np.log2(np.maximum(f0_hz, 1.0) / median_hz), np.nan)
    return Recording(
        samples=np.rint(np.clip(samples[: frames * FRAME_SAMPLES], -1, 1) * 32767).astype(np.int16),
        codes=dict(zip(("units", "pitch", "style"), codes.T.copy(), strict=True)) | {"voice": np.full(frames, voice)},
        semitones=semitones.astype(np.float32),
        median_hz=median_hz,
    )


def _frames_per_run(units: list[npt.NDArray[np.int64]], count: int) -> npt.NDArray[np.float64]:
    """Mean run length of each unit [units]; 1 where it was never seen."""
    from tinywave_core.tokenizers.speech import run_starts

    frames, runs = np.zeros(count), np.zeros(count)
    for units_T in units:
        frames += np.bincount(units_T, minlength=count)
        runs += np.bincount(units_T[run_starts(units_T)], minlength=count)
    return np.where(runs > 0, frames / np.maximum(runs, 1), 1.0)


# How close it comes ---------------------------------------------------------------------------------------------


def _quality(step: VocoderStep, light: "LightVocoder", output: Output) -> VocoderQuality:
    """Figures of held-out utterances, each resynthesised from its raw tokens; none without held-out speech."""
    from tinywave_core.synthesis.quality import figures
    from tinywave_core.synthesis.vocoder import DraftVocoder

    config = step.config
    rows = _spoken(held_out_rows(step.inputs["tokens"], COLUMNS))
    chosen = _shuffled(rows, "quality", config.seed)[: config.quality_clips]
    clips = dict(_recordings(step, set(chosen)))
    chosen = [i for i in chosen if i in clips]
    # The floor is another recording's speech: one alone has none.
    if len(chosen) < 2:
        return VocoderQuality()
    streams = [_streams(rows[i]) for i in chosen]
    vocoders: dict[str, Synthesize] = {"light": lambda number: light.synthesize(streams[number])}
    if step.input("tokenizer").part == "codebooks":
        draft = DraftVocoder.load(step.input("tokenizer").path())
        vocoders = {"draft": lambda number: draft.synthesize(streams[number], iterations=16)} | vocoders
    output.progress(config.steps, config.steps, "resynthesising held-out speech")
    means = figures([clips[i] for i in chosen], vocoders)
    return VocoderQuality(clips=len(chosen), vocoders={name: Resemblance(**values) for name, values in means.items()})
