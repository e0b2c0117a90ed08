"""SALMon (arXiv 2409.07437): does a model notice that speaker, gender, mood, background or room change, or do not fit the words?

A folder per part with `sample_<i>_<j>.wav`; j = 0 is the right version, another j the wrong one. The parts are the subsets.
On data set hubs a part is a folder of Parquet tables with ind, positive_audio and negative_audio.
"""

import re
import shutil
import tempfile
import weakref
from collections import defaultdict
from pathlib import Path

from tinywave_core.errors import SourceError
from tinywave_core.evals.suites.base import MANIFEST_ADVICE, Pair, Suite, audio_files, folders, no_audio, some
from tinywave_core.evals.suites.parquet import tables, unpack
from tinywave_core.names import not_linked_out

CONSISTENCY = (
    "bg_all_consistency",
    "bg_domain_consistency",
    "gender_consistency",
    "rir_consistency",
    "sentiment_consistency",
    "speaker_consistency",
)
ALIGNMENT = ("bg_alignment", "sentiment_alignment")
PARTS = (*CONSISTENCY, *ALIGNMENT)
_NAME = re.compile(r"sample_([0-9]+)_([0-9]+)")


def open_salmon(folder: Path) -> Suite:
    """All parts in `folder`, or the one part that it is."""
    parts = (
        [folder]
        if folder.name in PARTS
        else [not_linked_out(folder, folder / name) for name in PARTS if (folder / name).is_dir()]
    )
    if not parts:
        raise SourceError(
            f"{folder} has no part of SALMon, but {some(p.name for p in folders(folder)) or 'no folders'}; expected some of "
            f"{', '.join(PARTS)}: pass the folder that holds them"
        )
    packed = {part: tables(part) for part in parts if not audio_files(part)}
    place = Path(tempfile.mkdtemp(prefix="tinywave-salmon-")) if any(packed.values()) else None
    try:
        found = [_unpacked(part, packed[part], place) if place and packed.get(part) else part for part in parts]
        pairs = [pair for part in found for pair in _part(part)]
        suite = Suite.of("salmon", pairs, {"consistency": CONSISTENCY, "alignment": ALIGNMENT})
    except BaseException:
        shutil.rmtree(place or "", ignore_errors=True)
        raise
    if place:  # what came out of tables is gone with the suite
        weakref.finalize(suite, shutil.rmtree, place, ignore_errors=True)
    return suite


def _unpacked(part: Path, found: list[Path], target: Path) -> Path:
    place = target / part.name
    place.mkdir()
    unpack(found, "ind", ("positive_audio", "negative_audio"), place)
    return place


def _part(folder: Path) -> list[Pair]:
    files = audio_files(folder)
    if not files:
        raise no_audio(folder, "sample_<i>_<j>.wav")
    versions: dict[int, list[tuple[int, Path]]] = defaultdict(list)
    for path in files:
        match = _NAME.fullmatch(path.stem)
        if not match:
            raise SourceError(
                f"{path} is not named sample_<i>_<j>, so nothing says whether it is right (j = 0) or wrong: rename it or take it "
                f"out, {MANIFEST_ADVICE}"
            )
        versions[int(match[1])].append((int(match[2]), path))
    for number, found in versions.items():
        if len(found) != 2 or min(found)[0] != 0 or max(found)[0] == 0:
            names = some(path.name for _, path in sorted(found))
            raise SourceError(
                f"{folder}: sample {number} has {names}; expected sample_{number}_0 and one other, the wrong one: complete it or "
                f"remove what is too many, {MANIFEST_ADVICE}"
            )
    return [
        Pair(f"{folder.name}/{number}", min(found)[1], max(found)[1], subset=folder.name)
        for number, found in sorted(versions.items())
    ]
