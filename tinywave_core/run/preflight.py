"""Checks before a run starts, so that what must fail does so now and not after a day: files of a release, sizes, layers.

Reads configs and headers only. Stages check again what they use.
"""

import json

from tinywave_core.checkpoints.architectures import ARCHITECTURES
from tinywave_core.checkpoints.bounds import read_json
from tinywave_core.checkpoints.model_shape import ModelShape
from tinywave_core.checkpoints.teacher import teacher_folder
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.extras import Extra, require
from tinywave_core.run.start import possible_configs
from tinywave_core.stages.distillation.start import start_folder
from tinywave_core.stages.evaluation.generated import check_generated
from tinywave_core.stages.evaluation.judges_given import check_judges
from tinywave_core.stages.logit_caching.taught import check_taught
from tinywave_core.stages.tokenization.benchmarks import open_suites
from tinywave_core.stages.tokenization.interleaving import check_text
from tinywave_core.stages.tokenization.tokens import check_speech_tokenizer
from tinywave_core.teacher.layer_map import layer_map
from tinywave_core.tokenizers.opening import choose_tokenizer


def check_run(config: PipelineConfig) -> None:
    """Raise the first error with which a run of the whole pipeline with these settings would end, whatever teacher `auto` takes."""
    require_trackers(config.runtime)
    for settled in possible_configs(config):
        _check(settled)


def trackers_of(runtime: RuntimeConfig) -> dict[Extra, str]:
    """The trackers that finished runs go to, with where they keep them."""
    given: dict[Extra, str | None] = {"mlflow": runtime.mlflow_to, "wandb": runtime.wandb_to}
    return {extra: place for extra, place in given.items() if place is not None}


def require_trackers(runtime: RuntimeConfig) -> None:
    """SurroundingError for a tracker whose package is not installed."""
    for extra in trackers_of(runtime):
        require(extra, f"runtime.{extra}_to")


def check_layers(config: PipelineConfig) -> None:
    """ConfigError where the student's layers do not go with the teacher's. SpiritLM's are known with its release only."""
    for settled in possible_configs(config):
        if settled.adaptation.teacher != "spiritlm":
            _check_layers(settled)


def _check_layers(config: PipelineConfig) -> None:
    folder = teacher_folder(config)
    layers = config.adaptation.fresh.layers
    if folder is not None:
        layers = int(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("num_hidden_layers", 0))
    student = config.distillation
    layer_map(student.layer_map, layers, student.layers, student.layer_pairs, student.copied_blocks)
    if student.width is not None:
        shape = ModelShape.of_fresh(config.adaptation.fresh)
        if folder is not None:
            about = read_json(folder / "config.json")
            if not (row := ARCHITECTURES.get(str(about.get("model_type")))) or "down_proj" not in row.projections:
                raise ConfigError(
                    f"distillation.width is {student.width}, but {folder} is a model of type {about.get('model_type')!r}, whose heads "
                    "and neurons are not told apart here: leave distillation.width out"
                )
            shape = ModelShape.of_config(about)
        shape.narrowed(student.width)


def _check(config: PipelineConfig) -> None:
    check_speech_tokenizer(config)
    _check_layers(config)
    student = config.distillation
    if student.vocabulary == "speech" and config.tokenization.interleaving.policy != "speech":
        raise ConfigError(
            f"distillation.vocabulary is speech, a student without text, but tokenization.interleaving.policy is "
            f"{config.tokenization.interleaving.policy}: take vocabulary full, or policy speech"
        )
    start_folder(student)
    check_text(config)
    open_suites(config)
    check_generated(config)
    check_taught(config)
    check_judges(config)
    choose_tokenizer(config).vocoder()
