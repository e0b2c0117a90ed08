"""A student of another width than its teacher, through all stages: what matters most stays, and what helped it to learn is not exported."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.fixtures.text_models import write_text_model
from tests.fixtures.tiny import run_tiny, tiny_config
from tinywave_core.config.distillation import DistillationConfig
from tinywave_core.costs.estimates import student_parameters
from tinywave_core.errors import ConfigError
from tinywave_core.models.llama import load_llama
from tinywave_core.run.preflight import check_run
from tinywave_core.steps.base import Outputs


@pytest.fixture(scope="module")
def outputs(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    folder = tmp_path_factory.mktemp("narrow")
    config = tiny_config(
        tiny_source,
        folder / "store",
        adaptation={"teacher": str(write_text_model(folder / "lm"))},
        distillation={"width": 16},
        export={"gguf": ("f16",)},
    )
    outputs = run_tiny(config)[0]
    assert student_parameters(config) == outputs["student"].summary["parameters"]
    return outputs


def test_the_student_is_half_as_wide_with_half_the_heads_and_neurons(outputs: Outputs):
    """Of 32 channels, 4 heads in 2 groups and 48 neurons; heads stay 8 wide."""
    for part in ("student", "control", "model"):
        shape = load_llama(outputs[part].path("model")).config
        assert (shape.hidden_size, shape.num_attention_heads, shape.num_key_value_heads) == (16, 2, 1)
        assert (shape.head_dim, shape.intermediate_size, shape.tie_word_embeddings) == (8, 24, True)
    weights = load_llama(outputs["student"].path("model")).state_dict()
    assert not [name for name in weights if "alignment" in name]


def test_what_stays_is_told_and_is_the_same_for_the_control(outputs: Outputs):
    kept = outputs["student"].summary["kept"]
    assert kept == outputs["control"].summary["kept"]
    assert len(kept["channels"]) == 16 and [len(heads) for heads in kept["heads"]] == [2] * 4
    assert all(heads[1] == heads[0] + 1 and heads[0] % 2 == 0 for heads in kept["heads"])  # whole groups
    assert set(outputs["student"].summary["final"]) >= {"hidden", "attention", "logits", "language_model"}


def test_plain_transformers_continues_with_the_narrow_export(outputs: Outputs):
    model = AutoModelForCausalLM.from_pretrained(outputs["model"].path("model"), local_files_only=True)
    assert model.generate(torch.tensor([[1, 4, 5, 6]]), max_new_tokens=3, do_sample=False).shape[1] <= 7


def test_a_width_that_does_not_divide_is_refused_with_those_that_do(tiny_source: Path, tmp_path: Path):
    """4 heads over a width of 32 go in quarters, 2 groups of them in halves."""
    adaptation = {"teacher": str(write_text_model(tmp_path / "lm"))}
    config = tiny_config(tiny_source, tmp_path / "store", adaptation=adaptation, distillation={"width": 24})
    with pytest.raises(ConfigError, match="distillation.width is 24, the teacher is 32 wide.*Widths that fit: 16$"):
        check_run(config)
    other = {"teacher": str(write_text_model(tmp_path / "opt", "opt"))}
    config = tiny_config(
        tiny_source, tmp_path / "store", adaptation=other, distillation={"width": 16}, export={"gguf": ()}
    )
    with pytest.raises(ConfigError, match="a model of type 'opt', whose heads and neurons are not told apart"):
        check_run(config)
    with pytest.raises(ValueError, match="set one of the two"):
        DistillationConfig(width=16, start="elsewhere")
