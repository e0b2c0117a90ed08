"""A preset file and single settings -> PipelineConfig. What is wrong is named by its key, with what would be right."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)
PRESETS = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Names of the presets that come with TinyWave."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_config(preset: str, settings: Mapping[str, Any]) -> PipelineConfig:
    """The preset with `settings` (dotted key -> value, or its text) on top; ConfigError names key, value and what is allowed."""
    values = _read_preset(preset)
    for key, value in settings.items():
        _set(values, key, value)
    return check(PipelineConfig, values)


def check(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Values as a config; ConfigError names key, value and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(fault) for fault in error.errors())) from error


def _read_preset(preset: str) -> dict[str, Any]:
    path = Path(preset) if preset.endswith(".toml") else PRESETS / f"{preset}.toml"
    if not path.is_file():
        close = difflib.get_close_matches(preset, preset_names(), 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"there is no preset {preset!r}; {hint}expected one of {', '.join(preset_names())}, or the path of a .toml file"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the preset {path} is not valid TOML: {error}") from error


def fields(model: type[BaseModel] = PipelineConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting as dotted key and field, depth first; groups themselves are not settings."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from fields(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    settings = dict(fields())
    if key not in settings:
        close = difflib.get_close_matches(key, settings, 1, cutoff=0.5)
        hint = f"did you mean --{close[0]}?" if close else "see `tinywave run --help`"
        raise ConfigError(f"there is no setting --{key}; {hint}")
    *groups, name = key.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    says_none = isinstance(value, str) and value.lower() in ("none", "null")
    values[name] = None if says_none and "None" in str(settings[key].annotation) else value


def _explain(fault: Any) -> str:
    """One line for one fault: where, what was found, what is allowed."""
    key = ".".join(str(part) for part in fault["loc"])
    message = fault["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if fault["type"] == "extra_forbidden":
        close = difflib.get_close_matches(key, [name for name, _ in fields()], 1, cutoff=0.5)
        return f"there is no setting {key}" + (f"; did you mean {close[0]}?" if close else "")
    if not key:
        return message
    key = key if "." in key else key.replace("_", "-")  # as the command line spells it
    return (
        f"--{key} is {fault['input']!r}, {message}" if not isinstance(fault["input"], dict) else f"--{key}: {message}"
    )
