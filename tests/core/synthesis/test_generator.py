"""An exported model continues audio and text with what is asked for, from prompts as SpiritLM writes them."""

import json
from pathlib import Path

import numpy as np
import pytest

from flows.cli import main
from tests.conftest import Finished
from tests.fixtures.tiny import CLIPS
from tinywave_core.config.generation import GenerationConfig
from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.synthesis.generator import Audio, Continuation, Generator, Text

FEW = GenerationConfig(max_new_tokens=24, min_new_tokens=20)


@pytest.fixture(scope="module")
def generator(finished: Finished) -> Generator:
    return Generator.load(finished.outputs["model"].path("model"), device="cpu")


@pytest.fixture(scope="module")
def clip(tiny_source: Path) -> str:
    return str(tiny_source / CLIPS[1])


def test_speech_goes_on_as_speech_without_the_prompts_part(generator: Generator, clip: str):
    made = generator([Audio(clip)], "speech", FEW)
    assert made.prompt.startswith("[Speech][") and "[Text]" not in made.prompt
    assert [run.modality for run in made.runs] == ["speech"]
    assert made.text == ""
    whole = generator.speaker(np.asarray(generator.vocabulary.encode(made.prompt + made.output)))
    assert 0 < len(made.audio) < len(whole) / 2


def test_text_goes_on_as_speech_after_one_marker(generator: Generator):
    made = generator([Text("once upon a time")], "speech", FEW)
    assert made.prompt == "[Text]once upon a time[Speech]"
    assert len(made.audio) > 0 and made.text == ""


def test_speech_goes_on_as_text_alone(generator: Generator, clip: str):
    made = generator([Audio(clip)], "text", FEW)
    assert made.prompt.endswith("[Text]")
    assert {run.modality for run in made.runs} <= {"text"}
    assert len(made.audio) == 0


def test_a_mixed_output_is_split_into_runs_that_together_are_it(generator: Generator, clip: str):
    made = generator([Text("a"), Audio(clip)], "arbitrary", FEW)
    markers = made.output.replace("[Text]", "").replace("[Speech]", "")
    assert "".join(run.content for run in made.runs) == markers


def test_the_same_seed_gives_the_same_continuation(generator: Generator, clip: str):
    first, again = (generator([Audio(clip)], "speech", FEW) for _ in range(2))
    other = generator([Audio(clip)], "speech", FEW.model_copy(update={"seed": 1}))
    assert first.output == again.output != other.output


def test_few_shot_examples_come_first_each_ended_by_a_newline(generator: Generator, clip: str):
    made: Continuation = generator([Audio(clip)], "text", FEW, examples=[(Audio(clip), Text("words"))])
    first, second = made.prompt.split("\n")
    assert first.startswith("[Speech][") and first.endswith("[Text]words")
    assert second.startswith("[Speech][") and second.endswith("[Text]")
    spoken = generator([Text("words")], "speech", FEW, examples=[(Text("words"), Audio(clip))])
    assert spoken.prompt.startswith("[Text]words[Speech][") and spoken.prompt.endswith("[Text]\nwords[Speech]")


def test_a_prompt_that_leaves_no_room_is_refused(generator: Generator, clip: str):
    with pytest.raises(ConfigError, match=r"the prompt has \d+ tokens and 4096 are to follow, the model reads 2048"):
        generator([Audio(clip)], "speech", GenerationConfig(max_new_tokens=4096))


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no speech.json"):
        Generator.load(tmp_path)


def test_the_command_prints_json_and_writes_the_speech(capsys, finished: Finished, clip: str, tmp_path: Path):
    folder, wav = str(finished.outputs["model"].path("model")), str(tmp_path / "out.wav")
    arguments = ["--prompt-audio", clip, "--max-new-tokens", "20", "--wav", wav, "--device", "cpu", "--seed", "3"]
    assert main(["generate", folder, *arguments]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["wav"] == wav and Path(wav).stat().st_size > 44
    assert about["output"].startswith("[")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "nothing to continue"), (["--prompt-text", "a", "--temperature", "-1"], "temperature is -1.0")],
)
def test_what_cannot_be_generated_is_refused(capsys, finished: Finished, arguments: list[str], said: str):
    assert main(["generate", str(finished.outputs["model"].path("model")), *arguments]) == 2
    assert said in capsys.readouterr().err
