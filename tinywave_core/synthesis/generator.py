"""An exported model as a person uses it: prompts of audio and text in, continuations as text and audio out.

    generator = Generator.load("store/export/…/model")
    result = generator([Audio("question.wav")], "text")
    for event in generator.stream([Text("Once upon a time")], "speech"): ...

Whole and streamed are one path: a runtime makes ids, the speaker speaks them as they come, the call collects the events. Few-shot
examples come first, each pair ended by a newline, as for reading aloud (text to speech) or writing down (speech to text).
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinywave_core.audio.waveform import read_waveform
from tinywave_core.checkpoints.exported import require_export
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.config.export import Quantization
from tinywave_core.devices import pick_device
from tinywave_core.runtimes.base import Dtype, Runtime, Sampling
from tinywave_core.runtimes.opening import open_runtime
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.synthesis.events import AudioMade, Done, Event, Reason, TextMade, Timings, TokenMade
from tinywave_core.synthesis.prompting import Part, Prompting, Reading
from tinywave_core.synthesis.speaking import Speaker, load_speaker, require_voice
from tinywave_core.tokenizers.base import Places, SpeechTokenizer
from tinywave_core.tokenizers.directory import load_tokenizer
from tinywave_core.tokenizers.opening import SPEECH_TOKENIZER, open_of_model
from tinywave_core.tokenizers.prompts import Modality, OutputModality, Run
from tinywave_core.tokenizers.speech import merge
from tinywave_core.tokenizers.trained_on import TrainedOn
from tinywave_core.tokenizers.vocabulary import Vocabulary

MIN_RUN_S = (
    1.0  # shorter runs of speech in a mixed output are not spoken; counted in units, so runs of equal ones are longer
)
CONTEXT_TOKENS = 10  # of the prompt that the vocoder hears again where no [St] token says when a second began

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Audio:
    """A prompt that is heard, from a file."""

    path: str


@dataclass(frozen=True)
class Sound:
    """A prompt that is heard, as samples (mono, 16 kHz)."""

    samples: Samples = field(repr=False)


@dataclass(frozen=True)
class Text:
    """A prompt that is read."""

    text: str


Input = Audio | Sound | Text


@dataclass(frozen=True)
class Continuation:
    """What the model made of a prompt."""

    prompt: str
    """Prompt as a token string."""
    output: str
    """Continuation as a token string."""
    text: str
    """Text of the continuation."""
    runs: list[Run]
    """Its stretches of text and speech in order."""
    new_tokens: int
    """Tokens that were made, without the end."""
    audio: Samples = field(repr=False)
    """Speech of the continuation at 16 kHz, all runs in order; empty where there is none."""
    timings: Timings
    """What it took."""


def not_stopped() -> bool:
    """Nobody stops it."""
    return False


@dataclass(frozen=True)
class Generator:
    """A loaded export with everything that turns audio into prompts and tokens into audio."""

    runtime: Runtime
    prompting: Prompting
    tokenizer: SpeechTokenizer
    speaker: Speaker

    @classmethod
    def load(
        cls,
        folder: str | Path,
        spiritlm_dir: str | None = None,
        device: str = "auto",
        runtime: str = "transformers",
        quantization: Quantization | None = None,
        threads: int = 0,
        drafter: str | Path | None = None,
        dtype: Dtype = "auto",
    ) -> "Generator":
        """Open a directory that the stage `export` wrote; CheckpointError where it is not one. `threads` 0 takes all cores; `drafter` is a
        smaller export with the same vocabulary, `dtype` what transformers computes in.
        """
        folder = Path(folder)
        about = json.loads(require_export(folder).read_text(encoding="utf-8"))
        vocabulary = Vocabulary.from_json(about["vocabulary"])
        torch_device = pick_device(RuntimeConfig.model_validate({"device": device}))
        return cls(
            open_runtime(folder, runtime, quantization, torch_device.type, threads, drafter=drafter, dtype=dtype),  # type: ignore[arg-type]
            Prompting(load_tokenizer(folder, vocabulary), vocabulary, TrainedOn.of(about)),
            open_of_model(folder, vocabulary, Places(spiritlm_dir), torch_device.type),
            load_speaker(folder / SPEECH_TOKENIZER, vocabulary, spiritlm_dir, torch_device),
        )

    @property
    def vocabulary(self) -> Vocabulary:
        return self.prompting.vocabulary

    def __call__(
        self,
        inputs: Sequence[Input],
        output: OutputModality,
        sampling: Sampling | None = None,
        examples: Sequence[tuple[Input, Input]] = (),
        voice: str | None = None,
    ) -> Continuation:
        """Continue `inputs` in the modality `output` (arbitrary: whatever comes), after few-shot `examples`; ConfigError where the model was
        not trained on what is given or asked for.
        """
        started = time.perf_counter()
        prompt = self.prompt_ids(inputs, output, examples)
        return self.collect(prompt, self.continue_ids(prompt, output, sampling, voice, started=started))

    def stream(
        self,
        inputs: Sequence[Input],
        output: OutputModality,
        sampling: Sampling | None = None,
        examples: Sequence[tuple[Input, Input]] = (),
        voice: str | None = None,
        stopped: Callable[[], bool] = not_stopped,
    ) -> Iterator[Event]:
        """The same as it is made: tokens, text and audio, `Done` last. Closing the iterator, or `stopped`, ends the work."""
        started = time.perf_counter()
        prompt = self.prompt_ids(inputs, output, examples)
        return self.continue_ids(prompt, output, sampling, voice, stopped, started)

    def collect(self, prompt: Sequence[int], events: Iterator[Event]) -> Continuation:
        """The events of a continuation of `prompt` as one result."""
        all_events = list(events)
        new = [event.id for event in all_events if isinstance(event, TokenMade)]
        (done,) = (event for event in all_events if isinstance(event, Done))
        waves = [event.samples for event in all_events if isinstance(event, AudioMade)]
        return Continuation(
            prompt=self.prompting.prompt_string(prompt),
            output=self.prompting.string(new),
            text="".join(event.text for event in all_events if isinstance(event, TextMade)).strip(),
            runs=self._runs(new),
            new_tokens=len(new),
            audio=np.concatenate([np.zeros(0, np.float32), *waves]),
            timings=done.timings,
        )

    def warm_up(self) -> None:
        """Use everything once, so that the first answer is as quick as the others."""
        noise = np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE).astype(np.float32)
        for _ in self.stream([Sound(noise)], "speech", Sampling(max_new_tokens=40, min_new_tokens=40)):
            pass

    def unit_ids(self, samples: Samples) -> list[int]:
        """Ids of speech, without a marker."""
        return [int(i) for i in merge(self.tokenizer.tokenize([samples])[0], self.vocabulary)]

    def prompt_ids(
        self, inputs: Sequence[Input], output: OutputModality, examples: Sequence[tuple[Input, Input]] = ()
    ) -> list[int]:
        """The prompt as the model reads it."""
        newline = Text("\n")
        all_inputs = [part for first, second in examples for part in (first, second, newline)] + list(inputs)
        return self.prompting.ids([self._part(part) for part in all_inputs], output)

    def continue_ids(
        self,
        prompt: list[int],
        output: OutputModality,
        sampling: Sampling | None = None,
        voice: str | None = None,
        stopped: Callable[[], bool] = not_stopped,
        started: float | None = None,
    ) -> Iterator[Event]:
        """Events of the continuation of a prompt; `started` is when it was asked for (time.perf_counter)."""
        sampling = sampling or Sampling()
        require_voice(self.speaker, voice)
        tokens = self.runtime.stream(prompt, sampling, output)  # what cannot be continued is said here
        return self._events(_Tokens(tokens, stopped, started), prompt, output, sampling, voice)

    def _events(
        self, tokens: "_Tokens", prompt: list[int], output: OutputModality, sampling: Sampling, voice: str | None
    ) -> Iterator[Event]:
        """Events as they come; text and speech each have their own way, markers none."""
        reading = Reading(self.prompting)
        audio_samples, first_audio_s = 0, None
        enough = round(MIN_RUN_S * self.vocabulary.rates.units) if output == "arbitrary" else 1
        context = self._context(prompt)
        try:
            while (i := tokens.peek()) is not None:
                modality = self.prompting.modality(i)
                if modality == "speech":
                    for event in self._speak(tokens, context, voice, enough):
                        if isinstance(event, AudioMade):
                            audio_samples += len(event.samples)
                            first_audio_s = event.at_s if first_audio_s is None else first_audio_s
                        yield event
                else:
                    text = reading.end() if modality is None else reading.add(i)
                    tokens.take()
                    yield from tokens.noted()
                    if text:
                        yield TextMade(text, tokens.now_s())
                context = []
            if text := reading.end():
                yield TextMade(text, tokens.now_s())
        finally:
            tokens.close()
        yield Done(
            tokens.reason(sampling),
            Timings(
                prompt_tokens=len(prompt),
                new_tokens=tokens.count,
                audio_s=audio_samples / SAMPLE_RATE,
                first_token_s=tokens.first_s,
                first_audio_s=first_audio_s,
                last_token_s=tokens.last_s,
                total_s=tokens.now_s(),
            ),
        )

    def _speak(self, tokens: "_Tokens", context: list[int], voice: str | None, enough: int) -> Iterator[Event]:
        """One run of speech, spoken as it comes once it has `enough` units; a shorter one only where it is all there is.

        Where the prompt spoke too, the vocoder is told of its end.
        """
        is_first = not tokens.count
        ids = tokens.run(lambda i: self.prompting.modality(i) == "speech")
        begun_word: list[int] = []
        units = 0
        while units < enough and (i := next(ids, None)) is not None:
            begun_word.append(i)
            units += i < self.vocabulary.first["pitch"]
        if units < enough and not (is_first and units and tokens.peek() is None):
            yield from tokens.noted()
            return
        for samples in self.speaker.stream(chain(begun_word, ids), voice, context=context):
            yield from tokens.noted()
            yield AudioMade(samples, tokens.now_s())
        yield from tokens.noted()

    def _context(self, prompt: Sequence[int]) -> list[int]:
        """What the vocoder must hear of a prompt that ends in speech: its last second, and the pitch that it began with."""
        first = self.vocabulary.first
        begin = next((n for n in range(len(prompt), 0, -1) if prompt[n - 1] < first["hubert"]), 0)
        context = list(prompt[begin:])
        styles = [n for n, i in enumerate(context) if i >= first["style"]]
        start = styles[-1] if styles else max(len(context) - CONTEXT_TOKENS, 0)
        pitch = [i for i in context[:start] if first["pitch"] <= i < first["style"]][-1:]
        return [*pitch, *context[start:]]

    def _part(self, part: Input) -> Part:
        if isinstance(part, Text):
            return part.text
        return self.unit_ids(part.samples if isinstance(part, Sound) else read_waveform(part.path))

    def _runs(self, ids: Sequence[int]) -> list[Run]:
        """Text and speech in order; what markers kept apart in one modality is joined."""
        runs: list[tuple[Modality, list[int]]] = []
        for i in ids:
            modality = self.prompting.modality(i)
            if modality and runs and runs[-1][0] == modality:
                runs[-1][1].append(i)
            elif modality:
                runs.append((modality, [i]))
        return [Run(modality, self.prompting.string(run)) for modality, run in runs]


class _Tokens:
    """Ids while they are made: whoever pulls one leaves a note of it, and somebody may stop it in between."""

    def __init__(self, tokens: Iterator[int], stopped: Callable[[], bool], started: float | None) -> None:
        self._made, self._stopped = tokens, stopped
        self._started = time.perf_counter() if started is None else started
        self._next: int | None = None
        self._notes: deque[TokenMade] = deque()
        self._is_stopped = self._is_over = False
        self.count = 0
        self.first_s: float | None = None
        self.last_s: float | None = None

    def now_s(self) -> float:
        return time.perf_counter() - self._started

    def peek(self) -> int | None:
        """The next id, which stays; None at the end."""
        if self._next is None and not self._is_over:
            self._is_stopped = self._stopped()
            self._next = None if self._is_stopped else next(self._made, None)
            self._is_over = self._next is None
            if not self._is_over:
                self.last_s = self.now_s()
                self.first_s = self.last_s if self.first_s is None else self.first_s
        return self._next

    def take(self) -> int | None:
        """The next id."""
        i, self._next = self.peek(), None
        if i is not None:
            self.count += 1
            self._notes.append(TokenMade(i, self.now_s()))
        return i

    def run(self, belongs: Callable[[int], bool]) -> Iterator[int]:
        """Ids for as long as they are wanted; the first other one stays."""
        while (i := self.peek()) is not None and belongs(i):
            self.take()
            yield i

    def noted(self) -> Iterator[TokenMade]:
        """Notes of the ids that were taken since the last time."""
        while self._notes:
            yield self._notes.popleft()

    def reason(self, sampling: Sampling) -> Reason:
        if self._is_stopped:
            return "stopped"
        return "length" if self.count >= sampling.max_new_tokens else "end"

    def close(self) -> None:
        if isinstance(self._made, Iterator) and hasattr(self._made, "close"):
            self._made.close()
