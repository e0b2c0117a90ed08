"""Interleaved text and speech: inputs -> prompt, what a model may then sample, its output -> runs of text and speech.

As SpiritLM does it: a marker goes before every change of modality and nothing else is added, no space either. Speech is
its token string ("[Hu3][Pi1]…"). An output may hold anything, since a text piece can spell half a unit: `runs` splits
every string, `units_in` keeps what can be turned into audio.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from tinywave_core.tokenizers.streams import LETTERS, STREAMS
from tinywave_core.tokenizers.vocabulary import Vocabulary

Modality = Literal["text", "speech"]
OutputModality = Literal["text", "speech", "arbitrary"]
MARKERS: dict[str, str] = {"text": "[Text]", "speech": "[Speech]"}

_OPENING = tuple(f"[{stream.letters}" for stream in STREAMS)
# What begins like a unit is speech up to the next bracket that closes it, whatever lies between.
_PARTS = re.compile(rf"(?P<speech>\[(?:{LETTERS})[^\]]*\]?)|(?P<marker>\[(?:Text|Speech)\])|(?P<text>.)", re.DOTALL)
# Four digits at most, as in `vocabulary`: there are no more than 10,000 of a kind, and longer numbers would reach the integer parser.
_UNIT = rf"\[(?:{LETTERS})[0-9]{{1,4}}\]"
_UNITS = re.compile(rf"(?:{_UNIT})+")
# SpiritLM looks this far from either end for the other bracket; real units have at most five characters between.
_REACH = 10


@dataclass(frozen=True)
class Run:
    """A stretch of an output in one modality, without markers; speech need not be well-formed."""

    modality: Modality
    content: str


def build_prompt(inputs: Iterable[tuple[Modality, str]], output: OutputModality) -> str:
    """The prompt that continues `inputs` (text, or speech as its token string) in the modality `output`."""
    prompt, last = "", None
    for modality, content in inputs:
        prompt += content if modality == last else MARKERS[modality] + content
        last = modality
    return prompt if output in ("arbitrary", last) else prompt + MARKERS[output]


def forbidden_ids(vocabulary: Vocabulary, output: OutputModality) -> range:
    """Ids that SpiritLM bans for this kind of output; sampling excepts </s>, and bans the padding rows besides."""
    return {
        "text": range(vocabulary.text, vocabulary.tokens),
        "speech": range(vocabulary.first["hubert"]),
        "arbitrary": range(0),
    }[output]


def continuation_text(decoded: str, prompt: str) -> str:
    """The text that follows the prompt in a decoded output: SpiritLM counts characters and strips spaces."""
    # Right only where decoding gives the prompt back as it was: the slow convention does, the fast one adds spaces.
    return decoded[len(prompt) :].strip()


def runs(output: str) -> list[Run]:
    """Text and speech of any output in order; markers go, and what they kept apart in one modality is joined."""
    found: list[Run] = []
    for part in _PARTS.finditer(output):
        if part.lastgroup == "marker":
            continue
        modality: Modality = "speech" if part.lastgroup == "speech" else "text"
        joins = bool(found) and found[-1].modality == modality
        before = found.pop().content if joins else ""
        found.append(Run(modality, before + part[0]))
    return found


def units_in(output: str) -> str:
    """The well-formed unit tokens of any output, for `speech.from_string`; a number out of range is refused there."""
    return "".join(re.findall(_UNIT, output))


def starts_with_speech(output: str) -> bool:
    """Whether the first token is a unit. Only brackets and letters are looked at, and that something is between."""
    return output.startswith(_OPENING) and len("[Hu") < output.find("]") <= _REACH


def ends_with_speech(output: str) -> bool:
    """Whether the last token is a unit, looked at in the same way."""
    last = output[max(output.rfind("["), 0) :]
    return last.startswith(_OPENING) and last.endswith("]") and len("[Hu") < len(last) - 1 <= _REACH


def last_speech_start(output: str) -> int | None:
    """Where the last unbroken row of well-formed units begins, in characters; None if there is no unit."""
    return max((row.start() for row in _UNITS.finditer(output)), default=None)
