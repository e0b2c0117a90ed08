"""Exports on a hub of models: the model/ directory of an export -> a repository, and back, with every file checked.

The client is huggingface_hub's; HF_ENDPOINT names another server of its protocol, HF_TOKEN (or `hf auth login`) who asks. A push is
one commit with the whole directory and SHA256SUMS, in the form of `sha256sum --check`. A pull takes what that file lists from one
commit, compares it, and gives the folder its name last: a folder that is there is whole. See infra/decisions/0056-a-small-install.md.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinywave_core.checkpoints.bounds import check_directory, read_json
from tinywave_core.checkpoints.exported import require_export, require_files
from tinywave_core.errors import CheckpointError, ConfigError, SurroundingError
from tinywave_core.names import fault_of_name, inside
from tinywave_core.progress import Progress
from tinywave_core.storage.store import sha256_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SUMS = "SHA256SUMS"
VOICE = "speech_tokenizer/voice.flac"
MOST_SUMS_BYTES = 1 << 20
CONNECT_S, ANSWER_S = 10.0, 120.0
"""How long a hub may keep a request waiting: for the connection, and between two signs of life."""
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_SUM = re.compile(r"([0-9a-f]{64})  (.+)")


@dataclass(frozen=True)
class Pushed:
    """What a push made."""

    url: str
    """Of the repository."""
    commit: str
    files: int
    bytes: int
    has_recordings: bool
    """The voice is made of recordings of people, which are passed on with it."""


@dataclass(frozen=True)
class Pulled:
    """What a pull made."""

    folder: Path
    commit: str
    files: int
    bytes: int


def push(export: Path, repository: str, *, private: bool) -> Pushed:
    """Make the repository hold this export and nothing else, in one commit; it is made where there is none.

    ConfigError for a name that is none, CheckpointError for a folder that is no whole export, SurroundingError where the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    _check_name(repository)
    files = _files(export)
    sums = "".join(f"{sha256_of(path)}  {name}\n" for name, path in files.items())
    with _asking(repository) as api:
        url = api.create_repo(repository, private=private, exist_ok=True)
        old = {name for name in api.list_repo_files(repository) if name != ".gitattributes"}
        made = api.create_commit(
            repository,
            [
                *(CommitOperationAdd(name, path) for name, path in files.items()),
                CommitOperationAdd(SUMS, sums.encode()),
                *(CommitOperationDelete(name) for name in sorted(old - {SUMS, *files})),
            ],
            commit_message=f"TinyWave export {export.resolve().name}",
        )
    size = sum(path.stat().st_size for path in files.values())
    return Pushed(re.sub(r"://[^/]*@", "://", str(url)), made.oid, len(files), size, VOICE in files)


def pull(repository: str, folder: Path, progress: Progress, *, revision: str | None = None) -> Pulled:
    """Fetch an export into a new folder: whole and as its SHA256SUMS has it, or not at all.

    ConfigError for a name that is none or a folder that is there, CheckpointError where files are missing, damaged or none of an export,
    SurroundingError where the hub does not answer, or refuses.
    """
    _check_name(repository)
    if folder.exists():
        raise ConfigError(f"{folder} is there already: pass the name of a new folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made ({error.strerror}): pass a folder that may be written to"
        ) from error
    try:
        with _asking(repository) as api:
            commit = str(api.repo_info(repository, revision=revision).sha)
            sums = _fetch_sums(api, repository, commit, partial)
            for number, (name, digest) in enumerate(sums.items(), start=1):
                _fetch(api, repository, commit, partial, name, digest)
                progress(number, len(sums), name)
        shutil.rmtree(partial / ".cache", ignore_errors=True)  # the client's own notes
        _check_export(partial)
        size = sum((partial / name).stat().st_size for name in sums)
        partial.chmod(0o755)  # mkdtemp's is for its owner alone
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Pulled(folder, commit, len(sums), size)


def _check_name(repository: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    fault = ConfigError(f"{repository!r} is no repository of a hub; expected OWNER/NAME, as in you/my-student")
    if not _REPOSITORY.fullmatch(repository):
        raise fault
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise fault from None


def _files(export: Path) -> dict[str, Path]:
    """Every file of an export by its name in it; hidden ones, and what an earlier push or pull noted, are not of it."""
    _check_export(export)
    files = {}
    for path in sorted(export.rglob("*")):
        name = path.relative_to(export).as_posix()
        if path.is_file() and name != SUMS and not any(part.startswith(".") for part in name.split("/")):
            files[name] = inside(export, name, export, CheckpointError)
    return files


def _check_export(folder: Path) -> None:
    """CheckpointError unless it is the whole model/ directory of an export, whose files are those that its speech.json tells of."""
    about = require_export(folder)
    check_directory(folder, "an export")
    speech = read_json(about)
    told = {f"speech_tokenizer/{name}": digest for name, digest in speech.get("speech_tokenizer_sha256", {}).items()}
    told |= {file["file"]: file["sha256"] for file in speech.get("gguf", [])}
    require_files(folder, told)


def _fetch_sums(api: "HfApi", repository: str, commit: str, folder: Path) -> dict[str, str]:
    """Digest by name of the files that a push put there."""
    names = api.list_repo_files(repository, revision=commit)
    if SUMS not in names:
        raise CheckpointError(
            f"{repository} has no {SUMS}, which `tinywave push` writes: to take what cannot be checked, use the hub's own "
            f"program, `hf download {repository}`"
        )
    path = Path(api.hf_hub_download(repository, SUMS, revision=commit, local_dir=folder))
    if path.stat().st_size > MOST_SUMS_BYTES:
        raise CheckpointError(f"{SUMS} of {repository} has {path.stat().st_size:,} bytes: expected a list of files")
    sums: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _SUM.fullmatch(line)
        if found is None or fault_of_name(found[2]) or found[2].split("/")[0] in (".cache", SUMS):
            raise CheckpointError(
                f"{SUMS} of {repository} has the line {line!r:.100}: expected a digest and a file's name"
            )
        sums[found[2]] = found[1]
    if missing := sorted(sums.keys() - {*names}):
        raise CheckpointError(f"{repository} has no {missing[0]}, which its {SUMS} lists: push the export again")
    return sums


def _fetch(api: "HfApi", repository: str, commit: str, folder: Path, name: str, digest: str) -> None:
    path = Path(api.hf_hub_download(repository, name, revision=commit, local_dir=folder))
    if sha256_of(path) != digest:
        raise CheckpointError(
            f"{name} of {repository} is not the file that its {SUMS} lists: pull again, or push the export again"
        )


@contextmanager
def _asking(repository: str) -> Iterator["HfApi"]:
    """The client, with a deadline for every request; its errors as ours. Their text is not passed on: it holds addresses."""
    import requests
    from huggingface_hub import HfApi, configure_http_backend
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import disable_progress_bars, logging

    endpoint = os.environ.get("HF_ENDPOINT") or None
    configure_http_backend(_session)
    disable_progress_bars()
    logging.set_verbosity_error()  # its warnings hold addresses, and come between our lines
    api = HfApi(endpoint=endpoint)
    host = re.sub(r"^\w+://([^/]*@)?", "", api.endpoint).rstrip("/")
    try:
        yield api
    except OfflineModeIsEnabled as error:
        raise SurroundingError("HF_HUB_OFFLINE is set, so that no hub is asked: unset it") from error
    except (requests.RequestException, LocalEntryNotFoundError) as error:
        if isinstance(error, HfHubHTTPError) and (status := _status(error)):
            raise SurroundingError(_refused(host, repository, status)) from None
        raise SurroundingError(
            f"the hub at {host} does not answer, or broke off ({_kind(error)}): try again; HF_ENDPOINT names another"
        ) from None
    except RuntimeError as error:  # the client's, around what became of an upload
        raise SurroundingError(f"the hub at {host} did not take a file ({_kind(error)}): push again") from None


def _kind(error: BaseException) -> str:
    """The name of the first cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return type(error).__name__


def _status(error: BaseException | None) -> int | None:
    """Of the hub's answer, where it gave one."""
    while error is not None:
        if (response := getattr(error, "response", None)) is not None:
            return int(response.status_code)
        error = error.__cause__
    return None


def _refused(host: str, repository: str, status: int) -> str:
    if status in (401, 403, 404):
        return (
            f"the hub at {host} has no {repository} for us (status {status}): mind the name; where it is private, or to push, set "
            "HF_TOKEN to a token that may read or write it"
        )
    return f"the hub at {host} refused {repository} (status {status}): try again later"


def _session() -> Any:
    import requests

    class Deadline(requests.Session):
        """The client sets none for uploads and commits."""

        def request(self, *arguments: Any, **options: Any) -> Any:
            if options.get("timeout") is None:
                options["timeout"] = (CONNECT_S, ANSWER_S)
            return super().request(*arguments, **options)

    return Deadline()
