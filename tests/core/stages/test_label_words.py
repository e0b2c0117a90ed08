"""What people read about labels: one line where all is well, and a line for each thing that is not."""

from pathlib import Path

from tests.core.audio.test_sidecars import labels
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.ingestion.labels import LABELS_FILE, build, summary_of
from tinywave_core.stages.ingestion.summary import LabelsSummary
from tinywave_core.stages.ingestion.words import label_facts, label_rows, labels_in_short
from tinywave_core.steps.base import compute_all
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Store


def seen(folder: Path, files: dict[str, str | bytes]) -> LabelsSummary:
    return summary_of(labels(folder, files).report)


def test_one_line_where_every_label_found_its_recording(tmp_path: Path) -> None:
    found = seen(tmp_path, {"84/1/84-1-0.wav": "", "84/1/84-1.trans.txt": "84-1-0 GO ON", "b.wav": "", "b.txt": "Hi"})
    assert label_facts(found) == [
        (
            "labels",
            "2 of 2 files have a transcript, 1 a speaker. LibriSpeech (84/1/84-1.trans.txt): 1 with transcript, 1 with "
            "speaker; text beside the audio (b.txt): 1 with transcript",
        )
    ]
    assert labels_in_short(found) == "2 of 2 files with transcript, 1 with speaker"
    assert label_rows(found) == []


def test_nothing_where_there_are_no_labels(tmp_path: Path) -> None:
    found = seen(tmp_path, {"a.wav": "", "README.md": ""})
    assert (label_facts(found), labels_in_short(found)) == ([], "")


def test_a_line_for_rows_without_audio_and_for_each_problem(tmp_path: Path) -> None:
    gone = "".join(f"gone{number}|text\n" for number in range(7))
    files = {"a.wav": "", "a.txt": "Grüße".encode("cp1252"), "metadata.csv": gone, "counts.csv": "word,count\n"}
    found = seen(tmp_path, files)
    names = ", ".join(f"metadata.csv: gone{number}" for number in range(5))
    advice = "The file is neither UTF-8 nor marked; expected UTF-8 or a file with a byte-order mark: save it as UTF-8"
    assert label_facts(found)[:3] == [
        ("labels", "0 of 1 file has a transcript, 0 a speaker. no label found its recording"),
        ("label rows without audio", f"7: {names} and 2 more. Compare the names with those of the audio files"),
        ("labels, not UTF-8", f"1: a.txt. {advice}"),
    ]
    assert label_facts(found)[3][0] == "not read as labels"
    assert labels_in_short(found) == (
        "0 of 1 file with transcript, 0 with speaker, 7 label rows without audio, label problems: 1 not UTF-8"
    )


def test_the_part_is_another_one_where_only_a_row_that_is_not_shown_has_changed(tmp_path: Path) -> None:
    store, rows = Store(str(tmp_path / "store")), "".join(f"gone{number}|text\n" for number in range(6))
    made = []
    for last in ("x", "y"):
        report = labels(tmp_path / last, {"a.wav": "", "metadata.csv": f"{rows}{last}|text\n"}).report
        made.append(build(PipelineConfig(root=str(tmp_path / "store")), store, report, compute_all)["labels"])
    assert made[0].summary == made[1].summary and made[0].id != made[1].id
    assert read_table(made[1].path(LABELS_FILE))["place"].to_pylist()[-1] == "metadata.csv: y"
