"""The placing of characters by CTC: the best of all paths, for each utterance as if it were alone."""

import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from tinywave_core.alignment.base import Refusal
from tinywave_core.alignment.ctc import CtcAligner, best_paths
from tinywave_core.errors import CheckpointError

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


@settings(deadline=None, max_examples=40)
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
    assert path.shape == (1, 60)


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
    with pytest.raises(CheckpointError, match="cannot be loaded as a Wav2Vec2ForCTC"):
        CtcAligner.load(tmp_path)
