"""Checks before a run starts, so that what must fail does so now and not after a day: files of a release, sizes, layers.

Reads configs and headers only. Stages check again what they use.
"""

from pathlib import Path

from tinywave_core.checkpoints.architectures import ARCHITECTURES
from tinywave_core.checkpoints.headers import check_headers, read_config
from tinywave_core.checkpoints.model_shape import ModelShape
from tinywave_core.checkpoints.teacher import teacher_folder
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError
from tinywave_core.extras import Extra, require
from tinywave_core.run.start import possible_configs
from tinywave_core.stages.distillation.pairs import check_preference
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
        _check_models(settled)
        _check(settled)


def check_plan(config: PipelineConfig) -> None:
    """The same for a plan: what needs SpiritLM's release is left out, since that may be fetched later."""
    require_trackers(config.runtime)
    for settled in possible_configs(config):
        if not _needs_release(settled):
            _check_models(settled)
        _check(settled)


def trackers_of(runtime: RuntimeConfig) -> dict[Extra, str]:
    """The trackers that finished runs go to, with where they keep them."""
    given: dict[Extra, str | None] = {"mlflow": runtime.mlflow_to, "wandb": runtime.wandb_to}
    return {extra: place for extra, place in given.items() if place is not None}


def require_trackers(runtime: RuntimeConfig) -> None:
    """SurroundingError for a tracker whose package is not installed."""
    for extra, place in trackers_of(runtime).items():
        require(extra, f"runtime.{extra}_to")
        _require_folder(extra, place)


def _require_folder(extra: Extra, place: str) -> None:
    """ConfigError for a file where a tracker would make a folder."""
    if "://" in place:
        return
    folder = Path(place).expanduser()
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise ConfigError(f"{extra} cannot keep runs in {place}: {there} is a file; expected a folder, or a new name")


def _needs_release(config: PipelineConfig) -> bool:
    return config.adaptation.teacher == "spiritlm" or config.tokenization.tokens.startswith("spiritlm")


def _check_layers(config: PipelineConfig) -> None:
    folder = teacher_folder(config)
    layers = config.adaptation.fresh.layers
    if folder is not None:
        layers = read_config(folder)["num_hidden_layers"]
    student = config.distillation
    layer_map(student.layer_map, layers, student.layers, student.layer_pairs, student.copied_blocks)
    if student.width is not None:
        shape = ModelShape.of_fresh(config.adaptation.fresh)
        if folder is not None:
            about = read_config(folder)
            if not (row := ARCHITECTURES.get(str(about.get("model_type")))) or "down_proj" not in row.projections:
                raise ConfigError(
                    f"distillation.width is {student.width}, but {folder} is a model of type {about.get('model_type')!r}, whose heads "
                    "and neurons are not told apart here: leave distillation.width out"
                )
            shape = ModelShape.of_config(about)
        shape.narrowed(student.width)


def _check_models(config: PipelineConfig) -> None:
    """The teacher, its tokenizer and its layers, the speech tokenizer and its voice."""
    if config.adaptation.teacher not in ("fresh", "base", "spiritlm") and (folder := teacher_folder(config)):
        check_headers(folder)
    check_speech_tokenizer(config)
    _check_layers(config)
    choose_tokenizer(config).vocoder()


def _check(config: PipelineConfig) -> None:
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
    check_preference(config)
    check_judges(config)
