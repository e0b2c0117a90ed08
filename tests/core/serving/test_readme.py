"""The curl commands of the serving README, as they stand there, against a server that runs."""

import json
import re
import shlex
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

import tinywave_core.serving
from tests.fixtures.serving import Serving

README = Path(tinywave_core.serving.__file__).parent / "README.md"
WRITTEN = "http://127.0.0.1:7860"
LINES = re.findall(r"^curl .*$", README.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine: install curl")
def test_the_commands_of_the_readme_do_what_they_say(serving: Serving, speech: np.ndarray, tmp_path: Path):
    soundfile.write(tmp_path / "question.wav", speech, 16_000, subtype="PCM_16")
    said = []
    for line in LINES:
        words = shlex.split(line.replace(WRITTEN, serving.url))
        said.append(subprocess.run(words, cwd=tmp_path, capture_output=True, check=True, timeout=60).stdout)
    models, spoken, story, text = said
    assert [model["id"] for model in json.loads(models)["data"]] == ["student", "another"] and spoken == story == b""
    for name in ("answer.wav", "story.wav"):
        with wave.open(str(tmp_path / name)) as file:
            assert file.getframerate() == 16_000 and (tmp_path / name).stat().st_size > 44
    assert json.loads(text)["audio"] is None and "text" in json.loads(text)
