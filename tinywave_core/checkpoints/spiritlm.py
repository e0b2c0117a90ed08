"""SpiritLM's release as it was downloaded: where its parts lie, whether they are whole, and what identifies them.

One directory with `speech_tokenizer/…` and `spiritlm_model/…`, local or on S3 (parts that are needed are fetched once into
the user's cache). Checks look at names, sizes and headers only: cheap enough to be made before a run of weeks.
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tinywave_core.checkpoints.bounds import fault_of_weights, model_weights, read_json
from tinywave_core.checkpoints.digests import sha256_once
from tinywave_core.checkpoints.fetch import fetch
from tinywave_core.errors import CheckpointError

ENVIRONMENT = "SPIRITLM_CHECKPOINTS_DIR"
Part = Literal["hubert", "pitch", "style", "vocoder_base", "vocoder_expressive", "lm_base", "lm_expressive"]
Kind = Literal["base", "expressive"]


@dataclass(frozen=True)
class PartFiles:
    """Folder of a part under the release's root, and the files that it must have."""

    folder: str
    files: tuple[str, ...]
    what: str


PARTS: dict[Part, PartFiles] = {
    "hubert": PartFiles(
        "speech_tokenizer/hubert_25hz", ("mhubert_base_25hz.pt", "L11_quantizer_500.pt"), "HuBERT and its quantizer"
    ),
    "pitch": PartFiles("speech_tokenizer/vqvae_f0_quantizer", ("model.pt", "config.yaml"), "the VQ-VAE of the pitch"),
    "style": PartFiles(
        "speech_tokenizer/style_encoder_w2v2", ("config.json", "pytorch_model.bin"), "the wav2vec 2.0 style encoder"
    ),
    "vocoder_base": PartFiles(
        "speech_tokenizer/hifigan_spiritlm_base", ("generator.pt", "config.json"), "the vocoder for base tokens"
    ),
    "vocoder_expressive": PartFiles(
        "speech_tokenizer/hifigan_spiritlm_expressive_w2v2",
        ("generator.pt", "config.json"),
        "the vocoder for expressive tokens",
    ),
    "lm_base": PartFiles("spiritlm_model/spirit-lm-base-7b", ("config.json", "tokenizer.model"), "the base model"),
    "lm_expressive": PartFiles(
        "spiritlm_model/spirit-lm-expressive-7b", ("config.json", "tokenizer.model"), "the expressive model"
    ),
}
_WEIGHTS = {".pt", ".bin", ".safetensors"}
_SPEECH: dict[Kind, tuple[Part, ...]] = {"base": ("hubert",), "expressive": ("hubert", "pitch", "style")}


def speech_parts(kind: Kind) -> tuple[Part, ...]:
    """Parts that tokenize speech: those of pitch and style only where they are asked for."""
    return _SPEECH[kind]


def lm_part(kind: Kind) -> Part:
    """The language model of a kind of tokens."""
    return "lm_base" if kind == "base" else "lm_expressive"


def vocoder_part(kind: Kind) -> Part:
    """The vocoder of a kind of tokens."""
    return "vocoder_base" if kind == "base" else "vocoder_expressive"


@dataclass(frozen=True)
class Release:
    """A release whose asked parts were checked."""

    root: Path

    def folder(self, part: Part) -> Path:
        """Where a part lies."""
        return self.root / PARTS[part].folder

    def files(self, part: Part) -> list[Path]:
        """The files of a part that matter, sorted by name."""
        if part.startswith("lm_"):
            return checkpoint_files(self.folder(part))
        optional = [self.folder(part) / name for name in ("speakers.txt", "styles.txt")]
        return sorted([*(self.folder(part) / f for f in PARTS[part].files), *(p for p in optional if p.is_file())])

    def digest(self, part: Part) -> str:
        """SHA-256 over names and contents of a part's files: the same wherever the release lies."""
        return digest_of(self.files(part))


def open_release(setting: str | None, parts: Iterable[Part]) -> Release:
    """The release at `setting` (folder, s3:// prefix, or `$NAME` of an environment variable), its `parts` checked.

    None stands for the environment variable that SpiritLM's users set. CheckpointError names what is missing, cut short or
    foreign, and what was expected there.
    """
    parts = tuple(parts)
    location = _expand(setting)
    if re.match(r"^[a-z0-9]+://", location):
        root = fetch(location, {PARTS[part].folder: PARTS[part].files for part in parts})
    else:
        root = Path(location).expanduser()
    if not root.is_dir():
        raise CheckpointError(
            f"there is no folder {location}: pass --spiritlm-dir (or {ENVIRONMENT}) with the directory that holds "
            "speech_tokenizer/ and spiritlm_model/ of SpiritLM's release"
        )
    for part in parts:
        _check_part(root, part)
    return Release(root)


def _expand(setting: str | None) -> str:
    name = ENVIRONMENT if setting is None else setting[1:] if setting.startswith("$") else None
    if name is None:
        assert setting is not None
        return setting
    if not os.environ.get(name):
        raise CheckpointError(
            f"the environment variable {name} is not set: set it, or pass --spiritlm-dir, to the directory that holds "
            "speech_tokenizer/ and spiritlm_model/ of SpiritLM's release"
        )
    return os.environ[name]


def _check_part(root: Path, part: Part) -> None:
    expected = PARTS[part]
    folder = root / expected.folder
    if not folder.is_dir():
        hint = next((f"; {p.parent} has a {p.name}, pass that" for p in _misplaced(root, expected)), "")
        raise CheckpointError(
            f"{folder} is missing: expected {expected.what} of SpiritLM's release there ({', '.join(expected.files)}){hint}"
        )
    missing = [name for name in expected.files if not (folder / name).is_file()]
    if missing:
        names = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise CheckpointError(
            f"{folder / missing[0]} is missing: expected {expected.what} ({', '.join(expected.files)}), found {names}"
        )
    for name in expected.files:
        check_file(folder / name)
    if part.startswith("lm_"):
        for path in model_weights(folder):
            check_file(path)


def _misplaced(root: Path, expected: PartFiles) -> list[Path]:
    """Where the top folder of the release lies, if one or two levels too low or one too high was given."""
    top = expected.folder.partition("/")[0]
    root = root.absolute()
    places = [root.parent / top, root.parent.parent / top, *sorted(root.glob(f"*/{top}"))[:1]]
    return [path for path in places if path.is_dir() and not (root / top).is_dir()]


def check_file(path: Path) -> None:
    """Refuse a file that is empty, cut short or of another kind than its name says, from its ends alone."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
    if not size:
        raise CheckpointError(f"{path} is empty: download it again")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer of {size} bytes, not the file itself: run `git lfs pull`, or download it"
        )
    if path.suffix == ".json":
        read_json(path)
    elif path.suffix in _WEIGHTS and not _is_whole(path, head):
        raise CheckpointError(
            f"{path} ({size:,} bytes) is cut short or not a file of weights: expected one of SpiritLM's release; download "
            "it again"
        )


def _is_whole(path: Path, head: bytes) -> bool:
    if path.suffix == ".safetensors":
        return not fault_of_weights(path)
    if head.startswith(b"PK"):  # torch.save since 1.6: its directory stands at the end
        return zipfile.is_zipfile(path) and not fault_of_weights(path)
    return head.startswith(b"\x80\x02")  # torch.save before; whether it is whole is seen when it is read


# Language models -----------------------------------------------------------------------------------------------------


_SMALL = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocabulary.json",
)


def checkpoint_files(folder: Path) -> list[Path]:
    """Files of a Llama directory that decide what it computes: weights, config and tokenizer."""
    return sorted([*model_weights(folder), *(folder / name for name in _SMALL if (folder / name).is_file())])


def digest_of(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents."""
    lines = [f"{path.name} {sha256_once(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
