"""Pairs of one's own from JSONL or CSV."""

from pathlib import Path

import pytest

from tinywave_core.errors import SourceError
from tinywave_core.evals.suites.opening import open_suite


def write(folder: Path, text: str, name: str = "pairs.jsonl") -> Path:
    (folder / name).write_text(text)
    return folder


def test_recordings_are_relative_to_the_manifest_and_all_else_is_text(place):
    folder = write(
        place(["right.wav", "in/wrong.WAV"]),
        '{"id": 1, "pos": "right.wav", "neg": "in/wrong.WAV", "prompt": "Once", "group": "g", "voice": "v", "text": "t"}\n\n'
        '{"id": "b", "pos": "He slept.", "neg": "He flew."}\n',
    )
    first, second = open_suite(None, folder).pairs
    assert (first.positive, first.negative) == (folder / "right.wav", folder / "in" / "wrong.WAV")
    assert (first.id, first.prompt, first.group, first.voice, first.text) == ("1", "Once", "g", "v", "t")
    assert (second.positive, second.negative, second.group, second.subset) == ("He slept.", "He flew.", None, "all")


def test_a_subset_may_be_named_in_every_line(place):
    lines = ['{"id": 1, "pos": "a", "neg": "b", "subset": "x"}', '{"id": 2, "pos": "a", "neg": "b", "subset": "y"}']
    assert list(open_suite(None, write(place(["a.txt"]), "\n".join(lines))).subsets) == ["x", "y"]


def test_a_csv_says_the_same(place):
    folder = write(place(["a.wav", "b.wav"]), "id,pos,neg,group\n1,a.wav,b.wav,\n", "my.csv")
    (pair,) = open_suite("pairs", folder / "my.csv").pairs
    assert (pair.id, pair.positive, pair.group) == ("1", folder / "a.wav", None)


def test_a_manifest_settles_a_folder_whose_names_do_not(place):
    folder = place(["1_a.wav", "1_b.wav"])
    write(folder, '{"id": "1", "pos": "1_b.wav", "neg": "1_a.wav"}')
    suite = open_suite("sSC", folder)
    assert suite.name == "sSC" and suite.pairs[0].positive.name == "1_b.wav"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": "1", "pos": "a"}', "jsonl:1 has no neg; expected id, pos, neg and any of prompt"),
        ('{"id": "1", "pos": "a", "neg": "b", "speaker": "c"}', "has the unknown speaker"),
        ('{"id": "1", "pos": "a", "neg": "a"}', "pos and neg are both 'a'"),
        ('{"id": "1", "pos": "x.wav", "neg": "y.wav"}', "names x.wav, and there is no such file"),
        ('{"id": "1", "pos": "here.wav", "neg": "text"}', "one version is a recording and the other a text"),
        (
            '{"id": "1", "pos": "a", "neg": "b"}\n{"id": "1", "pos": "a", "neg": "c"}',
            "jsonl:2: the id '1' is there already",
        ),
        ('{"id": "1", "pos": "a", "neg": "b", "subset": "macro"}', "'macro' is the name of a figure here"),
        (
            '{"id": "1", "pos": "a", "neg": "b", "subset": "x"}\n{"id": "2", "pos": "a", "neg": "b"}',
            "some lines have a subset and 2 have none",
        ),
        ("[1]", "is no JSON object"),
        ('{"id": "1", "pos": "../out.wav", "neg": "here.wav"}', "jsonl:1 names '../out.wav', which has"),
        (
            '{"id": "1", "pos": "/etc/a.wav", "neg": "here.wav"}',
            "jsonl:1 names '/etc/a.wav', which is an absolute path",
        ),
        ('{"id": "1", "pos": "a", "neg": "b", "prompt": "in\\\\a.wav"}', "which has a backslash"),
        ('{"id": "1", "pos": "link.wav", "neg": "here.wav"}', "link.wav is a link to .*out.wav, outside the folder"),
        ("[" * 100_000, "jsonl:1 is no JSON .*recursion"),
        ('{"id": ' + "1" * 5000 + ', "pos": "a", "neg": "b"}', "jsonl:1 is no JSON .*limit"),
        ("{", "is no JSON"),
        ("", "lists no pairs"),
    ],
)
def test_a_line_that_is_wrong_is_refused_with_its_place(place, text, said):
    folder = place(["here.wav", "../out.wav"])
    (folder / "link.wav").symlink_to("../out.wav")
    with pytest.raises(SourceError, match=said):
        open_suite("pairs", write(folder, text))
