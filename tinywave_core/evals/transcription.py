"""Sound -> text by a recogniser that lies in a directory: Whisper, or a Wav2Vec2ForCTC; greedy, one recording at a time.

Safetensors only: nothing is unpickled, nothing is fetched, no code of the directory is run.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tinywave_core.alignment.ctc import CtcAligner
from tinywave_core.checkpoints.bounds import building, check_directory, read_json, shown
from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.tokenizers.directory import open_as_transformers

_MOST = {
    "feature_size": 1024,
    "n_fft": 1 << 14,
    "hop_length": 1 << 14,
    "chunk_length": 600,
    "sampling_rate": SAMPLE_RATE,
}

# Where Whisper understands nothing it may say the same words until it has no more places: 200 words that were never spoken, for one clip.
LONGEST_REPEATED = 8  # tokens that may come twice, less one

Transcribe = Callable[[npt.NDArray[np.float32]], str]


def load_recogniser(folder: Path, language: str = "", device: torch.device | str = "cpu") -> Transcribe:
    """What writes down speech (16 kHz, mono); the same sound gives the same text. Nothing is heard in nothing."""
    kind = read_json(folder / "config.json").get("model_type")
    hear = _whisper(folder, language, device) if kind == "whisper" else CtcAligner.load(folder, device).transcribe

    def transcribe(samples: npt.NDArray[np.float32]) -> str:
        text = hear(samples).strip() if len(samples) else ""
        # Alphabets of capitals alone are no text that a language model has read.
        return text.lower() if text.isupper() else text

    return transcribe


def _whisper(folder: Path, language: str, device: torch.device | str) -> Transcribe:
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    model = load_whole(WhisperForConditionalGeneration, folder).to(device)
    _check_extractor(folder / "preprocessor_config.json")
    with building(folder / "preprocessor_config.json", "WhisperFeatureExtractor"):
        extractor = WhisperFeatureExtractor.from_pretrained(folder, local_files_only=True)
    tokenizer = open_as_transformers(folder)
    with building(folder / "generation_config.json", "Whisper's generation"):
        asked = _asked(model.generation_config, language, folder)
    if not {"max_length", "max_new_tokens"} & _own_generation(folder).keys():
        # transformers would stop at its own 20 tokens, in the middle of a sentence.
        model.generation_config.max_length = model.config.max_target_positions

    @torch.inference_mode()
    def transcribe(samples: npt.NDArray[np.float32]) -> str:
        heard = extractor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True)
        ids = model.generate(
            heard.input_features.to(device),
            attention_mask=heard.attention_mask.to(device),
            do_sample=False,
            num_beams=1,
            no_repeat_ngram_size=LONGEST_REPEATED,
            **asked,
        )
        return str(tokenizer.decode(ids[0], skip_special_tokens=True))

    return transcribe


def _own_generation(folder: Path) -> dict[str, Any]:
    path = folder / "generation_config.json"
    return read_json(path) if path.is_file() else {}


def _check_extractor(path: Path) -> None:
    """No weights show these sizes, and the filters and the silence after a recording are as large as they say."""
    for name, found in (read_json(path) if path.is_file() else {}).items():
        if name in _MOST and (type(found) is not int or not 0 < found <= _MOST[name]):
            raise CheckpointError(f"{path} has {name} {shown(found)}, expected 1 to {_MOST[name]:,} as in Whisper")


def _asked(generation: Any, language: str, folder: Path) -> dict[str, str]:
    """What a multilingual Whisper is told besides the sound; ConfigError where it does not know the language."""
    spoken = getattr(generation, "lang_to_id", None) or {}
    if not getattr(generation, "is_multilingual", False):
        spoken, known = {}, language in ("", "en")
    else:
        known = not language or f"<|{language}|>" in spoken
    if not known:
        heard = ", ".join(sorted(each.strip("<|>") for each in spoken)) or "en"
        raise ConfigError(
            f"evaluation.generated.language is {language}, which {folder} does not know: it hears {heard}; leave it empty, or give "
            "another recogniser"
        )
    return {"task": "transcribe", **({"language": language} if language else {})} if spoken else {}


def load_whole(kind: Any, folder: Path, config: Any = None, *, unused: Collection[str] = ()) -> Any:
    """A transformers model in evaluation mode from a directory's safetensors; CheckpointError unless all its weights are there, but for
    the `unused`. `config` goes before that of the directory."""
    check_directory(folder, kind.__name__)
    try:
        model, about = kind.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # transformers fails on damaged directories with nearly every kind there is
        raise CheckpointError(f"{folder} cannot be loaded as a {kind.__name__}: {error}") from error
    if faults := sorted({*about["missing_keys"], *map(str, about["mismatched_keys"])} - set(unused)):
        raise CheckpointError(
            f"{folder} is not a whole {kind.__name__}: {len(faults)} tensors are missing or of another shape, such as {faults[0]}"
        )
    return model.eval().requires_grad_(False)
