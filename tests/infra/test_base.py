"""`make base` takes only what its folders' tables allow, and the same folders give the same files."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from infra.base import gather, recordings_of, write_release
from tests.fixtures.tiny import CLIPS, EXAMPLES, copy_clips, tiny_config
from tinywave_core.audio.utterances import read_utterances
from tinywave_core.base.leaks import heard_recordings, heard_runs, share_heard
from tinywave_core.base.opening import open_base
from tinywave_core.config.load import load_config
from tinywave_core.run.pipeline import run_pipeline
from tinywave_core.steps.base import Outputs
from tinywave_core.steps.inputs import audio_of, held_out_shards, training_rows, training_shards
from tinywave_core.storage.store import Store, sha256_of
from tinywave_core.tokenizers.codebooks import Codebooks


def with_manifest(source: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    with (source / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("path", "speaker", "licence", "attribution"), *rows])
    return source


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Part of the example speech with its table of folders, and recordings with a manifest, one of them not to be taken."""
    one = copy_clips(tmp_path_factory.mktemp("one"), CLIPS[:9])
    shutil.copyfile(EXAMPLES / "licences.csv", one / "licences.csv")
    two = copy_clips(tmp_path_factory.mktemp("two"), CLIPS[9:])
    rows = [
        (CLIPS[9], "ann", "CC0-1.0", "Ann"),
        (CLIPS[10], "bob", "CC-BY-SA-4.0", "Bob"),
    ]
    return [one, with_manifest(two, rows)]


def test_only_what_may_be_taken_is_and_the_rest_is_counted(
    sources: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    given = gather(sources, tmp_path / "source")
    names = [f"00-{sources[0].name}/{clip}" for clip in CLIPS[:9]]
    assert sorted(given) == sorted([*names, f"01-{sources[1].name}/{CLIPS[9]}"])
    files = {path.relative_to(tmp_path / "source").as_posix() for path in (tmp_path / "source").rglob("*.*")}
    assert files == {*given, "manifest.csv"}
    said = capsys.readouterr().out
    assert "9 recordings taken, left out: none" in said
    assert "1 recording taken, left out: {'CC-BY-SA-4.0': 1, 'no licence': 1}" in said
    assert len(gather(sources, tmp_path / "all", to_pass_on=False)) == len(CLIPS)
    assert "ann" in (tmp_path / "source" / "manifest.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        *(
            (name, True)
            for name in ("CC0-1.0", "CC0 1.0", "cc0", "public domain", "CC-BY-4.0", "CC BY 4.0", "CC BY 3.0")
        ),
        *((name, False) for name in ("CC-BY-SA-4.0", "CC BY-NC 4.0", "Apache-2.0", "", "CC BY 4.0 (part)", "not CC0")),
    ],
)
def test_licences_that_allow_it(tmp_path: Path, licence: str, allowed: bool):
    source = with_manifest(copy_clips(tmp_path, CLIPS[:1]), [(CLIPS[0], "", licence, "")])
    assert [given.allowed for given in recordings_of(source)] == [allowed]


def test_a_folder_without_a_table_is_refused(tmp_path: Path):
    with pytest.raises(SystemExit, match="does not say under which licence .* expected manifest.csv or licences.csv"):
        list(recordings_of(copy_clips(tmp_path, CLIPS[:1])))


def test_all_example_speech_has_a_licence():
    found = list(recordings_of(EXAMPLES))
    assert len(found) > 200
    assert all(given.allowed and given.attribution for given in found)


# Release -----------------------------------------------------------------------------------------------------------


def made(sources: list[Path], folder: Path) -> Outputs:
    """A release of tiny models; the outputs that it was made from."""
    given = gather(sources, folder / "source")
    config = tiny_config(folder / "source", folder / "store")
    outputs = run_pipeline(config, Store(config.root), until="export")
    write_release(config, outputs, given, folder / "release")
    return outputs


def test_a_release_opens_and_lists_what_was_heard_and_comes_out_the_same_twice(sources: list[Path], tmp_path: Path):
    outputs = made(sources, tmp_path / "a")
    base = open_base(tmp_path / "a" / "release")
    assert base.shape.layers == 4 and base.tokenization["units"]["clusters"] == 20
    heard = json.loads(base.place("recordings.json").read_text(encoding="utf-8"))
    rows = training_rows(training_shards(outputs["tokens"]), ["recording_id", "units"])
    assert heard_recordings(base) == {row["recording_id"] for row in rows}
    assert all(share_heard(row["units"], heard_runs(base)) == 1 for row in rows)
    assert share_heard(one_shifted(outputs, base.place("codebooks")), heard_runs(base)) == 1
    assert {row["path"] for row in heard} < set(CLIPS[:10])
    assert base.licences.keys() <= {"CC BY 4.0", "CC0 1.0", "public domain"}
    assert sum(base.licences.values()) == base.recordings == len(heard)
    assert base.place("student/LICENSE").read_bytes() == base.place("LICENSES").read_bytes()
    assert held_out_shards(outputs["tokens"])  # some was left to be measured on

    made(sources, tmp_path / "b")
    again = {path.relative_to(tmp_path / "b" / "release").as_posix(): sha256_of(path) for path in files(tmp_path / "b")}
    assert again == {
        path.relative_to(tmp_path / "a" / "release").as_posix(): sha256_of(path) for path in files(tmp_path / "a")
    }


def one_shifted(outputs: Outputs, codebooks: Path) -> list[int]:
    """The units of a recording that it heard, had it begun 20 ms later."""
    (shard, *_) = audio_of(training_shards(outputs["tokens"]))
    utterance = next(each for each in read_utterances(shard) if each.split == "train")
    return Codebooks.load(codebooks).tokenize(utterance.samples[320:]).units.tolist()


def files(folder: Path) -> list[Path]:
    return [path for path in (folder / "release").rglob("*") if path.is_file()]


def test_the_preset_makes_what_the_release_says():
    preset, base = load_config("base", {}), open_base()
    assert preset.adaptation.teacher == "fresh" and preset.adaptation.fresh == base.shape
    asked = preset.tokenization.model_dump(mode="json")
    for name, said in base.tokenization.items():
        mine = {key: asked[name][key] for key in said} if isinstance(said, dict) else asked[name]
        assert mine == said
