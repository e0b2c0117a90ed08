"""Text and speech -> the ids of a prompt, and ids -> text as it comes; units go by their ids and never through a string.

SpiritLM's way: a marker goes before every change of modality and nothing else is added. Text is text: where it spells a unit,
a marker or the end, it is refused, so that nobody's words can change what the prompt is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from tokenizers import Tokenizer

from tinywave_core.errors import ConfigError, TokenError
from tinywave_core.tokenizers.prompts import Modality, OutputModality
from tinywave_core.tokenizers.trained_on import TrainedOn
from tinywave_core.tokenizers.vocabulary import BOS_ID, EOS_ID, Vocabulary

LONGEST_CHARACTER = 4  # bytes in UTF-8, each of which may be a token

Part = str | list[int]
"""Of a prompt: text, or ids of units."""


@dataclass(frozen=True)
class Prompting:
    """A model directory's tokenizer with its vocabulary, and what the model was trained on."""

    tokenizer: Tokenizer
    vocabulary: Vocabulary
    trained: TrainedOn

    def ids(self, parts: Sequence[Part], output: OutputModality) -> list[int]:
        """The prompt that continues `parts` in the modality `output`; ConfigError where the model was not trained to do that."""
        given: list[Modality] = ["text" if isinstance(part, str) else "speech" for part in parts]
        self.trained.require(given, output)
        ids = self.begun(parts)
        if not ids:
            raise ConfigError("there is nothing to continue: give text or speech")
        marker = self.vocabulary.text_marker if output == "text" else self.vocabulary.speech_marker
        return ids if output in ("arbitrary", given[-1]) else [*ids, marker]

    def begun(self, parts: Sequence[Part]) -> list[int]:
        """The same without what is asked for: how every prompt of these parts begins. Empty where there are none."""
        marker = {"text": self.vocabulary.text_marker, "speech": self.vocabulary.speech_marker}
        ids: list[int] = []
        for modality, same in groupby(parts, lambda part: "text" if isinstance(part, str) else "speech"):
            ids += [marker[modality]] if ids else self.vocabulary.prompt_ids(marker[modality])
            ids += self._joined(list(same))
        return ids

    def text_ids(self, text: str) -> list[int]:
        """Ids of text as it stands behind a marker; ConfigError or TokenError where it is none for this model."""
        self.trained.require(["text"], "text")
        if not is_unicode(text):
            raise TokenError("the text has half a character (a lone surrogate): is it in UTF-8?")
        head = self.vocabulary.prompt_ids(self.vocabulary.text_marker)
        ids: list[int] = self.tokenizer.encode("[Text]" + text).ids[len(head) :]
        control = next((i for i in ids if i >= self.vocabulary.text or i in (BOS_ID, EOS_ID)), None)
        if control is not None:
            raise TokenError(
                f"the text spells the token {self.tokenizer.id_to_token(control)}, which would not be read as text: write it "
                "another way"
            )
        return ids

    def string(self, ids: Sequence[int]) -> str:
        """Ids in the middle of a sequence as a string: text as it stands after a marker, units by name."""
        head = self.vocabulary.prompt_ids(self.vocabulary.text_marker)
        decoded: str = self.tokenizer.decode([*head, *ids], skip_special_tokens=True)
        return decoded.removeprefix("[Text]")

    def prompt_string(self, ids: Sequence[int]) -> str:
        """A whole prompt as a string."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def modality(self, i: int) -> Modality | None:
        """Modality of an id; None for markers and <s>, which no output has."""
        if i >= self.vocabulary.first["hubert"]:
            return "speech"
        return None if i >= self.vocabulary.text or i in (BOS_ID, EOS_ID, self.vocabulary.boundary) else "text"

    def _joined(self, parts: list[Part]) -> Iterator[int]:
        if isinstance(parts[0], str):
            return iter(self.text_ids("".join(map(str, parts))))
        return (i for part in parts for i in part if isinstance(i, int))


def is_unicode(text: str) -> bool:
    """Whether a text has whole characters only; JSON and command lines can bring half ones, which nothing can encode."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass
class Reading:
    """Text ids as they come -> text in whole characters."""

    prompting: Prompting
    waiting: list[int] = field(default_factory=list)

    def add(self, i: int) -> str:
        """The text that one more id completes; empty in the middle of a character."""
        self.waiting.append(i)
        text = self.prompting.string(self.waiting)
        if text.endswith("�") and len(self.waiting) < LONGEST_CHARACTER:
            return ""
        self.waiting.clear()
        return text

    def end(self) -> str:
        """The rest of a text that ends in the middle of a character."""
        text = self.prompting.string(self.waiting) if self.waiting else ""
        self.waiting.clear()
        return text
