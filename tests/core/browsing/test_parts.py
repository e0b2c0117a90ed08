"""What the pages of a store are made of: tables by pages, a time axis, lineage, two runs, ranges of bytes."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.fixtures.small_run import small_run
from tinywave_core.browsing import axis, two_runs
from tinywave_core.browsing.answers import ranged
from tinywave_core.browsing.holdings import Entry, Holdings
from tinywave_core.browsing.lineage_picture import LEFT, ROW, picture
from tinywave_core.browsing.readable import readable, settings_of, settings_of_run, shown
from tinywave_core.browsing.tables import Cell, cell, chosen, parquet, row_number, rows_at, table_page
from tinywave_core.config.load import load_config
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.storage.shards import write_table


class Counted(io.BytesIO):
    """A file that counts what is read of it."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.taken += len(data)
        return data


def table_of(rows: int) -> pa.Table:
    """Rows with as many units as an utterance has, which do not shrink."""
    units = np.random.default_rng(0).integers(0, 60_000, (rows, 100)).astype(np.uint16)
    lists = pa.ListArray.from_arrays(np.arange(0, 100 * rows + 1, 100, dtype=np.int32), units.ravel())
    return pa.table({"utterance_id": [f"{n:032x}" for n in range(rows)], "number": range(rows), "units": lists})


def counted(table: pa.Table, path: Path, **options: int) -> tuple[pq.ParquetFile, Counted]:
    write_table(table, path, **options)
    source = Counted(path.read_bytes())
    return parquet(source), source


def test_a_page_has_its_rows_wherever_row_groups_end(tmp_path: Path):
    table = table_of(120)
    file, _ = counted(table, tmp_path / "t.parquet", row_group_rows=7)
    for first, count in ((0, 50), (50, 50), (100, 50), (6, 1), (7, 8), (119, 5)):
        assert rows_at(file, first, count, table.column_names) == table.slice(first, count).to_pylist()
    page = table_page(file, 50)
    assert (page.first, len(page.rows), page.total, page.ids[0]) == (50, 50, 120, f"{50:032x}")
    assert table_page(file, 10**9).first == 100


def test_ten_times_the_rows_cost_no_more_to_read(tmp_path: Path):
    """But for the footer, which has some hundred bytes for each row group."""
    taken = []
    for rows in (2048, 20_480):
        file, source = counted(table_of(rows), tmp_path / f"{rows}.parquet", row_group_rows=256)
        footer, whole = file.metadata.serialized_size, len(source.getvalue())
        source.taken = 0
        table_page(file, rows - 1000)
        assert source.taken + footer < whole / 2
        taken.append(source.taken)
    assert taken[1] < 1.2 * taken[0]


def test_an_id_is_found_by_its_column_alone(tmp_path: Path):
    file, source = counted(table_of(3000), tmp_path / "t.parquet")
    source.taken = 0
    assert row_number(file, "utterance_id", f"{2999:032x}") == 2999
    assert row_number(file, "utterance_id", "no") is None
    assert source.taken < len(source.getvalue()) / 4


def test_columns_that_tell_most_are_shown_and_the_others_named(tmp_path: Path):
    names = ["recording_id", *(f"c{n}" for n in range(12)), "empty", "path"]
    table = pa.table({name: [None if name == "empty" else name] for name in names} | {"flac": [b"sound"]})
    file, _ = counted(table, tmp_path / "t.parquet")
    page = table_page(file, 0)
    assert page.columns == [*(f"c{n}" for n in range(8)), "path"]
    assert chosen(["label", "path"], [{"label": None, "path": "a"}]) == ["path", "label"]
    assert page.left_out == ["recording_id", "c8", "c9", "c10", "c11", "empty"] and page.binary == ["flac"]
    assert table_page(file, 0, everything=True).columns == names


def test_values_are_short_and_say_what_is_cut():
    assert cell("units", list(range(40))) == Cell("0, 1, 2, 3, 4, 5, …", "40", is_whole=True)
    assert cell("start_samples", 24_000) == Cell("24,000", "1.50 s", is_number=True)
    assert cell("transcript", "word " * 100) == Cell("word " * 17 + "word…", "500 characters")
    assert (cell("x", None), cell("id", "ab" * 16).text) == (Cell(""), "abababababab…")


def test_runs_of_a_code_stand_at_their_time_and_end_with_the_sound():
    found = axis.spans([5, 5, 7, 7, 7, 5], 25.0, 0.2)
    assert [(s.code, s.start_s, s.end_s, s.frames) for s in found] == [(5, 0.0, 0.08, 2), (7, 0.08, 0.2, 3)]
    assert [(s.left, s.width, s.middle) for s in found] == [("0.0000%", "40.0000%", "20.0000%"), ("40.0000%", "60.0000%", "70.0000%")]  # fmt: skip
    assert axis.spans([], 25.0, 1.0) == []
    assert [s.end_s for s in axis.spans([5, 7, 7], 25.0, 1.0)] == [0.04, 0.12]


def test_the_outline_is_as_high_as_what_is_loudest():
    samples = np.zeros(16_000, np.float32)
    samples[8000] = 0.5
    path, columns = axis.outline(samples, 1.0)
    points = [tuple(map(float, point.split())) for point in path[1:-1].split("L")]
    assert columns == 150 and len(points) == 302 and max(x for x, _ in points) == 150
    assert min(y for _, y in points) == -1 and max(y for _, y in points) == 0
    assert next(x for x, y in points if y == -1) == pytest.approx(75, abs=1)
    assert axis.outline(np.zeros(0, np.float32), 0.0) == ("", 1)


def held(**made_of: list[str]) -> Holdings:
    """Artifacts by name, such as `ingestion_shard_1`: stage, part and digits."""

    def named(name: str) -> tuple[str, str]:
        stage, part, digits = name.split("_")
        return f"{stage}/{digits}", part

    entries = [
        Entry(named(name)[0], named(name)[1], "2026", 1.0, 1, {"x": [named(n)[0] for n in sources]})
        for name, sources in made_of.items()
    ]
    return Holdings({entry.id: entry for entry in entries}, {})


def test_lineage_has_a_row_for_each_part_and_sources_above():
    holdings = held(
        distillation_student_6=["tokenization_tokens_4", "adaptation_teacher_5"],
        adaptation_teacher_5=["tokenization_tokens_4"],
        tokenization_tokens_4=["tokenization_shard_2", "tokenization_shard_3"],
        tokenization_shard_2=["ingestion_shard_0"],
        tokenization_shard_3=["ingestion_shard_1"],
        ingestion_shard_0=[],
        evaluation_other_9=["adaptation_teacher_5"],
    )  # the second audio shard was removed
    found = picture(holdings, "adaptation/5")
    assert [(row.label, row.note, row.is_this) for row in found.rows] == [
        ("ingestion/shard", "0", False),
        ("ingestion/…", "not in the store any more", False),
        ("tokenization/shard", "2 artifacts", False),
        ("tokenization/tokens", "4", False),
        ("adaptation/teacher", "5", True),
        ("distillation/student", "6", False),
        ("evaluation/other", "9", False),
    ]
    assert (f"M{LEFT} {3.5 * ROW:g}C{LEFT} {3.5 * ROW:g} {LEFT} {4.5 * ROW:g} {LEFT} {4.5 * ROW:g}", True) in found.arcs
    assert [own for _, own in found.arcs].count(True) == 3


def test_lineage_of_parts_that_need_each_other_is_drawn_all_the_same():
    holdings = held(
        distillation_student_1=[],
        adaptation_teacher_2=["distillation_student_1"],
        distillation_student_3=["adaptation_teacher_2"],
    )
    rows = picture(holdings, "adaptation/2").rows
    assert sorted(row.label for row in rows) == ["adaptation/teacher", "distillation/student"]


def test_figures_of_like_things_are_a_table_with_intervals_behind_them():
    found = readable(
        {"items": 3, "gain": 0.5, "gain_interval": [0.25, 1], "models": {"a": {"nll": 1.5, "nll_interval": [1, 2]}, "b": {"nll": 2}}}
    )  # fmt: skip
    assert found.lines == [("items", "3"), ("gain", "0.5 (0.25 to 1)")]
    (matrix,) = found.matrices
    assert (matrix.title, matrix.columns) == ("models", ["NLL"])
    assert matrix.rows == [("a", ["1.5 (1 to 2)"]), ("b", ["2"])]
    assert shown([[0, 2], [1, 5]]) == "(0, 2), (1, 5)"


def test_settings_that_differ_from_the_defaults_come_first():
    config = PipelineConfig().distillation.model_dump(mode="json")
    config["training"]["steps"] += 1
    first, *others = settings_of("distillation", config)
    assert (first.name, first.is_changed, first.default) == (
        "training.steps",
        True,
        shown(config["training"]["steps"] - 1),
    )
    assert not any(setting.is_changed for setting in others) and len(others) > 20


def test_what_a_preset_set_is_not_called_changed():
    config = load_config("demo", {"distillation.layers": 3, "source": "/speech", "runtime.workers": 1}).model_dump(
        mode="json"
    )
    beside = settings_of_run(config)
    assert beside.preset == "demo"
    changed = {setting.name: setting.default for setting in beside.settings if setting.is_changed}
    assert changed == {"distillation.layers": "2", "source": "none", "runtime.workers": "2"}
    assert settings_of_run(PipelineConfig().model_dump(mode="json")).preset == ""


def test_what_is_unwritten_at_its_default_is_a_setting_all_the_same(tmp_path: Path):
    first, _ = small_run(tmp_path / "store")
    whole = PipelineConfig(source=f"{tmp_path}/speech", root="a").model_dump(mode="json")
    fresh = load_config(None, {"distillation.start": "fresh", "source": f"{tmp_path}/x/../speech/", "root": "b"})
    runs = [first.model_copy(update={"config": config}) for config in (whole, fresh.model_dump(mode="json"))]
    assert "start" not in whole["distillation"]
    (row,) = two_runs.settings_that_differ(*runs)
    assert (row.name, row.first, row.second) == ("distillation.start", "teacher", "fresh")


def test_two_runs_say_what_differs_and_what_is_the_same_artifact(tmp_path: Path):
    first, outputs = small_run(tmp_path / "store")
    config = first.config | {"distillation": first.config["distillation"] | {"layers": 7}}
    artifacts = first.artifacts | {"distillation/student": ["distillation/ff"], "adaptation/teacher": []}
    second = first.model_copy(update={"number": 2, "config": config, "artifacts": artifacts})
    (setting,) = two_runs.settings_that_differ(first, second)
    assert (setting.name, setting.second) == ("distillation.layers", "7")
    verdicts = {row.label: row.verdict for row in two_runs.shared(first, second)}
    assert verdicts["distillation/student"] == "different" and verdicts["evaluation/scores"] == "same artifact"
    assert verdicts["adaptation/teacher"] == "a step of one run alone"
    scores = outputs["scores"].summary
    better = scores | {
        "models": scores["models"] | {"student": scores["models"]["student"] | {"nll": 3.05, "cloze": 0.8}}
    }
    figures = {row.name: row.change for row in two_runs.headline_figures(scores, better)}
    assert (figures["student: NLL"], figures["student: cloze accuracy"], figures["teacher: NLL"]) == (
        "−0.250",
        "+5.0 points",
        "same",
    )
    differing = {row.name for row in two_runs.figures_that_differ(scores, better)}
    assert differing == {"models, student, NLL", "models, student, cloze"}


@pytest.mark.parametrize(
    ("asked", "status", "body", "place"),
    [
        (None, 200, b"0123456789", None),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=0-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
    ],
)
def test_the_range_that_was_asked_for_is_answered(asked: str | None, status: int, body: bytes, place: str | None):
    answer = ranged(b"0123456789", "audio/flac", asked)
    assert (answer.status_code, answer.body, answer.headers.get("content-range")) == (status, body, place)
    assert int(answer.headers.get("content-length", "0")) == len(body) and answer.headers["accept-ranges"] == "bytes"
