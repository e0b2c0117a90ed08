"""How it sounds, in the tiny pipeline with toy judges: what is heard, what identifies it, and what is said where a judge is absent."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Finished
from tests.fixtures.judges import write_dnsmos, write_judges, write_voices
from tests.fixtures.tiny import Computed, copy_store, run_tiny
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError, MissingInputError
from tinywave_core.evals import dnsmos
from tinywave_core.run.preflight import check_run
from tinywave_core.stages.export.judges import FILE
from tinywave_core.stages.export.summary import JudgesSummary
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Store

MADE = ["evaluation/continuations", "export/judges", "export/model", "generation/samples"]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("judges")
    toys = write_judges(folder)
    write_dnsmos(folder / "dnsmos.onnx")
    return {**toys, "dnsmos": str(folder / "dnsmos.onnx"), "voices": str(write_voices(folder / "voices"))}


def asking(config: PipelineConfig, asr: str = "", **judges: Any) -> PipelineConfig:
    evaluation = config.evaluation.model_dump() | {
        "judges": {"dnsmos": "none", "items": 3, **judges},
        "generated": {"asr": asr, "items": 2, "prompt_s": 1.0, "max_new_tokens": 24},
    }
    return PipelineConfig.model_validate({**config.model_dump(), "evaluation": evaluation})


def ask_all(config: PipelineConfig, places: dict[str, str]) -> PipelineConfig:
    return asking(config, places["ctc"], dnsmos=places["dnsmos"], speaker_model=places["voices"])


@pytest.fixture(scope="module")
def ran(
    finished: Finished, places: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[PipelineConfig, Outputs, Computed]:
    """The finished store, judged by all three."""
    config = ask_all(copy_store(finished.config, tmp_path_factory.mktemp("judged") / "store"), places)
    return config, *run_tiny(config)


def test_only_what_is_judged_and_the_card_that_tells_of_it_is_computed(
    ran: tuple[PipelineConfig, Outputs, Computed], places: dict[str, str], tmp_path: Path
):
    config, _, computed = ran
    assert computed.parts() == MADE
    moved = shutil.copytree(places["voices"], tmp_path / "moved")
    again = asking(config, places["ctc"], dnsmos=places["dnsmos"], speaker_model=str(moved))
    assert run_tiny(again)[1].parts() == []  # known by what they are, not by where they lie


def test_originals_resynthesis_and_the_models_are_heard_by_all_three(
    ran: tuple[PipelineConfig, Outputs, Computed],
):
    summary = JudgesSummary.of(ran[1]["judges"])
    assert list(summary.sources) == ["original", "resynthesis", "teacher", "student", "control", "stranger"]
    assert summary.utterances == 3 and sorted(summary.judges) == ["asr", "dnsmos", "speaker_model"]
    for source, heard in summary.sources.items():
        assert heard.clips + heard.silent == 3, source
        assert (heard.ovrl is None) == (source == "stranger")
        # These students stop after a moment, which shows no voice.
        assert heard.similarity is not None or source in ("student", "control")
        assert (heard.wer_heard is None) == (source != "resynthesis")
    transcribed = [r for r in read_table(ran[1]["judges"].path(FILE)).to_pylist() if r["reference"]]
    assert bool(transcribed) == (summary.sources["resynthesis"].wer is not None)


def test_figures_are_those_of_the_table(ran: tuple[PipelineConfig, Outputs, Computed]):
    rows = read_table(ran[1]["judges"].path(FILE)).to_pylist()
    summary = JudgesSummary.of(ran[1]["judges"])
    for source, heard in summary.sources.items():
        own = [row for row in rows if row["source"] == source]
        voices = [row["similarity"] for row in own if row["similarity"] is not None]
        assert (heard.similarity.value if heard.similarity else None) == (
            pytest.approx(np.mean(voices)) if voices else None
        )
        if heard.sig is not None:
            assert heard.sig.value == pytest.approx(np.mean([row["sig"] for row in own if row["seconds"]]))


def test_the_card_has_the_table_and_what_a_judge_cannot_say(ran: tuple[PipelineConfig, Outputs, Computed]):
    card = (ran[1]["model"].path("model") / "README.md").read_text()
    assert "| the same through the vocoder |" in card and "| continued by this student |" in card
    assert "MOS alone rewards a smooth wrong voice" in card and "Absent" not in card


def test_without_a_judge_the_card_says_which_are_absent_and_how_to_get_them(finished: Finished):
    card = (finished.outputs["model"].path("model") / "README.md").read_text()
    assert "judges" not in finished.outputs
    assert "How it sounds was not judged. Absent: DNSMOS (pip install 'tinywave\\[judges\\]'); word errors" in card


def test_with_and_without_the_extra_are_two_artifacts_of_one_store(
    finished: Finished, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = copy_store(finished.config, tmp_path / "store")
    config = asking(config, speaker_model=places["voices"], dnsmos="auto")
    monkeypatch.setattr(dnsmos, "installed_dnsmos", lambda: Path(places["dnsmos"]))
    outputs, computed = run_tiny(config)
    assert computed.parts() == MADE
    monkeypatch.setattr(dnsmos, "installed_dnsmos", lambda: None)
    without, computed = run_tiny(config)
    assert computed.parts() == MADE[1:]
    assert without["judges"].id != outputs["judges"].id and "dnsmos" not in without["judges"].summary["judges"]
    assert JudgesSummary.of(without["judges"]).sources["original"].ovrl is None
    monkeypatch.setattr(dnsmos, "installed_dnsmos", lambda: Path(places["dnsmos"]))
    assert run_tiny(config)[1].parts() == []


def test_a_worker_with_other_judges_than_were_planned_says_so(
    finished: Finished, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    gone = shutil.copyfile(places["dnsmos"], tmp_path / "dnsmos.onnx")
    config = asking(copy_store(finished.config, tmp_path / "store"), dnsmos=str(gone))

    class Leaves(Computed):
        def __call__(self, steps: Any) -> Any:
            if steps[0].part == "judges":
                gone.unlink()
            return super().__call__(steps)

    monkeypatch.setattr(dnsmos, "installed_dnsmos", lambda: None)
    from tinywave_core.run.pipeline import run_pipeline

    with pytest.raises(MissingInputError, match="judges of this run are not, or not the same, on this machine"):
        run_pipeline(config, Store(config.root), Leaves())


def test_what_is_no_model_of_voices_is_refused_before_a_run(finished: Finished, places: dict[str, str], tmp_path: Path):
    for name, error, said in (
        ("nowhere", MissingInputError, "speaker_model .*nowhere.* has no config.json"),
        (
            "text",
            CheckpointError,
            "speaker_model .* has a model of type 'llama'; expected the directory of one of WavLM",
        ),
        ("ctc", CheckpointError, "speaker_model .* has the architectures .*Wav2Vec2ForCTC"),
    ):
        with pytest.raises(error, match=said):
            check_run(asking(finished.config, speaker_model=places.get(name, str(tmp_path / name))))
    with pytest.raises(MissingInputError, match="dnsmos 'nowhere.onnx' is no file"):
        check_run(asking(finished.config, dnsmos="nowhere.onnx"))
