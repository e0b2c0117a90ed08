"""A student starts from the student of another run, as the paper's interleaved one does from the expressive one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import Finished
from tests.fixtures.tiny import Computed, copy_store, merged
from tinywave_core.config.distillation import DistillationConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError, MissingInputError
from tinywave_core.models.llama import load_llama
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.run.preflight import check_run
from tinywave_core.stages.distillation.stage import facts
from tinywave_core.stages.distillation.start import require_same_units, start_folder, start_params
from tinywave_core.storage.store import Store
from tinywave_core.tokenizers.vocabulary import Vocabulary

# So little that the start shows through.
FAINT: dict[str, Any] = {"training": {"steps": 1, "learning_rate": 1e-9, "warmup_steps": 0}}


def config_of(finished: Finished, root: Path, start: Path, **settings: Any) -> PipelineConfig:
    config = copy_store(finished.config, root)
    changes = {"distillation": {"start": str(start), **FAINT, **settings}}
    return PipelineConfig.model_validate(merged(config.model_dump(), changes))


@pytest.fixture(scope="module")
def first(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model directory of the first run's export, elsewhere."""
    folder = tmp_path_factory.mktemp("first") / "export-1"
    shutil.copytree(finished.outputs["model"].path("model"), folder / "model")
    return folder / "model"


def test_student_and_control_start_as_the_student_of_the_other_run(finished: Finished, first: Path, tmp_path: Path):
    config = config_of(finished, tmp_path / "store", first)
    store, execute = Store(config.root), Computed()
    outputs = run_pipeline(config, store, execute, "distillation")
    assert execute.parts() == ["distillation/student", "distillation/control"]
    before = load_llama(first).state_dict()
    for part in ("student", "control"):
        after = load_llama(outputs[part].path("model")).state_dict()
        assert max((after[name] - weight).abs().max() for name, weight in before.items()) < 1e-6
        about = outputs[part].summary
        assert about["started_from"] == "student" and about["start"]["name"] == "export-1"
        assert about["start"] == start_params(first)["start"] == outputs[part].manifest.params["start"]
        assert outputs[part].manifest.config["start"] == "given"
    assert ("started from", f"the student export-1 (SHA-256 {about['start']['sha256'][:12]}…)") in facts(outputs)
    # The same student elsewhere is the same, another one under its name is noticed.
    moved = Path(shutil.copytree(first.parent, tmp_path / "export-1")) / "model"
    again = PipelineConfig.model_validate(merged(config.model_dump(), {"distillation": {"start": str(moved)}}))
    assert run_pipeline(again, store, execute, "distillation")["student"].id == outputs["student"].id
    model = load_llama(moved)
    with torch.no_grad():
        model.lm_head.weight[5, 5] += 1
    model.save_pretrained(moved)
    assert start_params(moved) != start_params(first)


def test_a_start_that_does_not_fit_is_refused_before_anything_runs(finished: Finished, first: Path, tmp_path: Path):
    config = config_of(finished, tmp_path / "store", first, layers=3)
    with pytest.raises(ConfigError, match="has 2 blocks, distillation.layers is 3: set --distillation.layers 2"):
        check_run(config)
    with pytest.raises(
        MissingInputError,
        match="has no config.json; expected `teacher`, `fresh`, or the model directory of an export .`tinywave inspect`",
    ):
        start_folder(DistillationConfig(start=str(tmp_path)))


def test_units_of_another_tokenizer_are_refused_with_both(first: Path):
    own = Vocabulary.from_json(json.loads((first / "vocabulary.json").read_text()))
    tokenizer = json.loads((first / "speech.json").read_text())["speech_tokenizer"]
    require_same_units(first, own, tokenizer, "full")
    with pytest.raises(ConfigError, match=f"trained on tokens of {tokenizer}, this run's are of other"):
        require_same_units(first, own, "other", "full")
    with pytest.raises(ConfigError, match="have different vocabularies"):
        require_same_units(first, own, tokenizer, "speech")
