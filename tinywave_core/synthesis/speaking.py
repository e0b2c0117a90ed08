"""Token ids -> audio for an exported model: the vocoder of SpiritLM's release where it speaks its tokens, else the draft one."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tinywave_core.checkpoints.spiritlm import open_release, vocoder_part
from tinywave_core.synthesis.hifigan import HifiganVocoder
from tinywave_core.synthesis.vocoder import DraftVocoder
from tinywave_core.tokenizers.hearing import RELEASE_FILE
from tinywave_core.tokenizers.speech import positions
from tinywave_core.tokenizers.vocabulary import Vocabulary

DEFAULT_STYLE = 71  # for pitches without a style: the reference draws one of 71, 68 and 98 at random

Speak = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.float32]]


def load_speak(
    speech_tokenizer: Path,
    vocabulary: Vocabulary,
    spiritlm_dir: str | None,
    device: torch.device | str = "cpu",
    iterations: int = 16,
) -> Speak:
    """What speaks ids of an export whose folder `speech_tokenizer` this is; text ids and markers are skipped."""
    if not (speech_tokenizer / RELEASE_FILE).is_file():
        draft = DraftVocoder.load(speech_tokenizer)
        return lambda ids: draft.synthesize(ids, vocabulary, iterations)
    part = vocoder_part("expressive" if vocabulary.pitch else "base")
    hifigan = HifiganVocoder.load(open_release(spiritlm_dir, [part]).folder(part), device)

    def speak(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        # As the reference decodes strings: a second pitch in a row says that the unit goes on; durations are predicted.
        codes = positions(ids, vocabulary, default_style=DEFAULT_STYLE, repeat_for_pitch=True)
        return hifigan.synthesize(codes.units, codes.pitch, codes.style, predict_durations=True, deduplicate=False)

    return speak
