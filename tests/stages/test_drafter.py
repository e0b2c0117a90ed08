"""A drafter made by the pipeline: a smaller student beside the student, measured on held-out speech, carried by the export."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import Finished
from tests.fixtures.tiny import copy_store, run_tiny
from tinywave_core.config.distillation import DistillationConfig
from tinywave_core.errors import CheckpointError
from tinywave_core.evals.drafting import kept_shares, tokens_a_round
from tinywave_core.models.llama import load_llama
from tinywave_core.runtimes.base import Sampling
from tinywave_core.runtimes.opening import open_runtime
from tinywave_core.sequences.index import load_sequences
from tinywave_core.stages.distillation.summary import StudentSummary
from tinywave_core.stages.evaluation.summary import DraftingSummary
from tinywave_core.steps.base import Outputs
from tinywave_core.steps.inputs import held_out_shards
from tinywave_core.synthesis.generator import Generator


@dataclass(frozen=True)
class Drafted:
    outputs: Outputs
    computed: list[str]


@pytest.fixture(scope="module")
def drafted(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Drafted:
    config = copy_store(finished.config, tmp_path_factory.mktemp("drafter") / "store")
    asked = config.distillation.model_copy(update={"drafter_layers": 1})
    outputs, computed = run_tiny(config.model_copy(update={"distillation": asked}))
    return Drafted(outputs, computed.parts())


def test_what_a_drafter_proposes_is_kept_as_often_as_both_agree():
    """By hand: probabilities (0.5, 0.5) and (0.8, 0.2), then the same ones twice."""
    target, drafter = torch.tensor([[0.5, 0.5], [0.8, 0.2]]).log(), torch.tensor([[0.8, 0.2], [0.8, 0.2]]).log()
    assert kept_shares(target, drafter).tolist() == pytest.approx([0.7, 1.0])
    assert tokens_a_round(0.5, 3) == pytest.approx(1 + 0.5 + 0.25 + 0.125) and tokens_a_round(1.0, 3) == 4


def test_a_drafter_trains_nothing_else_anew(drafted: Drafted, finished: Finished):
    assert drafted.computed == ["distillation/drafter", "evaluation/drafting", "export/model", "generation/samples"]
    assert drafted.outputs["student"].id == finished.outputs["student"].id


def test_a_drafter_is_a_smaller_student_of_the_same_teacher(drafted: Drafted):
    drafter = drafted.outputs["drafter"]
    summary, inputs = StudentSummary.of(drafter), drafter.manifest.inputs
    weights = {name for name, weight in summary.weights.items() if weight}
    assert (summary.layers, weights) == (1, {"language_model", "logits"}) and "logits" in inputs
    assert inputs["teacher"] == [drafted.outputs["teacher"].id]


def test_what_is_kept_is_measured_on_held_out_speech(drafted: Drafted):
    """Against the mean over all places, from the models' own logits."""
    found = DraftingSummary.of(drafted.outputs["drafting"])
    models = [load_llama(drafted.outputs[part].path("model")).eval() for part in ("student", "drafter")]
    kept = []
    for sequence in load_sequences(held_out_shards(drafted.outputs["tokens"]), "held_out", 128):
        with torch.no_grad():
            rows = torch.from_numpy(sequence.ids.astype(np.int64))[None]
            first, second = (model(rows).logits[0, :-1].softmax(-1).numpy() for model in models)
        kept += np.minimum(first, second).sum(-1).tolist()
    assert (found.tokens, found.layers, found.proposed) == (len(kept), 1, 3)
    assert found.kept == pytest.approx(np.mean(kept), rel=1e-5)
    assert found.interval[0] < found.kept < found.interval[1]


@pytest.mark.parametrize("runtime", ["transformers", "llama.cpp"])
def test_an_export_drafts_with_its_own_drafter(drafted: Drafted, runtime: str):
    folder = drafted.outputs["model"].path("model")
    drafting = open_runtime(folder, runtime, device="cpu", threads=1, drafter="own")
    made = list(drafting.stream([1, 260, 263, 264, 265], Sampling(max_new_tokens=12, min_new_tokens=12), "speech"))
    assert len(made) == 12 and drafting.drafting.drafted
    drafting.close()
    assert "drafter" in (folder / "README.md").read_text() and "keeps" in (folder / "README.md").read_text()
    assert json.loads((folder / "drafter" / "drafter.json").read_text())["gguf"]


def test_a_drafter_is_no_model_to_speak_with(drafted: Drafted):
    """It has no voice; pushed or opened alone it would be a model without sound."""
    folder = drafted.outputs["model"].path("model") / "drafter"
    assert not (folder / "processor_config.json").exists()
    with pytest.raises(CheckpointError, match=r"has no speech\.json: expected the model/ directory of an export"):
        Generator.load(folder)


def test_a_model_without_gguf_files_is_named_before_its_drafter(drafted: Drafted, tmp_path: Path):
    folder = shutil.copytree(drafted.outputs["model"].path("model"), tmp_path / "model")
    about = json.loads((folder / "speech.json").read_text())
    (folder / "speech.json").write_text(json.dumps(about | {"gguf": []}))
    with pytest.raises(CheckpointError, match=r"model has no GGUF file \(there: none\)"):
        open_runtime(folder, "llama.cpp", drafter="own")


def test_an_export_without_a_drafter_says_how_to_make_one(finished: Finished):
    with pytest.raises(CheckpointError, match=r"no drafter of its own: run with --distillation\.drafter_layers 1"):
        open_runtime(finished.outputs["model"].path("model"), drafter="own")


def test_a_drafter_as_large_as_its_student_is_refused():
    with pytest.raises(ValueError, match="drafter_layers is 2, the student has 2"):
        DistillationConfig(layers=2, drafter_layers=2)
