"""Which licence a student carries: its teacher's, read from the teacher's own directory.

A student is a derivative of its teacher. SpiritLM's licence, the FAIR Noncommercial Research License, binds derivatives and outputs,
and a copy of it must travel with them; other teachers say their licence in the front matter of their README, as model hubs have
it; a fresh teacher has none, and then the recordings' licences are all there is; the base that comes with TinyWave says itself whom
its recordings ask to name.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tinywave_core.tokenizers.vocabulary import SPIRITLM_BASE, Vocabulary

FAIR_NAME = "fair-noncommercial-research-license"
FAIR_LINK = "https://github.com/facebookresearch/spiritlm/blob/main/LICENSE"
_FAIR = re.compile(r"fair[\s-]+non-?commercial[\s-]+research", re.IGNORECASE)
_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md")
_README_BYTES = 1 << 20


@dataclass(frozen=True)
class Licence:
    """What the front matter of a model card claims, and why; hubs ask for `name` and `link` where `id` is `other`."""

    why: str
    id: str | None = None
    """The hub's identifier; None: no claim."""
    name: str | None = None
    link: str | None = None
    base_model: str | None = None
    """Hub name of the teacher, where its config tells one."""

    @property
    def front_matter(self) -> dict[str, str]:
        """Fields for a hub, without those that are not known."""
        fields = {
            "license": self.id,
            "license_name": self.name,
            "license_link": self.link,
            "base_model": self.base_model,
        }
        return {name: value for name, value in fields.items() if value is not None}


def licence_of(
    teacher: str, folder: Path | None, text: Path | None, vocabulary: Vocabulary | None, *, released_tokens: bool
) -> Licence:
    """The licence of a student of `teacher` (fresh, spiritlm, or a directory), which was trained on tokens of SpiritLM's release or
    not. `text` is the licence that came with the teacher, which goes into the export."""
    fair_link = "LICENSE" if _is_fair(text) else FAIR_LINK
    front = {} if folder is None else front_matter(folder / "README.md")
    base = None if folder is None else _hub_name(folder)
    claimed = _words(front.get("license"))
    if why := _why_spiritlm(teacher, front, text, vocabulary, released_tokens=released_tokens):
        other = f" (its README says {claimed})" if claimed and not _FAIR.search(_claim(front)) else ""
        return Licence(f"{why}{other}.", "other", FAIR_NAME, fair_link, base)
    if folder is None:
        return Licence(
            "The teacher was trained from random weights on the same recordings and brings no licence of its own: the recordings' "
            "licences bind."
        )
    if claimed:
        name, link = _words(front.get("license_name")), _words(front.get("license_link"))
        return Licence(f"The teacher's README says {name or claimed}.", claimed, name, link, base)
    return Licence(
        "The teacher's directory states no licence: find out which one it has before you pass this model on.",
        base_model=base,
    )


def licence_of_base(attribution: Iterable[str]) -> Licence:
    """The licence of a student whose teacher started from the base: its recordings are under CC BY 4.0 and freer ones."""
    return Licence(
        "The teacher started from the base that comes with TinyWave, which was trained on recordings under CC BY 4.0, CC0 and in the "
        f"public domain. Whoever passes this model on names, as LICENSE beside this card says: {'; '.join(attribution)}.",
        "cc-by-4.0",
        link="https://creativecommons.org/licenses/by/4.0/",
    )


def licence_file(folders: Iterable[Path]) -> Path | None:
    """The first licence text in the folders."""
    return next((folder / name for folder in folders for name in _FILES if (folder / name).is_file()), None)


def front_matter(readme: Path) -> dict[str, Any]:
    """The YAML at the head of a README; nothing where there is none, or where it cannot be read."""
    if not readme.is_file():
        return {}
    with readme.open(encoding="utf-8", errors="replace") as file:
        text = file.read(_README_BYTES)
    found = re.match(r"---\s*\n(.*?)\n---\s*(?:\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        return {}
    return values if isinstance(values, dict) else {}


def _why_spiritlm(
    teacher: str, front: dict[str, Any], text: Path | None, vocabulary: Vocabulary | None, *, released_tokens: bool
) -> str:
    """Why a student is a derivative of SpiritLM; empty where nothing says so."""
    if teacher == "spiritlm":
        return "The teacher is SpiritLM's language model"
    if _FAIR.search(_claim(front)) or _is_fair(text):
        return "The teacher's directory has this licence"
    if vocabulary and (vocabulary.text, vocabulary.hubert) == (SPIRITLM_BASE.text, SPIRITLM_BASE.hubert):
        return "The teacher has SpiritLM's vocabulary, so it is taken for a derivative of SpiritLM"
    if released_tokens:
        return "The tokens are outputs of the speech tokenizer of SpiritLM's release"
    return ""


def _is_fair(text: Path | None) -> bool:
    return text is not None and _FAIR.search(text.read_text(encoding="utf-8", errors="replace")) is not None


def _claim(front: dict[str, Any]) -> str:
    return " ".join(str(front.get(name, "")) for name in ("license", "license_name", "license_link"))


def _words(value: Any) -> str | None:
    """A field that may be a text or a list of texts; None where it is neither."""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return value if isinstance(value, str) and value else None


def _hub_name(folder: Path) -> str | None:
    """Owner/name, where the config remembers from where it was loaded."""
    try:
        name = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    known = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and not Path(name).exists()
    return name if known else None
