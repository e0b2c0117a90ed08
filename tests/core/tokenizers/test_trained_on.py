"""What a model was trained on says what it takes and gives."""

import pytest

from tinywave_core.errors import ConfigError
from tinywave_core.tokenizers.trained_on import UNKNOWN, TrainedOn

SPEECH, BESIDE, MIXED = TrainedOn(speech=3), TrainedOn(speech=3, text=2), TrainedOn(mixed=1)


def test_only_sequences_of_both_let_a_model_go_from_one_to_the_other():
    BESIDE.require(["text"], "text")
    BESIDE.require(["speech"], "speech")
    for given, output in ((["text"], "speech"), (["speech"], "text"), (["text", "speech"], "speech")):
        with pytest.raises(ConfigError, match="cannot go from one .* 3 sequences of speech, 2 of text and 0 of both"):
            BESIDE.require(given, output)
        MIXED.require(given, output)
    MIXED.require(["speech"], "arbitrary")
    assert (BESIDE.outputs, MIXED.outputs) == (["speech", "text"], ["speech", "text", "mixed"])


@pytest.mark.parametrize(("given", "output"), [(["text"], "speech"), ([], "text"), (["speech"], "arbitrary")])
@pytest.mark.parametrize("trained", [SPEECH, UNKNOWN, MIXED.without_text()])
def test_a_model_of_speech_alone_takes_and_gives_speech(trained: TrainedOn, given: list, output):
    trained.require(["speech"], "speech")
    with pytest.raises(ConfigError):
        trained.require(given, output)


def test_the_record_comes_back_and_one_that_is_missing_counts_as_speech():
    assert TrainedOn.of({"trained_on": BESIDE.to_json()}) == BESIDE
    assert TrainedOn.of({"format": "tinywave-speech/2"}) == UNKNOWN and UNKNOWN.modalities == ["speech"]
    with pytest.raises(ConfigError, match="export it again with this TinyWave"):
        UNKNOWN.require(["text"], "speech")
    with pytest.raises(ConfigError, match=r"cannot hear speech: it was trained on text alone \(2 sequences\)"):
        TrainedOn(text=2).require(["speech"], "text")
