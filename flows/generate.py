"""`tinywave generate`: continue audio and text with an exported model, in text, speech or both, at the end or while it is made."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import soundfile

from tasks import terminal
from tinywave_core.audio.pcm import to_pcm16
from tinywave_core.checkpoints.model_shape import ModelShape
from tinywave_core.costs.ondevice import Student, read_bandwidth
from tinywave_core.runtimes.base import Dtype, Sampling
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.synthesis.events import AudioMade, Event, TextMade, Timings
from tinywave_core.synthesis.generator import Audio, Generator, Input, Text
from tinywave_core.threads import cores
from tinywave_core.tokenizers.prompts import OutputModality

Write = Callable[[npt.NDArray[np.float32]], None]

PIPE = "-"
TIMED = 64  # tokens


@dataclass(frozen=True)
class Loading:
    """Which model, and how it runs."""

    model: str
    spiritlm_dir: str | None
    device: str
    runtime: str
    quantization: str | None
    threads: int = 0
    """0: all cores."""
    drafter: str | None = None
    dtype: Dtype = "auto"

    def open(self) -> Generator:
        """Load it."""
        return Generator.load(
            self.model,
            self.spiritlm_dir,
            self.device,
            self.runtime,
            self.quantization,  # type: ignore[arg-type]
            self.threads,
            self.drafter,
            self.dtype,
        )


def generate(
    loading: Loading,
    prompts: Sequence[tuple[str, str]],
    examples: Sequence[tuple[str, str]],
    output: OutputModality,
    sampling: Sampling,
    voice: str | None,
    wav: str | None,
    *,
    stream: bool,
    bandwidth: bool = False,
) -> int:
    """Print {prompt, output, text, new_tokens, seconds, wav, timings} as JSON, and what it took on stderr; speech goes to `wav`.

    With `stream` text is printed and speech written as it comes, in place of the JSON. `-` is raw 16-bit PCM to stdout, and
    everything else goes to stderr then. `bandwidth` measures the memory afterwards, and says what share of it the tokens took.
    """

    def as_input(kind: str, value: str) -> Input:
        return Audio(value) if kind == "audio" else Text(value)

    generator = loading.open()
    # Examples are audio and text; the prompt says which of them comes first.
    writes_down = prompts[-1][0] == "audio"
    pairs = [(Audio(audio), Text(text)) if writes_down else (Text(text), Audio(audio)) for audio, text in examples]
    started = time.perf_counter()
    prompt = generator.prompt_ids([as_input(*part) for part in prompts], output, pairs)
    messages = sys.stderr if wav == PIPE else sys.stdout
    with _speech_to(wav) as write:
        events = generator.continue_ids(prompt, output, sampling, voice, started=started)
        continuation = generator.collect(prompt, _as_it_comes(events, write, messages if stream else None))
    timings = continuation.timings.to_json()
    if bandwidth:
        timings["bandwidth_share"] = round(bandwidth_share(loading, generator, prompt, output), 3)
    drafting = generator.runtime.drafting
    kept = drafting.share if drafting else None
    if kept is not None:
        timings["drafted_kept"] = round(kept, 3)
    result = {
        "prompt": continuation.prompt,
        "output": continuation.output,
        "text": continuation.text,
        "new_tokens": continuation.new_tokens,
        "seconds": timings["audio_s"],
        "wav": wav if wav and len(continuation.audio) else None,
        "timings": timings,
    }
    terminal.say("" if stream else json.dumps(result, ensure_ascii=False, indent=1), file=messages)
    share = timings.get("bandwidth_share")
    terminal.say(
        summary(continuation.timings)
        + ("" if kept is None else f", {kept:.0%} of the drafted tokens kept")
        + (f", {share:.0%} of the memory's bandwidth" if share else ""),
        file=sys.stderr,
    )
    return 0


def bandwidth_share(loading: Loading, generator: Generator, prompt: list[int], output: OutputModality) -> float:
    """Bytes of weights that a continuation of `prompt` reads per second, without a vocoder beside it, over what this machine's
    memory gives, measured now (a few seconds). Above 1 the weights are small enough for the caches.
    """
    folder = Path(loading.model)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = ModelShape.of_config(config)
    parameters = shape.parameters(shape.layers, config["vocab_size"])
    head = config["vocab_size"] * shape.width
    weights_read = parameters - (0 if shape.is_tied else head)
    student = Student("", "expressive" if generator.vocabulary.pitch else "base", parameters, weights_read, head)
    form = "float32"
    if generator.runtime.name == "llama.cpp":
        form = (
            loading.quantization
            or json.loads((folder / "speech.json").read_text(encoding="utf-8"))["gguf"][0]["quantization"]
        )
    bandwidth = read_bandwidth(cores())
    times_s = [time.perf_counter() for _ in generator.runtime.stream(prompt, Sampling(1.0, 1.0, TIMED, TIMED), output)]
    return student.bytes_per_token(form) * (TIMED - 1) / (times_s[-1] - times_s[0]) / bandwidth.bytes_per_s


def summary(timings: Timings) -> str:
    """Time and speed of a continuation, in one line."""
    parts = [f"{timings.new_tokens} tokens after {timings.prompt_tokens}"]
    if timings.tokens_per_second:
        parts.append(f"{timings.tokens_per_second:.0f} tokens/s")
    if timings.first_audio_s is not None:
        parts.append(f"first audio after {timings.first_audio_s:.2f} s")
        parts.append(
            f"{timings.audio_s:.1f} s of speech in {timings.total_s:.1f} s (real-time factor {timings.real_time_factor:.2f})"
        )
    return ", ".join(parts)


def _as_it_comes(events: Iterator[Event], write: Write, out: TextIO | None) -> Iterator[Event]:
    """The events, with speech written and text printed on the way."""
    for event in events:
        if isinstance(event, AudioMade):
            write(event.samples)
        elif isinstance(event, TextMade) and out:
            terminal.say(event.text, end="", file=out, flush=True)
        yield event


@contextmanager
def _speech_to(wav: str | None) -> Iterator[Write]:
    """Where speech goes; a file is created when the first samples come."""
    files: list[Any] = []

    def to_file(samples: npt.NDArray[np.float32]) -> None:
        if not files:
            Path(str(wav)).parent.mkdir(parents=True, exist_ok=True)
            files.append(soundfile.SoundFile(str(wav), "w", SAMPLE_RATE, 1, "PCM_16", format="WAV"))
        files[0].buffer_write(to_pcm16(samples), "int16")
        files[0].flush()

    def to_pipe(samples: npt.NDArray[np.float32]) -> None:
        sys.stdout.buffer.write(to_pcm16(samples))
        sys.stdout.buffer.flush()

    try:
        yield to_pipe if wav == PIPE else to_file if wav else lambda _: None
    finally:
        for file in files:
            file.close()
