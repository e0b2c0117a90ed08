"""Generation: held-out prompts continued by the exported model, as tokens and as audio.

Files: samples.json (prompts and continuations as token strings) and, per sample, three wav files: NN-prompt.wav (the
recording up to the cut), NN-continuation.wav (prompt and continuation through the vocoder), NN-original.wav (how the
utterance really went on, through the same vocoder: what a perfect model would sound like).
"""

import hashlib
import json
from typing import Any

from tinywave_core.checkpoints.spiritlm import vocoder_part
from tinywave_core.config.generation import GenerationConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.tokenization.summary import shard_summary
from tinywave_core.steps.base import Execute, Output, Step, SummaryDict
from tinywave_core.steps.inputs import audio_of, held_out_shards
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.opening import SPEECH_TOKENIZER, choose_tokenizer
from tinywave_core.tokenizers.speech import Streams, encode_utterance
from tinywave_core.tokenizers.vocabulary import Ids, Vocabulary

VERSION = 5


def build(config: PipelineConfig, tokens: Artifact, model: Artifact, execute: Execute) -> Artifact:
    """The `samples` artifact."""
    shards = held_out_shards(tokens)
    shards = [shard for shard in shards if shard.part != "text"]
    audio = audio_of(shards)
    kind = config.tokenization.tokens
    light = config.generation.vocoder.kind == "light"  # the export has it
    release = None if light else choose_tokenizer(config).vocoder()
    (samples,) = execute(
        [
            Step(
                store=tokens.store,
                stage="generation",
                part="samples",
                version=VERSION,
                run=run_samples,
                config=config.generation,
                params={
                    "vocoder": config.generation.vocoder.kind if release is None else release.digest(vocoder_part(kind))
                },
                context={"spiritlm_dir": config.spiritlm_dir},
                inputs={"model": [model], "tokens": shards, "audio": audio},
                runtime=config.runtime,
            )
        ]
    )
    return samples


def run_samples(step: Step, output: Output) -> SummaryDict:
    """Continue a few held-out utterances."""
    import numpy as np
    import soundfile

    from tinywave_core.audio.utterances import recordings
    from tinywave_core.devices import pick_device
    from tinywave_core.models.llama import load_llama, on_device
    from tinywave_core.storage.schemas import SAMPLE_RATE
    from tinywave_core.synthesis.sampling import continue_tokens
    from tinywave_core.synthesis.speaking import load_speaker
    from tinywave_core.threads import use_threads

    config = step.config
    assert isinstance(config, GenerationConfig)
    folder = step.input("model").path("model")
    about = json.loads((folder / "speech.json").read_text(encoding="utf-8"))
    vocabulary, trained = (Vocabulary.from_json(about[name]) for name in ("vocabulary", "trained_vocabulary"))
    for shard in step.inputs["tokens"]:
        trained.require_same(shard_summary(shard).vocabulary, "the exported model", f"the token shard {shard.id}")
    use_threads(output.runtime)
    model = on_device(load_llama(folder), pick_device(output.runtime)).eval()
    speaker = load_speaker(
        folder / SPEECH_TOKENIZER, vocabulary, step.context["spiritlm_dir"], model.device, config.vocoder_iterations
    )
    rows = _prompts(step, config)
    recorded = recordings(step.inputs["audio"], {row["utterance_id"] for row in rows})
    samples = []
    for number, row in enumerate(rows, start=1):
        cut = config.prompt_s
        whole = Streams.of_row(row)
        prompt = prompt_ids(whole, cut, vocabulary)
        seed = int.from_bytes(hashlib.sha256(f"{config.seed}/{row['utterance_id']}".encode()).digest()[:6], "little")
        new = continue_tokens(model, prompt, vocabulary, config, seed)
        waves = {
            "prompt": recorded[row["utterance_id"]][: round(cut * SAMPLE_RATE)],
            "continuation": speaker(np.concatenate([prompt, new])),
            "original": speaker(encode_utterance(whole, vocabulary)),
        }
        for name, wave in waves.items():
            soundfile.write(output.folder / f"{number:02d}-{name}.wav", wave, SAMPLE_RATE, subtype="PCM_16")
        samples.append(
            {
                "utterance_id": row["utterance_id"],
                "speaker": row["speaker"],
                "transcript": row["transcript"],
                "prompt": vocabulary.decode(prompt[prompt >= vocabulary.text]),
                "continuation": vocabulary.decode(new),
                "new_tokens": len(new),
                "seconds": {name: len(wave) / SAMPLE_RATE for name, wave in waves.items()},
            }
        )
        output.progress(number, len(rows), "continuations")
    (output.folder / "samples.json").write_text(json.dumps(samples, indent=1), encoding="utf-8")
    return {
        "samples": len(samples),
        "new_tokens": sum(s["new_tokens"] for s in samples),
        "seconds": sum(s["seconds"]["continuation"] for s in samples),
        "vocoder": _VOCODERS[speaker.name],
    }


def prompt_ids(streams: Streams, seconds: float, vocabulary: Vocabulary) -> Ids:
    """The first so many seconds of an utterance as what a continuation follows: without </s>."""
    return encode_utterance(streams.before(seconds, vocabulary.rates), vocabulary)[:-1]


_VOCODERS = {"draft": "draft", "light": "light", "hifigan": "HiFi-GAN of the SpiritLM release"}


def _prompts(step: Step, config: GenerationConfig) -> list[dict[str, Any]]:
    """Held-out utterances longer than the prompt, at least one second longer if possible; chosen by a hash of the id."""
    from tinywave_core.errors import TinyWaveError
    from tinywave_core.storage.schemas import SAMPLE_RATE
    from tinywave_core.storage.shards import read_table

    rows = []
    for shard in step.inputs["tokens"]:
        rows += read_table(shard.path("tokens.parquet")).to_pylist()
    held_out = [row for row in rows if row["split"] == "held_out" and row.get("variant", 0) <= 0 and row["num_samples"]]
    long = [row for row in held_out if row["num_samples"] > (config.prompt_s + 1) * SAMPLE_RATE]
    if not long:
        longest = max(row["num_samples"] for row in held_out) / SAMPLE_RATE
        raise TinyWaveError(
            f"generation.prompt_s is {config.prompt_s}, but no held-out utterance is a second longer than that (the longest "
            f"has {longest:.1f} s): pass a shorter --generation.prompt_s"
        )
    long.sort(key=lambda row: hashlib.sha256(f"{config.seed}/{row['utterance_id']}".encode()).digest())
    return long[: config.samples]
