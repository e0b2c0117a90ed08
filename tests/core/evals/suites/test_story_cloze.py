"""Spoken StoryCloze in its layouts: the right ending is known from names, or the folder is refused."""

from pathlib import Path

import pytest

from tinywave_core.errors import SourceError
from tinywave_core.evals.suites.opening import open_suite


def named(suite) -> list[tuple[str, str]]:
    return [(pair.positive.name, pair.negative.name) for pair in suite.pairs]


def test_slamkits_numbers_go_two_by_two_the_positive_one_first(place):
    suite = open_suite("sSC", place(["10_c.wav", "11_d.wav", "2_b.wav", "3_a.wav", "._2_b.wav"]))
    assert suite.name == "sSC" and named(suite) == [("2_b.wav", "3_a.wav"), ("10_c.wav", "11_d.wav")]
    assert suite.subsets == {} and {pair.prompt for pair in suite.pairs} == {None}


def test_words_in_names_say_which_ending_is_right_also_where_numbers_are_shared(place):
    suite = open_suite("tSC", place(["7_incorrect.wav", "7_correct.wav", "8_neg.flac", "8_pos.flac"]))
    assert named(suite) == [("7_correct.wav", "7_incorrect.wav"), ("8_pos.flac", "8_neg.flac")]
    assert [pair.id for pair in suite.pairs] == ["7", "8"]


def test_folders_can_say_it_too(place):
    suite = open_suite("tSC", place(["correct/a.wav", "incorrect/a.wav", "correct/b.wav", "incorrect/b.wav"]))
    assert [(p.positive.parent.name, p.negative.parent.name, p.id) for p in suite.pairs] == [
        ("correct", "incorrect", "a"),
        ("correct", "incorrect", "b"),
    ]


def test_folders_of_voices_make_a_story_one_item(place):
    suite = open_suite("sSC", place([f"{voice}/{n}_x.wav" for voice in ("amy", "joe") for n in range(4)]))
    assert [(p.id, p.voice, p.group) for p in suite.pairs] == [
        ("amy/0_x", "amy", "0_x"),
        ("amy/2_x", "amy", "2_x"),
        ("joe/0_x", "joe", "0_x"),
        ("joe/2_x", "joe", "2_x"),
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1_a.wav", "1_b.wav"], r"1 names share their number .* 1_a.wav and 1_b.wav, so nothing says which"),
        (["0_a.wav", "1_a.wav", "2_a.wav"], r"3 files, and 2_a.wav make no pair"),
        (["0_a.wav", "1_a.wav", "3_a.wav", "4_a.wav", "5_a.wav", "9_a.wav"], r"6 files, and 5_a.wav, 9_a.wav make no"),
        (["a.wav", "1_b.wav"], r"1 of 2 names begin with no number and '_', such as a.wav"),
        (["1_correct.wav", "2_b.wav"], r"1 names say which version they are, .* and 1 do not, such as 2_b.wav"),
        (["1_correct.wav"], r"1 positive and 0 negative versions of '1'"),
        (["1_correct.wav", "1_pos.wav", "1_neg.wav"], r"2 positive and 1 negative versions of '1'"),
        (["notes.txt"], r"holds no audio files: expected <number>_"),
    ],
)
def test_what_can_mean_two_things_is_refused_with_what_was_found(place, names, said):
    with pytest.raises(SourceError, match=said) as refused:
        open_suite("sSC", place(names))
    assert "expected" in str(refused.value)


def cross_modal(ids=("a", "b"), endings=("wav", "txt")) -> list[str]:
    return [f"{i}_{role}.{e}" for i in ids for role in ("mutual", "correct", "incorrect") for e in endings]


def test_cross_modal_stories_give_every_direction_that_has_files(place):
    suite = open_suite("tSC", place(cross_modal()))
    assert list(suite.subsets) == ["S→S", "S→T", "T→S", "T→T"] and len(suite.pairs) == 8
    speech_to_text = next(pair for pair in suite.pairs if pair.subset == "S→T")
    assert isinstance(speech_to_text.prompt, Path) and speech_to_text.prompt.name == "a_mutual.wav"
    assert (speech_to_text.positive, speech_to_text.negative) == ("a_correct.txt", "a_incorrect.txt")
    assert {pair.group for pair in suite.pairs} == {"a", "b"}


def test_stories_of_speech_alone_have_one_direction_and_a_prompt(place):
    suite = open_suite("sSC", place([f"amy/{name}" for name in cross_modal(endings=["wav"])]))
    assert suite.subsets == {} and {pair.subset for pair in suite.pairs} == {"S→S"}
    assert [(pair.id, pair.voice) for pair in suite.pairs] == [("amy/a S→S", "amy"), ("amy/b S→S", "amy")]


def test_a_story_without_one_of_its_parts_is_refused(place):
    with pytest.raises(
        SourceError, match="b_incorrect is missing beside b_correct.txt, b_correct.wav, b_mutual.txt and 1 more"
    ):
        open_suite("sSC", place([n for n in cross_modal() if not n.startswith("b_incorrect")]))


def test_a_direction_that_some_stories_lack_is_refused(place):
    with pytest.raises(SourceError, match="1 of 2 stories have the files for S→T, b has not"):
        open_suite("sSC", place([n for n in cross_modal() if n not in ("b_correct.txt", "b_incorrect.txt")]))
