"""`tinywave talk` as a person starts and ends it."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import torch

from flows.cli import main
from flows.talk import names
from tests.conftest import Finished
from tinywave_core.synthesis.generator import Generator


def test_a_model_computes_in_the_precision_that_the_command_line_asks_for(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
):
    opened: list[Generator] = []
    monkeypatch.setattr("flows.generate.generate", lambda loading, *_, **__: opened.append(loading.open()) or 0)
    monkeypatch.setattr("flows.talk.talk", lambda loadings, *_, **__: opened.append(loadings[0].open()) or 0)
    asked = [str(finished.outputs["model"].path("model")), "--device", "cpu", "--dtype", "bfloat16"]
    assert main(["generate", *asked, "--prompt-text", "a"]) == main(["talk", *asked]) == 0
    assert [each.runtime.model.dtype for each in opened] == [torch.bfloat16] * 2  # type: ignore[attr-defined]


def test_it_says_where_it_is_and_ends_with_ctrl_c(finished: Finished):
    folder = str(finished.outputs["model"].path("model"))
    command = [sys.executable, "-m", "flows.cli", "talk", folder, folder, "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        lines = [process.stdout.readline() for _ in range(3)]
        address = re.search(r"http://127\.0\.0\.1:\d+", lines[-1])
        assert address, lines
        models = httpx.get(f"{address[0]}/v1/models", timeout=60).json()["data"]
        assert len({each["id"] for each in models}) == 2
        here = ("127.0.0.1", int(address[0].rpartition(":")[2]))
        # Neither a connection that asks for nothing nor a body that does not come keeps it from ending.
        with socket.create_connection(here), socket.create_connection(here) as upload:
            upload.sendall(
                b"POST /v1/audio/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n"
            )
            assert b"100 Continue" in upload.recv(100)
            process.send_signal(signal.SIGINT)
            assert upload.recv(100) == b""
        assert process.wait(60) == 130
        errors = process.stderr.read()
    assert errors.split() == ["stopped"]


def test_a_port_that_is_taken_is_said(capsys: pytest.CaptureFixture[str], finished: Finished):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["talk", str(finished.outputs["model"].path("model")), "--port", port, "--device", "cpu"]) == 2
    assert f"127.0.0.1:{port} cannot be listened on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--port", "65536"),
        ("--port", "-1"),
        ("--max-wall", "0"),
        ("--max-prompt", "-1"),
        ("--queue", "-1"),
        ("--max-wall", "nan"),
    ],
)
def test_a_number_that_nothing_can_be_served_with_is_said_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flag: str, value: str
):
    assert main(["talk", str(tmp_path), f"{flag}={value}"]) == 2  # a folder that is no export is not even opened
    assert re.search(rf"error: {flag} is {value}; expected", capsys.readouterr().err)


def test_a_folder_that_is_no_export_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["talk", str(tmp_path)]) == 2
    assert "has no speech.json" in capsys.readouterr().err


def test_models_are_named_by_what_tells_them_apart(tmp_path: Path):
    ids = "a" * 32, "b" * 32
    assert names([f"/s/export/{each}/model" for each in ids]) == ["a" * 12, "b" * 12]
    assert names(["/one/export/x/model", "/two/export/x/model"]) == ["one/export/x", "two/export/x"]
    export = tmp_path / "export" / ids[0]
    (export / "model").mkdir(parents=True)
    assert names([str(export / "model")]) == ["a" * 12]
    (export / "manifest.json").write_text('{"config": {"name": "hum"}}')
    assert names([str(export / "model")]) == ["hum"]
    assert names(["/s/x/model", "/s/x/model"])[0] != names(["/s/x/model", "/s/x/model"])[1]
