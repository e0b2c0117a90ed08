"""The forms of the deployments: what a form says is what the command line says, and a form says only what was chosen."""

from typing import Any

import pytest
from prefect.utilities.schema_tools.validation import ValidationError, validate

from flows import forms
from flows.deployments import deployments_of
from flows.schedules import When
from tests.fixtures.tiny import tiny_config
from tinywave_core.config.load import fields, flat, load_config, preset_names
from tinywave_core.config.pipeline import STAGES
from tinywave_core.errors import ConfigError

GIVEN = {
    "source": "s3://bucket/speech",
    "root": "s3://bucket/store",
    "distillation.training.steps": "9",
    "adaptation.training.passes": "none",
    "export.gguf": "q8_0",
    "tokenization.units.clusters": "20",
}


@pytest.fixture(scope="module")
def deployed() -> dict[str, Any]:
    return {each.flow_name: each for each in deployments_of("demo", GIVEN, When())}


@pytest.fixture(scope="module")
def schema(deployed: dict[str, Any]) -> dict[str, Any]:
    return dict(deployed["pipeline"]._parameter_openapi_schema.model_dump())


def test_names_say_what_runs_on_what_with_which_preset(deployed: dict[str, Any]):
    assert {each.name for each in deployed.values()} == {
        f"{name}-speech-demo" for name in ("pipeline", *STAGES, "watch")
    }
    assert "source: s3://bucket/speech" in deployed["export"].description
    assert "`distillation.training.steps` is 9" in deployed["export"].description
    config = load_config("demo", {"root": "/data/my store"})
    assert forms.deployment_name("export", config, "mine/own.toml") == "export-my-store-own"


def test_a_form_holds_what_was_given_and_no_more(deployed: dict[str, Any]):
    assert deployed["pipeline"].parameters == {
        "source": "s3://bucket/speech",
        "root": "s3://bucket/store",
        "preset": "demo",
        "layers": None,
        "steps": 9,
        "device": None,
        "advanced": {
            "none": ["adaptation.training.passes"],
            "export": {"gguf": ["q8_0"]},
            "tokenization": {"units": {"clusters": 20}},
        },
    }
    unset = {"source": None, "layers": None, "steps": None, "device": None, "advanced": None}
    assert forms.values_of("small", {}) == {"preset": "small", "root": "store", **unset}


@pytest.mark.parametrize("preset", preset_names())
def test_a_form_is_read_as_the_command_line_is(preset: str):
    assert forms.config_of(forms.values_of(preset, GIVEN)) == load_config(preset, GIVEN)


def test_a_preset_of_ones_own_and_a_whole_config_go_through_a_form(tmp_path: Any, schema: dict[str, Any]):
    config = tiny_config("speech", "store", adaptation={"training": {"passes": None}})
    (tmp_path / "own.toml").write_text("[distillation]\nlayers = 3\n[tokenization.units]\nclusters = 7\n")
    own = forms.values_of(str(tmp_path / "own.toml"), {"source": "speech"})
    assert own["preset"] == "defaults" and own["advanced"] == {"tokenization": {"units": {"clusters": 7}}}
    assert forms.config_of(own) == load_config(str(tmp_path / "own.toml"), {"source": "speech"})
    whole = forms.values_of("demo", flat(config.model_dump(mode="json")))
    validate(whole, schema, raise_on_error=True)
    assert forms.config_of(whole) == config


def test_the_page_calls_no_field_of_the_short_form_optional_and_each_has_a_value_to_send(
    deployed: dict[str, Any], schema: dict[str, Any]
):
    """Prefect's page writes "(Optional)" beside what a schema does not require, and its server puts the deployment's value where a form
    or an API call leaves one out: so each deployment has one for every field."""
    names = ["source", "root", "preset", "layers", "steps", "device", "advanced"]
    assert list(schema["properties"]) == schema["required"] == names
    assert all(set(each.parameters) == set(names) for each in deployed.values())
    assert all(each._parameter_openapi_schema.required == names for each in deployed.values())
    validate(forms.values_of("small", {}), schema, raise_on_error=True)


@pytest.mark.parametrize("name", ["source", "layers", "steps", "device", "advanced"])
def test_what_a_deployment_was_given_can_be_taken_back_in_its_form(schema: dict[str, Any], name: str):
    given = forms.values_of("demo", GIVEN | {"distillation.layers": 3, "runtime.device": "cpu"})
    assert given[name] is not None and schema["properties"][name]["anyOf"][0]["type"] == "null"
    validate(given | {name: None}, schema, raise_on_error=True)
    of_preset = load_config("demo", {})
    taken_back = forms.config_of(given | {name: None})
    if name == "advanced":
        assert taken_back.export == of_preset.export
    else:
        assert forms._at(taken_back, forms.FIRST.get(name, name)) == forms._at(of_preset, forms.FIRST.get(name, name))


def test_another_preset_in_the_form_changes_what_was_left_empty_only():
    chosen = forms.config_of({**forms.values_of("demo", GIVEN), "preset": "small"})
    assert chosen == load_config("small", GIVEN) != load_config("demo", GIVEN)


def test_what_a_page_sends_for_empty_fields_and_folded_groups_is_the_presets():
    empty = {
        "preset": "demo",
        "root": "store",
        "layers": None,
        "advanced": {"refresh": None, "export": {}, "none": None},
    }
    assert forms.config_of(empty) == load_config("demo", {})
    assert forms.config_of({"preset": "demo", "root": "store", "advanced": None}) == load_config("demo", {})


@pytest.mark.parametrize(
    ("filled", "where"),
    [
        ({"layers": 0}, "'layers'"),
        ({"preset": "dmeo"}, "'preset'"),
        ({"advanced": {"refresh": {"growth_fraction": 0}}}, "'advanced.refresh.growth_fraction'"),
        ({"advanced": {"distillation": {"laiers": 3}}}, "laiers"),
        ({"advanced": {"none": ["distillation.regime"]}}, "none"),
    ],
)
def test_the_server_refuses_what_cannot_be_and_names_the_field(
    deployed: dict[str, Any], schema: dict[str, Any], filled: dict[str, Any], where: str
):
    validate(deployed["pipeline"].parameters, schema, raise_on_error=True)
    with pytest.raises(ValidationError, match=where):
        validate(deployed["pipeline"].parameters | filled, schema, raise_on_error=True)


def test_what_only_the_settings_know_together_is_an_error_of_the_run():
    with pytest.raises(ConfigError, match="choose the runner dask or ray"):
        forms.config_of({"preset": "demo", "root": "store", "advanced": {"runtime": {"cluster": "tcp://host:8786"}}})


def test_a_field_says_what_it_means_to_leave_it_empty(schema: dict[str, Any]):
    about = schema["properties"]["layers"]["description"]
    assert "As the preset: 2 in base, 2 in demo, 2 in demo-interleaved, 4 in small, 10 in the others." in about
    folded, opened = schema["properties"]["advanced"]["anyOf"]
    assert folded == {"type": "null", "title": "as the preset"}
    inside = set(_leaves(opened["properties"]))
    assert inside == {key for key, _ in fields()} - {"source", "root", *forms.FIRST.values()}


def _leaves(properties: dict[str, Any], at: str = "") -> list[str]:
    found = []
    for name, node in properties.items():
        node = node["anyOf"][1] if "anyOf" in node and node["anyOf"][0].get("title") == "as the preset" else node
        if "properties" in node:
            found += _leaves(node["properties"], f"{at}{name}.")
        elif name != "none":
            found.append(at + name)
    return found
