"""sWUGGY and sBLIMP with their gold.csv, paired by key; slamkit's names; files of scores."""

from pathlib import Path

import pytest

from tinywave_core.errors import SourceError
from tinywave_core.evals.suites.opening import open_suite
from tinywave_core.evals.suites.zerospeech import recordings, score_lines

WORDS = """id,filename,voice,frequency,word,phones,length,correct
1,xa,A,12,brick,B R IH K,4,1
1,xb,A,12,blick,B L IH K,4,0
1,xc,B,12,blick,B L IH K,4,0
1,xd,B,12,brick,B R IH K,4,1
2,xe,A,0,gnome,N OW M,3,1
2,xf,A,0,snome,S N OW M,3,0
3,xg,A,5,cat,K AE T,3,1
3,xh,A,5,dat,D AE T,3,0
4,xi,A,4,dog,D AO G,3,1
4,xj,A,4,vog,V AO G,3,0
"""
SENTENCES = """id,filename,voice,type,subtype,transcription,correct
1,ya.wav,A,agreement,noun,dogs bark,1
1,yb.wav,A,agreement,noun,dogs barks,0
1,yc.wav,A,anaphor,gender,he saw herself,0
1,yd.wav,A,anaphor,gender,he saw himself,1
"""


def gold(place, text: str, folder: str = "", leave_out: str = "") -> Path:
    stems = [line.split(",")[1].removesuffix(".wav") for line in text.splitlines()[1:]]
    names = ["gold.csv", *(f"{stem}.wav" for stem in stems if stem != leave_out)]
    root = place([str(Path(folder) / name) for name in names])
    (root / folder / "gold.csv").write_text(text)
    return root


def test_words_are_paired_by_id_and_voice_whatever_the_order_of_rows(place):
    suite = open_suite("swuggy", gold(place, WORDS))
    by_id = {p.id: (p.positive.name, p.negative.name, p.group, p.voice, p.text) for p in suite.pairs}
    assert by_id["1/A"] == ("xa.wav", "xb.wav", "1", "A", "brick")
    assert by_id["1/B"] == ("xd.wav", "xc.wav", "1", "B", "brick")
    assert len(by_id) == 5


def test_frequency_bands_are_named_by_what_they_hold(place):
    suite = open_suite("swuggy", gold(place, WORDS))
    assert {p.id: p.subset for p in suite.pairs} == {
        "1/A": "5-19",
        "1/B": "5-19",
        "2/A": "oov",
        "3/A": "5-19",
        "4/A": "1-4",
    }
    assert suite.subsets == {
        "oov": ("oov",),
        "1-4": ("1-4",),
        "5-19": ("5-19",),
        "in vocabulary": ("1-4", "5-19"),
    }


def test_sentences_are_keyed_by_type_too_and_types_are_the_subsets(place):
    suite = open_suite("sblimp", gold(place, SENTENCES))
    assert list(suite.subsets) == ["agreement", "anaphor"]
    assert [(p.group, p.positive.name, p.text) for p in suite.pairs] == [
        ("agreement/noun/1", "ya.wav", "dogs bark"),
        ("anaphor/gender/1", "yd.wav", "he saw himself"),
    ]


def test_the_whole_data_set_is_entered_where_that_is_clear(place):
    root = gold(place, WORDS, "lexical/dev")
    assert len(open_suite("swuggy", root).pairs) == len(open_suite(None, root / "lexical").pairs) == 5
    gold(place, WORDS, "lexical/test")
    with pytest.raises(SourceError, match="lexical/dev.*lexical/test: pass the one that is meant"):
        open_suite("swuggy", root)


def test_a_missing_gold_csv_is_told_with_what_to_do(place):
    folder = place(["lexical/test/aAAfmkmQpVz.wav", "lexical/test/aaaDSGZhrtbq.wav"])
    with pytest.raises(SourceError, match=r"has 2 recordings such as aAAfmkmQpVz.wav, and no gold.csv") as refused:
        open_suite("swuggy", folder)
    assert "slamkit's <number>_…wav" in str(refused.value) and "--submission" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (WORDS + "1,xk,A,12,brick,B,4,1\n", "id 1, voice A has 2 correct and 1 incorrect recordings .xa, xk, xb."),
        (WORDS.replace("1,xb,A", "9,xb,A"), "id 1, voice A has 1 correct and 0 incorrect"),
        (WORDS.replace("IH K,4,0", "IH K,4,no", 1), "line 3: correct is 'no', expected 0 or 1"),
        (WORDS.replace("frequency", "freq"), "and not frequency: expected the gold.csv of lexical"),
        (WORDS.splitlines()[0] + "\n", "has no rows"),
    ],
)
def test_a_gold_csv_that_is_wrong_is_refused(place, text, said):
    with pytest.raises(SourceError, match=said):
        open_suite("swuggy", gold(place, text))


def test_recordings_that_the_gold_csv_names_must_be_there(place):
    with pytest.raises(SourceError, match="names 1 recordings that are not beside it, such as xd"):
        open_suite("swuggy", gold(place, WORDS, leave_out="xd"))


@pytest.mark.parametrize(("kind", "separator"), [("swuggy", "_"), ("sblimp", "+")])
def test_slamkits_names_need_no_gold_csv(place, kind, separator):
    suite = open_suite(kind, place([f"{n}{separator}x.wav" for n in (0, 1, 2, 3)]))
    assert [(p.positive.name[0], p.negative.name[0]) for p in suite.pairs] == [("0", "1"), ("2", "3")]


def test_a_file_of_scores_has_every_stem_once_without_gold(place):
    part, files = recordings("sblimp", place([f"syntactic/test/{stem}.wav" for stem in ("b", "a")]))
    assert part == "test"
    assert score_lines(files, [-1.5, -2.25]) == "a -1.5\nb -2.25\n"
