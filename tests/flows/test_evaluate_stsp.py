"""`tinywave evaluate --suite stsp=FILE`: all four directions of a tiny export, with toy classifiers."""

import json
import shutil
from pathlib import Path

import pytest

from flows.cli import main
from tests.conftest import Finished
from tests.fixtures.judges import write_classifier, write_text_classifier
from tests.fixtures.serving import reads_text, with_room
from tests.fixtures.tiny import CLIPS, EXAMPLES
from tinywave_core.audio.waveform import read_waveform
from tinywave_core.evals.classifiers import load_classifier

LABELS = ("sad", "neutral", "happy")
MEANT = {"sad": "negative", "neutral": "neutral", "happy": "positive"}


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("classifiers")
    speech = write_classifier(folder / "speech", labels=LABELS)
    text = write_text_classifier(folder / "text", ("NEG", "NEU", "POS"), always="POS")
    return ["--speech-classifier", str(speech), "--text-classifier", str(text)]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stsp")
    (folder / "wavs").mkdir()
    lines = []
    for number, label in enumerate(["happy", "sad", "happy"]):
        clip = EXAMPLES / CLIPS[number]
        shutil.copyfile(clip, folder / "wavs" / f"{number}{clip.suffix}")
        asr = "" if number == 2 else "how it was"
        lines.append({"id": f"r{number}", "emotion": label, "wav_path": f"wavs/{number}{clip.suffix}", "asr": asr})
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "own.jsonl"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = main(["evaluate", *map(str, arguments), "--device", "cpu"])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_every_direction_of_a_model_of_speech_and_text_is_measured(
    capsys, finished: Finished, references: Path, classifiers: list[str], tmp_path: Path
):
    model = with_room(reads_text(finished.outputs["model"].path("model"), tmp_path / "reads"), tmp_path / "model")
    out = tmp_path / "out"
    status, said, _ = run(capsys, model, "--suite", f"stsp={references}", *classifiers, "--out", out)
    assert status == 0 and "one answer to everything gets 66.7 %" in " ".join(said.split())
    (suite,) = json.loads((out / "stsp.json").read_text())["suites"]
    assert (
        suite["chance"] == 2 / 3 and suite["absent"] == {} and list(suite["directions"]) == ["S→S", "S→T", "T→S", "T→T"]
    )
    truth = {"r0": "positive", "r1": "negative", "r2": "positive"}
    for name, figures in suite["directions"].items():
        lines = [json.loads(line) for line in (out / suite["files"][name]).read_text().splitlines()]
        preds = {line["id"]: line["pred"] for line in lines}
        assert list(preds) == ["r0", "r1", "r2"] and figures["items"] == 3
        assert figures["right"] == sum(preds[i] == truth[i] for i in truth)
        assert sum(figures["failures"].values()) == sum(pred is None for pred in preds.values())
        if name.startswith("T"):  # nobody wrote down what is said in the third
            assert preds["r2"] is None and figures["failures"]["no transcript"] == 1
        if name.endswith("T"):
            assert {pred for pred in preds.values() if pred} == {"positive"}
    # Classifiers on the prompts themselves: that of speech by hand.
    classify = load_classifier(Path(classifiers[1]))
    waves = [read_waveform(path) for path in sorted((references.parent / "wavs").iterdir())]
    heard = [MEANT[LABELS[int(classify(wave).argmax())]] for wave in waves]
    assert suite["on_prompts"]["speech"]["right"] == sum(a == b for a, b in zip(heard, truth.values(), strict=True))
    assert suite["on_prompts"]["text"]["right"] == 1


def test_the_same_again_and_a_model_of_speech_alone_is_measured_in_speech_alone(
    capsys, finished: Finished, references: Path, classifiers: list[str], tmp_path: Path
):
    model = with_room(finished.outputs["model"].path("model"), tmp_path / "model")
    for out in ("one", "two"):
        status, said, _ = run(capsys, model, "--suite", f"stsp={references}", *classifiers, "--out", tmp_path / out)
    first, second = ((tmp_path / out / "stsp.json").read_text() for out in ("one", "two"))
    assert status == 0 and first == second and list(json.loads(first)["suites"][0]["directions"]) == ["S→S"]
    assert "T→S was not measured: this model cannot read text" in " ".join(said.split())


def test_classifiers_are_asked_for_and_models_are_not_compared(
    capsys, finished: Finished, references: Path, classifiers: list[str]
):
    model = finished.outputs["model"].path("model")
    assert "stsp needs a classifier" in run(capsys, model, "--suite", f"stsp={references}")[2]
    refused = run(capsys, model, "--suite", f"STSP={references}", *classifiers, "--against", model)
    assert refused[0] == 2 and "--against is for pairs" in refused[2]
