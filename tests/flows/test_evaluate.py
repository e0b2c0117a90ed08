"""`tinywave evaluate`: an export, or a directory as it was released, on suites in their own layouts."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import soundfile

from flows.cli import main
from tests.conftest import Finished
from tests.fixtures.serving import reads_text
from tests.fixtures.tiny import CLIPS, EXAMPLES


@pytest.fixture(scope="module")
def model(finished: Finished) -> str:
    return str(finished.outputs["model"].path("model"))


@pytest.fixture(scope="module")
def wavs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Half a second each of six readers."""
    folder = tmp_path_factory.mktemp("wavs")
    paths = [folder / f"{i}.wav" for i in range(6)]
    for path, clip in zip(paths, CLIPS, strict=False):
        samples, rate = soundfile.read(EXAMPLES / clip, start=8000, frames=8000)
        soundfile.write(path, samples, rate)
    return paths


def filled(folder: Path, names: list[str], wavs: list[Path]) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(wavs[number % len(wavs)], folder / name)
    return folder


@pytest.fixture
def salmon(tmp_path: Path, wavs: list[Path]) -> Path:
    parts = ("speaker_consistency", "bg_alignment")
    return filled(
        tmp_path / "salmon", [f"{part}/sample_{i}_{j}.wav" for part in parts for i in (0, 1) for j in (0, 1)], wavs
    )


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["evaluate", *arguments, "--device", "cpu"])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_an_export_gets_a_table_and_files_of_scores(capsys, model: str, salmon: Path, tmp_path: Path):
    status, out, _ = run(capsys, model, "--suite", str(salmon), "--out", str(tmp_path / "out"))
    assert status == 0
    assert "mean over all tokens, the whole vocabulary; chance is 50 %" in out
    assert "speaker_consistency" in out and "macro" in out
    summary = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    (suite,) = summary["suites"]
    assert suite["accuracies"]["all"]["items"] == 4 and suite["left_out"] == 0
    assert summary["files"] == ["scores/salmon.mean-all-all-all.parquet"]
    table = pq.read_table(tmp_path / "out" / summary["files"][0])
    assert table.column_names[:4] == ["id", "group", "subset", "voice"]
    assert sum(table["credit"].to_pylist()) / 4 == suite["accuracies"]["all"]["value"]
    assert json.loads(table.schema.metadata[b"tinywave"])["identity"] == suite["identity"]


def test_the_definition_is_part_of_a_results_identity(capsys, model: str, salmon: Path, tmp_path: Path):
    identities = []
    for number, flags in enumerate([[], [], ["--reduction", "sum"], ["--streams", "hubert"], ["--vocabulary", "own"]]):
        out = tmp_path / str(number)
        assert run(capsys, model, "--suite", f"SALMon={salmon}", "--out", str(out), *flags)[0] == 0
        identities.append(json.loads((out / "evaluation.json").read_text())["suites"][0]["identity"])
    assert identities[0] == identities[1] and len(set(identities)) == 4


def test_a_model_is_no_better_than_itself(capsys, model: str, salmon: Path, tmp_path: Path):
    status, out, _ = run(capsys, model, "--suite", str(salmon), "--against", model, "--out", str(tmp_path / "out"))
    (suite,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())["suites"]
    assert status == 0 and "95 %, paired" in out and "+0.0 to +0.0" in out
    assert suite["differences"]["all"]["value"] == 0
    assert suite["mcnemar"]["all"] == {"first_only": 0, "second_only": 0, "p": 1.0} and "0 : 0, p = 1" in out
    assert suite["against"]["identity"] == suite["identity"]
    assert (tmp_path / "out" / "against" / "salmon.mean-all-all-all.parquet").is_file()


def test_speech_and_text_continue_one_another_in_pairs_of_ones_own(
    capsys, model: str, wavs: list[Path], tmp_path: Path
):
    lines = [
        {"id": "heard", "prompt": "0.wav", "pos": "1.wav", "neg": "2.wav"},
        {"id": "read", "prompt": "0.wav", "pos": "the end", "neg": "zzz"},
        {"id": "text", "prompt": "once", "pos": "upon a time", "neg": "upon a tyre"},
        {"id": "broken", "pos": "0.wav", "neg": "broken.wav"},
    ]
    folder = filled(tmp_path / "own", ["0.wav", "1.wav", "2.wav"], wavs)
    (folder / "broken.wav").write_text("no audio")
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out"
    reads = str(reads_text(Path(model), tmp_path / "reads"))
    status, said, _ = run(capsys, reads, "--suite", str(folder), "--over", "continuation", "--out", str(out))
    assert status == 0 and "1 of 4 pairs left out" in said
    rows = {r["id"]: r for r in pq.read_table(out / "scores" / "pairs.mean-continuation-all-all.parquet").to_pylist()}
    assert "cannot be read as audio" in rows["broken"]["reason"] and rows["broken"]["credit"] is None
    assert all(rows[name]["positive_score"] < 0 for name in ("heard", "read", "text"))
    # A model that was trained on speech alone has no say in words.
    status, said, _ = run(capsys, model, "--suite", str(folder), "--out", str(tmp_path / "alone"))
    assert status == 0 and "3 of 4 pairs left out" in said


def test_scores_to_submit_need_no_gold(capsys, model: str, wavs: list[Path], tmp_path: Path):
    data = filled(
        tmp_path / "zr",
        ["lexical/test/b.wav", "lexical/test/a.wav", "syntactic/dev/c.wav", "syntactic/dev/d.wav"],
        wavs,
    )
    gold = "id,filename,voice,type,subtype,transcription,correct\n1,c,A,t,s,x,1\n1,d,A,t,s,y,0\n"
    (data / "syntactic" / "dev" / "gold.csv").write_text(gold)
    suites = ["--suite", f"swuggy={data}", "--suite", f"sblimp={data}"]
    assert "no gold.csv" in run(capsys, model, *suites)[2]
    status, out, _ = run(capsys, model, *suites, "--submission", "--out", str(tmp_path / "out"))
    assert status == 0 and "sblimp" in out
    lines = (tmp_path / "out" / "submission" / "lexical" / "test.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["a", "b"] and all(float(line.split()[1]) < 0 for line in lines)
    scores = (tmp_path / "out" / "submission" / "syntactic" / "dev.txt").read_text().split()
    (row,) = pq.read_table(tmp_path / "out" / "scores" / "sblimp.mean-all-all-all.parquet").to_pylist()
    assert [float(scores[1]), float(scores[3])] == pytest.approx([row["positive_score"], row["negative_score"]])


@pytest.mark.parametrize("kind", ["base", "expressive"])
def test_a_released_directory_takes_its_ears_from_the_release(capsys, small_release: Path, salmon: Path, kind: str):
    folder = str(small_release / "spiritlm_model" / f"spirit-lm-{kind}-7b")
    status, out, _ = run(capsys, folder, "--suite", str(salmon / "bg_alignment"), "--spiritlm-dir", str(small_release))
    assert status == 0 and "items" in out


def test_a_released_directory_reads_text_without_the_release(
    capsys, small_release: Path, salmon: Path, tmp_path, monkeypatch
):
    monkeypatch.delenv("SPIRITLM_CHECKPOINTS_DIR", raising=False)
    folder = str(small_release / "spiritlm_model" / "spirit-lm-base-7b")
    (tmp_path / "pairs.csv").write_text("id,pos,neg\n1,the cat,the the\n")
    assert run(capsys, folder, "--suite", str(tmp_path / "pairs.csv"))[0] == 0
    status, _, err = run(capsys, folder, "--suite", str(salmon))
    assert status == 2 and "SPIRITLM_CHECKPOINTS_DIR is not set" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--suite", "swugy=."], "'swugy' is no kind of suite"),
        (["--suite", "/no/such/place"], "there is nothing at /no/such/place"),
        (["--suite", "salmon=SALMON", "--submission"], "--submission writes score files of swuggy and sblimp"),
        (["--suite", "salmon=SALMON", "--over", "continuation"], "no pair of the suite has a prompt"),
        (["--suite", "salmon=SALMON", "--against", "/nowhere"], "/nowhere has no config.json"),
    ],
)
def test_what_cannot_be_evaluated_is_one_clear_error(capsys, model: str, salmon: Path, arguments: list[str], said: str):
    status, _, err = run(capsys, model, *(word.replace("SALMON", str(salmon)) for word in arguments))
    assert status == 2 and said in err
