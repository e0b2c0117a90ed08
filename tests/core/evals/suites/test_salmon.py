"""SALMon's folders: j = 0 is right, another j wrong, and a sample of any other shape is refused."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinywave_core.errors import SourceError
from tinywave_core.evals.suites.opening import open_suite
from tinywave_core.evals.suites.salmon import ALIGNMENT, CONSISTENCY, PARTS


def test_all_eight_parts_are_subsets_and_their_two_families_are_reported_too(place):
    suite = open_suite(
        "salmon", place([f"{part}/sample_{i}_{j}.wav" for part in PARTS for i in (0, 1) for j in (0, 1)])
    )
    assert len(suite.pairs) == 16 and list(suite.subsets) == [*PARTS, "consistency", "alignment"]
    assert suite.subsets["consistency"] == CONSISTENCY and len(CONSISTENCY) == 6
    assert suite.subsets["alignment"] == ALIGNMENT == ("bg_alignment", "sentiment_alignment")


def test_the_version_numbered_0_is_right_in_the_order_of_numbers(place):
    folder = place([f"bg_alignment/sample_{i}_{j}.wav" for i in (10, 9) for j in (3, 0)]) / "bg_alignment"
    suite = open_suite(None, folder)
    assert [(p.id, p.positive.name, p.negative.name) for p in suite.pairs] == [
        ("bg_alignment/9", "sample_9_0.wav", "sample_9_3.wav"),
        ("bg_alignment/10", "sample_10_0.wav", "sample_10_3.wav"),
    ]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["sample_1_0", "sample_1_1", "sample_1_2"],
            r"sample 1 has sample_1_0.wav, sample_1_1.wav, sample_1_2.wav; expec",
        ),
        (["sample_1_0"], r"sample 1 has sample_1_0.wav; expected sample_1_0 and one other"),
        (["sample_1_1", "sample_1_2"], r"sample 1 has sample_1_1.wav, sample_1_2.wav; expected sample_1_0"),
        (["sample_1_0", "sample_01_0"], r"sample 1 has sample_01_0.wav, sample_1_0.wav; expected"),
        (["sample_1"], r"sample_1.wav is not named sample_<i>_<j>"),
    ],
)
def test_a_sample_that_is_no_pair_is_refused(place, names, said):
    with pytest.raises(SourceError, match=said):
        open_suite("salmon", place([f"rir_consistency/{name}.wav" for name in names]))


def test_a_folder_without_parts_says_what_it_has(place):
    with pytest.raises(SourceError, match="has no part of SALMon, but other; expected some of bg_all_consistency"):
        open_suite("salmon", place(["other/sample_0_0.wav"]))


def hub_part(folder: Path, part: str, rows: list[dict], **others: list) -> Path:
    """One part as data set hubs keep it."""
    (folder / part).mkdir(parents=True)
    pq.write_table(
        pa.table({name: [row[name] for row in rows] for name in rows[0]} | others), folder / part / "train-0.parquet"
    )
    return folder


def row(ind: int | str, positive: bytes = b"right", negative: bytes | None = b"wrong") -> dict:
    recordings = {"positive_audio": positive, "negative_audio": negative}
    return {"ind": ind, **{name: {"bytes": data, "path": f"{name}.flac"} for name, data in recordings.items()}}


def test_a_part_in_parquet_gives_the_pairs_of_its_columns(tmp_path):
    rows = [row(4, b"four"), row(2, b"two")]
    suite = open_suite(None, hub_part(tmp_path, "rir_consistency", rows, task=["rir", "rir"]))
    assert [(p.id, p.positive.read_bytes(), p.negative.read_bytes()) for p in suite.pairs] == [
        ("rir_consistency/2", b"two", b"wrong"),
        ("rir_consistency/4", b"four", b"wrong"),
    ]
    unpacked = suite.pairs[0].positive
    assert unpacked.suffix == ".flac"
    del suite
    assert not unpacked.exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"ind": 1, "positive": b""}], "has no column positive_audio, negative_audio, but ind, positive"),
        ([row(1, negative=None)], "ind 1, negative_audio holds no recording: expected its bytes"),
        ([row("../../1")], r"has the ind '\.\./\.\./1'; expected whole numbers"),
        ([row(1), row(1)], "ind 1, positive_audio: a second recording of that number"),
    ],
    ids=["columns", "path", "name", "twice"],
)
def test_a_table_that_is_not_salmons_is_refused(tmp_path, rows, said):
    with pytest.raises(SourceError, match=said):
        open_suite("salmon", hub_part(tmp_path, "rir_consistency", rows))


def test_a_table_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "bg_alignment").mkdir()
    (tmp_path / "bg_alignment" / "train-0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(SourceError, match=r"train-0.parquet cannot be read as Parquet .*: copy it again"):
        open_suite("salmon", tmp_path)
