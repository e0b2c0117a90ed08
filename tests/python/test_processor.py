"""Audio through plain transformers: what AutoProcessor gives for an export, with `trust_remote_code` off."""

import json
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import constants, file_download
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

import tinywave.transformers
from flows.cli import main
from tests.conftest import Finished
from tests.fixtures import hub
from tests.fixtures.tiny import CLIPS
from tinywave import TinyWaveProcessor

PAGE = Path(__file__).parents[2] / "docs/how-to/python.md"
GREEDY = {"do_sample": False, "min_new_tokens": 12, "max_new_tokens": 12, "temperature": None, "top_p": None}


@pytest.fixture(scope="module")
def export(finished: Finished) -> Path:
    return finished.outputs["model"].path("model")


@pytest.fixture(scope="module")
def processor(export: Path) -> TinyWaveProcessor:
    opened = AutoProcessor.from_pretrained(export, trust_remote_code=False, local_files_only=True)
    assert type(opened) is tinywave.transformers.TinyWaveProcessor
    return opened


@pytest.fixture(scope="module")
def model(export: Path):
    return AutoModelForCausalLM.from_pretrained(export, trust_remote_code=False, local_files_only=True)


@pytest.fixture(scope="module")
def heard(tiny_source: Path) -> list[tuple[np.ndarray, int]]:
    """Samples and rate of a recording at 22,050 Hz, and of two pieces of it."""
    samples, rate = soundfile.read(tiny_source / CLIPS[0])
    return [(samples, rate), (samples[5_000:18_000], rate), (samples[20_000:], rate)]


@pytest.fixture
def copied(export: Path, tmp_path: Path) -> Path:
    """The export without its GGUF files."""
    return Path(shutil.copytree(export, tmp_path / "model", ignore=shutil.ignore_patterns("*.gguf")))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_ids_of_a_batch_are_those_of_the_command_filled_up_on_the_left(
    processor: TinyWaveProcessor, export: Path, heard: list, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    paths = [str(tmp_path / f"{number}.wav") for number in range(len(heard))]
    for path, (samples, rate) in zip(paths, heard, strict=True):
        soundfile.write(path, samples, rate, subtype="FLOAT")
    assert main(["tokens", *paths, "--tokenizer", str(export), "--device", "cpu"]) == 0
    expected = [json.loads(line)["ids"] for line in capsys.readouterr().out.splitlines()]
    rate = heard[0][1]
    batch = processor(audio=[samples for samples, _ in heard], sampling_rate=rate, return_tensors="pt")
    width = max(map(len, expected))
    assert len({*map(len, expected)}) == 3 and batch.input_ids.shape == batch.attention_mask.shape == (3, width)
    for ids, mask, told in zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), expected, strict=True):
        gap = width - len(told)
        assert (ids, mask) == ([0] * gap + told, [0] * gap + [1] * len(told))
    samples = heard[0][0]
    same = [paths[0], torch.from_numpy(samples), samples.tolist(), [samples.astype(np.float32)]]
    for audio in same:
        given = None if isinstance(audio, str) else rate
        assert processor(audio=audio, sampling_rate=given)["input_ids"] == expected[:1]
    ragged = processor(audio=[samples for samples, _ in heard], sampling_rate=rate, padding=False)
    assert ragged["input_ids"] == expected


def test_a_batch_continues_as_each_alone_and_as_tinywaves_own_model(
    processor: TinyWaveProcessor, model, export: Path, heard: list
):
    rate, banned = heard[0][1], processor.banned_ids()
    batch = processor(audio=[samples for samples, _ in heard], sampling_rate=rate, return_tensors="pt")
    new = model.generate(**batch, **GREEDY, suppress_tokens=[*banned, 2])[:, batch.input_ids.shape[1] :]
    own = tinywave.Model.open(export, device="cpu", threads=1)
    for row, (samples, _) in zip(new, heard, strict=True):
        alone = processor(audio=samples, sampling_rate=rate, return_tensors="pt")
        ids = model.generate(**alone, **GREEDY, suppress_tokens=[*banned, 2])[0, alone.input_ids.shape[1] :]
        said = own.generate(samples, sample_rate=rate, temperature=1e-6, min_new_tokens=12, max_new_tokens=12)
        assert row.tolist() == ids.tolist() and processor.decode(ids) == said.output
    first = json.loads((export / "speech.json").read_text())["first_id"]["hubert"]
    assert {*banned} == {*range(model.config.vocab_size)} - {
        2,
        *range(first, first + 32),
    }  # 20 units, 8 pitches, 4 styles


def test_ids_become_the_audio_of_the_exports_voice(processor: TinyWaveProcessor, export: Path, heard: list):
    samples, rate = heard[0]
    ids = processor(audio=samples, sampling_rate=rate, return_tensors="pt").input_ids[0]
    expected = tinywave.SpeechTokenizer.open(export, device="cpu").decode(ids.numpy())
    audio = processor.decode_audio(ids)
    assert audio.dtype == np.float32 and len(audio) > rate // 10 and np.array_equal(audio, expected)
    padded = [0, 0, *ids.tolist(), 2]  # padding before it, the end behind it
    (again,) = processor.batch_decode_audio([padded])
    assert np.array_equal(again, audio) and processor.sampling_rate == 16_000
    for voice in processor.voices:
        assert len(processor.decode_audio(ids, voice))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "nothing to continue: pass audio or text"),
        ({"audio": []}, "nothing to continue"),
        ({"audio": np.zeros(16_000)}, "sampling_rate is missing"),
        ({"audio": np.zeros(16_000), "sampling_rate": 0}, "a sample rate of 0 Hz"),
        ({"audio": np.zeros(16_000, np.int16), "sampling_rate": 16_000}, "divide 16-bit integers"),
        ({"audio": np.zeros((1, 16_000)), "sampling_rate": 16_000}, r"recording 1 has the shape \[1, 16000\]"),
        ({"audio": np.zeros(0), "sampling_rate": 16_000}, "the audio has no samples"),
        (
            {"audio": [np.zeros(16_000), np.zeros(20)], "sampling_rate": 16_000},
            "recording 2 lasts 0.00125 s and gives no token",
        ),
        (
            {"audio": np.zeros(16_000), "sampling_rate": "16000"},
            "sampling_rate is '16000'; expected samples per second",
        ),
        ({"audio": np.full(16_000, 900.0), "sampling_rate": 16_000}, "the audio reaches 900; expected floats"),
        ({"audio": "no-such.wav"}, "no-such.wav is not there"),
        ({"audio": np.zeros(16_000), "sampling_rate": 16_000, "output": "song"}, "expected one of speech, text, mixed"),
        ({"audio": np.zeros(16_000), "sampling_rate": 16_000, "output": "text"}, "cannot write text"),
        ({"text": "hello there"}, "cannot read text: it was trained on speech alone"),
        ({"text": [5]}, "a text is int"),
        ({"audio": np.zeros(16_000), "sampling_rate": 16_000, "text": ["a", "b"]}, "1 recording and 2 texts"),
    ],
)
def test_what_cannot_be_continued_is_refused(processor: TinyWaveProcessor, asked: dict, said: str):
    with pytest.raises(tinywave.TinyWaveError, match=said):
        processor(**asked)


@pytest.mark.parametrize("ids", [[[260, 261]], [0.5]])
def test_what_is_no_row_of_ids_is_not_spoken(processor: TinyWaveProcessor, ids: list):
    with pytest.raises(tinywave.TinyWaveError, match="expected integers of shape"):
        processor.decode_audio(ids)


@pytest.mark.parametrize("ids", [[5, -1], [5, 99_999]])
def test_ids_that_the_model_has_not_are_refused(processor: TinyWaveProcessor, ids: list):
    with pytest.raises(tinywave.TinyWaveError, match="they are of another one"):
        processor.decode_audio(ids)


def test_what_is_banned_is_asked_for_by_a_name_there_is(processor: TinyWaveProcessor):
    with pytest.raises(tinywave.TinyWaveError, match="output is 'song'; expected one of"):
        processor.banned_ids("song")


def test_a_model_of_speech_and_text_hears_then_reads(copied: Path, heard: list):
    change(copied / "speech.json", trained_on={"speech": 1, "text": 1, "mixed": 1})
    mixed = AutoProcessor.from_pretrained(copied)
    strings = AutoTokenizer.from_pretrained(copied)
    samples, rate = heard[1]
    units = tinywave.SpeechTokenizer.open(copied, device="cpu").encode(samples, rate).string
    ways = {
        f"[Speech]{units}[Text]and then[Speech]": {"text": "and then"},
        f"[Speech]{units}[Text]and then": {"text": ["and then"], "output": "mixed"},
        f"[Speech]{units}[Text]": {"output": "text"},
        "[Text]and then": {"text": "and then", "output": "text", "audio": None},
        "[Text]and then[Speech]": {"text": "and then", "audio": None},
    }
    for expected, asked in ways.items():
        (ids,) = mixed(**{"audio": samples, "sampling_rate": rate} | asked)["input_ids"]
        assert ids == strings(expected)["input_ids"]


def test_an_export_from_before_processors_is_a_tokenizer_to_autoprocessor_and_opens_by_name(
    copied: Path, heard: list, processor: TinyWaveProcessor
):
    (copied / "processor_config.json").unlink()
    for name in ("tokenizer_config.json", "special_tokens_map.json"):  # as they were then
        about = json.loads((copied / name).read_text())
        (copied / name).write_text(
            json.dumps({k: v for k, v in about.items() if k not in ("pad_token", "padding_side")})
        )
    assert isinstance(AutoProcessor.from_pretrained(copied), PreTrainedTokenizerFast)
    old = TinyWaveProcessor.from_pretrained(copied)
    asked = {"audio": [samples for samples, _ in heard], "sampling_rate": heard[0][1]}
    assert old(**asked)["input_ids"] == processor(**asked)["input_ids"]


def test_a_saved_processor_is_whole(processor: TinyWaveProcessor, heard: list, tmp_path: Path):
    processor.save_pretrained(tmp_path)
    saved = AutoProcessor.from_pretrained(tmp_path)
    samples, rate = heard[1]
    ids = saved(audio=samples, sampling_rate=rate)["input_ids"]
    assert ids == processor(audio=samples, sampling_rate=rate)["input_ids"] and len(saved.decode_audio(ids[0]))
    assert not [*tmp_path.glob("*.safetensors"), *tmp_path.glob("*.gguf")]
    with pytest.raises(tinywave.TinyWaveError, match="tinywave push"):
        processor.save_pretrained(tmp_path, push_to_hub=True)


def test_what_is_no_export_and_a_damaged_voice_are_refused(copied: Path, tmp_path: Path):
    with pytest.raises(tinywave.TinyWaveError, match="has no speech.json"):
        TinyWaveProcessor.from_pretrained(tmp_path)
    with pytest.raises(tinywave.TinyWaveError, match="there is no /no/such/model"):
        TinyWaveProcessor.from_pretrained("/no/such/model")
    voice = copied / "speech_tokenizer" / "voice.flac"
    voice.write_bytes(voice.read_bytes()[:-1] + b"?")
    with pytest.raises(tinywave.TinyWaveError, match=r"voice.flac is damaged"):
        AutoProcessor.from_pretrained(copied)


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    with hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        # The client reads the variable when it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        pattern = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield running


def test_of_a_repository_only_what_a_processor_needs_is_fetched(
    there: hub.Hub, export: Path, processor: TinyWaveProcessor, heard: list, tmp_path: Path
):
    files = {p.relative_to(export).as_posix(): p.read_bytes() for p in export.rglob("*") if p.is_file()}
    there.commit("me/student", files)
    fetched = AutoProcessor.from_pretrained("me/student", cache_dir=tmp_path, token=hub.TOKEN)
    samples, rate = heard[1]
    asked = {"audio": samples, "sampling_rate": rate}
    assert fetched(**asked)["input_ids"] == processor(**asked)["input_ids"]
    names = {path.name for path in tmp_path.rglob("*")}
    assert "voice.flac" in names and not [name for name in names if name.endswith((".gguf", "model.safetensors"))]


def test_the_example_of_the_page_makes_audio(
    export: Path, heard: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    soundfile.write("question.wav", *heard[0])
    (example,) = [
        code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "AutoProcessor" in code
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(example.replace("store/export/ID/model", str(export)), {})
    answer = soundfile.info("answer.wav")
    assert answer.samplerate == 16_000 and answer.frames > 1_000


def test_rows_of_padding_behind_a_vocabulary_are_banned(copied: Path):
    vocabulary, tokens = (
        json.loads((copied / "speech.json").read_text())["vocabulary"],
        AutoTokenizer.from_pretrained(copied),
    )
    change(copied / "speech.json", vocabulary=vocabulary | {"padded": len(tokens) + 8})
    assert TinyWaveProcessor.from_pretrained(copied).banned_ids()[-8:] == [*range(len(tokens), len(tokens) + 8)]
