"""What `import tinywave` promises: it is light, its list is whole and documented, and every name does what it says on a finished run."""

import inspect
import json
import shutil
import subprocess
import sys
import typing
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import tinywave
from flows.cli import main
from infra.pages.python_api import members, undocumented
from tests.conftest import Finished
from tests.fixtures.tiny import CLIPS, copy_store, merged
from tinywave_core.config.load import preset_names
from tinywave_core.config.pipeline import STAGES, PipelineConfig
from tinywave_core.tokenizers.vocabulary import EOS_ID

TOUR = Path(__file__).parents[2] / "docs" / "tour.ipynb"
CALLABLES = [tinywave.run, tinywave.plan, tinywave.evaluate]
PUBLIC = {getattr(tinywave, name) for name in tinywave.__all__}
CLASSES = [tinywave.SpeechTokenizer, tinywave.Model, tinywave.Store]


@pytest.fixture(scope="module")
def export(finished: Finished) -> Path:
    return finished.outputs["model"].path("model")


@pytest.fixture(scope="module")
def model(export: Path) -> tinywave.Model:
    return tinywave.Model.open(export, device="cpu", threads=1)


@pytest.fixture(scope="module")
def tokenizer(export: Path) -> tinywave.SpeechTokenizer:
    return tinywave.SpeechTokenizer.open(export, device="cpu")


@pytest.fixture(scope="module")
def clip(tiny_source: Path) -> Path:
    return tiny_source / CLIPS[0]


# The list ------------------------------------------------------------------------------------------------------------


def test_the_import_loads_nothing_and_a_wrong_name_says_which_there_are():
    code = (
        "import sys; before = set(sys.modules); import tinywave; print(sorted(m for m in set(sys.modules) - before "
        "if not m.startswith('tinywave') and m.partition('.')[0] not in sys.stdlib_module_names)); "
        "print(sorted(m for m in sys.modules if m.startswith('tinywave')), set(tinywave.__all__) == set(dir(tinywave)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "['tinywave'] True"]
    with pytest.raises(AttributeError, match="it has run, plan, SpeechTokenizer"):
        tinywave.runn


def test_every_name_of_the_list_is_there_and_the_list_is_all_that_is_imported():
    assert all(hasattr(tinywave, name) for name in tinywave.__all__)
    assert set(tinywave._WHERE) == set(tinywave.__all__) - {"__version__"}
    assert tinywave.__version__ == "0.1.0"


def returned() -> set[Any]:
    """Classes of this project that public functions, methods and fields give."""
    seen: set[Any] = set()
    queue: list[Any] = [*CALLABLES]
    for owner in CLASSES:
        parts = [inspect.getattr_static(owner, name) for name in vars(owner) if not name.startswith("_")]
        queue += [getattr(p, "__func__", getattr(p, "fget", p)) for p in parts if not isinstance(p, int)]
    while queue:
        item = queue.pop()
        hints = typing.get_type_hints(item, localns=vars(typing))
        fields = is_dataclass(item) or hasattr(item, "model_fields")
        wanted = [h for n, h in hints.items() if not n.startswith("_")] if fields else [hints.get("return")]
        for hint in wanted:
            for cls in classes_in(hint) - seen:
                seen.add(cls)
                queue += [cls] if cls in PUBLIC else []
    return seen


def classes_in(hint: Any) -> set[Any]:
    if isinstance(hint, type) and not typing.get_args(hint):
        own = hint.__module__.startswith("tinywave")
        return {hint} if own else set()
    return set().union(*[classes_in(part) for part in typing.get_args(hint)])


def test_what_public_functions_and_results_give_is_public_too():
    public = {getattr(tinywave, name) for name in tinywave.__all__}
    inside = {
        "Estimate",
        "Manifest",
        "PipelineConfig",
        "Step",
        "Reason",
        "Store",
        "Definition",
        "Run",
        "Promotion",
        "AgainstSummary",
    }
    assert {cls.__name__ for cls in returned() - public} <= inside


@pytest.mark.parametrize("name", [name for name in tinywave.__all__ if name != "__version__"])
def test_every_public_object_member_and_field_is_documented(name: str):
    value = getattr(tinywave, name)
    assert inspect.getdoc(value)
    assert undocumented(value) == []


@pytest.mark.parametrize(
    "method",
    [tinywave.run, tinywave.evaluate, tinywave.Model.generate, tinywave.Model.open, tinywave.SpeechTokenizer.encode],
)
def test_the_text_of_a_function_names_its_arguments_and_its_errors(method: Any):
    text = inspect.getdoc(method) or ""
    named = [name for name in inspect.signature(method).parameters if name not in ("cls", "self", "settings", "device")]
    assert [name for name in named if f"`{name}`" not in text and f"`{name}=" not in text and name not in text] == []
    assert "Error" in text


def test_the_reference_sees_the_members_of_a_class():
    assert [member.name for member in members(tinywave.Store)] == [
        "url", "artifacts", "find", "newest", "made_from", "runs", "published",
    ]  # fmt: skip


def groups(config: PipelineConfig, changes: dict[str, Any]) -> dict[str, Any]:
    """The groups of a config, changed, as one would write them."""
    return merged(config.model_dump(exclude={"source", "root", "spiritlm_dir"}), changes)


# Run and plan --------------------------------------------------------------------------------------------------------


def test_a_run_in_this_process_finds_what_is_there_computes_what_is_missing_and_is_recorded(
    finished: Finished, tmp_path: Path
):
    config = copy_store(finished.config, tmp_path / "store")
    record = tinywave.run(config.source, config.root, **groups(config, {"promotion": {"policy": "always"}}))
    assert record.outputs == {part: artifact.id for part, artifact in finished.outputs.items()}
    assert [row.stage for row in record.rows] == list(STAGES)
    assert all(row.status == "cached" for row in record.rows)
    assert (
        Path(record.report).read_text().startswith("<!doctype html>") and Path(record.student, "speech.json").is_file()
    )
    store = tinywave.Store(config.root)
    assert [run.number for run in store.runs()] == [1]
    assert store.published() == finished.outputs["model"] == store.newest("model")
    # One sample fewer: that alone is computed, the record of the run before says why, and nothing is published against the will.
    changes = {"generation": {"samples": 1}, "promotion": {"policy": "never"}}
    second = tinywave.run(config.source, config.root, **groups(config, changes))
    assert {row.stage: row.why for row in second.rows if row.computed} == {
        "generation": "settings changed: samples: 2 → 1"
    }
    assert [run.number for run in store.runs()] == [1, 2] and len(second.samples) == 1


def test_a_plan_says_what_is_there_and_what_is_missing_without_a_store(finished: Finished, tmp_path: Path):
    root = tmp_path / "none"
    settings = groups(finished.config, {})
    fresh = tinywave.plan(finished.config.source, root, **settings)
    assert not root.exists()
    assert [stage.stage for stage in fresh.stages] == list(STAGES)
    assert "12 files, 12 new, 0 known" in fresh.source[0] and "fresh" in fresh.teacher
    assert fresh.stages[0].to_run >= 1 and not fresh.stages[1].is_whole and fresh.seconds > 0
    known = tinywave.plan(finished.config.source, finished.config.root, **settings)
    assert sum(stage.to_run for stage in known.stages) == known.seconds == 0
    assert all(stage.is_whole for stage in known.stages)


def test_a_plan_in_python_is_the_plan_of_the_command(finished: Finished, capsys: pytest.CaptureFixture[str]):
    plan = tinywave.plan(finished.config.source, finished.config.root, "demo", distillation={"layers": 3})
    flags = ["--source", str(finished.config.source), "--root", finished.config.root, "--distillation.layers", "3"]
    assert main(["plan", *flags]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(" ".join(line.split()) in said for line in [f"the teacher {plan.teacher}", *plan.source, *plan.notes])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"distillation": {"layer": 2}}, "did you mean --distillation.layers?"),
        ({"distillation.layers": 0}, "--distillation.layers is 0, input should be greater than or equal to 1"),
        ({"preset": "dmo"}, f"did you mean demo\\? expected one of {', '.join(preset_names())}"),
        ({"source": "/no/such/folder"}, "/no/such/folder"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(
    settings: dict, said: str, tiny_source: Path, tmp_path: Path
):
    arguments = {"source": tiny_source, "root": tmp_path / "store", **settings}
    for call in (tinywave.run, tinywave.plan):
        with pytest.raises(tinywave.TinyWaveError, match=said):
            call(**arguments)
    assert not (tmp_path / "store").exists()


def test_groups_dots_text_and_values_are_the_same_settings(tiny_source: Path, tmp_path: Path):
    from tinywave.running import config_of

    ways: list[dict[str, Any]] = [
        {"generation": {"vocoder": {"speakers": ["a", "b"]}}, "runtime": {"cluster": None}},
        {"generation.vocoder.speakers": ["a", "b"], "runtime.cluster": "none"},
        {"generation": {"vocoder.speakers": "a,b"}},
    ]
    first, *others = [config_of(tiny_source, tmp_path, "demo", way) for way in ways]
    assert others == [first, first]
    assert first.generation.vocoder.speakers == ("a", "b")
    assert config_of("~/speech", "s3://bucket/store", "demo", {}).root == "s3://bucket/store"
    assert config_of("~/speech", "store", "demo", {}).source == str(Path("~/speech").expanduser())


# Tokens --------------------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_run_and_of_the_command(
    tokenizer: tinywave.SpeechTokenizer, clip: Path, export: Path, capsys: pytest.CaptureFixture[str]
):
    tokens = tokenizer.encode(clip)
    assert main(["tokens", str(clip), "--tokenizer", str(export), "--device", "cpu"]) == 0
    line = json.loads(capsys.readouterr().out)
    assert (tokens.string, tokens.ids.tolist()) == (line["string"], line["ids"])
    assert tokenizer.sizes == {"hubert": 20, "pitch": 8, "style": 4}
    assert tokenizer.rates_hz == {"hubert": 25.0, "pitch": 12.5, "style": 1.0}
    seconds = soundfile.info(clip).duration
    assert abs(len(tokens.hubert) - 25 * seconds) < 2 and tokens.ids[-1] != EOS_ID


def test_samples_of_a_file_give_the_tokens_of_the_file_at_any_rate_and_in_stereo(
    tokenizer: tinywave.SpeechTokenizer, clip: Path
):
    samples, rate = soundfile.read(clip, dtype="float32")
    whole = tokenizer.encode(clip)
    assert tokenizer.encode(samples, rate).string == whole.string
    assert tokenizer.encode(np.stack([samples, samples], 1), rate).string == whole.string
    assert tokenizer.encode(samples.astype(np.float64), rate).string == whole.string


def test_tokens_become_speech_as_long_as_the_recording(tokenizer: tinywave.SpeechTokenizer, clip: Path):
    tokens = tokenizer.encode(clip)
    audio = tokenizer.decode(tokens)
    assert audio.dtype == np.float32 and np.abs(audio).max() > 0.01
    assert len(audio) / tokenizer.sample_rate == pytest.approx(soundfile.info(clip).duration, rel=0.25)
    assert np.array_equal(tokenizer.decode(tokens.ids.tolist()), audio)
    for voice in tokenizer.voices[:1]:
        assert len(tokenizer.decode(tokens, voice)) > 0


def test_ids_are_those_of_the_model_and_not_of_its_codebooks(export: Path, clip: Path, tmp_path: Path):
    shutil.copytree(export / "speech_tokenizer", tmp_path / "speech_tokenizer")
    about = json.loads((export / "speech.json").read_text())
    shift = 1000 - about["vocabulary"]["text"]
    about["vocabulary"]["text"] = 1000  # as of a model that reads words
    (tmp_path / "speech.json").write_text(json.dumps(about))
    own, moved = (tinywave.SpeechTokenizer.open(folder, device="cpu").encode(clip) for folder in (export, tmp_path))
    assert moved.string == own.string
    assert (moved.ids[1:] - own.ids[1:]).tolist() == [shift] * (len(own.ids) - 1)


def test_the_release_is_a_tokenizer_too(small_release: Path, clip: Path):
    released = tinywave.SpeechTokenizer.released(str(small_release), "base", device="cpu")
    tokens = released.encode(clip)
    assert tokens.pitch is None and tokens.string.startswith("[Hu")
    assert len(released.decode(tokens)) > 0


@pytest.mark.parametrize(
    ("audio", "rate", "said"),
    [
        (np.zeros(16_000, np.int16), None, "divide 16-bit integers by 32768"),
        (np.zeros((2, 2, 2), np.float32), None, "of shape \\[2, 2, 2\\]"),
        (np.full(16_000, np.nan, np.float32), None, "NaN or infinite"),
        (np.zeros(16_000, np.float32), 0, "a sample rate of 0 Hz"),
        ("question.wav", 16_000, "leave it out"),
        ("no-such.wav", None, "no-such.wav is not there"),
    ],
)
def test_what_is_no_sound_is_refused_with_what_to_do(
    tokenizer: tinywave.SpeechTokenizer, audio: Any, rate: Any, said: str
):
    with pytest.raises(tinywave.TinyWaveError, match=said):
        tokenizer.encode(audio, rate)


# The model -----------------------------------------------------------------------------------------------------------


def test_a_model_says_what_it_takes_and_gives(model: tinywave.Model):
    assert (model.inputs, model.outputs, model.sample_rate) == (("speech",), ("speech",), 16_000)
    assert model.context > 100


def test_seconds_are_the_most_that_is_heard_and_the_prompt_may_be_file_or_samples(model: tinywave.Model, clip: Path):
    samples, rate = soundfile.read(clip, dtype="float32")
    long, short = (
        model.generate(clip, seconds=2.0, seed=3),
        model.generate(samples, seconds=0.3, seed=3, sample_rate=rate),
    )
    assert len(short.audio) == 4_800 and short.timings.audio_s == 0.3
    assert np.array_equal(short.audio, long.audio[:4_800])
    assert len(long.audio) <= 32_000


def test_a_stream_is_the_answer_in_pieces_with_the_end_last(model: tinywave.Model, clip: Path):
    whole = model.generate(clip, max_new_tokens=30, seed=1)
    events = list(model.stream(clip, max_new_tokens=30, seed=1))
    heard = [event.samples for event in events if isinstance(event, tinywave.AudioMade)]
    assert np.array_equal(np.concatenate(heard), whole.audio)
    assert sum(isinstance(event, tinywave.TokenMade) for event in events) == whole.new_tokens <= 30
    assert isinstance(events[-1], tinywave.Done) and events[-1].timings.audio_s == len(whole.audio) / 16_000


def test_the_arguments_reach_the_model(model: tinywave.Model, clip: Path):
    first = model.generate(clip, max_new_tokens=20, seed=1)
    assert model.generate(clip, max_new_tokens=20, seed=1).output == first.output
    others = [{"seed": 2}, {"temperature": 0.01}, {"top_p": 0.01}]
    assert all(
        model.generate(clip, max_new_tokens=20, **{"seed": 1, **other}).output != first.output for other in others
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "there is nothing to continue: pass prompt_audio or prompt_text"),
        ({"prompt_text": "hello there"}, "speech alone"),
        ({"seconds": 0.0}, "expected seconds above 0"),
        ({"seconds": 1.0, "output": "text"}, "text is bounded by max_new_tokens"),
        ({"temperature": 0.0}, "expected a temperature above 0"),
        ({"max_new_tokens": 100_000}, "the model reads"),
        ({"voice": "nobody"}, "there is no voice 'nobody'"),
    ],
)
def test_what_cannot_be_answered_is_refused(model: tinywave.Model, clip: Path, arguments: dict, said: str):
    prompt = {} if "nothing" in said or "prompt_text" in arguments else {"prompt_audio": clip}
    with pytest.raises(tinywave.TinyWaveError, match=said):
        model.generate(**prompt, **arguments)


def test_an_artifact_is_opened_as_its_folder_is_and_another_part_is_refused(finished: Finished, clip: Path):
    artifact = tinywave.Store(finished.config.root).newest("model")
    assert tinywave.Model.open(artifact, device="cpu").generate(clip, max_new_tokens=5).new_tokens <= 5
    halved = tinywave.Model.open(artifact, device="cpu", dtype="bfloat16")
    assert halved._generator.runtime.model.dtype == torch.bfloat16  # type: ignore[attr-defined]
    with pytest.raises(tinywave.TinyWaveError, match="is student; expected an export"):
        tinywave.Model.open(finished.outputs["student"])


# Evaluate and the store ----------------------------------------------------------------------------------------------


def test_a_suite_of_ones_own_is_scored_with_the_definition_that_is_asked_for(
    export: Path, tiny_source: Path, tmp_path: Path
):
    rows = []
    for number, name in enumerate(CLIPS[1:4]):
        samples, rate = soundfile.read(tiny_source / name, dtype="float32", frames=16_000)
        soundfile.write(tmp_path / f"{number}.wav", samples, rate)
        soundfile.write(tmp_path / f"{number}-reversed.wav", samples[::-1], rate)
        rows.append({"id": str(number), "pos": f"{number}.wav", "neg": f"{number}-reversed.wav"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = tinywave.evaluate(export, str(tmp_path), reduction="sum", vocabulary="own", device="cpu")
    assert (result.accuracies["all"].pairs, result.left_out, result.definition.reduction) == (3, 0, "sum")
    assert result.table["credit"].to_pylist().count(1.0) / 3 == pytest.approx(result.accuracies["all"].value)
    with pytest.raises(tinywave.TinyWaveError, match="there is nothing at"):
        tinywave.evaluate(export, f"salmon={tmp_path / 'none'}")


def test_a_store_shows_artifacts_what_they_are_made_of_and_what_it_lacks(finished: Finished, tmp_path: Path):
    store = tinywave.Store(finished.config.root)
    outputs = finished.outputs
    assert {artifact.id for artifact in store.artifacts("distillation")} == {
        outputs[p].id for p in ("student", "control")
    }
    assert {artifact.id for artifact in outputs.values()} <= {artifact.id for artifact in store.artifacts()}
    assert store.find(outputs["scores"].id[:20]) == outputs["scores"]
    assert store.made_from(outputs["model"])["student"] == [outputs["student"]]
    assert store.url == finished.config.root and store.published() is None
    with pytest.raises(tinywave.TinyWaveError, match=r"has no 'voices'; it has .*corpus, .*tokens"):
        store.newest("voices")
    with pytest.raises(tinywave.TinyWaveError, match="it has nothing: run the pipeline first"):
        tinywave.Store(tmp_path / "none").newest("model")
    assert not (tmp_path / "none").exists()


# The tour ------------------------------------------------------------------------------------------------------------


def test_the_tour_runs_from_its_first_cell_to_its_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    notebook = json.loads(TOUR.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], len({cell["id"] for cell in notebook["cells"]})) == (4, len(notebook["cells"]))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(code, start=1):
        exec(compile("".join(cell["source"]), f"tour.ipynb, cell {number}", "exec"), names)
    assert len(names["answer"].audio) > 0 and 0 <= names["result"].accuracies["all"].value <= 1
