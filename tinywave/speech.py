"""Speech tokens by hand: audio -> units, pitch, style, ids and string, and back to audio."""

from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tinywave.places import Place, model_folder
from tinywave.sound import Sound, samples_of
from tinywave_core.checkpoints.spiritlm import Kind
from tinywave_core.config.base import Device, RuntimeConfig
from tinywave_core.devices import pick_device
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.synthesis.speaking import Speaker, load_speaker, released_speaker, require_voice
from tinywave_core.tokenizers import base
from tinywave_core.tokenizers.base import Places
from tinywave_core.tokenizers.opening import SPEECH_TOKENIZER, open_beside, open_release_of
from tinywave_core.tokenizers.spiritlm import SpeechTokens, lm_vocabulary


class SpeechTokenizer:
    """What turns speech into the tokens of a model, and tokens into speech.

    tokenizer = SpeechTokenizer.open("store/export/ID/model")
    tokens = tokenizer.encode("question.wav")        # .hubert, .pitch, .style, .string, .ids
    audio = tokenizer.decode(tokens)                 # float32 [n] at tokenizer.sample_rate
    """

    sample_rate: int = SAMPLE_RATE
    """Samples per second of what `decode` gives: 16,000."""

    def __init__(
        self, opened: base.SpeechTokenizer, folder: Path | None, spiritlm_dir: str | None, device: str
    ) -> None:
        """Use `open` or `released`."""
        self._opened, self._folder, self._spiritlm_dir, self._device = opened, folder, spiritlm_dir, device

    @classmethod
    def open(cls, model: Place, *, spiritlm_dir: str | None = None, device: Device = "auto") -> "SpeechTokenizer":
        """The tokenizer of a model: the model/ directory of an export, an artifact with one, or a folder of codebooks.

        Units of an encoder need the encoder: the environment variable TINYWAVE_ENCODER says where it lies. CheckpointError where a file is
        missing, foreign or another one than the model was trained with.
        """
        folder, place = model_folder(model), _device(device)
        return cls(open_beside(folder, Places(spiritlm_dir), place), folder, spiritlm_dir, place)

    @classmethod
    def released(
        cls, spiritlm_dir: str | None = None, kind: Kind = "expressive", *, device: Device = "auto"
    ) -> "SpeechTokenizer":
        """SpiritLM's own, from its release (None: where SPIRITLM_CHECKPOINTS_DIR says); `kind` is `base` or `expressive`.

        CheckpointError where a part of the release is missing or cut short.
        """
        place = _device(device)
        opened = open_release_of(lm_vocabulary(spiritlm_dir, kind), Places(spiritlm_dir), place)
        return cls(opened, None, spiritlm_dir, place)

    @property
    def sizes(self) -> dict[str, int]:
        """How many different codes there are of each kind: `hubert` (units), `pitch`, `style`; 0 where there is no such stream."""
        vocabulary = self._opened.vocabulary
        return {"hubert": vocabulary.hubert, "pitch": vocabulary.pitch, "style": vocabulary.style}

    @property
    def rates_hz(self) -> dict[str, float]:
        """Codes per second of speech before equal ones in a row become one token, by the same names."""
        rates = self._opened.vocabulary.rates
        return {"hubert": rates.units, "pitch": rates.pitch, "style": rates.style}

    @property
    def voices(self) -> tuple[str, ...]:
        """Names for `decode`; empty where there is one voice without a name."""
        return self._speaker.voices

    def encode(self, audio: Sound, sample_rate: int | None = None) -> SpeechTokens:
        """Tokens of a recording: a file, or samples [n] or [n, channels] at `sample_rate` Hz (none: 16,000).

        The same recording gives the same tokens, whatever else was tokenized before. SourceError for what is no audio.
        """
        (streams,) = self._opened.tokenize([samples_of(audio, sample_rate)])
        return SpeechTokens.of(streams, self._opened.vocabulary)

    def decode(self, tokens: SpeechTokens | npt.ArrayLike, voice: str | None = None) -> npt.NDArray[np.float32]:
        """Samples [n] at `sample_rate` of tokens, or of ids [N] of them; text and markers are skipped.

        Tokens say what is spoken and how, not by whom: the speech comes in the model's voice. It lasts about as long as the recording, since
        a token does not say how long its unit went on. TinyWaveError for a voice that there is not, CheckpointError where codebooks have none.
        """
        require_voice(self._speaker, voice)
        ids = tokens.ids if isinstance(tokens, SpeechTokens) else np.asarray(tokens, np.int64)
        return self._speaker(ids, voice)

    @cached_property
    def _speaker(self) -> Speaker:
        vocabulary = self._opened.vocabulary
        if self._folder is None:
            return released_speaker(vocabulary, self._spiritlm_dir, self._device)
        beside = self._folder / SPEECH_TOKENIZER
        return load_speaker(beside if beside.is_dir() else self._folder, vocabulary, self._spiritlm_dir, self._device)


def _device(device: Device) -> str:
    return pick_device(RuntimeConfig(device=device)).type
