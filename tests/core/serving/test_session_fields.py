"""Fields of a session one by one: what each takes, what it refuses, and what it is where a client says nothing."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tinywave_core.serving.errors import RequestError
from tinywave_core.serving.host import ModelHost
from tinywave_core.serving.limits import Limits
from tinywave_core.serving.session_fields import NOTHING, Asked, TurnDetection
from tinywave_core.synthesis.generator import Generator

DETECTION = "session.audio.input.turn_detection"


@pytest.fixture
def host(speech_only: Generator) -> ModelHost:
    return ModelHost("student", speech_only, Limits())


def turns(host: ModelHost, **fields: Any) -> TurnDetection | None:
    values = {"audio": {"input": {"turn_detection": {"type": "server_vad", **fields}}}}
    return Asked().in_session(json.loads(json.dumps(values)), host, Limits()).turns


def test_turn_detection_begins_with_the_values_of_the_protocol(host: ModelHost):
    found = turns(host)
    assert found is not None and found.model_dump() == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "create_response": True,
        "interrupt_response": True,
    }
    with pytest.raises(ValidationError):  # many sessions may share one
        found.threshold = 0.9  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("threshold", [0.001, 0.999], [0, 1, float("nan"), "0.5"]),
        ("prefix_padding_ms", [0, 2000], [-1, 2001, 1.5]),
        ("silence_duration_ms", [100, 10_000], [99, 10_001]),
        ("create_response", [True, False], [1]),
    ],
)
def test_turn_detection_has_bounds_and_takes_both(host: ModelHost, name: str, taken: list[Any], refused: list[Any]):
    for value in taken:
        assert getattr(turns(host, **{name: value}), name) == value
    for value in refused:
        with pytest.raises(RequestError) as error:
            turns(host, **{name: value})
        assert error.value.param == f"{DETECTION}.{name}"


def test_a_name_that_is_no_field_of_turn_detection_is_cut_where_it_is_told(host: ModelHost):
    with pytest.raises(RequestError) as error:
        turns(host, **{"x" * 100: 1})
    assert error.value.param == f"{DETECTION}.{'x' * 60}"
    assert turns(host, idle_timeout_ms=None) == TurnDetection(
        type="server_vad"
    )  # the protocol's, which asks for nothing


def test_a_session_may_name_its_model_and_its_type(host: ModelHost):
    assert Asked().in_session({"model": "student", "type": "realtime"}, host, Limits()) == Asked()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("instructions", [None, ""]),
        ("tools", [None, []]),
        ("tool_choice", [None, "none", "auto"]),
        ("tracing", [None]),
        ("truncation", [None, "disabled"]),
        ("include", [None, []]),
        ("prompt", [None]),
        ("metadata", [None, {}]),
        ("conversation", [None, "auto"]),
        ("input", [None]),
        ("transcription", [None]),
        ("noise_reduction", [None]),
        ("speed", [None, 1, 1.0]),
    ],
)
def test_what_asks_for_nothing_is_taken_and_true_is_not_one(host: ModelHost, name: str, values: list[Any]):
    assert name in NOTHING
    for value in values:
        assert Asked().in_response({name: value}, host, Limits()) == Asked()
    for value in (True, 2, "x"):
        with pytest.raises(RequestError, match="this server does not do that") as error:
            Asked().in_response({name: value}, host, Limits())
        assert error.value.param == f"response.{name}"


def test_a_voice_and_a_modality_are_those_of_the_model(host: ModelHost):
    (voice, *_) = host.generator.speaker.voices
    asked = Asked().in_response({"audio": {"output": {"voice": voice}}, "output_modalities": ["audio"]}, host, Limits())
    assert (asked.settings.voice, asked.settings.output) == (voice, "speech")
    for audio, code in (({"voice": "nobody"}, "unknown_voice"), ({"pitch": 1}, "unknown_field")):
        with pytest.raises(RequestError) as error:
            Asked().in_response({"audio": {"output": audio}}, host, Limits())
        assert error.value.code == code
    for audio in ({"input": {"pitch": 1}}, {"pitch": 1}):
        with pytest.raises(RequestError, match="there is no such field"):
            Asked().in_session({"audio": audio}, host, Limits())
    for names in (["smell"], ["text", "text"], "audio", []):
        with pytest.raises(RequestError, match="expected"):
            Asked().in_response({"output_modalities": names}, host, Limits())


def test_turns_can_be_left_to_the_client_again(host: ModelHost):
    asked = Asked(turns=TurnDetection(type="server_vad"))
    assert asked.in_session({}, host, Limits()).turns is asked.turns
    assert asked.in_session({"audio": {"input": {"turn_detection": None}}}, host, Limits()).turns is None
