"""What a model was trained on, and so what it takes and gives: recorded at export in speech.json, held to wherever the model is used.

A vocabulary has text in it whether or not anything was read in training. Only training tells: a model that saw speech alone answers
text with noise. Its teacher's training does not count, since a student is a few blocks of it and learns again what it can do (decision 45).
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tinywave_core.counts import count
from tinywave_core.errors import ConfigError
from tinywave_core.tokenizers.prompts import Modality, OutputModality

KEY = "trained_on"
"""In speech.json."""
WITH_TEXT = "train a model with text (--tokenization.interleaving.policy poisson on speech with transcripts, --tokenization.text.source)"


@dataclass(frozen=True)
class TrainedOn:
    """Training sequences of a model, by what is in them."""

    speech: int = 0
    """Of speech alone."""
    text: int = 0
    """Of text alone."""
    mixed: int = 0
    """Of both, one after the other."""
    is_recorded: bool = True
    """False where an export does not say: it takes and gives speech, which every model does."""

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> "TrainedOn":
        """What speech.json says."""
        counts = about.get(KEY)
        return UNKNOWN if counts is None else cls(counts["speech"], counts["text"], counts["mixed"])

    @property
    def modalities(self) -> list[Modality]:
        """What it was trained to read and to go on with."""
        seen: dict[Modality, int] = {"speech": self.speech + self.mixed, "text": self.text + self.mixed}
        return [modality for modality, count in seen.items() if count]

    @property
    def outputs(self) -> list[str]:
        """What can be asked of it."""
        return [*self.modalities, *(["mixed"] if self.mixed else [])]

    @property
    def in_words(self) -> str:
        """As in "speech alone (12 sequences)"."""
        if not self.is_recorded:
            return "it is not recorded what, so that it counts as speech alone"
        if self.modalities == ["speech"]:
            return f"speech alone ({count(self.speech, 'sequence')})"
        if self.modalities == ["text"]:
            return f"text alone ({count(self.text, 'sequence')})"
        return f"{count(self.speech, 'sequence')} of speech, {self.text:,} of text and {self.mixed:,} of both in turns"

    def to_json(self) -> dict[str, int]:
        """For speech.json."""
        return {name: count for name, count in asdict(self).items() if name != "is_recorded"}

    def without_text(self) -> "TrainedOn":
        """Of the same model once the rows of text are left out of its embedding."""
        return TrainedOn(self.speech + self.mixed, is_recorded=self.is_recorded)

    def require(self, given: Collection[Modality], output: OutputModality) -> None:
        """ConfigError where it was not trained to go on from what is given in the modality that is asked for."""
        for modality in given:
            if modality not in self.modalities:
                raise ConfigError(
                    f"this model cannot {_TAKE[modality]}: it was trained on {self.in_words}. {self._instead(modality)}"
                )
        if output not in ("arbitrary", *self.modalities):
            raise ConfigError(
                f"this model cannot {_GIVE[output]}: it was trained on {self.in_words}. {self._instead(output)}"
            )
        if not self.mixed and (output == "arbitrary" or len({*given, output}) > 1):
            raise ConfigError(
                f"this model cannot go from one of text and speech to the other: it was trained on {self.in_words}. "
                f"{self._instead('text') if self.modalities == ['speech'] else 'Stay in one, or ' + WITH_TEXT}"
            )

    def _instead(self, modality: str) -> str:
        """What to do where a modality was not in the training."""
        other = "speech" if modality == "text" else "text"
        again = "" if self.is_recorded else "export it again with this TinyWave, or "
        return f"Give it {other} and ask for {other}, or {again}{WITH_TEXT}"


_TAKE = {"text": "read text", "speech": "hear speech"}
_GIVE = {"text": "write text", "speech": "speak"}

UNKNOWN = TrainedOn(speech=1, is_recorded=False)
