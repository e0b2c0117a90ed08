"""Continuation cloze: fair pairs, chance at one half, ties at a half."""

import numpy as np

from tinywave_core.config.evaluation import EvaluationConfig
from tinywave_core.evals.continuation_cloze import cloze_items, credits
from tinywave_core.sequences.table import TokenSequence

CONFIG = EvaluationConfig(cloze_min_tokens=4)


def sequence(number: int, length: int = 20, speaker: str | None = None) -> TokenSequence:
    ids = np.concatenate([[1], np.full(length - 2, 10 + number), [2]]).astype(np.uint16)
    return TokenSequence(f"{number:032x}", f"u{number}", f"r{number}", speaker, ids, 1.0)


def test_both_continuations_share_the_prompt_and_the_length():
    for item in cloze_items([sequence(1, 20), sequence(2, 30), sequence(3, 26)], CONFIG):
        assert len(item.right) == len(item.wrong)
        assert np.array_equal(item.right[: item.prompt_length], item.wrong[: item.prompt_length])
        assert item.right[-1] != item.wrong[-1]


def test_the_end_token_never_gives_an_answer_away():
    assert all(2 not in item.right and 2 not in item.wrong for item in cloze_items([sequence(1), sequence(2)], CONFIG))


def test_the_wrong_continuation_is_another_speakers():
    speech = [sequence(n, speaker="a" if n < 3 else "b") for n in range(6)]
    speaker = {s.utterance_id: s.speaker for s in speech}
    assert all(speaker[item.utterance_id] != speaker[item.other_id] for item in cloze_items(speech, CONFIG))


def test_one_speaker_alone_gives_no_items():
    assert cloze_items([sequence(n, speaker="a") for n in range(4)], CONFIG) == []


def test_short_utterances_are_left_out():
    assert cloze_items([sequence(1, 8), sequence(2, 8)], CONFIG) == []


def test_right_counts_one_wrong_none_and_a_tie_half():
    items = cloze_items([sequence(1), sequence(2), sequence(3)], CONFIG)
    flat = [np.zeros(len(item.right) - 1, np.float32) for item in items]
    right = [flat[0] - 1, flat[1] - 2, flat[2] - 1]
    wrong = [flat[0] - 2, flat[1] - 1, flat[2] - 1]
    assert credits(items, right, wrong).tolist() == [1, 0, 0.5]


def test_the_prompt_does_not_count():
    item = cloze_items([sequence(1), sequence(2)], CONFIG)[0]
    right = np.zeros(len(item.right) - 1, np.float32)
    wrong = right.copy()
    wrong[: item.prompt_length - 1] = 100
    assert credits([item], [right], [wrong]).tolist() == [0.5]
