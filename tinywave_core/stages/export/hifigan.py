"""The vocoder of those who have hours of speech and a GPU: a unit HiFi-GAN, trained on the training speech (`generation.vocoder.kind`).

It takes the place of the voice in the part `vocoder`: folder hifigan/ (generator.safetensors, config.json, speakers.txt), which the
export copies, and curves.parquet. Each speaker with enough speech is a voice of its own, everybody together is the first one.
"""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tinywave_core.config.vocoder import VocoderConfig
from tinywave_core.errors import MissingInputError
from tinywave_core.stages.export.speech import Rows, draw_minutes, read_recordings, streams_of
from tinywave_core.stages.export.summary import TrainedVocoder, VoiceSummary
from tinywave_core.steps.base import Output
from tinywave_core.storage.schemas import CURVES_FILE, SAMPLE_RATE
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tinywave_core.synthesis.hifigan import HifiganVocoder
    from tinywave_core.tokenizers.speech import Streams
    from tinywave_core.training.hifigan import Clip

FOLDER = "hifigan"
EVERYBODY = "everybody"
"""The voice of who is not named."""


def fit_hifigan(
    config: VocoderConfig, audio: list[Artifact], rows: Rows, vocabulary: Vocabulary, output: Output
) -> tuple["HifiganVocoder", TrainedVocoder, list[VoiceSummary]]:
    """Train it on what `draw_speech` drew, and save it below the output's folder; MissingInputError where no utterance is as long as
    a clip."""
    import torch

    from tinywave_core.devices import pick_device
    from tinywave_core.synthesis.hifigan import HifiganVocoder
    from tinywave_core.synthesis.hifigan_model import HifiganNetwork
    from tinywave_core.training.hifigan import Settings, train_hifigan

    settings = config.hifigan
    hop, frames, chosen = hop_of(vocabulary), frames_of(config, vocabulary), list(rows)
    if not chosen:
        raise MissingInputError(
            f"no training utterance has {settings.clip_s:g} s to train a vocoder on: lower generation.vocoder.hifigan.clip_s, or add "
            "recordings"
        )
    voices = _voices(config, rows)
    clips = _clips(audio, rows, voices, vocabulary, output)
    about = network_config(vocabulary, len(voices), settings.channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = HifiganNetwork(about)
    curves = train_hifigan(
        network.to(pick_device(output.runtime)),
        clips,
        Settings(
            settings.steps, settings.batch_clips, frames, settings.learning_rate, config.seed, settings.judge_width
        ),
        checkpoint_every=output.runtime.checkpoint_every,
        resume=output.resume,
        progress=output.progress,
        uploads=output.uploads,
    )
    made = HifiganVocoder(about, network.to("cpu").eval().requires_grad_(False), voices, ())
    made.save(output.folder / FOLDER)
    write_table(pa.Table.from_pylist(curves), output.folder / CURVES_FILE)
    trained = TrainedVocoder(
        parameters=sum(p.numel() for p in network.parameters()),
        hours=sum(clip.frames for clip in clips) * hop / SAMPLE_RATE / 3600,
        steps=settings.steps,
        final={name: value for name, value in curves[-1].items() if name != "step"},
    )
    return made, trained, [_summary(name, rows, chosen) for name in voices]


def draw_speech(config: VocoderConfig, rows: Iterable[dict[str, Any]], vocabulary: Vocabulary) -> Rows:
    """What it is trained on: utterances that are longer than a clip, as many hours as the settings say."""
    frames = frames_of(config, vocabulary)
    long = (row for row in rows if len(row["units"]) > frames)
    return draw_minutes(long, "hifigan", config.seed, config.hifigan.hours * 60)


def frames_of(config: VocoderConfig, vocabulary: Vocabulary) -> int:
    """Units of a clip."""
    return max(2, round(config.hifigan.clip_s * SAMPLE_RATE / hop_of(vocabulary)))


def hop_of(vocabulary: Vocabulary) -> int:
    """Samples of a unit."""
    return round(SAMPLE_RATE / vocabulary.rates.units)


def network_config(vocabulary: Vocabulary, voices: int, channels: int) -> Any:
    """The network for the tokens of a vocabulary; ConfigError where its units have a rate that none fits."""
    from tinywave_core.training.hifigan import hifigan_config

    hops = {name: round(SAMPLE_RATE / rate) for name, rate in vocabulary.rates.frames_hz.items()}
    return hifigan_config(
        hops["units"],
        vocabulary.hubert,
        voices,
        pitch=vocabulary.pitch,
        style=vocabulary.style,
        hops={"pitch": hops["pitch"], "style": hops["style"]},
        channels=channels,
    )


def _voices(config: VocoderConfig, rows: Rows) -> tuple[str, ...]:
    seconds: Counter[str] = Counter()
    for row in rows.values():
        if row["speaker"]:
            seconds[row["speaker"]] += row["num_samples"] / SAMPLE_RATE
    named = config.speakers or tuple(name for name, s in seconds.items() if s >= 60 * config.speaker_minutes)
    return (EVERYBODY, *sorted(name for name in named if seconds[name]))


def _clips(
    audio: list[Artifact], rows: Rows, voices: tuple[str, ...], vocabulary: Vocabulary, output: Output
) -> "list[Clip]":
    from tinywave_core.training.hifigan import Clip

    hop, by_id = hop_of(vocabulary), dict[str, Clip]()
    for i, samples in read_recordings(audio, set(rows)):
        codes = codes_by_frame(streams_of(rows[i]), vocabulary)
        frames = min(codes.shape[1], len(samples) // hop)
        whole = np.rint(np.clip(samples[: frames * hop], -1, 1) * 32767).astype(np.int16)
        speaker = rows[i]["speaker"]
        by_id[i] = Clip(whole, codes[:, :frames], voices.index(speaker) if speaker in voices else 0)
        output.progress(len(by_id), len(rows), "recordings")
    # Sorted: they come in the order of shards, and training draws them by number.
    return [by_id[i] for i in sorted(by_id)]


def codes_by_frame(streams: "Streams", vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """Codes [R, T]: the unit of each frame, and the pitch and style codes that are in force, where the tokens have them."""
    rates, frames = vocabulary.rates.frames_hz, np.arange(len(streams.units))
    rows = [np.asarray(streams.units, np.int64)]
    for name, codes, size in (("pitch", streams.pitch, vocabulary.pitch), ("style", streams.style, vocabulary.style)):
        if size:
            at = np.minimum((frames * rates[name] / rates["units"]).astype(np.int64), len(codes) - 1)  # type: ignore[index]
            rows.append(np.asarray(codes, np.int64)[at] if len(codes) else np.zeros(len(frames), np.int64))
    return np.stack(rows)


def _summary(name: str, rows: Rows, chosen: list[str]) -> VoiceSummary:
    own = [rows[i] for i in chosen if name in (EVERYBODY, rows[i]["speaker"])]
    return VoiceSummary(
        name=name,
        speakers=sorted({row["speaker"] for row in own} - {None, ""}),
        recordings=sorted({row["recording_id"] for row in own}),
        utterances=len(own),
        seconds=sum(row["num_samples"] for row in own) / SAMPLE_RATE,
        runs=0,
    )
