"""A model that TinyWave made, ready to be asked: speech or text in, speech or text out, at once or while it is made."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from tinywave.places import Place, model_folder
from tinywave.sound import Sound, samples_of
from tinywave_core.config.base import Device
from tinywave_core.config.export import Quantization
from tinywave_core.errors import ConfigError
from tinywave_core.runtimes.base import Dtype, RuntimeName, Sampling
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.synthesis import generator as core
from tinywave_core.synthesis.events import AudioMade, Done, Event
from tinywave_core.synthesis.generator import Continuation, Generator
from tinywave_core.tokenizers.prompts import OutputModality

Output = Literal["speech", "text", "mixed"]


class Model:
    """An exported speech language model.

    model = Model.open("store/export/ID/model")
    answer = model.generate(prompt_audio="question.wav", seconds=5)
    soundfile.write("answer.wav", answer.audio, model.sample_rate)
    """

    sample_rate: int = SAMPLE_RATE
    """Samples per second of all audio that it gives: 16,000."""

    def __init__(self, generator: Generator) -> None:
        """Use `open`."""
        self._generator = generator

    @classmethod
    def open(
        cls,
        export: Place,
        *,
        runtime: RuntimeName = "transformers",
        quantization: Quantization | None = None,
        device: Device = "auto",
        threads: int = 0,
        spiritlm_dir: str | None = None,
        dtype: Dtype = "auto",
    ) -> "Model":
        """Load the model/ directory of an export, or an artifact with one (`Store.newest("model")`, `Store.published()`).

        `runtime` is `transformers`, or `llama.cpp` for a GGUF file in the export (`quantization`: which one; none: the first), which runs
        on the CPU; `threads` 0 takes all cores. `dtype` is what transformers computes in: `auto` is float32 on a CPU and as
        stored on a GPU. A model of SpiritLM's tokens needs its release (`spiritlm_dir`, or the environment variable
        SPIRITLM_CHECKPOINTS_DIR), one of an encoder's units the encoder (TINYWAVE_ENCODER). CheckpointError where the folder is no
        export or is damaged, ConfigError for a runtime that there is not.
        """
        folder = model_folder(export)
        return cls(Generator.load(folder, spiritlm_dir, device, runtime, quantization, threads, dtype=dtype))

    @property
    def inputs(self) -> tuple[str, ...]:
        """What it takes in a prompt, by its training: of `speech` and `text`."""
        return tuple(self._generator.prompting.trained.modalities)

    @property
    def outputs(self) -> tuple[str, ...]:
        """What can be asked of it: of `speech`, `text` and `mixed`."""
        return tuple(self._generator.prompting.trained.outputs)

    @property
    def voices(self) -> tuple[str, ...]:
        """Names of its voices; empty where there is one without a name."""
        return self._generator.speaker.voices

    @property
    def context(self) -> int:
        """Most tokens that prompt and continuation have together."""
        return self._generator.runtime.context

    def generate(
        self,
        prompt_audio: Sound | None = None,
        prompt_text: str | None = None,
        *,
        seconds: float | None = None,
        max_new_tokens: int | None = None,
        min_new_tokens: int = 0,
        output: Output = "speech",
        voice: str | None = None,
        temperature: float = 0.8,
        top_p: float = 0.95,
        seed: int = 0,
        sample_rate: int | None = None,
    ) -> Continuation:
        """Continue a prompt; `audio` of the result is float32 [n] at 16 kHz, `text` what was written.

        `prompt_audio` is a file, or samples [n] or [n, channels] at `sample_rate` Hz (none: 16,000); with `prompt_text` as well the model
        hears first, then reads. `seconds` is the most speech that is made, above 0; `max_new_tokens` the most tokens (default: 200, or
        as many as there is room for where `seconds` is given). A model may end before, but not before `min_new_tokens`. `output` is `speech`, `text` or `mixed`: whatever
        comes. `temperature` is above 0, `top_p` above 0 and at most 1, and the same `seed` gives the same answer on the same machine.

        ConfigError for no prompt, a value out of range, more than `context` tokens, or what the model was not trained on; SourceError for
        what is no audio; TinyWaveError for a voice that there is not.
        """
        prompt, events = self._asked(
            prompt_audio,
            prompt_text,
            seconds,
            max_new_tokens,
            min_new_tokens,
            output,
            voice,
            temperature,
            top_p,
            seed,
            sample_rate,
        )
        return self._generator.collect(prompt, events)

    def stream(
        self,
        prompt_audio: Sound | None = None,
        prompt_text: str | None = None,
        *,
        seconds: float | None = None,
        max_new_tokens: int | None = None,
        min_new_tokens: int = 0,
        output: Output = "speech",
        voice: str | None = None,
        temperature: float = 0.8,
        top_p: float = 0.95,
        seed: int = 0,
        sample_rate: int | None = None,
    ) -> Iterator[Event]:
        """The same answer while it is made, with the arguments and errors of `generate`: `TokenMade`, `TextMade` and `AudioMade` as they
        come, `Done` last. Closing the iterator ends the work."""
        _, events = self._asked(
            prompt_audio,
            prompt_text,
            seconds,
            max_new_tokens,
            min_new_tokens,
            output,
            voice,
            temperature,
            top_p,
            seed,
            sample_rate,
        )
        return events

    def _asked(
        self,
        audio: Sound | None,
        text: str | None,
        seconds: float | None,
        max_new_tokens: int | None,
        min_new_tokens: int,
        output: Output,
        voice: str | None,
        temperature: float,
        top_p: float,
        seed: int,
        sample_rate: int | None,
    ) -> tuple[list[int], Iterator[Event]]:
        """The prompt as the model reads it, and the events of its continuation."""
        started = time.perf_counter()
        if seconds is not None and not (seconds > 0 and output != "text"):
            raise ConfigError(
                f"seconds is {seconds} and output {output}: expected seconds above 0, of speech; text is bounded by max_new_tokens"
            )
        modality: OutputModality = "arbitrary" if output == "mixed" else output
        prompt = self._generator.prompt_ids(_inputs(audio, text, sample_rate), modality)
        usual = Sampling.max_new_tokens if seconds is None else max(self.context - len(prompt), 1)
        most = usual if max_new_tokens is None else max_new_tokens
        sampling = Sampling(temperature, top_p, most, min(min_new_tokens, most), seed)
        spoken = _Spoken(seconds)
        events = self._generator.continue_ids(prompt, modality, sampling, voice, spoken.is_enough, started)
        return prompt, spoken.cut(events)


def _inputs(audio: Sound | None, text: str | None, sample_rate: int | None) -> list[core.Input]:
    if audio is None and text is None:
        raise ConfigError("there is nothing to continue: pass prompt_audio or prompt_text")
    heard = [] if audio is None else [core.Sound(samples_of(audio, sample_rate))]
    return [*heard, *([] if text is None else [core.Text(text)])]


class _Spoken:
    """How much speech came, and the end of it after so many seconds."""

    def __init__(self, seconds: float | None) -> None:
        self._left = None if seconds is None else max(1, round(seconds * SAMPLE_RATE))
        self._came = 0

    def is_enough(self) -> bool:
        return self._left == 0

    def cut(self, events: Iterator[Event]) -> Iterator[Event]:
        """The events, without the samples after the end. Tokens are made a little further than they are heard."""
        for event in events:
            if isinstance(event, AudioMade):
                samples = event.samples[: self._left]
                self._came += len(samples)
                self._left = None if self._left is None else self._left - len(samples)
                if len(samples):
                    yield replace(event, samples=samples)
            elif isinstance(event, Done):
                yield replace(event, timings=replace(event.timings, audio_s=self._came / SAMPLE_RATE))
            else:
                yield event
