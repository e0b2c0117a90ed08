"""Spoken StoryCloze (arXiv 2305.13009): sSC has the original wrong endings, tSC random ones. Whole stories, or cross-modal.

- Whole stories, a recording each: named as `named.py` says (slamkit's numbers, or _correct and _incorrect).
- slamkit's cross-modal layout: `<id>_mutual`, `<id>_correct`, `<id>_incorrect`, each as .wav, .txt or both, folders in it being
  voices. Every direction for which the files are there (S→S, S→T, T→S, T→T) is a subset.
"""

from pathlib import Path

from tinywave_core.errors import SourceError
from tinywave_core.evals.cross_modal_cloze import DIRECTIONS
from tinywave_core.evals.suites.base import AUDIO, MANIFEST_ADVICE, Content, Pair, Suite, entries, folders, some
from tinywave_core.evals.suites.named import named_pairs

ROLES = ("mutual", "correct", "incorrect")


def open_story_cloze(name: str, folder: Path) -> Suite:
    """The suite called `name`, sSC or tSC, in `folder`."""
    parts = _parts(folder)
    if any("mutual" in roles for roles in parts.values()):
        return Suite.of(name, _cross_modal(folder, parts))
    return Suite.of(name, named_pairs(folder))


Roles = dict[str, dict[str, Path]]
"""role -> modality -> file"""


def _parts(folder: Path) -> dict[tuple[str | None, str], Roles]:
    """Files by (voice, id), role and modality."""
    found: dict[tuple[str | None, str], Roles] = {}
    inside = [(None, folder), *((inner.name, inner) for inner in folders(folder))]
    for voice, place in inside:
        for path in entries(place):
            story, _, role = path.stem.rpartition("_")
            modality = "speech" if path.suffix.lower() in AUDIO else "text" if path.suffix.lower() == ".txt" else None
            if path.name[0] == "." or not story or role not in ROLES or modality is None:
                continue
            same = found.setdefault((voice, story), {}).setdefault(role, {})
            if modality in same:
                raise SourceError(f"{folder}: {same[modality].name} and {path.name} are one thing twice: remove one")
            same[modality] = path
    return found


def _cross_modal(folder: Path, parts: dict[tuple[str | None, str], Roles]) -> list[Pair]:
    for (_, story), roles in parts.items():
        if set(roles) != set(ROLES):
            missing = some(f"{story}_{role}" for role in ROLES if role not in roles)
            raise SourceError(
                f"{folder}: {missing} is missing beside {some(p.name for r in roles.values() for p in r.values())}; expected "
                f"_mutual, _correct and _incorrect of every story: complete it, {MANIFEST_ADVICE}"
            )
    pairs: list[Pair] = []
    for direction, (first, second) in DIRECTIONS.items():
        with_it = {
            key: roles
            for key, roles in parts.items()
            if first in roles["mutual"] and second in roles["correct"] and second in roles["incorrect"]
        }
        if not with_it:
            continue
        if len(with_it) < len(parts):
            without = some(story for _, story in parts.keys() - with_it.keys())
            raise SourceError(
                f"{folder}: {len(with_it)} of {len(parts)} stories have the files for {direction}, {without} has not; expected "
                "the same modalities of all stories: complete them, or keep them in folders of their own"
            )
        for (voice, story), roles in with_it.items():
            prompt, right, wrong = (
                _content(roles[role][modality]) for role, modality in zip(ROLES, (first, second, second), strict=True)
            )
            name = story if voice is None else f"{voice}/{story}"
            text = right if isinstance(right, str) else None
            pairs.append(Pair(f"{name} {direction}", right, wrong, prompt, story, voice, text, direction))
    if not pairs:
        raise SourceError(
            f"{folder}: no direction has all its files; expected _mutual, and both _correct and _incorrect in one modality"
        )
    return pairs


def _content(path: Path) -> Content:
    if path.suffix.lower() != ".txt":
        return path
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is no UTF-8 text ({error}): save it as UTF-8") from error
    if not text:
        raise SourceError(f"{path} is empty: expected the words of this part of the story")
    return text
