"""What a client sets in a session or for one response, field by field: each is done, or refused by its name before anything changes.

The names are those of OpenAI's realtime API. A field of it that this server does not do is taken with the values that ask for
nothing (no instructions, no tools), and refused with all others: nobody is told of a change that was not made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tinywave_core.serving.asking import Settings
from tinywave_core.serving.errors import RequestError, short
from tinywave_core.serving.formats import SPOKEN_RATES, AudioFormat
from tinywave_core.serving.host import ModelHost
from tinywave_core.serving.limits import Limits

OUTPUTS = {("audio",): "speech", ("text",): "text", ("audio", "text"): "mixed"}
MODALITIES = {output: list(names) for names, output in OUTPUTS.items()}
SETTINGS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "max_output_tokens": "max_new_tokens",
    "min_output_tokens": "min_new_tokens",
}
"""Names of settings in the protocol."""
NOTHING: Mapping[str, tuple[Any, ...]] = {
    "instructions": (None, ""),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "tracing": (None,),
    "truncation": (None, "disabled"),
    "include": (None, []),
    "prompt": (None,),
    "metadata": (None, {}),
    "conversation": (None, "auto"),
    "input": (None,),
    "transcription": (None,),
    "noise_reduction": (None,),
    "speed": (None, 1),
}
"""Fields that are not done, with the values that ask for nothing."""


class TurnDetection(BaseModel):
    """How turns are found, and what follows from them: `server_vad` of the protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["server_vad"]
    threshold: float = Field(0.5, gt=0, lt=1)
    """Probability of speech from which a window of 32 ms counts."""
    prefix_padding_ms: int = Field(300, ge=0, le=2000)
    """Of what comes before a turn, that belongs to it."""
    silence_duration_ms: int = Field(500, ge=100, le=10_000)
    """That ends a turn."""
    create_response: bool = True
    """Whether a response begins by itself when a turn ends."""
    interrupt_response: bool = True
    """Whether a response is cancelled when a turn begins."""


@dataclass(frozen=True)
class Asked:
    """What is set."""

    settings: Settings = field(default_factory=Settings)
    heard: AudioFormat = field(default_factory=AudioFormat)
    spoken: AudioFormat = field(default_factory=AudioFormat)
    turns: TurnDetection | None = None

    def in_session(self, values: Mapping[str, Any], host: ModelHost, limits: Limits) -> "Asked":
        """Changed as `session.update` asks (its model is `host`, and not looked at here)."""
        fields = _Fields(values, "session")
        kind = fields.take("type", "realtime")
        if kind != "realtime":
            raise RequestError.of_field("session.type", f"{short(kind)}; expected realtime")
        fields.take("model")
        audio = fields.inside("audio")
        hears = audio.inside("input")
        turns = self.turns
        if "turn_detection" in hears.values:
            turns = _turn_detection(hears.take("turn_detection"), f"{hears.where}.turn_detection")
        heard = self.heard.changed(_taken(hears, "format"), f"{hears.where}.format")
        hears.end("format", "turn_detection")
        return replace(self._answered(fields, audio, host, limits, "model", "type"), heard=heard, turns=turns)

    def in_response(self, values: Mapping[str, Any], host: ModelHost, limits: Limits) -> "Asked":
        """Changed as `response.create` asks, for this one."""
        fields = _Fields(values, "response")
        return self._answered(fields, fields.inside("audio"), host, limits)

    def _answered(self, fields: "_Fields", audio: "_Fields", host: ModelHost, limits: Limits, *others: str) -> "Asked":
        """The fields that both have: how an answer is made and sent. `others` are names of fields besides these."""
        speaks = audio.inside("output")
        spoken = self.spoken.changed(_taken(speaks, "format"), f"{speaks.where}.format", SPOKEN_RATES)
        names = {setting: f"{fields.where}.{name}" for name, setting in SETTINGS.items()}
        names["voice"] = f"{speaks.where}.voice"
        changes = {setting: fields.take(name) for name, setting in SETTINGS.items() if name in fields.values}
        if "output_modalities" in fields.values:
            changes["output"] = _output(fields.take("output_modalities"), f"{fields.where}.output_modalities")
        if "voice" in speaks.values:
            changes["voice"] = speaks.take("voice")
        speaks.end("format", "voice")
        audio.end("input", "output")
        fields.end("audio", "output_modalities", *SETTINGS, *others)
        settings = self.settings.changed(changes, limits, names=names)
        require_done_by(host, settings, fields.where)
        return replace(self, settings=settings, spoken=spoken)


def require_done_by(host: ModelHost, settings: Settings, where: str) -> None:
    """RequestError where a model has no such voice, or was not trained to give what is asked for."""
    voices, trained = host.generator.speaker.voices, host.generator.prompting.trained
    if settings.voice is not None and settings.voice not in voices:
        there = f"there are {', '.join(voices)}" if voices else "this model has one voice without a name: leave it out"
        raise RequestError.of_field(
            f"{where}.audio.output.voice", f"there is no voice {short(settings.voice)}; {there}", "unknown_voice"
        )
    if settings.output not in trained.outputs:
        why = f"{host.name} was trained on {trained.in_words}, and gives {', '.join(trained.outputs)}"
        raise RequestError.of_field(f"{where}.output_modalities", f"{why}: not {settings.output}")


class _Fields:
    """An object of a client, whose fields are taken one by one."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.values, self.where = dict(values), where

    def take(self, name: str, default: Any = None) -> Any:
        return self.values.pop(name, default)

    def inside(self, name: str) -> "_Fields":
        """An object inside of it; empty where there is none."""
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            raise RequestError.of_field(f"{self.where}.{name}", "expected an object", "invalid_event")
        return _Fields(value or {}, f"{self.where}.{name}")

    def end(self, *known: str) -> None:
        """RequestError for what is left and asks for something; `known` are the names that there are."""
        for name, value in self.values.items():
            if name not in NOTHING:
                there = ", ".join(sorted(known))
                raise RequestError.of_field(
                    f"{self.where}.{short(name)[1:-1]}", f"there is no such field; there are {there}", "unknown_field"
                )
            if isinstance(value, bool) or value not in NOTHING[name]:
                raise RequestError.of_field(
                    f"{self.where}.{name}", f"{short(value)}: this server does not do that; leave it out", "not_done"
                )


def _taken(fields: _Fields, name: str) -> Mapping[str, Any]:
    return fields.inside(name).values


def _output(modalities: object, where: str) -> str:
    names = tuple(sorted(map(str, modalities))) if isinstance(modalities, list) else ()
    if names not in OUTPUTS:
        raise RequestError.of_field(where, 'expected ["audio"], ["text"] or ["audio", "text"]')
    return OUTPUTS[names]


def _turn_detection(value: object, where: str) -> TurnDetection | None:
    """How turns are found; None: the client says when."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise RequestError.of_field(where, "expected an object, or null: then the client commits", "invalid_event")
    try:
        # The protocol's timeout for silence: none is what there is.
        return TurnDetection.model_validate({k: v for k, v in value.items() if (k, v) != ("idle_timeout_ms", None)})
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(str(part) for part in fault["loc"])[:60]
        raise RequestError.of_field(f"{where}.{name}", f"{fault['msg']} (turns are found by server_vad)") from error
