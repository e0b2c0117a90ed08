"""Presets and flags: what is wrong is named by its key, with what would be right."""

import pytest

from tinywave_core.config.load import fields, load_config, preset_names
from tinywave_core.errors import ConfigError


@pytest.mark.parametrize("preset", ["base-2b", "expressive-2b", "interleaved-2b"])
def test_the_2b_presets_have_the_papers_shapes(preset):
    config = load_config(preset, {})
    teacher = config.adaptation.fresh
    assert (teacher.layers, teacher.width, teacher.intermediate, teacher.heads) == (32, 4096, 11008, 32)
    assert config.distillation.layers == 10


def test_every_preset_loads():
    assert "demo" in preset_names()
    for name in preset_names():
        load_config(name, {})


def test_a_flag_reaches_its_nested_field_in_its_type():
    config = load_config("demo", {"distillation.training.learning_rate": "1e-4", "ingestion.corpus": "news"})
    assert config.distillation.training.learning_rate == 1e-4
    assert config.ingestion.corpus == "news"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"distilation.layers": "3"}, "did you mean --distillation.layers"),
        ({"distillation.layers": "0"}, "--distillation.layers is '0'.*greater than or equal to 1"),
        ({"tokenization.tokens": "loud"}, "'base' or 'expressive'"),
        ({"adaptation.fresh.heads": "3"}, "not a multiple of heads 3"),
        ({"distillation.training.learning_rate": "nan"}, "finite"),
        ({"ingestion.corpus": "../evil"}, "ingestion.corpus is '../evil'"),
        ({"adaptation.method": "lora"}, "needs `teacher`"),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(settings, words):
    with pytest.raises(ConfigError, match=words):
        load_config("demo", settings)


def test_an_unknown_preset_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match="did you mean demo.*base-2b"):
        load_config("demoo", {})


def test_an_unknown_key_in_a_preset_file_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[distillation]\nlayrs = 3\n")
    with pytest.raises(ConfigError, match="no setting distillation.layrs; did you mean distillation.layers"):
        load_config(str(path), {})


def test_every_setting_is_explained():
    assert [key for key, field in fields() if not field.description] == []


@pytest.mark.parametrize(
    ("text", "files"), [("q8_0, bf16", ("q8_0", "bf16")), ("q4_0", ("q4_0",)), ("none", ()), ("", ())]
)
def test_files_for_llama_cpp_come_as_names_with_commas(text, files):
    assert load_config("demo", {"export.gguf": text}).export.gguf == files


@pytest.mark.parametrize("setting", ["width", "intermediate"])
def test_the_narrowest_fresh_teacher_is_16_wide(setting):
    other = {"adaptation.fresh.width": "64", f"adaptation.fresh.{setting}": "16"}
    assert getattr(load_config("demo", other).adaptation.fresh, setting) == 16
    with pytest.raises(ConfigError, match=rf"adaptation\.fresh\.{setting} is '15'.* 16"):
        load_config("demo", other | {f"adaptation.fresh.{setting}": "15"})
