"""Which file or row belongs to which recording, and the forms that ready alignments come in."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinywave_core.alignment.readers import (
    ctm_words,
    open_alignments,
    slamkit_words,
    textgrid_phones,
    textgrid_words,
    words_of_cut,
)
from tinywave_core.alignment.words import Word
from tinywave_core.errors import SourceError

HELLO = [Word("hello", 8000, 16_000)]
CTM = "{} 1 0.5 0.5 hello\n"


def written(folder: Path, **files: str) -> str:
    """Text files by their name in the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


@pytest.mark.parametrize(
    "name", ["1-2-3.ctm", "2/1-2-3.ctm", "LibriSpeech/1/2/1-2-3.ctm", "out/LibriSpeech/1/2/1-2-3.ctm"]
)
def test_the_last_parts_of_a_path_are_enough(tmp_path: Path, name: str):
    place = written(tmp_path, **{name: CTM.format("1-2-3")})
    assert open_alignments(place, ["LibriSpeech/1/2/1-2-3.flac"]).words("LibriSpeech/1/2/1-2-3.flac") == HELLO


def test_a_file_of_another_folder_is_not_taken(tmp_path: Path):
    place = written(tmp_path, **{"a/001.ctm": CTM.format("001")})
    assert open_alignments(place, ["a/001.wav", "b/001.wav"]).words("b/001.wav") is None


def test_a_bare_name_that_two_recordings_bear_is_refused(tmp_path: Path):
    alignments = open_alignments(written(tmp_path, **{"001.ctm": CTM.format("001")}), ["a/001.wav", "b/001.wav"])
    with pytest.raises(SourceError, match=r"001 fits a/001.wav and b/001"):
        alignments.words("a/001.wav")


def test_two_files_that_fit_one_recording_equally_are_refused(tmp_path: Path):
    place = written(tmp_path, **{"x/a/001.ctm": CTM.format("001"), "y/a/001.ctm": CTM.format("001")})
    with pytest.raises(SourceError, match=r"x/a/001 and y/a/001 both fit a/001.wav"):
        open_alignments(place, ["a/001.wav"]).words("a/001.wav")


def test_one_ctm_has_the_words_of_many_recordings(tmp_path: Path):
    place = written(
        tmp_path, **{"all.ctm": ";; a comment\n" + CTM.format("a") + CTM.format("b") + "b 1 1.0 0.25 there 0.75\n"}
    )
    alignments = open_alignments(str(Path(place) / "all.ctm"), ["x/a.flac", "x/b.flac"])
    assert alignments.words("x/a.flac") == HELLO
    assert alignments.words("x/b.flac") == [*HELLO, Word("there", 16_000, 20_000, 0.75)]


def test_a_json_of_another_use_beside_the_audio_is_no_alignment(tmp_path: Path):
    place = written(tmp_path, **{"a.json": '{"speaker": "14"}'})
    assert open_alignments(place, ["a.flac"]).words("a.flac") is None


def test_words_of_slamkit_lose_the_space_that_it_puts_before_them(tmp_path: Path):
    place = written(tmp_path, **{"a.json": '{"text": " hello", "aligned_text": [[" hello", 0.5, 1.0]]}'})
    assert open_alignments(place, ["a.flac"]).words("a.flac") == HELLO


def test_a_parquet_table_has_words_by_path_with_and_without_confidence(tmp_path: Path):
    columns = {"path": ["x/a.flac", "x/b.flac", "x/a.flac"], "word": ["one", "two", "three"]}
    times = {"start_s": [0.0, 0.0, 1.0], "end_s": [0.5, 0.5, 1.5], "confidence": [0.5, None, None]}
    pq.write_table(pa.table(columns | times), tmp_path / "words.parquet")
    alignments = open_alignments(str(tmp_path / "words.parquet"), ["x/a.flac", "x/b.flac"])
    assert alignments.words("x/a.flac") == [Word("one", 0, 8000, 0.5), Word("three", 16_000, 24_000)]
    assert alignments.words("x/b.flac") == [Word("two", 0, 8000)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,word\na,hello\n", "words.csv has the columns path, word; expected also start_s or start, end_s or end"),
        ("path,word,start,end\na,hello,0,1\na,,1,2\n", "words.csv, line 3: has the path 'a' and the word ''"),
        ("path,word,start,end\na,hello,0,nan\n", "line 2: has the time 'nan', expected a number"),
        ("path,word,start,end,confidence\na,hello,0,1,85\n", "line 2: has the confidence 85, expected 0 to 1"),
    ],
)
def test_a_table_that_is_malformed_is_named_with_its_line(tmp_path: Path, text: str, said: str):
    with pytest.raises(SourceError, match=said):
        open_alignments(written(tmp_path, **{"words.csv": text}) + "/words.csv", ["a.flac"])


def test_a_place_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SourceError, match="nowhere do not exist; expected a folder or table"):
        open_alignments(str(tmp_path / "nowhere"), [])


def short_textgrid(*tiers: tuple[str, str]) -> str:
    body = "".join(f'"IntervalTier" "{name}" 0 2 1\n{interval}\n' for name, interval in tiers)
    return f'"ooTextFile"\n"TextGrid"\n0 2 <exists> {len(tiers)}\n{body}'


def test_only_the_words_are_read_of_a_textgrid_with_phones():
    text = short_textgrid(("words", '0.5 1 "hello"'), ("phones", '0.5 1 "HH"'))
    assert textgrid_words("a.TextGrid", text.encode()) == HELLO


def test_phones_are_read_of_a_textgrid_that_has_their_tier(tmp_path: Path):
    text = short_textgrid(("words", '0.5 1 "hello"'), ("phones", '0.5 0.75 "HH" 0.75 1 "sil"'))
    text = text.replace('"phones" 0 2 1', '"phones" 0 2 2')
    assert textgrid_phones("a.TextGrid", text.encode())[0] == Word("HH", 8000, 12_000)
    place = written(tmp_path, **{"a.TextGrid": text, "b.ctm": CTM.format("b")})
    alignments = open_alignments(place, ["a.wav", "b.wav", "c.wav"])
    assert alignments.words("a.wav") == HELLO and alignments.phones("a.wav")[0].text == "HH"
    assert alignments.phones("b.wav") is None and alignments.phones("c.wav") is None
    assert textgrid_phones("a.TextGrid", short_textgrid(("words", '0.5 1 "hello"')).encode()) is None


def test_words_of_two_speakers_come_in_the_order_of_time():
    text = short_textgrid(("anna - words", '1 2 "world"'), ("ben - words", '0.5 1 "hello"'), ("ben - phones", '0 2 ""'))
    assert textgrid_words("a.TextGrid", text.encode()) == [*HELLO, Word("world", 16_000, 32_000)]


def test_a_textgrid_in_utf_16_as_praat_saves_it_is_read():
    assert textgrid_words("a.TextGrid", short_textgrid(("words", '0.5 1 "hello"')).encode("utf-16")) == HELLO


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (short_textgrid(("phones", '0 1 "HH"')), "has the tiers phones; expected one that is called words"),
        (short_textgrid(("words", '0 "hello"')), "line 5: found 'hello', expected a number"),
        ("0.0 1.0 hello\n", "a.TextGrid, line 1"),
        ('"ooTextFile"\n"TextGrid"\n0 2 <exists> 1e999', "line 3: counts inf, expected a whole number"),
        ('"ooTextFile"\n"TextGrid"\n0 2 <exists> -1', "line 3: counts -1, expected a whole number"),
        ('"ooTextFile"\n"TextGrid"\n0 2 <exists> 1.5 1 1 1', "line 3: counts 1.5, expected a whole number"),
        ('"ooTextFile"\n"TextGrid"\n0 2 <exists> 2000000000', r"counts 2e\+09, expected a whole number, and so many"),
        ('"ooTextFile"\n"TextGrid"\n0 2 <exists> nan', "ends where a number is expected"),
        (short_textgrid(("words", '0.5 1 "hello"')).replace(" 2 1\n", " 2 -1\n"), "line 4: counts -1"),
        (
            short_textgrid(("words", '0.5 1e999 "hello"')),
            "line 5: has the time inf, expected a number of at most 1,000,000",
        ),
        (short_textgrid(("words", '0.5 nan "hello"')), "line 5: found 'hello', expected a number"),
    ],
)
def test_a_textgrid_without_words_is_refused(text: str, said: str):
    with pytest.raises(SourceError, match=said):
        textgrid_words("a.TextGrid", text.encode())


@pytest.mark.parametrize("time", ["1e300", "-1e300", "nan", "inf", "-inf", "1" * 400, "1e7", "soon"])
@pytest.mark.parametrize("line", ["a 1 {} 0.5 hello", "a 1 0.5 {} hello"])
def test_a_ctm_with_a_time_that_is_none_is_named_with_its_line(line: str, time: str):
    with pytest.raises(SourceError, match=r"a\.ctm, line 2: has the time '?-?[0-9a-z+.]+") as refused:
        ctm_words("a.ctm", f"a 1 0 1 fine\n{line.format(time)}\n".encode())
    assert "expected a number of at most 1,000,000" in str(refused.value) and len(str(refused.value)) < 150


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "a.json: is no JSON that can be read .*recursion"),
        ('{"aligned_text": ' + "[" * 100_000, "a.json: is no JSON that can be read .*recursion"),
        ('{"aligned_text": [["hello", 0, ' + "9" * 5000 + "]]}", "a.json: is no JSON that can be read .*limit"),
        (
            '{"aligned_text": [["hello", 0, ' + "9" * 400 + "]]}",
            "a.json, word 1: has the time 9{40}, expected a number",
        ),
        ('{"aligned_text": [["hello", 0, NaN]]}', "a.json, word 1: has the time nan"),
        ('{"aligned_text": [["hello", 0, [1]]]}', "a.json, word 1: has the time .1., expected a number"),
    ],
)
def test_a_json_that_is_deep_or_has_no_times_is_named(text: str, said: str):
    with pytest.raises(SourceError, match=said):
        slamkit_words("a.json", text.encode())


def test_a_parquet_table_whose_text_or_pages_are_damaged_is_named(tmp_path: Path):
    bad = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff\xff")]
    )
    table = pa.table({"path": ["a"], "word": bad, "start_s": [0.0], "end_s": [1.0]})
    pq.write_table(table, tmp_path / "words.parquet", compression="none", write_page_checksum=True)
    data = (tmp_path / "words.parquet").read_bytes()
    with pytest.raises(SourceError, match=r"words\.parquet cannot be read .*codec can't decode"):
        open_alignments(str(tmp_path / "words.parquet"), ["a.flac"])
    (tmp_path / "words.parquet").write_bytes(
        data.replace(b"\xff\xff", b"ab", 1)
    )  # text now, but the checksum is another
    with pytest.raises(SourceError, match=r"words\.parquet cannot be read .*CRC"):
        open_alignments(str(tmp_path / "words.parquet"), ["a.flac"])


def test_links_and_pipes_among_alignments_are_left_alone(tmp_path: Path):
    outside = written(tmp_path / "outside", **{"a.ctm": CTM.format("a")})
    folder = Path(written(tmp_path / "in", **{"b.ctm": CTM.format("b")}))
    (folder / "a.ctm").symlink_to(Path(outside) / "a.ctm")
    (folder / "more").symlink_to(outside)
    (folder / "round").symlink_to(folder)
    os.mkfifo(folder / "c.ctm")
    alignments = open_alignments(str(folder), ["a.flac", "b.flac", "c.flac"])
    assert [alignments.words(f"{name}.flac") for name in "abc"] == [None, HELLO, None]


def test_a_word_that_passes_the_cut_by_a_frame_ends_with_it_and_by_more_is_left_out():
    words = [Word("before", 700, 1000), Word("in", 1000, 2000), Word("last", 2000, 3300)]
    assert words_of_cut(words, 1000, 2000) == [Word("in", 0, 1000), Word("last", 1000, 2000)]
    assert words_of_cut(words, 1000, 1900) == [Word("in", 0, 1000)]
    assert words_of_cut(words, 1400, 1900) == [Word("last", 600, 1900)]
