"""An exported model as a person uses it: prompts of audio and text in, continuations as text and audio out.

    generator = Generator.load("store/export/…/model")
    result = generator([Audio("question.wav")], "text")

Prompts are SpiritLM's: a marker before every change of modality and nothing else. Few-shot examples come first, each pair
ended by a newline, as for reading aloud (text to speech) or writing down (speech to text).
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from tinywave_core.audio.waveform import read_waveform
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.config.generation import GenerationConfig
from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.models.llama import load_llama, on_device, pick_device
from tinywave_core.synthesis.sampling import continue_tokens
from tinywave_core.synthesis.speaking import Speaker, load_speaker
from tinywave_core.tokenizers.hearing import SPEECH_TOKENIZER, load_hearing
from tinywave_core.tokenizers.prompts import Modality, OutputModality, Run, build_prompt, runs, units_in
from tinywave_core.tokenizers.speech import Streams, to_string
from tinywave_core.tokenizers.vocabulary import Ids, Vocabulary

MIN_RUN_UNITS = 25  # shorter runs of speech in a mixed output are not spoken: about a second


@dataclass(frozen=True)
class Audio:
    """A prompt that is heard."""

    path: str


@dataclass(frozen=True)
class Text:
    """A prompt that is read."""

    text: str


Input = Audio | Text


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
    audio: npt.NDArray[np.float32] = field(repr=False)
    """Speech of the continuation at 16 kHz, all runs in order; empty where there is none."""


@dataclass(frozen=True)
class Generator:
    """A loaded export with everything that turns audio into prompts and tokens into audio."""

    model: LlamaForCausalLM
    vocabulary: Vocabulary
    tokenizer: Tokenizer
    streams_of: Callable[[npt.NDArray[np.float32]], Streams]
    speaker: Speaker

    @classmethod
    def load(cls, folder: str | Path, spiritlm_dir: str | None = None, device: str = "auto") -> "Generator":
        """Open a directory that the stage `export` wrote; CheckpointError where it is not one."""
        folder = Path(folder)
        if not (folder / "speech.json").is_file():
            raise CheckpointError(
                f"{folder} has no speech.json: expected the model/ directory of an export (`tinywave inspect` lists them)"
            )
        vocabulary = Vocabulary.from_json(json.loads((folder / "speech.json").read_text())["vocabulary"])
        place = pick_device(RuntimeConfig.model_validate({"device": device}))
        hearing = load_hearing(folder, vocabulary, spiritlm_dir, place.type)
        return cls(
            on_device(load_llama(folder), place).eval(),
            vocabulary,
            Tokenizer.from_file(str(folder / "tokenizer.json")),
            lambda samples: hearing.streams([samples])[0],
            load_speaker(folder / SPEECH_TOKENIZER, vocabulary, spiritlm_dir, place),
        )

    def __call__(
        self,
        inputs: Sequence[Input],
        output: OutputModality,
        config: GenerationConfig | None = None,
        examples: Sequence[tuple[Input, Input]] = (),
    ) -> Continuation:
        """Continue `inputs` in the modality `output` (arbitrary: whatever comes), after few-shot `examples`."""
        config = config or GenerationConfig()
        prompt = build_prompt([self._written(each) for each in _with_examples(inputs, examples)], output)
        ids = np.asarray(self.tokenizer.encode(prompt).ids, dtype=np.int64)
        room = self.model.config.max_position_embeddings - len(ids)
        if room < config.max_new_tokens:
            raise ConfigError(
                f"the prompt has {len(ids)} tokens and {config.max_new_tokens} are to follow, the model reads "
                f"{self.model.config.max_position_embeddings}: give a shorter prompt, fewer examples or fewer new tokens"
            )
        new = continue_tokens(self.model, ids, self.vocabulary, config, config.seed, output)
        spoken = self.string_of(new)
        found = runs(spoken)
        return Continuation(
            prompt=prompt,
            output=spoken,
            text="".join(run.content for run in found if run.modality == "text").strip(),
            runs=found,
            new_tokens=len(new),
            audio=self._audio(prompt, found),
        )

    def string_of(self, ids: Ids) -> str:
        """Ids in the middle of a sequence as a string: text as it stands after a marker, units by name."""
        head = self.vocabulary.prompt_ids(self.vocabulary.text_marker)
        decoded = self.tokenizer.decode([*head, *ids.tolist()], skip_special_tokens=True)
        return decoded.removeprefix("[Text]")

    def _written(self, given: Input) -> tuple[Modality, str]:
        if isinstance(given, Text):
            return "text", given.text
        return "speech", to_string(self.streams_of(read_waveform(given.path)), self.vocabulary)

    def _audio(self, prompt: str, found: Sequence[Run]) -> npt.NDArray[np.float32]:
        """Speech of the runs; one that goes on where the prompt spoke is made with it, and the prompt's part is cut off."""
        waves = [np.zeros(0, np.float32)]
        before = runs(prompt)
        for number, run in enumerate(found):
            units = units_in(run.content) if run.modality == "speech" else ""
            heard = units_in(before[-1].content) if not number and before and before[-1].modality == "speech" else ""
            enough = len(found) == 1 or units.count("[Hu") >= MIN_RUN_UNITS
            if not units or not enough:
                continue
            wave = self.speaker(np.asarray(self.vocabulary.encode(heard + units)))
            share = heard.count("[Hu") / ((heard + units).count("[Hu") + 1)
            waves.append(wave[int(np.ceil(len(wave) * share)) :])
        return np.concatenate(waves)


def _with_examples(inputs: Sequence[Input], examples: Sequence[tuple[Input, Input]]) -> list[Input]:
    newline = Text("\n")
    return [each for first, second in examples for each in (first, second, newline)] + list(inputs)
