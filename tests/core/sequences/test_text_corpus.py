"""Documents of text files, bad rows by their place, and a share of text that depends on ids alone."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tinywave_core.errors import ConfigError, SourceError
from tinywave_core.sequences import text_corpus
from tinywave_core.sequences.interleaving import text_encoder
from tinywave_core.sequences.text_corpus import Document, Rejected, choose_for_share, read_documents, text_ids
from tinywave_core.tokenizers.text import build_tokenizer
from tinywave_core.tokenizers.vocabulary import Vocabulary

quick = settings(max_examples=100)


def read(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Texts and reasons by their places."""
    rejected: list[Rejected] = []
    documents = list(read_documents(path, rejected.append))
    return {d.source: d.text for d in documents}, {r.source: r.reason for r in rejected}


def test_paragraphs_of_a_txt_are_documents_with_the_numbers_of_their_first_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("\n\n\ufeffone\r\nline two \n \t\n\nthree\n".encode())
    assert read(tmp_path) == ({"a.txt:3": "one\r\nline two".replace("\r", ""), "a.txt:7": "three"}, {})


def test_lines_of_a_jsonl_are_documents(tmp_path):
    rows = [{"text": "one", "id": 5}, {"text": " two\nlines "}, {"text": "Grüße 世界 🙂"}]
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    assert read(tmp_path) == ({"a.jsonl:1": "one", "a.jsonl:3": "two\nlines", "a.jsonl:5": "Grüße 世界 🙂"}, {})


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_rows_of_a_parquet_are_documents(tmp_path, kind):
    texts = [f"text {i}" for i in range(600)]
    table = pa.table({"id": list(range(600)), "text": pa.array(texts, kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    assert read(tmp_path / "a.parquet") == ({f"a.parquet:{i + 1}": text for i, text in enumerate(texts)}, {})


def test_a_folder_is_read_in_the_order_of_its_paths_without_hidden_files_and_links(tmp_path):
    for name in ("b.txt", "a/z.TXT", ".hidden.txt", "a/.git/x.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.txt")
    (tmp_path / "round").symlink_to(tmp_path)
    assert list(read(tmp_path)[0].items()) == [("a/z.TXT:1", "a/z.TXT"), ("b.txt:1", "b.txt")]


def test_the_id_is_of_the_text_alone(tmp_path):
    (tmp_path / "a.txt").write_text("same\n\nother")
    (tmp_path / "b.jsonl").write_text('{"text": " same "}')
    ids = {d.source: d.id for d in read_documents(tmp_path, print)}
    assert ids["a.txt:1"] == ids["b.jsonl:1"] != ids["a.txt:3"]
    assert ids["a.txt:1"] == "0967115f2813a3541eaef77de9d9d577"


def test_bad_rows_are_named_and_the_others_read(tmp_path):
    lines = [
        b'{"text": "good"}',
        b"{",
        b"\xff",
        b'"text"',
        b'{"text": 3}',
        b'{"txt": "a"}',
        b'{"text": " "}',
        b'{"text": "a\\u0000b"}',
        b'{"text": "a\\ud800b"}',
        b'{"text": "so [Hu5]"}',
        b'{"text": "so </s>"}',
        b"[" * 100_000,
        b'{"text": "last"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    texts, reasons = read(tmp_path)
    assert texts == {"a.jsonl:1": "good", "a.jsonl:13": "last"}
    assert sorted(reasons) == sorted(f"a.jsonl:{i}" for i in range(2, 13))
    assert "expected JSON" in reasons["a.jsonl:2"] and "expected an object" in reasons["a.jsonl:4"]
    assert reasons["a.jsonl:10"] == "[Hu5] stands in the text: expected words, not tokens"


def test_bad_paragraphs_are_named_and_the_others_read(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n\ncaf\xe9\nmore\n\ntwo")
    texts, reasons = read(tmp_path)
    assert texts == {"a.txt:1": "one", "a.txt:6": "two"}
    assert list(reasons) == ["a.txt:3"] and "expected UTF-8" in reasons["a.txt:3"]


def test_nothing_longer_than_a_document_may_be_is_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(text_corpus, "LONGEST", 50)
    (tmp_path / "a.txt").write_text("short\n\n" + "x" * 51 + "\nmore\n\n" + "line\n" * 11 + "\nlast")
    (tmp_path / "b.jsonl").write_text('{"text": "' + "x" * 500 + '"}\n{"text": "good"}\n')
    texts, reasons = read(tmp_path)
    assert texts == {"a.txt:1": "short", "a.txt:18": "last", "b.jsonl:2": "good"}
    assert list(reasons) == ["a.txt:3", "a.txt:6", "b.jsonl:1"]


def test_bad_rows_of_a_parquet_are_named(tmp_path):
    bad = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 2, 3, 5], np.int32)), pa.py_buffer(b"ok\xffok")]
    )
    pq.write_table(pa.table({"text": bad}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [None, "good", ""]}), tmp_path / "b.parquet")
    texts, reasons = read(tmp_path)
    assert texts == {"a.parquet:1": "ok", "a.parquet:3": "ok", "b.parquet:2": "good"}
    assert list(reasons) == ["a.parquet:2", "b.parquet:1", "b.parquet:3"]


def test_files_that_are_no_parquet_or_have_no_text_are_named_once(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    pq.write_table(pa.table({"words": ["a"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "c.parquet")
    table = pa.table({"text": [f"words {i}" for i in range(900)]})
    pq.write_table(table, tmp_path / "d.parquet", write_page_checksum=True, compression="none", use_dictionary=False)
    damaged = bytearray((tmp_path / "d.parquet").read_bytes())
    damaged[damaged.index(b"words 5")] ^= 1  # still text: only the checksum tells
    (tmp_path / "d.parquet").write_bytes(damaged)
    (tmp_path / "e.parquet").write_bytes(damaged[:500])
    texts, reasons = read(tmp_path)
    assert texts == {} and list(reasons) == [f"{letter}.parquet" for letter in "abcde"]
    assert "expected a column text of strings, found the columns words" in reasons["b.parquet"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "does not exist; expected a folder or a file"),
        ("a.pdf", "is a .pdf"),
        ("empty", "has no .txt, .jsonl"),
    ],
)
def test_a_corpus_that_is_none_is_a_source_error_before_anything_is_read(tmp_path, name, words):
    (tmp_path / "a.pdf").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=words):
        read_documents(tmp_path / name, print)


def test_ids_of_a_document_begin_with_the_prompt_and_end_with_eos():
    vocabulary = Vocabulary(text=259, hubert=10)
    encode = text_encoder(build_tokenizer(vocabulary), vocabulary)
    assert text_ids(Document("", "ab", ""), vocabulary, encode).tolist() == [1, 259, 100, 101, 2]
    slow = Vocabulary(text=259, hubert=10, boundary=200)
    assert text_ids(Document("", "ab", ""), slow, encode).tolist() == [1, 200, 259, 100, 101, 2]


# Share ------------------------------------------------------------------------------------------------------------

corpora = st.dictionaries(st.text(max_size=4), st.integers(1, 50), max_size=40)


def test_text_makes_up_its_share():
    tokens = {f"d{i}": 10 for i in range(1000)}
    chosen = choose_for_share(tokens, 3000, 0.25, seed=0)
    assert len(chosen) == 100  # 1000 of 4000
    assert len(choose_for_share(tokens, 3000, 0.2501, seed=0)) == 101
    assert choose_for_share(tokens, 3000, 0, seed=0) == []
    assert len(choose_for_share(tokens, 10**9, 0.5, seed=0)) == 1000


@quick
@given(corpora, st.integers(0, 500), st.integers(0, 500), st.floats(0, 0.9), st.floats(0, 0.9), st.integers(0, 3))
def test_with_more_speech_or_a_larger_share_the_same_choice_goes_on(tokens, less, more, small, large, seed):
    (less, more), (small, large) = sorted([less, more]), sorted([small, large])
    chosen, later = choose_for_share(tokens, less, small, seed), choose_for_share(tokens, more, large, seed)
    assert later[: len(chosen)] == chosen


@quick
@given(corpora, corpora, st.integers(0, 500), st.floats(0, 0.9))
def test_of_the_old_documents_a_first_part_of_the_old_choice_stays(old, new, speech, share):
    chosen = choose_for_share(old, speech, share, seed=0)
    later = [document for document in choose_for_share(new | old, speech, share, seed=0) if document in old]
    assert later == chosen[: len(later)]


@quick
@given(corpora, st.randoms(use_true_random=False))
def test_the_choice_does_not_depend_on_the_order_of_the_documents(tokens, random):
    names = list(tokens)
    random.shuffle(names)
    shuffled = {name: tokens[name] for name in names}
    assert choose_for_share(shuffled, 100, 0.5, seed=1) == choose_for_share(tokens, 100, 0.5, seed=1)


def test_seeds_choose_differently():
    tokens = {f"d{i}": 10 for i in range(100)}
    assert choose_for_share(tokens, 100, 0.5, seed=0) != choose_for_share(tokens, 100, 0.5, seed=1)


@pytest.mark.parametrize("share", [1, 1.5, -0.1, float("nan")])
def test_a_share_that_leaves_no_speech_is_refused(share):
    with pytest.raises(ConfigError, match="expected 0 to less than 1"):
        choose_for_share({}, 100, share, seed=0)
