"""The commands in odd surroundings: they work, or end at once with one line that names what to set."""

import contextlib
import http.server
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import surroundings
from tests.conftest import Finished
from tests.fixtures.tiny import copy_clips, copy_store, digests, tiny_config
from tests.flows.test_cli import flags
from tinywave_core.errors import SurroundingError
from tinywave_core.storage.store import Store

NOWHERE = "/dev/null/x"
"""Not even root can make a folder there."""
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "XDG_", "MPL"))}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
STOPPED = "\nstopped: finished work is kept, and the same command goes on from there\n"


def tinywave(*arguments: str, umask: int = -1, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command as a person starts it, with these variables."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(
        command, env=PLAIN | environment, umask=umask, capture_output=True, encoding="utf-8", timeout=300
    )


def the_error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line with which a command ended that the user can mend."""
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    return done.stderr.removeprefix("error: ")


# All at once ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, subprocess.CompletedProcess[str]]:
    """The pipeline where nothing is as usual: the folders, the locale, the time zone, the home, the umask, the hash seed."""
    folder = tmp_path_factory.mktemp("odd") / "Töne und Wörter"
    (folder / "tmp").mkdir(parents=True)
    config = tiny_config(copy_clips(folder / "Quelle ß"), folder / "Ablage ü")
    environment = {"HOME": NOWHERE, "TZ": "Asia/Kathmandu", "PYTHONHASHSEED": "1", "TMPDIR": str(folder / "tmp")}
    done = tinywave("run", *flags(config), umask=0o027, **ASCII, **environment)
    return Store(config.root), done


def test_a_run_in_odd_surroundings_makes_the_same_bytes(
    odd: tuple[Store, subprocess.CompletedProcess[str]], finished: Finished
):
    store, done = odd
    assert done.returncode == 0, done.stderr
    assert digests(store) == digests(finished.store)


def test_a_run_without_a_home_says_in_one_line_where_prefects_history_went(
    odd: tuple[Store, subprocess.CompletedProcess[str]],
):
    store, done = odd
    said = [line for line in done.stderr.splitlines() if "of 6" not in line]  # but for the progress of six steps
    assert said == [
        f"note: {NOWHERE}/.prefect cannot be written (Not a directory): Prefect's files of this command are temporary; "
        "PREFECT_HOME names another folder"
    ]
    assert not list(Path(store.root).with_name("tmp").iterdir())


def test_what_a_run_prints_can_be_opened(odd: tuple[Store, subprocess.CompletedProcess[str]]):
    printed = dict(
        line.split(maxsplit=1) for line in odd[1].stdout.splitlines() if line.startswith(("student", "report"))
    )
    assert Path(printed["student"], "README.md").is_file()
    assert "Töne und Wörter" in Path(printed["report"]).read_text(encoding="utf-8")


def test_a_store_lets_in_whom_the_umask_lets_in(odd: tuple[Store, subprocess.CompletedProcess[str]]):
    found = list(Path(odd[0].root).rglob("*"))
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_dir()} == {0o750}
    assert {stat.S_IMODE(path.stat().st_mode) for path in found if path.is_file()} == {0o640}


@pytest.mark.parametrize(
    "environment", [ASCII, {"LC_ALL": "tr_TR.UTF-8"}, {"PYTHONIOENCODING": "ascii"}], ids=["C", "Turkish", "ascii"]
)
def test_a_locale_hides_no_store(
    odd: tuple[Store, subprocess.CompletedProcess[str]], environment: dict[str, str], tmp_path: Path
):
    store, _ = odd
    done = tinywave("lineage", "export", "--root", store.root, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "12 audio files went in" in done.stdout


# What is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run", "serve", "deploy"])
def test_a_prefect_home_that_cannot_be_made(command: str, tmp_path: Path):
    done = tinywave(command, "--root", str(tmp_path / "store"), PREFECT_HOME=NOWHERE)
    assert the_error(done) == (
        f"Prefect's home {NOWHERE} cannot be written (Not a directory): set PREFECT_HOME to a folder that can be\n"
    )


def test_a_server_needs_a_home_that_lasts(tmp_path: Path):
    assert "set PREFECT_HOME" in the_error(tinywave("serve", "--root", str(tmp_path / "store"), HOME=NOWHERE))


def test_a_dead_server_that_a_profile_names(tmp_path: Path):
    (tmp_path / "profiles.toml").write_text(
        'active = "far"\n[profiles.far]\nPREFECT_API_URL = "http://127.0.0.1:9/api"\n', encoding="utf-8"
    )
    error = the_error(tinywave("run", "--root", str(tmp_path / "store"), PREFECT_HOME=str(tmp_path)))
    assert error.startswith(
        "the Prefect server at http://127.0.0.1:9/api does not answer ([Errno 111] Connection refused)"
    )
    assert "set PREFECT_API_URL" in error


@pytest.mark.parametrize("command", ["run", "serve", "generate"])
def test_no_libsndfile(command: str, tmp_path: Path):
    """The wheel's library is gone, and what the system has is none."""
    module = importlib.util.find_spec("soundfile")
    assert module is not None and module.origin is not None
    shutil.copy(module.origin, tmp_path)
    (tmp_path / "_soundfile_data").mkdir()
    (tmp_path / "_soundfile_data" / "__init__.py").touch()
    for name in ("libsndfile.so", "libsndfile.so.1"):
        (tmp_path / name).write_bytes(b"no library")
    arguments = ["model", "--prompt-text", "a"] if command == "generate" else ["--root", str(tmp_path / "store")]
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = tinywave(command, *arguments, PYTHONPATH=paths, LD_LIBRARY_PATH=str(tmp_path))
    assert "install the soundfile wheel of requirements.lock again" in the_error(done)


def test_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [NOWHERE])
    with pytest.raises(SurroundingError, match="set TMPDIR"):
        surroundings.check_machine()


def test_a_user_without_a_name_gets_both(monkeypatch: pytest.MonkeyPatch):
    """As a container has it that is started with a user id of its own."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(os, "environ", dict.fromkeys(["PATH"], "/bin"))
    surroundings.find_home()
    assert os.environ["HOME"] == "/nonexistent"
    assert os.environ["LOGNAME"] == f"user-{os.getuid()}"


# Servers that are not what they should be -------------------------------------------------------------------------


@contextlib.contextmanager
def answering(status: int, body: str, also: dict[str, str] | None = None) -> Iterator[str]:
    """The address of an API that answers everything so, and some paths with something else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            known = (also or {}).get(self.path)
            self.send_response(200 if known else status)
            self.send_header("Content-Length", str(len(known or body)))
            self.end_headers()
            self.wfile.write((known or body).encode())

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, "{}", "refuses us (status 401): set PREFECT_API_AUTH_STRING"),
        (403, "{}", "refuses us (status 403): set PREFECT_API_AUTH_STRING"),
        (404, "not found", "is not the API of a Prefect server of version 3 (status 404): set PREFECT_API_URL"),
        (503, "", "is not the API of a Prefect server of version 3 (status 503): set PREFECT_API_URL"),
        (200, "<html>", "is not the API of a Prefect server of version 3"),
        (200, '{"a": 1}', "is not the API of a Prefect server of version 3"),
        (200, "[]", "is not the API of a Prefect server of version 3"),
    ],
)
def test_a_server_that_refuses_or_is_none(status: int, body: str, expected: str):
    with answering(status, body) as url, temporary_settings({PREFECT_API_URL: url}):
        started = time.monotonic()
        with pytest.raises(SurroundingError) as caught:
            surroundings.prefect_server()
        assert time.monotonic() - started < 5, "nothing is tried again"
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_of_another_major_version():
    answers = {"/api/work_pools/filter": "[]", "/api/admin/version": '"2.20.1"'}
    with answering(404, "", answers) as url, temporary_settings({PREFECT_API_URL: url}):
        with pytest.raises(SurroundingError, match="incompatible versions: client: 3.* server: 2.20.1"):
            surroundings.prefect_server()


@pytest.mark.parametrize("url", ["foo", "http://", "http://nobody.invalid/api", "http://a:b@127.0.0.1:9/api"])
def test_an_address_of_nothing(url: str):
    with (
        temporary_settings({PREFECT_API_URL: url}),
        pytest.raises(SurroundingError, match="set PREFECT_API_URL") as caught,
    ):
        surroundings.prefect_server()
    assert "a:b" not in str(caught.value), "a password"


def test_a_server_that_answers_is_taken(prefect_server: None):
    assert surroundings.prefect_server() == PREFECT_API_URL.value()


# Stopped twice ----------------------------------------------------------------------------------------------------


def test_the_second_ctrl_c_ends_at_once_with_every_process_that_was_started():
    program = """
import subprocess, sys
from flows import cli
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
try:
    cli._interrupt()
except KeyboardInterrupt:
    cli._interrupt()
"""
    # Its output ends when the last process that can write to it has.
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.decode()) == (130, "\nstopped\n")


def test_sigterm_while_a_command_ends_says_nothing_more(finished: Finished, tmp_path: Path):
    """The first one comes when Prefect's embedded server starts; ending, the command waits for that server."""
    config = tiny_config(None, copy_store(finished.config, tmp_path / "store").root)
    command = [sys.executable, "-m", "flows.cli", "run", "adaptation", *flags(config)]
    environment = {**PLAIN, "PREFECT_HOME": str(tmp_path / "prefect")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        while child.poll() is None and not psutil.Process(child.pid).children():
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        assert child.stderr is not None
        said = child.stderr.readline() + child.stderr.readline()
        child.send_signal(signal.SIGTERM)
        said += child.communicate(timeout=60)[1]
    assert (child.returncode, said.decode()) == (130, STOPPED)
