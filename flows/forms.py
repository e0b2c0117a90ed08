"""The forms of the deployments: source, store, preset and what people change first, all other settings under `advanced`.

In: the values of a form. Out: a PipelineConfig. What is null or empty is the preset's value, so a run's parameters are what somebody chose.
Each deployment runs a flow of this module: it reads the form and does the work of the flow of the same name
(infra/decisions/0048-short-forms.md).
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Annotated, Any

from prefect import Flow, flow
from prefect.runtime import flow_run
from pydantic import WithJsonSchema
from pydantic_core import to_jsonable_python

from flows import pipeline as whole
from flows import watch as watcher
from flows.hooks import HOOKS
from flows.stages import STAGE_FLOWS
from tinywave_core.config.load import fields, flat, load_config, preset_names, preset_values
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.run.stages import STAGE

FIRST = {"layers": "distillation.layers", "steps": "distillation.training.steps", "device": "runtime.device"}
"""Fields that stand above `advanced`, and their settings."""
DEFAULTS = "defaults"
"""In the field `preset`: none, so that only the defaults of the settings lie below what the form says."""
NONE = "none"
"""The field of `advanced` that lists settings without a value: an empty field is the preset's value already."""
OWN = ("source", "root")
ADVANCED = "advanced"
_SETTINGS = dict(fields())

_HELP = """{about}

What is not set has the preset's value. The settings have the names that the command line gives them.
"""


def config_of(values: Mapping[str, Any]) -> PipelineConfig:
    """The settings that a form asks for; ConfigError names the setting that cannot be."""
    advanced = dict(values.get(ADVANCED) or {})
    without = advanced.pop(NONE, None) or []
    preset = values.get("preset") or DEFAULTS
    asked = flat(_filled(advanced))
    asked |= {key: values[name] for name, key in FIRST.items() if values.get(name) is not None}
    asked |= {name: values.get(name) for name in OWN if values.get(name) is not None}
    return load_config(None if preset == DEFAULTS else preset, asked | dict.fromkeys(without))


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without fields that the form leaves empty."""
    kept = {name: _filled(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    return {name: value for name, value in kept.items() if value is not None and value != {}}


def values_of(preset: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a form holds at first: the preset, and the settings that were given. A preset of one's own is spelled out, for the machine
    that runs the flow need not have its file."""
    named = preset in preset_names()
    given = ({} if named else flat(preset_values(preset))) | dict(settings)
    config = load_config(preset, settings)
    # Every field has a value, if only null: the server fills in the deployment's where a form or an API call leaves one out.
    found: dict[str, Any] = {"source": config.source, "root": config.root, "preset": preset if named else DEFAULTS}
    found |= dict.fromkeys((*FIRST, ADVANCED))
    advanced: dict[str, Any] = {}
    for key in given:
        value = _at(config, key)
        if key in OWN:
            continue
        if name := next((name for name, of in FIRST.items() if of == key), None):
            found[name] = value
        else:
            _put(advanced, key, value)
    return found | {ADVANCED: advanced or None}


def _at(config: PipelineConfig, key: str) -> Any:
    """A setting's value, as JSON has it. Not from a dump of the whole: some settings are left out of it where they change nothing."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return to_jsonable_python(value)


def _put(advanced: dict[str, Any], key: str, value: Any) -> None:
    if value is None:
        advanced.setdefault(NONE, []).append(key)
        return
    *groups, name = key.split(".")
    for group in groups:
        advanced = advanced.setdefault(group, {})
    advanced[name] = value


# What the page shows ---------------------------------------------------------------------------------------------


def advanced_schema() -> dict[str, Any]:
    """JSON schema of all settings that stand below `advanced`: none is required, and each says what the presets say."""
    schema = PipelineConfig.model_json_schema()
    shown = _group(schema, schema["$defs"], "")
    optional = [key for key, field in _SETTINGS.items() if "None" in str(field.annotation)]
    none = {
        "title": NONE,
        "description": "Settings that are to have no value, where the preset gives one.",
        "type": "array",
        "items": {"type": "string", "enum": optional},
    }
    about = "All other settings, one group per stage. An empty field is the preset's value."
    return _folded({**shown, "properties": shown["properties"] | {NONE: none}}, ADVANCED, about)


def _folded(group: dict[str, Any], title: str, about: str) -> dict[str, Any]:
    """A group of fields, or one, behind a choice: the page shows none of them until somebody wants to set one."""
    return _choice({**group, "title": "set"}, "as the preset", title, about)


def _choice(set_to: dict[str, Any], left: str, title: str, about: str) -> dict[str, Any]:
    """A field that may be null, which the page calls `left`: unlike an emptied field, null is sent, and is not the deployment's value."""
    return {"title": title, "description": about, "anyOf": [{"type": "null", "title": left}, set_to]}


def _group(node: dict[str, Any], defs: dict[str, Any], prefix: str) -> dict[str, Any]:
    properties = {}
    for name, inner in node["properties"].items():
        key = prefix + name
        if key in (*OWN, *FIRST.values()):
            continue
        about = " ".join(inner.get("description", "").split())
        if "$ref" in inner:
            of = defs[inner["$ref"].rpartition("/")[2]]
            inside = _group(of, defs, f"{key}.")
            properties[name] = (
                {**inside, "title": name, "description": about} if prefix else _folded(inside, name, about)
            )
        else:
            properties[name] = {**_without_default(inner), "description": f"{about} {_presets(key, 'Empty')}".strip()}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _without_default(node: dict[str, Any]) -> dict[str, Any]:
    """A setting's schema as a field that may be left empty."""
    kinds = [kind for kind in node.get("anyOf", []) if kind != {"type": "null"}]
    merged = {**node, **kinds[0]} if len(kinds) == 1 else node
    return {
        name: value for name, value in merged.items() if name != "default" and not (name == "anyOf" and len(kinds) == 1)
    }


_PRESETS: dict[str, PipelineConfig] = {}


def _presets(key: str, left: str) -> str:
    """What a field that is `left` means: the value in each preset, the commonest one last."""
    if not _PRESETS:
        _PRESETS.update({name: load_config(name, {}) for name in preset_names()})
    values = {name: _said(_at(config, key)) for name, config in _PRESETS.items()}
    common = max(sorted(set(values.values())), key=list(values.values()).count)
    others = [f"{value} in {name}" for name, value in values.items() if value != common]
    return f"{left}: {', '.join([*others, common])}{' in the others' if others else ''}."


def _said(value: Any) -> str:
    return "none" if value in (None, "", []) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@cache
def _parameters() -> list[inspect.Parameter]:
    """The form's fields. None has a default here: each comes from the deployment, so the page calls none of them optional."""
    text = {name: " ".join((_SETTINGS[name].description or "").split()) for name in OWN}
    folder = {"type": "string", "title": "folder"}
    preset = {
        "type": "string",
        "enum": [*preset_names(), DEFAULTS],
        "description": "Where all values come from that are not set; `defaults`: from no preset.",
    }
    return [
        _parameter(
            "source", str | None, _choice(folder, "none", "source", f"{text['source']} None: what is in the store.")
        ),
        _parameter("root", str, {"type": "string", "description": text["root"]}),
        _parameter("preset", str, preset),
        *(_parameter(name, _SETTINGS[key].annotation, _first(name, key)) for name, key in FIRST.items()),
        _parameter(ADVANCED, dict[str, Any], advanced_schema()),
    ]


def _first(name: str, key: str) -> dict[str, Any]:
    """A field above `advanced`: its setting's schema."""
    node = schema = PipelineConfig.model_json_schema()
    for part in key.split("."):
        node = node["properties"][part]
        node = schema["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
    about = f"{' '.join(node['description'].split())} {_presets(key, 'As the preset')} The setting `{key}`."
    bare = {word: value for word, value in _without_default(node).items() if word != "description"}
    return _folded(bare, name, about)


def _parameter(name: str, kind: Any, schema: dict[str, Any]) -> inspect.Parameter:
    annotation = Annotated[kind, WithJsonSchema(schema)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


# Flows -----------------------------------------------------------------------------------------------------------


def deployment_name(flow_name: str, config: PipelineConfig, preset: str) -> str:
    """What runs on what with which preset, as in `distillation-speech-demo`; spelled so that it needs no quotes."""
    return f"{flow_name}-{_last(config.source or config.root)}-{_last(preset.removesuffix('.toml'))}"


def _last(path: str) -> str:
    name = PurePosixPath(path.rstrip("/")).name or "all"
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def about(flow_name: str, config: PipelineConfig, preset: str, settings: Mapping[str, Any]) -> str:
    """The text on the deployment's page."""
    what = _about(flow_name)
    changed = [f"- `{key}` is {_said(value)}" for key, value in settings.items() if key not in OWN]
    lines = [
        what,
        "",
        f"- source: {config.source or 'none, what is in the store'}",
        f"- store: {config.root}",
        f"- preset: {preset}",
        *changed,
        "",
        "**Run → Custom run** opens the form. **Quick run** shows the same in a window; its *Run* starts with what stands here.",
    ]
    return "\n".join(lines)


def _about(flow_name: str) -> str:
    known = {"pipeline": "All stages, from audio files to a student with its report.", "watch": "Look for new audio."}
    return known.get(flow_name) or STAGE[flow_name].about


def _run_name() -> str:
    values = flow_run.parameters
    of = values.get("source") or values.get("root") or ""
    return f"{flow_run.flow_name} of {_last(of)} with {values.get('preset')}"


def _form_of(name: str, work: Callable[[PipelineConfig], Any]) -> Flow[..., Any]:
    def run(**values: Any) -> Any:
        return work(config_of(values))

    run.__name__ = run.__qualname__ = name
    run.__doc__ = _HELP.format(about=_about(name))
    run.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
    # The server checks the form by its schema, and `config_of` checks the rest, with the errors of the command line.
    return flow(name=name, flow_run_name=_run_name, validate_parameters=False, **HOOKS)(run)


pipeline = _form_of("pipeline", whole.pipeline.fn)
watch = _form_of("watch", watcher.watch.fn)
FORMS = (pipeline, *(_form_of(each.name, each.fn) for each in STAGE_FLOWS), watch)
globals().update({form.name: form for form in FORMS})
"""Prefect finds each by its name here."""
