"""The placing of characters by CTC: the best of all paths, for each utterance as if it were alone."""

import itertools
import json
import logging
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from tinywave_core.alignment.base import Refusal
from tinywave_core.alignment.ctc import CtcAligner, best_paths
from tinywave_core.alignment.words import Word
from tinywave_core.errors import CheckpointError

pytestmark = pytest.mark.arithmetic

ALPHABET = {"<pad>": 0, "|": 1, "A": 2, "B": 3, "C": 4, "'": 5, "E": 6, "T": 7, "W": 8, "O": 9, "N": 10}


def scores(seed: int, frames: int, characters: int = 4) -> np.ndarray:
    return torch.log_softmax(
        torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (frames, characters))), -1
    ).numpy()


def likelihood(path: list[int], of: np.ndarray) -> float:
    return float(sum(of[t, c] for t, c in enumerate(path)))


def brute_force(of: np.ndarray, characters: list[int]) -> float:
    """The best of all sequences of frames that collapse to the characters."""
    best = -np.inf
    for path in itertools.product(range(of.shape[1]), repeat=len(of)):
        collapsed = [c for c, _ in itertools.groupby(path) if c]
        if collapsed == characters:
            best = max(best, likelihood(list(path), of))
    return best


def score_of(spans: list[tuple[int, int]], of: np.ndarray, characters: list[int]) -> float:
    path = [0] * len(of)
    for character, (start, end) in zip(characters, spans, strict=True):
        path[start:end] = [character] * (end - start)
    return likelihood(path, of)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 6), st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_the_path_is_the_best_of_all_that_collapse_to_the_transcript(seed: int, frames: int, characters: list[int]):
    of = scores(seed, frames)
    (spans,) = best_paths([of], [characters], blank=0)
    best = brute_force(of, characters)
    if np.isinf(best):
        assert spans is None
    else:
        assert spans is not None and score_of(spans, of, characters) == pytest.approx(best)


def test_utterances_of_unequal_length_are_placed_as_each_alone():
    cases = [(scores(n, 20 + 13 * n), [1, 2, 2, 3][: n + 1]) for n in range(4)]
    together = best_paths([of for of, _ in cases], [c for _, c in cases], blank=0)
    assert together == [best_paths([of], [c], blank=0)[0] for of, c in cases]


def test_the_path_is_as_likely_as_that_of_torchaudio():
    of, characters = scores(3, 60, 6), [1, 4, 4, 2, 5]
    (spans,) = best_paths([of], [characters], blank=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path, found = torchaudio.functional.forced_align(
            torch.from_numpy(of)[None].float(), torch.tensor([characters]), blank=0
        )
    assert spans is not None
    assert score_of(spans, of, characters) == pytest.approx(float(found.sum()), abs=1e-3)
    labels = [0] * 60
    for character, (start, end) in zip(characters, spans, strict=True):
        labels[start:end] = [character] * (end - start)
    assert path[0].tolist() == labels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ctc")
    config = Wav2Vec2Config(
        vocab_size=len(ALPHABET),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Wav2Vec2ForCTC(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(ALPHABET))
    return folder


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(1).normal(0, 0.1, int(16_000 * seconds)).astype(np.float32)


def test_words_come_in_order_with_confidences_and_within_the_audio(folder: Path):
    found = CtcAligner.load(folder).align(noise(2.0), "Beat a cab, two!")
    assert isinstance(found, list)
    assert [word.text for word in found] == ["Beat", "a", "cab,", "two!"]
    edges = [edge for word in found for edge in (word.start_samples, word.end_samples)]
    assert edges == sorted(edges) and edges[0] >= 0 and edges[-1] <= 32_000
    assert all(word.confidence is not None and 0 < word.confidence < 1 for word in found)


def test_numbers_are_placed_by_how_they_are_said_and_words_of_another_script_between_their_neighbours(folder: Path):
    found = CtcAligner.load(folder).align(noise(2.0), "2 мир cab")
    assert isinstance(found, list)
    assert [(word.text, word.confidence is None) for word in found] == [("2", False), ("мир", True), ("cab", False)]


def test_several_transcripts_at_once_are_each_as_alone(folder: Path):
    aligner = CtcAligner.load(folder)
    cases = [(noise(1.0), "a cab"), (noise(2.5), "beat a cat"), (noise(0.01), "a")]
    together = aligner.align_all([s for s, _ in cases], [t for _, t in cases])
    assert together == [aligner.align(*case) for case in cases]
    assert isinstance(together[2], Refusal)


@pytest.mark.parametrize(
    ("seconds", "transcript", "reason"), [(1.0, "...", "no_transcript"), (0.1, "a cab at a cab at a cab", "failed")]
)
def test_what_cannot_be_placed_is_refused_by_name(folder: Path, seconds: float, transcript: str, reason: str):
    found = CtcAligner.load(folder).align(noise(seconds), transcript)
    assert isinstance(found, Refusal) and found.reason == reason


def test_a_directory_that_is_no_ctc_model_is_refused(folder: Path, tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"vocab\.json cannot be read"):
        CtcAligner.load(tmp_path)
    (tmp_path / "vocab.json").write_text(json.dumps(ALPHABET))
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(CheckpointError, match="has no weights: expected model.safetensors"):
        CtcAligner.load(tmp_path)


class Heard:
    """A model that hears one character in each frame, with probability 0.9."""

    config = SimpleNamespace(vocab_size=len(ALPHABET))
    device = torch.device("cpu")

    def __init__(self, frames: str) -> None:
        self.frames = [ALPHABET["<pad>"] if c == "." else ALPHABET[c] for c in frames]

    def __call__(self, wave: torch.Tensor) -> SimpleNamespace:
        others = 0.1 / (len(ALPHABET) - 1)
        likely = torch.full((1, len(self.frames), len(ALPHABET)), others)
        likely[0, torch.arange(len(self.frames)), self.frames] = 0.9
        return SimpleNamespace(logits=likely.log())


def hearing(frames: str) -> tuple[CtcAligner, np.ndarray]:
    aligner = CtcAligner(Heard(frames), ALPHABET, blank=0, normalise=False, delimiter=ALPHABET["|"])
    return aligner, np.zeros(320 * len(frames), np.float32)


def test_words_last_from_their_first_to_their_last_character_in_frames_of_20_ms():
    aligner, silence = hearing("...CCA.B||..BE..T..")
    assert aligner.align(silence, "Cab, beat...") == [
        Word("Cab,", 3 * 320, 8 * 320, pytest.approx(0.9)),
        Word("beat...", 12 * 320, 17 * 320, pytest.approx((3 * 0.9 + 0.01) / 4)),
    ]


def test_the_confidence_is_the_mean_probability_of_the_characters():
    aligner, silence = hearing("..CAB|..TWO.")
    found = aligner.align(silence, "cab ten")
    assert isinstance(found, list)
    assert [word.confidence for word in found] == [pytest.approx(0.9), pytest.approx((0.9 + 0.01 + 0.01) / 3)]


def test_numbers_with_letters_are_placed_as_they_are_said():
    aligner, silence = hearing("..TENB..")
    assert aligner.align(silence, "10b.") == [Word("10b.", 2 * 320, 6 * 320, pytest.approx(0.9))]


def test_a_whole_model_is_loaded_without_a_word(folder: Path, caplog: pytest.LogCaptureFixture):
    transformers_logger = logging.getLogger("transformers")
    transformers_logger.addHandler(caplog.handler)
    try:
        CtcAligner.load(folder)
    finally:
        transformers_logger.removeHandler(caplog.handler)
    assert not caplog.records


def test_a_released_model_without_the_mask_of_training_and_with_old_names_is_loaded(folder: Path, tmp_path: Path):
    """As facebook/wav2vec2-base-960h is: `masked_spec_embed` is missing, the weight norm is under weight_g and weight_v."""
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    weights = {}
    for key, value in load_file(folder / "model.safetensors").items():
        for new, old in names.items():
            key = key.replace(new, old)
        weights[key] = value
    del weights["wav2vec2.masked_spec_embed"]
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(weights, tmp_path / "pytorch_model.bin")
    assert CtcAligner.load(tmp_path).align(noise(1.0), "a cab") == CtcAligner.load(folder).align(noise(1.0), "a cab")


@pytest.mark.parametrize("change", ["missing", "foreign", "shape"])
def test_weights_of_another_architecture_are_refused(folder: Path, tmp_path: Path, change: str):
    weights = load_file(folder / "model.safetensors")
    match change:
        case "missing":
            del weights["lm_head.bias"]
        case "foreign":
            weights["quantizer.codevectors"] = torch.zeros(1)
        case "shape":
            weights["lm_head.bias"] = torch.zeros(3)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError):
        CtcAligner.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "hubert"}, "has model_type 'hubert', expected 'wav2vec2'"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, "has samples per frame 160, expected 320"),
        ({"vocab_size": 5}, "does not give each character one of the model's 5 outputs"),
    ],
)
def test_a_config_that_does_not_fit_is_named(folder: Path, tmp_path: Path, config: dict, said: str):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    own = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(own | config))
    with pytest.raises(CheckpointError, match=said):
        CtcAligner.load(tmp_path)


@pytest.mark.parametrize(
    ("frames", "text"),
    [("..CCA.B||..BE..AT..", "CAB BEAT"), ("..BE.EE.A", "BEEA"), ("||..A||", "A"), ("......", "")],
)
def test_what_is_heard_has_no_repeats_without_a_blank_between_them(frames: str, text: str):
    aligner, silence = hearing(frames)
    assert aligner.transcribe(silence) == text
