"""The base is opened only if every file is what its description says, and only for settings that it goes with."""

import json
import shutil
from pathlib import Path

import pytest

from tinywave_core.base.opening import DESCRIPTION, RELEASE, TEACHER, open_base, require_base, why_not
from tinywave_core.checkpoints.teacher import teacher_folder
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError, ConfigError


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the release."""
    return Path(shutil.copytree(RELEASE, tmp_path / "release"))


def asking(**groups: dict) -> PipelineConfig:
    return PipelineConfig.model_validate({"adaptation": {"teacher": "base"}, **groups})


def test_the_release_is_whole_small_and_says_what_it_heard():
    base = open_base()
    heard = json.loads(base.place("recordings.json").read_text(encoding="utf-8"))
    # Other encodings of what it heard are listed beside.
    assert len(heard) >= base.recordings == sum(base.licences.values())
    assert len({row["recording_id"] for row in heard}) == len(heard)
    assert {row["attribution"] for row in heard} == set(base.attribution)
    assert all(name in base.place("LICENSES").read_text(encoding="utf-8") for name in base.attribution)
    assert sum(path.stat().st_size for path in RELEASE.rglob("*")) < 15_000_000


def test_a_changed_byte_is_refused(copy: Path):
    weights = copy / TEACHER / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"model.safetensors of the base has SHA-256 .*, BASE.json says .*: install"
    ):
        open_base(copy)


def test_a_file_that_changes_after_it_was_checked_is_refused(copy: Path):
    open_base(copy)
    (copy / "LICENSES").write_text("none", encoding="utf-8")
    with pytest.raises(CheckpointError, match="LICENSES of the base has SHA-256"):
        open_base(copy)


def test_a_missing_and_a_foreign_file_are_refused(copy: Path):
    (copy / TEACHER / "evil.py").write_text("", encoding="utf-8")
    with pytest.raises(CheckpointError, match="has teacher/evil.py, which BASE.json does not name"):
        open_base(copy)
    (copy / TEACHER / "evil.py").unlink()
    (copy / "ngrams.npy").unlink()
    with pytest.raises(CheckpointError, match="lacks ngrams.npy"):
        open_base(copy)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "has version 2, this TinyWave reads version 1"),
        ({"hours": "many"}, "hours: Input should be a valid number"),
        ({"more": 1}, "more: Extra inputs are not permitted"),
    ],
)
def test_a_description_of_another_form_is_refused(copy: Path, change: dict, said: str):
    about = json.loads((copy / DESCRIPTION).read_text(encoding="utf-8"))
    (copy / DESCRIPTION).write_text(json.dumps(about | change), encoding="utf-8")
    with pytest.raises(CheckpointError, match=said):
        open_base(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_a_damaged_description_is_refused(copy: Path, text: str):
    (copy / DESCRIPTION).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot be read as the description of a base"):
        open_base(copy)


def test_no_base_at_all_is_said(tmp_path: Path):
    with pytest.raises(CheckpointError, match="there is no base in .*: expected BASE.json"):
        open_base(tmp_path)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"tokenization": {"units": {"clusters": 50}}}, "tokenization.units.clusters is 50, the base's is 100"),
        ({"tokenization": {"pitch": {"clusters": 8}}}, "tokenization.pitch.clusters is 8, the base's is 32"),
        ({"tokenization": {"style": {"clusters": 4}}}, "tokenization.style.clusters is 4, the base's is 16"),
        ({"tokenization": {"tokens": "base"}}, "tokenization.tokens is base, the base's is expressive"),
        (
            {"tokenization": {"units": {"kind": "encoder", "encoder": "x", "layer": 1}}},
            "tokenization.units.kind is encoder, the base's is mfcc",
        ),
        ({"tokenization": {"interleaving": {"policy": "poisson"}}}, "tokenization.interleaving.policy is poisson"),
        ({"spiritlm_dir": "x"}, "spiritlm_dir is set"),
    ],
)
def test_settings_that_the_base_does_not_go_with_are_named(groups: dict, said: str):
    with pytest.raises(ConfigError, match=rf"adaptation.teacher is base, but {said}.*--adaptation.teacher fresh"):
        require_base(asking(**groups))


def test_settings_without_a_say_in_its_tokens_are_free():
    free = {"tokenization": {"fit_hours": 1.0, "seed": 3}, "ingestion": {"held_out_fraction": 0.3}}
    assert why_not(asking(**free), open_base()) is None
    assert teacher_folder(asking(**free)) == RELEASE / TEACHER


def test_every_file_of_the_release_is_in_the_repository():
    """And so in the wheel, which takes all of tinywave_core that git does not ignore."""
    ignored = (Path(__file__).parents[3] / ".gitignore").read_text(encoding="utf-8").split()
    names = {part for path in RELEASE.rglob("*") for part in path.relative_to(RELEASE).parts}
    assert not [line for line in ignored if line.strip("/") in names]
    assert not [name for name in names if name.startswith(".")]
