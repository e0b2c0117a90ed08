"""Speakers of a voice are given as one string by flags, as a list by files."""

import pytest

from tinywave_core.config.load import load_config
from tinywave_core.config.vocoder import VocoderConfig


@pytest.mark.parametrize(("said", "names"), [("Ada, Bo", ("Ada", "Bo")), ("2033", ("2033",)), ("none", ())])
def test_a_flag_names_speakers_with_commas_between(said: str, names: tuple[str, ...]):
    assert load_config("demo", {"generation.vocoder.speakers": said}).generation.vocoder.speakers == names
    assert VocoderConfig.model_validate({"speakers": list(names)}).speakers == names
