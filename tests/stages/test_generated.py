"""Generative perplexity in the tiny pipeline, with toy recognisers and a toy language model of text."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import Finished
from tests.fixtures.judges import write_judges, write_rater
from tests.fixtures.killed import kill_in_step
from tests.fixtures.tiny import Computed, copy_store, digests, run_tiny
from tinywave_core.config.evaluation import GeneratedConfig, JudgesConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError, MissingInputError
from tinywave_core.run.preflight import check_run
from tinywave_core.runtimes.rating import load_judge
from tinywave_core.stages.evaluation import ratings
from tinywave_core.stages.evaluation.continuations import SOURCES, kept
from tinywave_core.stages.evaluation.generated import FILE
from tinywave_core.stages.evaluation.stage import describe
from tinywave_core.stages.evaluation.summary import RatingsSummary
from tinywave_core.stages.evaluation.words import rating_rows
from tinywave_core.steps.base import Outputs
from tinywave_core.storage.shards import read_table
from tinywave_core.storage.store import Store
from tinywave_core.tokenizers.vocabulary import Vocabulary

SETTINGS = {"items": 3, "prompt_s": 1.0, "max_new_tokens": 24}


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("judges")
    return write_judges(folder) | {"rater": str(write_rater(folder / "rater"))}


def with_judges(config: PipelineConfig, asr: str, text: str, **settings: Any) -> PipelineConfig:
    generated = GeneratedConfig.model_validate({**SETTINGS, "asr": asr, "language_model": text, **settings})
    parts = {"generated": generated, "judges": JudgesConfig(items=0)}  # a recogniser would count word errors too
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=parts)})


@pytest.fixture(scope="module")
def ran(
    finished: Finished, judges: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[PipelineConfig, Outputs, Computed]:
    """The finished store, evaluated once more with Whisper, and rated by a model in llama.cpp."""
    config = copy_store(finished.config, tmp_path_factory.mktemp("generated") / "store")
    config = with_judges(config, judges["whisper"], judges["text"], judge=f"{judges['rater']}/judge.gguf")
    return config, *run_tiny(config)


def test_only_what_is_generated_is_computed_and_the_card_that_tells_of_it(
    ran: tuple[PipelineConfig, Outputs, Computed],
):
    config, outputs, computed = ran
    made = ["evaluation/continuations", "evaluation/generated", "evaluation/ratings"]
    assert computed.parts() == [*made, "export/model", "generation/samples"]
    assert "| How the recordings really went on |" in (outputs["model"].path("model") / "README.md").read_text()
    assert run_tiny(config)[1].parts() == []


def test_every_source_continues_the_same_prompts(ran: tuple[PipelineConfig, Outputs, Computed]):
    rows = read_table(ran[1]["generated"].path(FILE)).to_pylist()
    by_source = {source: [row["utterance_id"] for row in rows if row["source"] == source] for source in SOURCES}
    assert len(by_source["teacher"]) == 3
    assert all(each == by_source["teacher"] for each in by_source.values())
    assert all(len(row["ids"]) <= 24 and row["nll"] > 0 for row in rows)


def test_generative_perplexity_is_the_exponential_of_the_mean_over_samples(
    ran: tuple[PipelineConfig, Outputs, Computed],
):
    artifact = ran[1]["generated"]
    rows = read_table(artifact.path(FILE)).to_pylist()
    for source in SOURCES:
        nll = np.mean([row["nll"] for row in rows if row["source"] == source])
        found = artifact.summary["sources"][source]
        assert found["gen_ppl"] == pytest.approx(math.exp(nll))
        assert found["gen_ppl_interval"][0] <= found["gen_ppl"] <= found["gen_ppl_interval"][1] * (1 + 1e-9)
        assert found["empty"] == sum(not row["transcript"] for row in rows if row["source"] == source)


def test_a_run_killed_among_the_continuations_goes_on_to_the_same(
    ran: tuple[PipelineConfig, Outputs, Computed], finished: Finished, tmp_path: Path
):
    config = copy_store(finished.config, tmp_path / "store")
    config = config.model_copy(update={"evaluation": ran[0].evaluation})
    for part, left in (("continuations", "teacher.json"), ("generated", "teacher-judged.json")):
        assert kill_in_step(config, f"evaluation/{part}", 5) == -9  # 3 of the teacher's, 2 of the student's
        assert [path.name for path in Path(config.root, ".work").rglob("*.json")] == [left]
    run_tiny(config)
    assert digests(Store(config.root)) == digests(Store(ran[0].root))


def test_models_are_known_by_their_content_and_not_by_their_place(
    ran: tuple[PipelineConfig, Outputs, Computed], judges: dict[str, str], tmp_path: Path
):
    config = copy_store(ran[0], tmp_path / "store")
    for name in ("whisper", "text"):
        shutil.copytree(judges[name], tmp_path / name)
    moved = with_judges(config, str(tmp_path / "whisper"), str(tmp_path / "text"))
    assert run_tiny(moved)[1].parts() == []
    weights = load_file(tmp_path / "text" / "model.safetensors")
    weights["lm_head.weight"][0] += 1
    save_file(weights, tmp_path / "text" / "model.safetensors", metadata={"format": "pt"})
    assert "evaluation/generated" in run_tiny(moved)[1].parts()


def test_the_judge_rates_what_was_written_down_beside_the_written_prompt(
    ran: tuple[PipelineConfig, Outputs, Computed], judges: dict[str, str]
):
    outputs = ran[1]
    rows = read_table(outputs["ratings"].path(ratings.FILE)).to_pylist()
    heard = {
        (r["utterance_id"], r["source"]): r["transcript"]
        for r in read_table(outputs["generated"].path(FILE)).to_pylist()
    }
    judge = load_judge(Path(judges["rater"]))  # the same one in transformers
    assert len(rows) == 3 * len(SOURCES) and any(row["rating"] for row in rows)
    for row in rows:
        again = judge.rate(row["prompt"], heard[row["utterance_id"], row["source"]])
        assert row["failure"] == again.failure and row["rating"] == pytest.approx(again.value, abs=0.005)
    assert (
        len({round(row["rating"], 2) for row in rows if row["rating"]}) > 3
    )  # it is no judge that says the same of all
    summary = RatingsSummary.of(outputs["ratings"])
    for source, figures in summary.sources.items():
        own = [row for row in rows if row["source"] == source]
        assert sum(figures.failures.values()) == sum(row["rating"] is None for row in own)
        assert figures.at_worst.value == pytest.approx(np.mean([row["rating"] or 1 for row in own]))
    assert all(row["rated"] != "0 of 3" for row in rating_rows(summary))
    assert "rated 1 to 5: teacher" in describe(outputs)[1]


def test_another_judge_rates_again_and_nothing_else_is_computed(
    ran: tuple[PipelineConfig, Outputs, Computed], judges: dict[str, str], tmp_path: Path
):
    config = copy_store(ran[0], tmp_path / "store")
    place = shutil.copytree(judges["rater"], tmp_path / "moved")
    moved = with_judges(config, judges["whisper"], judges["text"], judge=f"{place}/judge.gguf")
    assert run_tiny(moved, until="evaluation")[1].parts() == []
    other = with_judges(config, judges["whisper"], judges["text"], judge=str(place))
    assert run_tiny(other, until="evaluation")[1].parts() == ["evaluation/ratings"]


@pytest.mark.parametrize(
    ("judge", "error", "said"),
    [
        ("nowhere.gguf", CheckpointError, "nowhere.gguf does not exist"),
        ("whisper", CheckpointError, "generated.judge .* has the architectures .*Whisper"),
        ("nowhere", MissingInputError, "generated.judge .* has no config.json; expected .* or a GGUF file"),
    ],
)
def test_what_cannot_rate_is_refused_before_a_run(
    finished: Finished, judges: dict[str, str], judge: str, error: type, said: str
):
    place = judges.get(judge, f"{judges['text']}/{judge}")
    with pytest.raises(error, match=said):
        check_run(with_judges(finished.config, judges["ctc"], judges["text"], judge=place))


def test_a_ctc_recogniser_writes_small_letters(finished: Finished, judges: dict[str, str], tmp_path: Path):
    config = copy_store(finished.config, tmp_path / "store")
    outputs, _ = run_tiny(with_judges(config, judges["ctc"], judges["text"]))
    texts = read_table(outputs["generated"].path(FILE))["transcript"].to_pylist()
    assert any(texts) and all(text == text.lower() for text in texts)


def test_a_student_without_text_continues_in_the_ids_of_the_shards(
    finished: Finished, judges: dict[str, str], tmp_path: Path
):
    config = copy_store(finished.config, tmp_path / "store")
    config = config.model_copy(update={"distillation": config.distillation.model_copy(update={"vocabulary": "speech"})})
    outputs, _ = run_tiny(with_judges(config, judges["ctc"], judges["text"]), until="evaluation")
    vocabulary = Vocabulary.from_json(outputs["tokens"].summary["vocabulary"])
    rows = read_table(outputs["generated"].path(FILE)).to_pylist()
    ids = {i for row in rows if row["source"] == "student" for i in row["ids"]}
    assert ids and ids <= set(vocabulary.speech_ids())
    assert max(ids) >= vocabulary.first["pitch"] > vocabulary.speech_only().tokens - 12


def test_speech_too_short_to_continue_has_a_reason(finished: Finished, judges: dict[str, str], tmp_path: Path):
    config = copy_store(finished.config, tmp_path / "store")
    outputs, _ = run_tiny(with_judges(config, judges["ctc"], judges["text"], prompt_s=30.0))
    summary = outputs["generated"].summary
    assert summary["why"] == "no held-out utterance has 60 s, twice the prompt"
    assert summary["sources"] == {} and read_table(outputs["generated"].path(FILE)).num_rows == 0


@pytest.mark.parametrize(
    ("asr", "text", "lost", "error", "said"),
    [
        ("nowhere", "text", "", MissingInputError, "generated.asr .*nowhere.* has no config.json"),
        ("text", "text", "", CheckpointError, "generated.asr .* has a model of type 'llama'"),
        ("whisper", "whisper", "", CheckpointError, "language_model .* has the architectures .*Whisper"),
        ("whisper", "text", "whisper/preprocessor_config.json", CheckpointError, "no preprocessor_config.json"),
        ("ctc", "text", "ctc/vocab.json", CheckpointError, "no vocab.json"),
        ("ctc", "text", "text/model.safetensors", CheckpointError, r"no \*.safetensors .other formats can run code"),
    ],
)
def test_what_is_no_judge_is_refused_before_a_run(
    finished: Finished, judges: dict[str, str], tmp_path: Path, asr: str, text: str, lost: str, error: type, said: str
):
    for name, place in judges.items():
        shutil.copytree(place, tmp_path / name)
    (tmp_path / (lost or "none")).unlink(missing_ok=True)
    with pytest.raises(error, match=said):
        check_run(with_judges(finished.config, str(tmp_path / asr), str(tmp_path / text)))


def test_a_language_model_without_a_recogniser_is_refused():
    with pytest.raises(ValueError, match="language_model is given and asr is not"):
        GeneratedConfig(language_model="somewhere")
    with pytest.raises(ValueError, match="judge is given and language_model is not"):
        GeneratedConfig(asr="somewhere", judge="somewhere")


def test_without_a_judge_the_settings_are_written_as_before_there_was_one():
    assert "judge" not in GeneratedConfig(asr="a").model_dump()
    assert GeneratedConfig(asr="a", language_model="b", judge="c").model_dump()["judge"] == "c"


def test_samples_of_an_earlier_try_are_taken_only_as_they_were(tmp_path: Path):
    path = tmp_path / "student.json"
    assert kept(path, lambda: [[1, 2], [3]]) == [[1, 2], [3]]
    assert kept(path, lambda: pytest.fail("made again")) == [[1, 2], [3]]
    path.write_text(path.read_text().replace("3", "7", 1))
    assert kept(path, lambda: [[1, 2], [3]]) == [[1, 2], [3]]
