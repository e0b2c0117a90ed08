"""Ratings by a language model: the expected digit by hand, what counts as a failure, and one judge in transformers and in llama.cpp."""

from pathlib import Path

import numpy as np
import pytest

from tests.fixtures.judges import write_judges, write_rater
from tinywave_core.errors import CheckpointError
from tinywave_core.evals.rating import Judge, Rating, expected, gaps, question, rated
from tinywave_core.runtimes.gguf_file import digit_ids
from tinywave_core.runtimes.rating import load_judge

FIRST = 3 + ord("1")  # of the digits, in a vocabulary of bytes


@pytest.fixture(scope="module")
def rater(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rater(tmp_path_factory.mktemp("rater") / "judge")


def log(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities))


def test_a_rating_is_the_mean_of_the_digits_under_their_own_probabilities():
    # Half of the probability is that of other tokens: a fifth for 4, three tenths for 5.
    assert expected(log(0.25, 0.25, 1e-9, 1e-9, 1e-9, 0.2, 0.3), [2, 3, 4, 5, 6]) == pytest.approx(4.6)
    assert expected(log(0.4, 0.1, 1e-9, 1e-9, 1e-9, 0.2, 0.3), [2, 3, 4, 5, 6]) is None  # it would say something else


def test_without_words_nobody_is_asked_and_everything_has_a_reason():
    asked = []

    def next_token(text: str, digit: int) -> np.ndarray | None:
        asked.append((text, digit))
        return None if "long" in text.splitlines()[-2] else log(0.9, *(0.02,) * 5)

    judge = Judge([1, 2, 3, 4, 5], next_token)
    assert judge.rate(" ", "words") == Rating(None, "no prompt")
    assert judge.rate("the sea", "\n") == Rating(None, "no words")
    assert not asked
    assert judge.rate("the sea", "is calm") == Rating(None, "no digit")
    assert judge.rate("the sea", "is\nlong") == Rating(None, "too long")
    assert asked[1] == (question("the sea", "is long"), 1)


def test_failures_are_counted_and_lower_the_second_mean_only():
    ratings = {
        "teacher": [Rating(5.0), Rating(4.0), Rating(3.0), Rating(None, "no digit")],
        "student": [Rating(4.0), Rating(None, "no words"), Rating(1.0), Rating(2.0)],
        "control": [Rating(None, "no words")] * 4,
        "recording": [Rating(5.0)] * 4,
    }
    figures, differences = rated(ratings, 0), gaps(ratings, 0)
    student = figures["student"]
    assert student.rating is not None and student.rating.value == pytest.approx(7 / 3) and student.rating.clips == 3
    assert student.at_worst.value == pytest.approx(8 / 4) and student.failures == {"no words": 1}
    assert figures["control"].rating is None and figures["control"].at_worst.value == 1.0
    # Prompts 0 and 2 have both: 4 - 5 and 1 - 3.
    gap = differences["student less teacher"]
    assert (gap.value, gap.interval, gap.clips) == (-1.5, (-2.0, -1.0), 2)
    assert differences["recording less teacher"].value == pytest.approx(1.0)
    assert set(differences) == {"student less teacher", "recording less teacher"}


def test_the_judge_of_a_directory_reads_the_question_and_expects_a_digit(rater: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(rater)(question("the sea", "is calm"), return_tensors="pt")["input_ids"]
    digits = AutoModelForCausalLM.from_pretrained(rater)(ids).logits[0, -1, FIRST : FIRST + 5].softmax(-1)
    by_hand = sum(float(p) * digit for digit, p in enumerate(digits.detach(), start=1))
    found = load_judge(rater).rate("the sea", "is calm").value
    assert found == pytest.approx(by_hand, rel=1e-5)
    assert load_judge(rater).rate("the sea", "of of of").value != found


def test_llama_cpp_rates_as_transformers_does_whatever_it_was_asked_before(rater: Path):
    here, there = load_judge(rater), load_judge(rater / "judge.gguf", threads=1)
    pairs = [("the sea", "is calm"), ("the sea", "of of of"), ("he said", "that it was late")]
    first = [there.rate(*pair).value for pair in pairs]
    assert first == pytest.approx(
        [here.rate(*pair).value for pair in pairs], abs=0.02
    )  # its weights are rounded to f16
    assert [there.rate(*pair).value for pair in reversed(pairs)] == first[::-1]
    assert len(set(first)) == 3


@pytest.mark.parametrize("words", [900, 20_000])
@pytest.mark.parametrize("file", ["", "judge.gguf"])
def test_what_a_judge_cannot_read_whole_is_too_long(rater: Path, file: str, words: int):
    assert load_judge(rater / file, threads=1).rate("the sea", "is " * words).failure == "too long"


def test_a_judge_that_would_say_something_else_has_not_answered(tmp_path: Path):
    mute = write_rater(tmp_path / "mute", answers=False)
    assert load_judge(mute).rate("the sea", "is calm") == Rating(None, "no digit")
    assert load_judge(mute / "judge.gguf", threads=1).rate("the sea", "is calm") == Rating(None, "no digit")


def test_a_tokenizer_without_digits_is_no_judges(tmp_path: Path):
    with pytest.raises(CheckpointError, match="without a token for each of the digits"):
        load_judge(Path(write_judges(tmp_path)["text"]))


def test_digits_of_a_gguf_file_are_found_by_their_bytes(rater: Path):
    assert digit_ids(rater / "judge.gguf", "12345六") == list(range(FIRST, FIRST + 5))
