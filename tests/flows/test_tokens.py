"""`tinywave tokens`: one JSON line per file, equal to the reference; a bad file is a line with its reason."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from flows.cli import main
from tests.core.conftest import Spoken, babble, small_config
from tests.fixtures import release
from tests.fixtures.encoders import save_encoder
from tinywave_core.encoders.pretrained import load_encoder
from tinywave_core.tokenizers.codebooks import Codebooks
from tinywave_core.tokenizers.speech import encode_utterance
from tinywave_core.tokenizers.spiritlm import SpiritLMTokenizer


def lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict]]:
    status = main(["tokens", *arguments])
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_has_raw_units_as_spiritlm_writes_them_the_string_and_the_prompts_ids(capsys, small_release: Path):
    status, (line,) = lines(capsys, str(release.AUDIO), "--spiritlm-dir", str(small_release))
    tokens = SpiritLMTokenizer.load(small_release)(release.AUDIO)
    assert status == 0
    assert list(line) == ["path", "hubert", "pitch", "style", "string", "ids"]
    assert line["hubert"].split() == [str(unit) for unit in tokens.hubert]
    assert (len(line["hubert"].split()), len(line["pitch"].split()), len(line["style"].split())) == (228, 114, 10)
    assert line["string"].startswith("[St") and line["ids"] == tokens.ids.tolist()


def test_base_tokens_have_no_pitch_and_style(capsys, small_release: Path):
    _, (line,) = lines(capsys, str(release.AUDIO), "--model", "base", "--spiritlm-dir", str(small_release))
    assert line["pitch"] is None and line["style"] is None
    assert line["string"].startswith("[Hu") and "[Pi" not in line["string"]


def test_the_release_is_found_through_the_environment(capsys, small_release: Path, monkeypatch):
    monkeypatch.setenv("SPIRITLM_CHECKPOINTS_DIR", str(small_release))
    assert lines(capsys, str(release.AUDIO), "--model", "base")[0] == 0


def test_bad_files_are_lines_with_their_reason_and_the_others_are_tokenized(
    capsys, small_release: Path, tmp_path: Path
):
    (tmp_path / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "surround.wav", np.zeros((16_000, 6), np.float32), 16_000)
    soundfile.write(tmp_path / "good.wav", np.random.default_rng(0).normal(0, 0.1, 24_000), 24_000)
    soundfile.write(tmp_path / "short.wav", np.zeros(1279, np.float32), 16_000)
    names = ["text.wav", "nan.wav", "surround.wav", "missing.wav", "good.wav", "short.wav"]
    files = [str(tmp_path / name) for name in names]
    status, found = lines(capsys, *files, "--spiritlm-dir", str(small_release))
    errors = {Path(line["path"]).name: line.get("error", "") for line in found}
    assert status == 2
    assert "cannot be read as audio" in errors["text.wav"]
    assert "NaN or infinite" in errors["nan.wav"]
    assert "6 channels, expected one or two" in errors["surround.wav"]
    assert "missing.wav is not there" in errors["missing.wav"]
    assert not errors["good.wav"] and len(found[4]["hubert"].split()) == (16_000 - 720) // 640 + 1
    assert found[5]["hubert"] == found[5]["pitch"] == found[5]["style"] == found[5]["string"] == ""


def test_a_release_that_is_not_there_is_one_clear_error(capsys, monkeypatch):
    monkeypatch.delenv("SPIRITLM_CHECKPOINTS_DIR", raising=False)
    assert main(["tokens", str(release.AUDIO)]) == 2
    assert "SPIRITLM_CHECKPOINTS_DIR is not set" in capsys.readouterr().err


def test_whoever_stops_reading_gets_no_traceback(small_release: Path):
    command = f"{sys.executable} -m flows.cli tokens {release.AUDIO} {release.AUDIO} --spiritlm-dir {small_release} | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == '{"path": "' and "Traceback" not in done.stderr


def test_tokens_of_an_export_are_its_own_tokenizers(capsys, tmp_path: Path):
    spoken = [Spoken(f"{seed}", babble(seed)) for seed in range(3)]
    encoder = tmp_path / "encoder"
    save_encoder(encoder, "whisper")
    asked = small_config(units={"kind": "encoder", "encoder": str(encoder), "layer": 1, "clusters": 9})
    fitted = Codebooks.fit(asked, spoken, load_encoder(encoder, 1))
    fitted.save(tmp_path / "model" / "speech_tokenizer")
    soundfile.write(tmp_path / "0.wav", spoken[0].samples, 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYWAVE_ENCODER", str(encoder))
        files = [str(tmp_path / "0.wav"), str(tmp_path / "nan.wav")]
        status, (line, refused) = lines(capsys, *files, "--tokenizer", str(tmp_path / "model"))
    streams = fitted.tokenize(spoken[0].samples)
    assert status == 2 and "NaN or infinite" in refused["error"]
    assert line["hubert"].split() == [str(unit) for unit in streams.units] and len(streams.units) == 200
    assert line["ids"] == encode_utterance(streams, fitted.vocabulary).tolist()[:-1]
    assert (len(line["pitch"].split()), len(line["style"].split())) == (50, 4)
