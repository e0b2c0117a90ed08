"""The kind of a suite from its folder, or a question back."""

import pytest

from tinywave_core.errors import ConfigError, SourceError
from tinywave_core.evals.suites.opening import detect, open_suite


@pytest.mark.parametrize(
    ("names", "inner", "kind"),
    [
        (["gender_consistency/sample_0_0.wav"], "", "salmon"),
        (["gender_consistency/sample_0_0.wav"], "gender_consistency", "salmon"),
        (["lexical/dev/a.wav"], "lexical/dev", "swuggy"),
        (["syntactic/dev/a.wav"], "", "sblimp"),
        (["tSC/0_a.wav"], "tSC", "tSC"),
        (["ms_sSC/amy/0_a.wav"], "ms_sSC", "sSC"),
        (["sStoryCloze/0_a.wav"], "sStoryCloze", "sSC"),
        (["pairs.csv", "lexical/dev/a.wav"], "", "pairs"),
    ],
)
def test_the_kind_is_told_by_names(place, names, inner, kind):
    assert detect(place(names) / inner) == kind


@pytest.mark.parametrize(
    ("column", "kind"), [("word,phones", "swuggy"), ("type,subtype", "sblimp")], ids=["words", "sentences"]
)
def test_a_gold_csv_tells_by_its_columns(place, column, kind):
    folder = place(["gold.csv"])
    (folder / "gold.csv").write_text(f"id,filename,{column}\n")
    assert detect(folder) == kind


def test_a_folder_that_does_not_tell_is_refused(place):
    with pytest.raises(SourceError, match="does not say which benchmark it is: pass its kind, one of sSC, tSC, salmon"):
        open_suite(None, place(["0_a.wav", "1_a.wav"]))


def test_a_folder_that_tells_two_is_refused(place):
    with pytest.raises(SourceError, match="could be sblimp or swuggy: pass its kind"):
        open_suite(None, place(["lexical/dev/a.wav", "syntactic/dev/b.wav"]))


def test_a_kind_that_is_none_and_a_folder_that_is_not_there_are_refused(place):
    with pytest.raises(ConfigError, match="'swugy' is no kind of suite: expected one of sSC"):
        open_suite("swugy", place(["0_a.wav"]))
    with pytest.raises(SourceError, match="there is nothing at"):
        open_suite("salmon", "/no/such/folder")


@pytest.mark.parametrize(
    ("kind", "names", "link"),
    [
        ("pairs", ["a.wav"], "pairs.jsonl"),
        ("sSC", ["0_a.wav"], "1_b.wav"),
        ("sSC", ["amy/0_a.wav"], "ben"),
        ("tSC", ["1_mutual.txt"], "1_correct.txt"),
        ("salmon", ["gender_consistency/sample_0_0.wav"], "gender_consistency/sample_0_1.wav"),
        ("salmon", ["gender_consistency/sample_0_0.wav"], "rir_consistency"),
        ("salmon", ["rir_consistency/about.txt"], "rir_consistency/train-0.parquet"),
        ("swuggy", ["lexical/about.txt"], "lexical/dev"),
        ("sblimp", ["syntactic/dev/0.wav"], "syntactic/dev/gold.csv"),
    ],
)
def test_a_link_that_leads_out_of_a_suite_is_refused(place, tmp_path, kind, names, link):
    outside = place(["../outside/0_a.wav"]).parent / "outside"
    folder = place(names)
    (folder / link).symlink_to(outside if "." not in link else outside / "0_a.wav")
    with pytest.raises(SourceError, match=r"is a link to .*/outside.*, outside the folder: put a copy there"):
        open_suite(kind, folder)
