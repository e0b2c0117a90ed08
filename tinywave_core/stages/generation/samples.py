"""Generation: held-out prompts continued by the exported model, as tokens and as audio.

Files: samples.json (prompts and continuations as token strings) and, per sample, three wav files: NN-prompt.wav (the
recording up to the cut), NN-continuation.wav (prompt and continuation through the vocoder), NN-original.wav (how the
utterance really went on, through the same vocoder: what a perfect model would sound like).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinywave_core.checkpoints.spiritlm import vocoder_part
from tinywave_core.config.generation import GenerationConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.drawing import draw
from tinywave_core.errors import TinyWaveError
from tinywave_core.stages.generation.summary import SamplesSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import audio_of, each_held_out_row, held_out_shards
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.opening import SPEECH_TOKENIZER, choose_tokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tinywave_core.synthesis.continuation import Continuation

VERSION = 6
COLUMNS = ("utterance_id", "speaker", "transcript", "num_samples", "units", "pitch", "style")
_VOCODERS = {
    "voice": "voice",
    "hifigan": "HiFi-GAN of the SpiritLM release",
    "unit-hifigan": "HiFi-GAN trained on these units",
}

SamplesStep = Step[GenerationConfig, SamplesSummary]


def build(config: PipelineConfig, tokens: Artifact, model: Artifact, execute: Execute) -> Artifact:
    """The `samples` artifact."""
    shards = held_out_shards(tokens)
    shards = [shard for shard in shards if shard.part != "text"]
    audio = audio_of(shards)
    kind = config.tokenization.tokens
    release = choose_tokenizer(config).vocoder()  # none: the export has a voice
    (samples,) = execute(
        [
            Step(
                store=tokens.store,
                stage="generation",
                part="samples",
                version=VERSION,
                run=run_samples,
                config=config.generation,
                params={"vocoder": "voice" if release is None else release.digest(vocoder_part(kind))},
                context={"spiritlm_dir": config.spiritlm_dir},
                inputs={"model": [model], "tokens": shards, "audio": audio},
                runtime=config.runtime,
            )
        ]
    )
    return samples


def run_samples(step: SamplesStep, output: Output) -> SamplesSummary:
    """Continue a few held-out utterances."""
    import soundfile

    from tinywave_core.audio.utterances import recordings
    from tinywave_core.devices import pick_device
    from tinywave_core.models.llama import load_llama, on_device
    from tinywave_core.synthesis.continuation import continue_utterance
    from tinywave_core.synthesis.speaking import load_speaker
    from tinywave_core.threads import use_threads

    config, folder = step.config, step.input("model").path("model")
    vocabulary = _vocabulary(step, folder)
    use_threads(output.runtime)
    model = on_device(load_llama(folder), pick_device(output.runtime)).eval()
    speaker = load_speaker(folder / SPEECH_TOKENIZER, vocabulary, step.context["spiritlm_dir"], model.device)
    rows = choose_prompts(each_held_out_row(step.inputs["tokens"], COLUMNS), config)
    recorded = recordings(step.inputs["audio"], {row["utterance_id"] for row in rows})
    samples = []
    for number, row in enumerate(rows, start=1):
        continuation = continue_utterance(row, recorded[row["utterance_id"]], model, speaker, vocabulary, config)
        for name, wave in continuation.waves.items():
            soundfile.write(output.folder / f"{number:02d}-{name}.wav", wave, SAMPLE_RATE, subtype="PCM_16")
        samples.append(_entry(row, continuation, vocabulary))
        output.progress(number, len(rows), "continuations")
    (output.folder / "samples.json").write_text(json.dumps(samples, indent=1), encoding="utf-8")
    return SamplesSummary(
        samples=len(samples),
        new_tokens=sum(sample["new_tokens"] for sample in samples),
        seconds=sum(sample["seconds"]["continuation"] for sample in samples),
        vocoder=_VOCODERS[speaker.name],
    )


def _vocabulary(step: SamplesStep, folder: Path) -> Vocabulary:
    """Of the exported model; an error if it was not trained on tokens such as the shards hold."""
    speech = json.loads((folder / "speech.json").read_text(encoding="utf-8"))
    vocabulary, trained = (Vocabulary.from_json(speech[name]) for name in ("vocabulary", "trained_vocabulary"))
    for shard in step.inputs["tokens"]:
        trained.require_same(
            Vocabulary.from_json(shard.summary["vocabulary"]), "the exported model", f"the token shard {shard.id}"
        )
    return vocabulary


def choose_prompts(rows: Iterable[dict[str, Any]], config: GenerationConfig) -> list[dict[str, Any]]:
    """Rows of utterances that are more than a second longer than the prompt; chosen by a hash of the id."""
    # What was really said has to go on long enough to be compared with.
    longest = 0.0

    def long() -> Iterator[dict[str, Any]]:
        nonlocal longest
        for row in rows:
            longest = max(longest, row["num_samples"] / SAMPLE_RATE)
            if row["num_samples"] > (config.prompt_s + 1) * SAMPLE_RATE:
                yield row

    chosen = draw(
        long(), lambda row: hashlib.sha256(f"{config.seed}/{row['utterance_id']}".encode()).digest(), config.samples
    )
    if not chosen:
        raise TinyWaveError(
            f"generation.prompt_s is {config.prompt_s}, but no held-out utterance is a second longer than that (the longest "
            f"has {longest:.1f} s): pass a shorter --generation.prompt_s"
        )
    return chosen


def _entry(row: dict[str, Any], continuation: "Continuation", vocabulary: Vocabulary) -> dict[str, Any]:
    """A sample's entry in samples.json."""
    return {
        "utterance_id": row["utterance_id"],
        "speaker": row["speaker"],
        "transcript": row["transcript"],
        "prompt": vocabulary.decode(continuation.prompt[continuation.prompt >= vocabulary.text]),
        "continuation": vocabulary.decode(continuation.new),
        "new_tokens": len(continuation.new),
        "seconds": {name: len(wave) / SAMPLE_RATE for name, wave in continuation.waves.items()},
    }
