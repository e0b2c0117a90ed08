"""Speech (mono, 16 kHz) -> the probability of each label, by a transformers model of audio classification that lies in a directory.

One way to ask for music, for two speakers at once, for the language, or for anything else that somebody has a model of. An utterance
goes alone, so neighbours have no say in its numbers. What is longer than the model's window is cut into equal parts, and has the mean of
their probabilities. Labels are alternatives (softmax), unless the config says multi_label_classification, or there is one (sigmoid).
Safetensors only: nothing is unpickled, nothing is fetched, no code of the directory is run. Shapes: N samples, K labels.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tinywave_core.checkpoints.bounds import building, check_directory, model_weights, read_json, shown
from tinywave_core.checkpoints.model_directory import PREPROCESSOR, model_digest
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.storage.schemas import SAMPLE_RATE

if TYPE_CHECKING:
    import torch

SPECTROGRAM = "audio-spectrogram-transformer"
ARCHITECTURES = {
    "wav2vec2": "Wav2Vec2ForSequenceClassification",
    "hubert": "HubertForSequenceClassification",
    "wavlm": "WavLMForSequenceClassification",
    "data2vec-audio": "Data2VecAudioForSequenceClassification",
    SPECTROGRAM: "ASTForAudioClassification",
}
EXPECTED = f"expected the directory of one of {', '.join(ARCHITECTURES.values())}, as save_pretrained writes it"
WINDOW_SAMPLES = 30 * SAMPLE_RATE  # of those that hear a wave of any length
SHORTEST_SAMPLES = SAMPLE_RATE // 10
_FRAME, _HOP = 400, 160  # samples of a frame of the spectrogram
_NAMED = 12
MOST_LABELS, LONGEST_LABEL = 10_000, 200
ID = "utterance_id"

Samples = npt.NDArray[np.float32]
Classify = Callable[[Samples], npt.NDArray[np.float64]]
"""Probabilities [K] of an utterance, in the order of its labels."""


def read_labels(folder: Path) -> tuple[str, ...]:
    """The labels of the model in a directory; CheckpointError where it is no such model. Reads its config and names of files alone."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json: {EXPECTED}")
    about = read_json(folder / "config.json")
    kind, heads = about.get("model_type"), about.get("architectures")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise CheckpointError(f"{folder} has a model of type {shown(kind)}; {EXPECTED}")
    if heads and ARCHITECTURES[kind] not in heads:
        raise CheckpointError(f"{folder} has the architectures {shown(heads)}; {EXPECTED}")
    if about.get("problem_type") == "regression":
        raise CheckpointError(
            f"{folder} has a model that tells numbers (problem_type regression), not labels; {EXPECTED}"
        )
    if any(path.suffix != ".safetensors" for path in model_weights(folder)):
        raise CheckpointError(
            f"{folder} has its weights as a pickle (pytorch_model.bin), which is not opened since it can run code: save them as "
            "model.safetensors (save_pretrained does so)"
        )
    return _labels(about.get("id2label"), folder / "config.json")


def _labels(given: Any, path: Path) -> tuple[str, ...]:
    named = given if isinstance(given, dict) else {}
    labels = tuple(named.get(str(number)) for number in range(len(named)))
    # The rows of a table are named so.
    is_well = all(isinstance(label, str) and 0 < len(label) <= LONGEST_LABEL for label in labels) and ID not in labels
    if not 0 < len(labels) <= MOST_LABELS or not is_well or len(set(labels)) < len(labels):
        raise CheckpointError(
            f"{path} has id2label {shown(given)}; expected a name for each of its outputs from 0 on, {MOST_LABELS:,} at most, no two "
            f"the same and none {ID}: write them in"
        )
    return tuple(map(str, labels))


def shared_classifier(folder: Path, device: "torch.device | str") -> Classify:
    """One loaded model per process, for the threads that work on shards side by side."""
    # The digest is asked each time, so that other files under the same path are never answered with what was loaded before.
    with _loading:
        return _load_once(folder, model_digest(folder), str(device))


_loading = threading.Lock()


@lru_cache(maxsize=4)
def _load_once(folder: Path, _: str, device: str) -> Classify:
    return load_classifier(folder, device)


def load_classifier(folder: Path, device: "torch.device | str" = "cpu") -> Classify:
    """The model of a directory; CheckpointError where weights are missing or of another shape, or it hears nothing in 0.1 s."""
    import torch

    labels = read_labels(folder)
    model = _model(folder, len(labels)).to(device)
    extract = _extractor(folder, model.config)
    is_exclusive = len(labels) > 1 and model.config.problem_type != "multi_label_classification"
    window = WINDOW_SAMPLES
    if model.config.model_type == SPECTROGRAM:
        window = _FRAME + _HOP * (model.config.max_length - 1)

    def part(samples_N: Samples) -> npt.NDArray[np.float64]:
        heard = extract(samples_N, sampling_rate=SAMPLE_RATE, return_tensors="pt").to(device)
        logits_K = model(**heard).logits[0].float()
        return np.asarray((logits_K.softmax(-1) if is_exclusive else logits_K.sigmoid()).cpu().numpy(), np.float64)

    def classify(samples_N: Samples) -> npt.NDArray[np.float64]:
        # TF32, cuDNN's default, would make other numbers on a GPU than on a CPU.
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            parts = np.array_split(samples_N, max(1, -(-len(samples_N) // window)))
            return np.asarray(np.mean([part(np.ascontiguousarray(each)) for each in parts], axis=0), np.float64)

    with building(folder / "config.json", ARCHITECTURES[model.config.model_type]):
        tried = classify(np.zeros(SHORTEST_SAMPLES, np.float32))
        if tried.shape != (len(labels),):
            raise ValueError(f"it has {tried.shape} outputs for {len(labels)} labels")
    return classify


def _model(folder: Path, labels: int) -> Any:
    import transformers

    from tinywave_core.evals.transcription import load_whole

    name = ARCHITECTURES[str(read_json(folder / "config.json")["model_type"])]
    check_directory(folder, name)
    kind = getattr(transformers, name)
    with building(folder / "config.json", name):
        # They mask frames in training only. Some releases have the vector for that and some do not.
        config = kind.config_class.from_pretrained(
            folder, local_files_only=True, mask_time_prob=0.0, mask_feature_prob=0.0
        )
        needed = _head_parameters(config, labels)
    room = sum(path.stat().st_size for path in model_weights(folder))
    if needed > room:
        raise CheckpointError(
            f"{folder / 'config.json'} promises {needed:,} parameters beside its layers, more than its weights have room for "
            f"({room:,} bytes): they do not belong together, download both again"
        )
    return load_whole(kind, folder, config)


def _head_parameters(config: Any, labels: int) -> int:
    """Of the labels, and of the places of a spectrogram's patches, which the general bounds do not know."""
    if config.model_type != SPECTROGRAM:
        return labels * int(config.classifier_proj_size)
    sizes = (config.num_mel_bins, config.max_length, config.patch_size, config.time_stride, config.frequency_stride)
    if any(type(size) is not int or size < 1 for size in sizes):
        raise ValueError(f"sizes {shown(sizes)}, expected whole numbers from 1 on")
    bands, frames, patch, time, frequency = sizes
    patches = ((bands - patch) // frequency + 1) * ((frames - patch) // time + 1)
    return int(config.hidden_size) * (labels + max(patches, 0) + patch * patch)


def _extractor(folder: Path, config: Any) -> Any:
    """What makes the model's input of a wave, as transformers does with the values of the directory's preprocessor_config.json."""
    from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor

    path = folder / PREPROCESSOR
    about = read_json(path) if path.is_file() else {}
    fixed: dict[str, Any] = {"sampling_rate": SAMPLE_RATE, "feature_size": 1}
    if config.model_type == SPECTROGRAM:
        fixed |= {"num_mel_bins": config.num_mel_bins, "max_length": config.max_length}
    for name, expected in fixed.items():
        if about.get(name, expected) != expected:
            raise CheckpointError(
                f"{path} has {name} {shown(about[name])}, expected {expected}: TinyWave gives speech at 16 kHz, as the config beside it "
                "asks for; take another model"
            )
    free = {name: about[name] for name in ("do_normalize", "return_attention_mask") if name in about}
    with building(path, "feature extractor"):
        if config.model_type != SPECTROGRAM:
            return Wav2Vec2FeatureExtractor(**fixed, **free)
        scale = {name: float(about[name]) for name in ("mean", "std") if name in about}
        return ASTFeatureExtractor(**fixed, **free, **scale)


# Of the settings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GivenModel:
    """A model of the settings."""

    name: str
    folder: Path
    labels: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of its weights and configs."""
        return model_digest(self.folder)


def given_models(config: PipelineConfig) -> list[GivenModel]:
    """The models of `ingestion.measures.classifiers`; CheckpointError for what is none, ConfigError for a threshold on a label that none has."""
    models = [
        GivenModel(name, Path(folder), read_labels(Path(folder)))
        for name, folder in config.ingestion.measures.models.items()
    ]
    known = {f"{model.name}.{label}" for model in models for label in model.labels}
    for wanted in config.ingestion.keep.labels:
        if wanted not in known:
            own = [label for label in sorted(known) if label.partition(".")[0] == wanted.partition(".")[0]]
            more = f" and {len(own) - _NAMED} more" if len(own) > _NAMED else ""
            raise ConfigError(
                f"ingestion.keep names the label {wanted}; expected one of {', '.join(own[:_NAMED])}{more}"
            )
    return models
