"""The base that comes with TinyWave: found, and every file held to its digest in BASE.json before anything is read from it."""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tinywave_core.config.adaptation import FreshTeacherConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import CheckpointError, ConfigError
from tinywave_core.storage.store import sha256_of

FORMAT_VERSION = 1
RELEASE = Path(__file__).parent / "release"
DESCRIPTION, RECORDINGS, NGRAMS, CARD, LICENCES = (
    "BASE.json",
    "recordings.json",
    "ngrams.npy",
    "README.md",
    "LICENSES",
)
CODEBOOKS, TEACHER, STUDENT = "codebooks", "teacher", "student"
COMPARED = ("tokens", "units", "pitch", "style")
"""Settings of tokenization that decide what the base's tokens are."""
_AGAIN = "install TinyWave again, or pass --adaptation.teacher fresh"


class Base(BaseModel):
    """What BASE.json says, and where it lies."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    digest: str
    """SHA-256 of BASE.json, which has those of all other files."""
    version: int
    """Of the form of the release."""
    tinywave: str
    """Version of TinyWave that made it."""
    files: dict[str, str]
    """SHA-256 by name."""
    tokenization: dict[str, Any]
    """The settings in COMPARED."""
    shape: FreshTeacherConfig
    """Of its teacher."""
    hours: float
    """Of the speech that it heard: training and validation."""
    recordings: int
    codebooks: dict[str, Any]
    """What the tokenizer reported of its fit."""
    training: dict[str, Any]
    """Figures of teacher and student, for the card."""
    licences: dict[str, int]
    """Recordings by licence."""
    attribution: list[str]
    """Whom to name, once each."""

    def place(self, name: str) -> Path:
        """A file or folder of the release."""
        return self.folder / name


def open_base(folder: Path | None = None) -> Base:
    """The base in `folder` (none: the one that TinyWave brings); CheckpointError where a file is missing, foreign or changed."""
    folder = folder or RELEASE
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    # Plans open it a dozen times: what was checked is checked again only when a file looks different.
    return _checked(folder, tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files))


def base_of(config: PipelineConfig) -> Base:
    """The base that settings name, whether or not they start from it."""
    return open_base(None if config.adaptation.base is None else Path(config.adaptation.base))


@lru_cache(maxsize=8)
def _checked(folder: Path, seen: tuple[tuple[str, int, int], ...]) -> Base:
    about = folder / DESCRIPTION
    if not about.is_file():
        raise CheckpointError(f"there is no base in {folder}: expected {DESCRIPTION}; {_AGAIN}")
    base = _read(about)
    found = {Path(name).relative_to(folder).as_posix() for name, _, _ in seen} - {DESCRIPTION}
    for name, digest in base.files.items():
        if name not in found:
            raise CheckpointError(f"the base in {folder} lacks {name}: {_AGAIN}")
        if (now := sha256_of(folder / name)) != digest:
            raise CheckpointError(
                f"{folder / name} of the base has SHA-256 {now[:12]}…, {DESCRIPTION} says {digest[:12]}…: {_AGAIN}"
            )
    if foreign := sorted(found - base.files.keys()):
        raise CheckpointError(
            f"the base in {folder} has {foreign[0]}, which {DESCRIPTION} does not name: remove it, or {_AGAIN}"
        )
    return base


def _read(about: Path) -> Base:
    try:
        values = json.loads(about.read_text(encoding="utf-8"))
        version = values["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{about} cannot be read as the description of a base ({error!r}): {_AGAIN}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{about} has version {version}, this TinyWave reads version {FORMAT_VERSION}: {_AGAIN}")
    try:
        return Base(folder=about.parent, digest=sha256_of(about), **values)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise CheckpointError(f"{about} is no description of a base ({where}: {fault['msg']}): {_AGAIN}") from error


def why_not(config: PipelineConfig, base: Base) -> str | None:
    """The first setting with which a run cannot start from the base, in words; None where all fit."""
    asked = config.tokenization
    if config.spiritlm_dir is not None:
        return "spiritlm_dir is set, and the base has tokens of its own codebooks"
    if asked.interleaving.policy != "speech":
        return f"tokenization.interleaving.policy is {asked.interleaving.policy}, and the base has never read text"
    mine = _flat(asked.model_dump(mode="json", include=set(COMPARED)))
    for name, its in _flat(base.tokenization).items():
        if mine.get(name) != its:
            return f"tokenization.{name} is {mine.get(name)}, the base's is {its}"
    return None


def require_base(config: PipelineConfig) -> Base:
    """The base that settings ask for; ConfigError naming the setting that does not go with it."""
    base = base_of(config)
    if (fault := why_not(config, base)) is not None:
        raise ConfigError(
            f"adaptation.teacher is base, but {fault}: leave that setting as the base has it, or pass "
            "--adaptation.teacher fresh"
        )
    return base


def _flat(values: dict[str, Any], at: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, value in values.items():
        rows |= _flat(value, f"{at}{name}.") if isinstance(value, dict) else {f"{at}{name}": value}
    return rows
