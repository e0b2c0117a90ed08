"""Folders of speech for measurements: recordings of several sources, and a source folder made of some of them."""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Recording:
    """A file with speech, its speaker and its length."""

    path: str
    name: str
    """Of its folder and its path there."""
    speaker: str
    """Empty where none is known."""
    minutes: float


def recordings_of(sources: list[Path]) -> list[Recording]:
    """All recordings with their speakers, as ingestion reads them."""
    import soundfile

    from tinywave_core.audio.sidecars import read_labels
    from tinywave_core.audio.source import Source

    found = []
    for folder in sources:
        source = Source(str(folder))
        listing = source.listing()
        labels = read_labels(source, listing, [file.path for file in listing.audio])
        for file in listing.audio:
            path, speaker = folder / file.path, labels.by_path[file.path].speaker or ""
            minutes = soundfile.info(path).duration / 60
            found.append(Recording(str(path), f"{folder.name}/{file.path}", speaker, minutes))
    return found


def write_folder(folder: Path, recordings: list[Recording]) -> Path:
    """A source folder with these recordings and their speakers; one that is there stays as it is."""
    if folder.is_dir():
        return folder
    partial = folder.with_name(f".{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with (partial / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "speaker"])
        for number, recording in enumerate(recordings):
            own = f"{number:05d}{Path(recording.path).suffix}"
            shutil.copyfile(recording.path, partial / own)
            rows.writerow([own, recording.speaker])
    partial.rename(folder)
    return folder


def minutes_of(recordings: list[Recording]) -> float:
    """Together."""
    return sum(r.minutes for r in recordings)
