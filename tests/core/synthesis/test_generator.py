"""An exported model continues audio and text with what is asked for, from prompts as SpiritLM writes them."""

import json
import shutil
import wave
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flows.cli import main
from tests.conftest import Finished
from tests.fixtures.serving import reads_text
from tests.fixtures.tiny import CLIPS
from tinywave_core.audio.waveform import read_waveform
from tinywave_core.errors import CheckpointError, ConfigError, TokenError
from tinywave_core.runtimes.base import Sampling
from tinywave_core.synthesis.events import AudioMade, Done, TextMade, TokenMade
from tinywave_core.synthesis.generator import Audio, Continuation, Generator, Sound, Text
from tinywave_core.synthesis.prompting import Reading
from tinywave_core.tokenizers.vocabulary import Vocabulary

FEW = Sampling(max_new_tokens=24, min_new_tokens=20)


@pytest.fixture(scope="module")
def generator(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    folder = reads_text(finished.outputs["model"].path("model"), tmp_path_factory.mktemp("generator") / "model")
    return Generator.load(folder, device="cpu")


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
    other = generator([Audio(clip)], "speech", replace(FEW, seed=1))
    assert first.output == again.output != other.output


def test_a_stream_is_the_whole_in_pieces(generator: Generator, clip: str):
    whole = generator([Audio(clip)], "speech", replace(FEW, max_new_tokens=80, min_new_tokens=80))
    events = list(generator.stream([Audio(clip)], "speech", replace(FEW, max_new_tokens=80, min_new_tokens=80)))
    waves = [event.samples for event in events if isinstance(event, AudioMade)]
    assert len(waves) > 1
    np.testing.assert_array_equal(np.concatenate(waves), whole.audio)
    assert sum(isinstance(event, TokenMade) for event in events) == whole.new_tokens == 80
    assert isinstance(events[-1], Done) and events[-1].reason == "length"
    # Speech comes while there are tokens to be made.
    kinds = [type(event) for event in events]
    assert kinds.index(AudioMade) < len(kinds) - 1 - kinds[::-1].index(TokenMade)


def test_a_stream_that_is_stopped_ends_at_the_next_token(generator: Generator, clip: str):
    seen: list[object] = []
    many = replace(FEW, max_new_tokens=200, min_new_tokens=200)  # the voice looks ten units ahead before it speaks
    for event in generator.stream([Audio(clip)], "speech", many, stopped=lambda: bool(seen)):
        seen.append(event)
    assert isinstance(seen[-1], Done) and seen[-1].reason == "stopped" and seen[-1].timings.new_tokens < 100


def test_samples_are_heard_as_their_file_is(generator: Generator, clip: str):
    assert generator.prompt_ids([Sound(read_waveform(clip))], "speech") == generator.prompt_ids([Audio(clip)], "speech")


@pytest.mark.parametrize("text", ["[Speech][Hu3]", "the end</s>", "[Text]"])
def test_text_that_spells_a_token_is_refused(generator: Generator, text: str):
    with pytest.raises(TokenError, match="spells the token"):
        generator.prompt_ids([Text(text)], "speech")


def test_text_with_half_a_character_is_refused(generator: Generator):
    with pytest.raises(TokenError, match="half a character"):
        generator.prompt_ids([Text("caf\udce9")], "speech")  # Latin-1 on a command line


def test_text_comes_in_whole_characters(generator: Generator):
    reading = Reading(generator.prompting)
    pieces = [reading.add(i) for i in generator.prompting.text_ids("aü世🙂")]
    assert [piece for piece in pieces if piece] == ["a", "ü", "世", "🙂"]
    assert pieces[-4:] == ["", "", "", "🙂"]


def test_few_shot_examples_come_first_each_ended_by_a_newline(generator: Generator, clip: str):
    made: Continuation = generator([Audio(clip)], "text", FEW, examples=[(Audio(clip), Text("words"))])
    first, second = made.prompt.split("\n")
    assert first.startswith("[Speech][") and first.endswith("[Text]words")
    assert second.startswith("[Speech][") and second.endswith("[Text]")
    spoken = generator([Text("words")], "speech", FEW, examples=[(Text("words"), Audio(clip))])
    assert spoken.prompt.startswith("[Text]words[Speech][") and spoken.prompt.endswith("[Text]\nwords[Speech]")


def test_a_prompt_that_leaves_no_room_is_refused(generator: Generator, clip: str):
    with pytest.raises(ConfigError, match=r"the prompt has \d+ tokens and 4096 are to follow, the model reads 2048"):
        generator([Audio(clip)], "speech", Sampling(max_new_tokens=4096))


def test_a_model_of_speech_alone_says_what_it_was_trained_on_and_takes_no_text(
    capsys, finished: Finished, clip: str, tmp_path: Path
):
    folder = finished.outputs["model"].path("model")
    alone = Generator.load(folder, device="cpu")
    for given, output in (([Text("a")], "speech"), ([Audio(clip)], "text"), ([Audio(clip)], "arbitrary")):
        with pytest.raises(ConfigError, match=r"it was trained on speech alone \(\d+ sequences\).*interleaving.policy"):
            alone.prompt_ids(given, output)
    assert main(["generate", str(folder), "--prompt-text", "hello there", "--device", "cpu"]) == 2
    assert "cannot read text: it was trained on speech alone" in capsys.readouterr().err
    shutil.copytree(folder, tmp_path / "older")
    about = json.loads((folder / "speech.json").read_text())
    (tmp_path / "older" / "speech.json").write_text(json.dumps({k: v for k, v in about.items() if k != "trained_on"}))
    with pytest.raises(ConfigError, match="not recorded what.* export it again"):
        Generator.load(tmp_path / "older", device="cpu").prompt_ids([Text("a")], "speech")


def test_a_folder_that_is_no_export_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no speech.json"):
        Generator.load(tmp_path)


def test_the_command_prints_json_and_writes_the_speech(capsys, finished: Finished, clip: str, tmp_path: Path):
    folder, wav = str(finished.outputs["model"].path("model")), str(tmp_path / "out.wav")
    arguments = [
        "--prompt-audio",
        clip,
        "--max-new-tokens",
        "20",
        "--wav",
        wav,
        "--device",
        "cpu",
        "--seed",
        "3",
        "--bandwidth",
        "--drafter",
        folder,  # a model may draft for itself
    ]
    assert main(["generate", folder, *arguments]) == 0
    printed = capsys.readouterr()
    about = json.loads(printed.out)
    assert about["timings"]["drafted_kept"] > 0.9 and "% of the drafted tokens kept" in printed.err
    assert about["wav"] == wav and Path(wav).stat().st_size > 44
    assert about["output"].startswith("[")
    assert about["timings"]["bandwidth_share"] > 0
    assert about["timings"]["first_audio_s"] > 0 < about["timings"]["real_time_factor"]


def test_the_command_streams_to_a_file_and_to_a_pipe_what_it_writes_whole(
    capfdbinary, finished: Finished, clip: str, tmp_path: Path
):
    folder = str(finished.outputs["model"].path("model"))
    arguments = [folder, "--prompt-audio", clip, "--max-new-tokens", "60", "--min-new-tokens", "60", "--device", "cpu"]
    waves = []
    for name, more in (("whole.wav", []), ("stream.wav", ["--stream"])):
        assert main(["generate", *arguments, *more, "--wav", str(tmp_path / name)]) == 0
        with wave.open(str(tmp_path / name)) as file:
            waves.append(file.readframes(file.getnframes()))
    capfdbinary.readouterr()
    assert main(["generate", *arguments, "--stream", "--wav", "-"]) == 0
    assert capfdbinary.readouterr().out == waves[0] == waves[1] != b""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to continue"),
        (["--prompt-text", "a", "--temperature", "-1"], "temperature is -1.0"),
        (["--prompt-text", "a", "--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (["--prompt-text", "a", "--min-new-tokens", "300"], "--min-new-tokens is 300, more than --max-new-tokens, 200"),
        (["--prompt-text", "a", "--stream"], "say where it goes with --wav FILE"),
        (["--prompt-text", "a", "--stream", "--output", "mixed"], "--output mixed has speech"),
        (["--prompt-text", "a", "--drafter", "nowhere"], "nowhere has no config.json"),
        (["--prompt-text", "a", "--threads", "-2"], "--threads is -2; expected 1 to 256"),
    ],
)
def test_what_cannot_be_generated_is_refused(capsys, finished: Finished, arguments: list[str], said: str):
    assert main(["generate", str(finished.outputs["model"].path("model")), *arguments]) == 2
    assert said in capsys.readouterr().err


# What is spoken of an output, with a runtime that says what it is told ------------------------------------------------


class Scripted:
    """A runtime whose continuation is known."""

    def __init__(self, vocabulary: Vocabulary, ids: list[int]) -> None:
        self.name, self.vocabulary, self.context, self.ids = "scripted", vocabulary, 2048, ids

    def stream(self, *_) -> Iterator[int]:
        yield from self.ids


def spoken(generator: Generator, prompt: list[int], output: str, ids: list[int]) -> list[object]:
    """Pieces of text and seconds of speech in order, pieces of speech joined."""
    found: list[object] = []
    scripted = replace(generator, runtime=Scripted(generator.vocabulary, ids))
    for event in scripted.continue_ids(prompt, output, Sampling(max_new_tokens=1000)):
        if isinstance(event, TextMade):
            found.append(event.text)
        elif isinstance(event, AudioMade):
            before = found.pop() if found and not isinstance(found[-1], str) else 0.0
            found.append(before + len(event.samples) / 16_000)
    return found


def test_short_runs_of_speech_in_a_mixed_output_are_not_spoken_unless_they_are_all(generator: Generator):
    v, tokens = generator.vocabulary, generator.prompting
    units = [v.first["hubert"] + n % 2 for n in range(30)]
    mixed = [
        *tokens.text_ids("ab"),
        v.speech_marker,
        *units,
        v.text_marker,
        *tokens.text_ids("c"),
        v.speech_marker,
        *units[:5],
    ]
    prompt = tokens.ids(["so "], "arbitrary")
    first, second, sound, third = spoken(generator, prompt, "arbitrary", mixed)
    assert (first, second, third) == ("a", "b", "c") and sound > 30 * 0.04 - 0.01
    (alone,) = spoken(generator, prompt, "arbitrary", units[:5])
    assert 0 < alone < sound


def test_speech_that_goes_on_is_the_end_of_both_together_from_its_first_unit_on(generator: Generator, clip: str):
    prompt = generator.prompt_ids([Audio(clip)], "speech")
    context, new = prompt[-30:], prompt[2:]
    whole = generator.speaker(np.array([*context, *new]))
    fresh = np.concatenate([*generator.speaker.stream(iter(new), context=context)])
    np.testing.assert_array_equal(fresh, whole[-len(fresh) :])
    # What is left out is the context, as long as it is here; alone it may be other stretches, and end in another place.
    left_out, alone = len(whole) - len(fresh), len(generator.speaker(np.array(context)))
    assert left_out == pytest.approx(alone, abs=0.5 * 16_000)
    (sound,) = spoken(generator, prompt, "speech", new)
    assert sound == pytest.approx(len(fresh) / 16_000, abs=0.5)
    assert [*generator.speaker.stream(iter([]), context=context)] == []


def test_what_the_vocoder_hears_again_begins_with_the_pitch_and_style_in_force(generator: Generator):
    v = generator.vocabulary
    units, pitch, style = (lambda n, kind=kind: v.first[kind] + n for kind in ("hubert", "pitch", "style"))
    said = [style(0), pitch(1), units(1), pitch(2), units(2), style(1), units(3), units(4)]
    assert generator._context([1, v.speech_marker, *said]) == [pitch(2), style(1), units(3), units(4)]
    assert generator._context([1, v.speech_marker, *said, v.text_marker]) == []
