"""Scores of pairs against a model whose every probability is chosen by hand, and the figures made of them."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.errors import ConfigError
from tinywave_core.evals.pair_scores import (
    Definition,
    accuracies,
    differences,
    modality_classes,
    paired_tests,
    score_pairs,
    score_tokens,
)
from tinywave_core.evals.pair_tokens import TokenPair, Tokens
from tinywave_core.evals.suites.base import Pair
from tinywave_core.models.llama import fresh_llama
from tinywave_core.tokenizers.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text=5, hubert=2, pitch=1, style=1, padded=12)
S, A, B, TEXT, SPEECH, HU0, HU1, PI0, ST0 = 1, 3, 4, 5, 6, 7, 8, 9, 10
SHAPE = FreshTeacherConfig(layers=2, width=32, heads=2, intermediate=64)
AFTER = {
    S: {SPEECH: 1.0},
    SPEECH: {HU0: 0.5, HU1: 0.25, PI0: 0.25},
    HU0: {HU1: 0.5, PI0: 0.125, A: 0.375},
    HU1: {HU0: 0.25, TEXT: 0.75},
    PI0: {HU1: 1.0},
    TEXT: {A: 0.5, B: 0.25, HU0: 0.25},
    A: {B: 1.0},
}


@pytest.fixture(scope="module")
def bigrams():
    """Blocks add nothing and embeddings are unit vectors, so the head alone says what follows a token."""
    model = fresh_llama(SHAPE, VOCABULARY.rows, 64, seed=0).eval()
    state = model.state_dict()
    for name in state:
        if "o_proj" in name or "down_proj" in name:
            state[name].zero_()
    state["model.embed_tokens.weight"].copy_(10 * torch.eye(VOCABULARY.rows, SHAPE.width))
    head = state["lm_head.weight"].zero_()
    for before, shares in AFTER.items():
        for after in range(VOCABULARY.rows):
            head[after, before] = math.log(shares.get(after, 1e-9)) / math.sqrt(SHAPE.width)
    return model


def tokens(*ids: int, prompt: int = 2) -> Tokens:
    given = {S, TEXT, SPEECH}
    return Tokens(np.array(ids), np.array([i not in given for i in ids]), prompt)


def score(model, sequence: Tokens, **definition) -> float:
    (found,) = score_tokens(model, VOCABULARY, [sequence], Definition(**definition))
    return pytest.approx(found, abs=1e-5)


SPOKEN = tokens(S, SPEECH, HU0, PI0, HU1, prompt=3)


def test_the_default_is_the_mean_over_all_tokens_but_those_that_open_the_sequence(bigrams):
    assert score(bigrams, SPOKEN) == (math.log(0.5) + math.log(0.125) + math.log(1.0)) / 3
    assert score(bigrams, SPOKEN, reduction="sum") == math.log(0.5) + math.log(0.125)


def test_a_continuation_is_what_follows_the_prompt(bigrams):
    assert score(bigrams, SPOKEN, over="continuation", reduction="sum") == math.log(0.125)
    assert score(bigrams, SPOKEN, over="continuation") == math.log(0.125) / 2


def test_hubert_alone_leaves_pitch_in_the_context_and_out_of_the_score(bigrams):
    assert score(bigrams, SPOKEN, streams="hubert") == math.log(0.5) / 2
    assert score(bigrams, SPOKEN, streams="hubert", over="continuation") == 0.0


def test_a_token_can_compete_with_those_of_its_own_modality_only(bigrams):
    assert score(bigrams, SPOKEN, vocabulary="own", reduction="sum") == math.log(0.5) + math.log(0.125 / 0.625)
    mixed = tokens(S, SPEECH, HU1, TEXT, A, B, prompt=4)
    assert score(bigrams, mixed, reduction="sum") == math.log(0.25) + math.log(0.5)
    assert score(bigrams, mixed, vocabulary="own", reduction="sum") == math.log(0.25) + math.log(0.5 / 0.75)


def test_classes_are_text_markers_and_speech_and_neither_specials_nor_padding():
    assert modality_classes(VOCABULARY).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 0]


def test_a_sequence_in_which_nothing_counts_has_no_score(bigrams):
    assert score_tokens(bigrams, VOCABULARY, [tokens(S, SPEECH, PI0)], Definition(streams="hubert")) == [None]


def pair(name: str, positive: Tokens | None, negative: Tokens | None, reason: str = "", **about) -> TokenPair:
    return TokenPair(Pair(name, Path("p.wav"), Path("n.wav"), **about), positive, negative, reason)


LIKELY, UNLIKELY = tokens(S, SPEECH, HU0), tokens(S, SPEECH, HU1)


def test_right_is_1_wrong_0_a_tie_a_half_and_what_cannot_be_scored_has_a_reason(bigrams):
    pairs = [
        pair("right", LIKELY, UNLIKELY),
        pair("wrong", UNLIKELY, LIKELY),
        pair("tie", LIKELY, LIKELY),
        pair("broken", None, None, "no audio"),
    ]
    table = score_pairs(bigrams, VOCABULARY, pairs, Definition())
    assert table["credit"].to_pylist() == [1, 0, 0.5, None]
    assert table["reason"].to_pylist() == [None, None, None, "no audio"]
    assert table["positive_score"].to_pylist()[:2] == pytest.approx([math.log(0.5), math.log(0.25)])
    found = accuracies(table, {})["all"]
    assert (found.value, found.items, found.pairs) == (0.5, 3, 3)


def test_scores_and_ties_do_not_depend_on_the_batch():
    model = fresh_llama(SHAPE, VOCABULARY.rows, 64, seed=1).eval()
    rng = np.random.default_rng(0)
    drawn = [tokens(S, SPEECH, *rng.integers(HU0, ST0, n)) for n in rng.integers(1, 50, 60)]
    pairs = [pair(str(i), drawn[i], drawn[i + 1]) for i in range(59)]
    pairs += [pair("tie", drawn[0], tokens(*drawn[0].ids.tolist()))]
    together = score_pairs(model, VOCABULARY, pairs, Definition())
    assert together["credit"].to_pylist()[-1] == 0.5
    for each, row in zip(pairs, together.to_pylist(), strict=True):
        (alone,) = score_pairs(model, VOCABULARY, [each], Definition()).to_pylist()
        assert row["credit"] == alone["credit"]
        assert row["positive_score"] == pytest.approx(alone["positive_score"], abs=1e-5)


def test_continuations_need_prompts(bigrams):
    with pytest.raises(ConfigError, match="no pair of the suite has a prompt .* take --over all"):
        score_pairs(bigrams, VOCABULARY, [pair("1", LIKELY, UNLIKELY)], Definition(over="continuation"))
    prompted = [pair("1", LIKELY, UNLIKELY, prompt="a")]
    assert score_pairs(bigrams, VOCABULARY, prompted, Definition(over="continuation"))["credit"].to_pylist() == [1]


def test_a_definition_says_in_words_and_in_names_what_it_is():
    assert str(Definition()) == "mean over all tokens, the whole vocabulary"
    assert Definition().slug == "mean-all-all-all"
    other = Definition("sum", "continuation", "hubert", "own")
    assert str(other) == "sum over continuation tokens of HuBERT and text, its own modality"
    assert other.slug == "sum-continuation-hubert-own"


# Figures ---------------------------------------------------------------------------------------------------------------


def scored(bigrams, rows):
    """A table of (id, group, subset, right?)."""
    pairs = [
        pair(name, *((LIKELY, UNLIKELY) if right else (UNLIKELY, LIKELY)), group=group, subset=subset)
        for name, group, subset, right in rows
    ]
    return score_pairs(bigrams, VOCABULARY, pairs, Definition())


def test_voices_of_a_word_are_averaged_before_words_are(bigrams):
    table = scored(
        bigrams, [("1/A", "1", "all", 1), ("1/B", "1", "all", 1), ("1/C", "1", "all", 1), ("2/A", "2", "all", 0)]
    )
    found = accuracies(table, {})["all"]
    assert (found.value, found.items, found.pairs) == (0.5, 2, 4)
    assert found.interval == (0.0, 1.0)  # two items: any may be drawn twice


def test_single_pairs_have_wilsons_interval(bigrams):
    found = accuracies(scored(bigrams, [(str(i), None, "all", i < 8) for i in range(10)]), {})
    assert list(found) == ["all"]
    assert found["all"].value == 0.8 and found["all"].interval == pytest.approx((0.490, 0.943), abs=1e-3)


def test_subsets_count_equally_in_the_macro_mean(bigrams):
    rows = [(f"a{i}", None, "a", True) for i in range(30)] + [(f"b{i}", None, "b", i < 5) for i in range(10)]
    found = accuracies(scored(bigrams, rows), {"a": ("a",), "b": ("b",), "both": ("a", "b")})
    assert {name: each.value for name, each in found.items()} == {
        "all": 35 / 40,
        "a": 1.0,
        "b": 0.5,
        "both": 35 / 40,
        "macro": 0.75,
    }
    low, high = found["macro"].interval
    assert low < 0.75 < high and 0.15 < high - low < 0.45


def test_differences_are_paired_by_item(bigrams):
    names = [str(i) for i in range(20)]
    better = scored(bigrams, [(name, None, "all", True) for name in names])
    worse = scored(bigrams, [(name, None, "all", int(name) >= 5) for name in names])
    gap = differences(better, worse, {})["all"]
    assert gap.value == 0.25 and 0 < gap.interval[0] < 0.25 < gap.interval[1]
    same = differences(better, better, {})["all"]
    assert (same.value, same.interval) == (0, (0, 0))


def test_differences_leave_out_what_one_of_the_models_could_not_score(bigrams):
    both = score_pairs(bigrams, VOCABULARY, [pair("1", LIKELY, UNLIKELY), pair("2", LIKELY, UNLIKELY)], Definition())
    one = score_pairs(bigrams, VOCABULARY, [pair("1", UNLIKELY, LIKELY), pair("2", None, None, "x")], Definition())
    assert (differences(both, one, {})["all"].value, differences(both, one, {})["all"].items) == (1.0, 1)


def test_mcnemar_counts_items_on_which_one_model_alone_is_right(bigrams):
    names = [(str(i), None, "ab"[i % 2]) for i in range(12)]
    own = scored(bigrams, [(*name, i < 9) for i, name in enumerate(names)])
    other = scored(bigrams, [(*name, i >= 5) for i, name in enumerate(names)])
    found = paired_tests(own, other, {"a": ("a",)})
    # Items 0 to 4 against 9 to 11; 2 * (1 + 8 + 28 + 56) / 2^8
    assert (found["all"].first_only, found["all"].second_only, found["all"].p) == (5, 3, 0.7265625)
    assert (found["a"].first_only, found["a"].second_only) == (3, 1)  # 0, 2, 4 against 10
    assert "macro" not in found


def test_an_item_of_several_voices_is_won_once(bigrams):
    rows = [("1/A", "1", "all"), ("1/B", "1", "all"), ("1/C", "1", "all")]
    own = scored(bigrams, [(*row, True) for row in rows])
    other = scored(bigrams, [(*row, i == 0) for i, row in enumerate(rows)])
    assert (paired_tests(own, other, {})["all"].first_only, paired_tests(own, own, {})["all"].first_only) == (1, 0)
