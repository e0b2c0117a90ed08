"""`tinywave units`: of a store's tokens, over varied settings, and what it says of wrong ones."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from flows.units import plot, variants_of
from tests.conftest import Finished
from tests.fixtures.tiny import SETTINGS, copy_store, copy_transcribed
from tinywave_core.errors import ConfigError
from tinywave_core.stages.evaluation.summary import UnitsSummary


def flags(values: dict[str, Any], at: str = "") -> list[str]:
    """Settings as flags."""
    found = []
    for name, value in values.items():
        found += flags(value, f"{at}{name}.") if isinstance(value, dict) else [f"--{at}{name}", str(value)]
    return found


TINY = flags({key: SETTINGS[key] for key in ("ingestion", "runtime")})


def test_the_newest_tokens_of_a_store_are_measured(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = copy_store(finished.config, tmp_path / "store")
    assert main(["units", "--root", config.root, "--json", str(tmp_path / "units.json")]) == 0
    said = capsys.readouterr().out
    assert "PNMI" in said and "of 20 units in" in said
    (row,) = json.loads((tmp_path / "units.json").read_text())
    assert row["settings"] == {} and row["figures"]["utterances"] == 12 and row["figures"]["units_per_s"]["value"] > 5


def test_settings_are_varied_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source = copy_transcribed(tmp_path / "speech")
    varied = ["--vary", "tokenization.units.clusters=5,40", "--vary", "tokenization.tokens=base"]
    place = ["--root", str(tmp_path / "store"), "--source", str(source), *TINY]
    written = ["--json", str(tmp_path / "units.json"), "--plot", str(tmp_path / "units.png")]
    assert main(["units", *place, *varied, *written]) == 0
    few, many = json.loads((tmp_path / "units.json").read_text())
    assert (few["figures"]["clusters"], many["figures"]["clusters"]) == (5, 40)
    assert few["figures"]["bits_per_s"]["value"] < many["figures"]["bits_per_s"]["value"]
    assert few["figures"]["phones"]["frames"] == many["figures"]["phones"]["frames"]
    assert "units.clusters 40" in capsys.readouterr().out
    assert (tmp_path / "units.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("vary", "said"),
    [
        ("tokenization.units.clusters", "expected SETTING=VALUE,VALUE"),
        ("tokenization.units.clusters=1,,2", "expected SETTING=VALUE,VALUE"),
        ("tokenization.units.clutsers=1", "tokenization.units.clutsers is no setting of tokenization"),
        ("distillation.layers=1,2", "distillation.layers is no setting of tokenization"),
        ("tokenization.units.clusters=" + ",".join(map(str, range(2, 200))), "198 variants; expected 100 at most"),
    ],
)
def test_what_cannot_be_varied_is_refused(vary: str, said: str):
    with pytest.raises(ConfigError, match=said):
        variants_of([vary])


def test_a_wrong_value_is_said_before_anything_is_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    varied = ["--vary", "tokenization.units.clusters=20,many"]
    assert main(["units", "--source", str(tmp_path), "--root", str(tmp_path / "store"), *varied]) == 2
    assert "tokenization.units.clusters" in capsys.readouterr().err and not (tmp_path / "store").exists()


def test_a_store_without_tokens_and_a_plot_of_nothing_varied_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["units", "--root", str(tmp_path / "store")]) == 2
    assert "has no tokens: pass --source FOLDER" in capsys.readouterr().err
    assert main(["units", "--root", str(tmp_path / "store"), "--plot", "a.png"]) == 2
    assert "pass --vary SETTING=VALUE,VALUE as well" in capsys.readouterr().err


def test_a_plot_needs_phones():
    without = UnitsSummary(figures=None, split="all", why="there is no speech", refused={}, drift=None)
    with pytest.raises(Exception, match="nothing to plot: no variant has a PNMI"):
        plot([{"tokenization.units.clusters": "1"}, {"tokenization.units.clusters": "2"}], [without, without])
