"""What a command finds around it: locale, home, folder for temporary files, libsndfile, Prefect's home and server.

Checked before the work begins. What is missing is replaced, with a line that says so, or ends the command with an error
that names what to set.
"""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tasks import terminal
from tinywave_core.errors import SurroundingError


def speak_utf8() -> None:
    """Text is UTF-8, whatever the locale says: file names hold it, and so does what we print.

    Only a fresh interpreter can change how it reads file names: where this one cannot, another takes the command over.
    """
    if sys.getfilesystemencoding() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if stream.encoding.lower() != "utf-8":  # PYTHONIOENCODING asks for it: a "?" is better than a traceback
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def find_home() -> None:
    """A user id without a name, as containers have it, has no home and no name, and libraries that ask for them fail."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/nonexistent"
        os.environ.setdefault("LOGNAME", f"user-{os.getuid()}")


def check_machine() -> None:
    """Make sure of a folder for temporary files, one for caches, and a library that decodes audio."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise SurroundingError(
            "there is no folder for temporary files that can be written: set TMPDIR to one"
        ) from error
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    if _why_not_writable(caches):
        os.environ["XDG_CACHE_HOME"] = os.environ["MPLCONFIGDIR"] = str(_temporary() / "cache")
    try:
        import soundfile  # noqa: F401
    except OSError as error:
        raise SurroundingError(
            f"there is no libsndfile, which decodes audio ({error}): install the soundfile wheel of requirements.lock again, "
            "or libsndfile with the system's package manager"
        ) from error


def find_prefect_home(*, lasting: bool) -> None:
    """A folder that Prefect can write, before it is imported; `lasting` where it must be there after this command."""
    setting = os.environ.get("PREFECT_HOME")
    home = Path(setting or "~/.prefect").expanduser()
    why = _why_not_writable(home)
    if not why:
        return
    if setting or lasting:
        raise SurroundingError(
            f"Prefect's home {home} cannot be written ({why}): set PREFECT_HOME to a folder that can be"
        )
    profiles = home / "profiles.toml"
    if os.access(profiles, os.R_OK):
        os.environ.setdefault("PREFECT_PROFILES_PATH", str(profiles))
    os.environ["PREFECT_HOME"] = str(_temporary() / "prefect")
    terminal.say(
        f"note: {home} cannot be written ({why}): Prefect's files of this command are temporary; PREFECT_HOME names another folder",
        file=sys.stderr,
    )


def prefect_server() -> str | None:
    """The address of the server that PREFECT_API_URL or a profile names, once it has answered; None if there is none."""
    import httpx
    from prefect._internal.urls import strip_auth_from_url
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    url = PREFECT_API_URL.value()
    if not url:
        return None
    address = strip_auth_from_url(url)
    wrong = f"{address} is not the API of a Prefect server of version 3 (%s): set PREFECT_API_URL, as in http://HOST:4200/api"
    patience = httpx.Timeout(10, connect=3)  # a server that is alive is reached in less
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": patience}) as client,
        ):
            client.read_work_pools(limit=1)  # unlike /health, not open to everybody
            client.raise_for_api_version_mismatch()
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise SurroundingError(
                f"the Prefect server at {address} refuses us (status {status}): set PREFECT_API_AUTH_STRING to the user:password that "
                "it was started with (Prefect Cloud: PREFECT_API_KEY)"
            ) from error
        raise SurroundingError(wrong % f"status {status}") from error
    except httpx.TransportError as error:
        reason = f"{error}" or type(error).__name__
        raise SurroundingError(
            f"the Prefect server at {address} does not answer ({reason}): start it, or set PREFECT_API_URL to another"
        ) from error
    except (ValueError, TypeError, RuntimeError, httpx.InvalidURL) as error:
        raise SurroundingError(wrong % (str(error).splitlines() or [type(error).__name__])[0]) from error
    return url


def _why_not_writable(folder: Path) -> str | None:
    """Make a folder that is only the user's, if it is not there, and write into it; the reason if that fails."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        return error.strerror
    read_only = [path.name for path in folder.glob("*.db") if not os.access(path, os.W_OK)]
    return f"{read_only[0]} is read-only" if read_only else None


_folder: Path | None = None


def _temporary() -> Path:
    """A folder for this process, deleted when it ends."""
    global _folder
    if _folder is None:
        _folder = Path(tempfile.mkdtemp(prefix="tinywave-"))
        # Registered before Prefect's own: what comes first here is called last, when the server has ended.
        atexit.register(shutil.rmtree, _folder, ignore_errors=True)
    return _folder
