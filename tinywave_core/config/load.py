"""A preset, a file of one's own and single settings -> PipelineConfig: each goes before the one to its left.

What is wrong is named by its key, and by its file where it came from one, with what would be right."""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache
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


def load_config(preset: str | None, settings: Mapping[str, Any]) -> PipelineConfig:
    """The preset (None: the defaults) with `settings` (dotted key -> text or value) on top; ConfigError names key, value and what is
    allowed."""
    values = {} if preset is None else preset_values(preset)
    for key, value in settings.items():
        _set(values, key, value)
    return check(PipelineConfig, _at_home(values))


def _at_home(value: Any) -> Any:
    """Paths as text, and those that begin with ~/ in full, wherever they stand; `--key=~/folder` is left as it is by shells."""
    if isinstance(value, Mapping):
        return {key: _at_home(each) for key, each in value.items()}
    text = str(value) if isinstance(value, Path) else value
    return str(Path(text).expanduser()) if isinstance(text, str) and text.startswith("~/") else text


def check(model: type[Model], values: Mapping[str, Any]) -> Model:
    """Values as a config; ConfigError names key, value and what is allowed."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(fault) for fault in error.errors())) from error


def load_file(path: str, preset: str) -> dict[str, Any]:
    """The settings of a TOML file that has a preset's shape, by dotted key; ConfigError names the file, the key and what is allowed."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(
            f"--config {path} cannot be read: {reason}; expected a .toml file with settings, as a preset has them"
        ) from error
    try:
        settings = flat(tomllib.loads(text))
        below = flat(preset_values(preset))
        # With the preset below it, for settings are checked together; what is wrong with the preset alone is not the file's fault.
        load_config(preset, {})
        load_config(None, below | settings)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--config {path} is not valid TOML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"in the file {path}: {str(error).replace('--', '')}") from error
    return settings


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested groups as dotted keys."""
    found: dict[str, Any] = {}
    settings = _settings()
    for name, value in values.items():
        key = prefix + name
        is_group = any(known.startswith(f"{key}.") for known in settings)
        if is_group and not isinstance(value, Mapping):
            raise ConfigError(f"{key} is {value!r}, expected a group of settings: [{key}]")
        found |= flat(value, f"{key}.") if is_group else {key: value}
    return found


def preset_values(preset: str) -> dict[str, Any]:
    """What a preset, or a .toml file of the same shape, says, nested."""
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


@lru_cache
def _settings() -> dict[str, FieldInfo]:
    return dict(fields())


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    settings = _settings()
    if key not in settings:
        close = difflib.get_close_matches(key, settings, 1, cutoff=0.5)
        hint = f"did you mean --{close[0]}?" if close else "see `tinywave run --help`"
        raise ConfigError(f"there is no setting --{key}; {hint}")
    *groups, name = key.split(".")
    for group in groups:
        values = values.setdefault(group, {})
    is_none = str(value).lower() in ("none", "null") and "None" in str(settings[key].annotation)
    values[name] = None if is_none else value


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
