"""Garbage collection: what no pin, no corpus and none of the newest results needs any more, dependants before inputs.

Kept are, each with its whole lineage: what is pinned or published today, the audio shards of every catalog (their files may have
left the source), the newest results (what a run came to), and whatever is younger than the grace period.
"""

import calendar
import time
from collections.abc import Mapping
from dataclasses import dataclass

from tinywave_core.errors import DamagedArtifactError
from tinywave_core.storage.care.census import (
    NEWER,
    POINTERS,
    Census,
    Folder,
    dependants_first,
    labels_of_runs,
    lineage,
    pointed_at,
    relabelled,
    shard_contents,
)
from tinywave_core.storage.care.repair import DAY_S
from tinywave_core.storage.care.unfinished import orphaned


@dataclass(frozen=True)
class Garbage:
    """What would go, in the order in which it goes."""

    artifacts: tuple[Folder, ...]  # dependants before inputs
    leftovers: Mapping[
        str, int
    ]  # half-written folders, what was set aside, orphaned checkpoints: bytes by name below the root
    kept: int  # artifacts that stay

    @property
    def bytes(self) -> int:
        return sum(folder.bytes for folder in self.artifacts) + sum(self.leftovers.values())


def find_garbage(census: Census, keep: int, grace_s: float, now: float | None = None) -> Garbage:
    """What `collect` would remove; DamagedArtifactError where lineage cannot be read and so nothing is safe to remove."""
    now = time.time() if now is None else now
    # An unreadable manifest may need anything: guessing could delete the inputs of a whole corpus.
    _check_lineage_is_known(census)
    artifacts = census.artifacts
    # A program that holds no lease (decision 28) may be about to use what is young.
    young = {i for i, folder in artifacts.items() if now - folder.changed < grace_s or now - _made_at(folder) < grace_s}
    wanted = [*_pinned(census), *_corpora(census), *_newest_results(census, keep), *_newest_labels(census), *young]
    kept = lineage(artifacts, wanted)
    order = dependants_first(artifacts, artifacts.keys() - kept)
    return Garbage(tuple(artifacts[i] for i in order), _leftovers(census, grace_s, now), len(kept))


def collect(census: Census, garbage: Garbage) -> None:
    """Remove it. Run it under the store's lock; stopped at any point, it leaves a sound store."""
    for folder in garbage.artifacts:
        census.store.discard(folder.id)
    for name in garbage.leftovers:
        census.store.discard(name)


def _check_lineage_is_known(census: Census) -> None:
    bad = [i for i, folder in census.folders.items() if folder.fault]
    bad += [log.path(i) for log in census.logs.values() for i, record in enumerate(log.records) if record is None]
    newer = any(folder.fault == NEWER for folder in census.folders.values())
    if bad:
        raise DamagedArtifactError(
            f"{bad[0]} and {len(bad) - 1} more cannot be read, so nobody knows what they need; nothing was removed: "
            + ("update TinyWave" if newer else "run `tinywave repair` first")
        )


def _pinned(census: Census) -> list[str]:
    return [i for log in census.of(*POINTERS) if log.readable for i in pointed_at(log.readable[-1])]


def _corpora(census: Census) -> list[str]:
    """Audio shards as they were cut, and as they are labelled today."""
    cut = [shard for log in census.of("catalog") for shard in shard_contents(log)]
    return cut + [shard for log in census.of("labels") for shard in relabelled(log)]


def _newest_results(census: Census, keep: int) -> list[str]:
    """The last `keep` results: what one run came to, or what nothing was made from and no record of a run names."""
    used = {i for folder in census.artifacts.values() for i in folder.inputs}
    finals = census.artifacts.keys() - used - labels_of_runs(census.artifacts)
    runs = [run for log in census.of("runs") for run in log.readable]
    # The same outputs again are the same result, as new as the last run that had them. Runs are as new as their numbers say:
    # a clock may have been put back meanwhile, so none counts as older than the one before it.
    results: dict[frozenset[str], tuple[float, int]] = {}
    latest = 0.0
    for number, run in enumerate(runs, start=1):
        latest = max(latest, _seconds(run.get("finished_at", "")))
        results[frozenset(run.get("outputs", {}).values())] = (latest, number)
    results |= {frozenset([i]): (_made_at(census.artifacts[i]), 0) for i in finals - frozenset().union(*results)}
    live = sorted(((when, sorted(ids)) for ids, when in results.items() if ids & finals), reverse=True)
    return [i for _, ids in live[:keep] for i in ids]


def _newest_labels(census: Census) -> list[str]:
    """What the last run saw of the labels: a run that finds everything cached asks for it."""
    return sorted(labels_of_runs(census.artifacts), key=lambda i: _made_at(census.artifacts[i]))[-1:]


def _made_at(folder: Folder) -> float:
    return _seconds(folder.manifest.created_at if folder.manifest else "")


def _seconds(utc: str) -> float:
    """Seconds since 1970 of a time as `utc_now` writes it; 0 for anything else."""
    try:
        return float(calendar.timegm(time.strptime(utc, "%Y-%m-%dT%H:%M:%SZ")))
    except ValueError:
        return 0.0


def _leftovers(census: Census, grace_s: float, now: float) -> dict[str, int]:
    """Folders without a manifest, and what repair set aside, when nothing changed in them for the grace period; and uploaded checkpoints
    that no run can go on from."""
    # On an object store a run that holds no lease (decision 28) may be committing just now.
    unfinished_s = grace_s if census.store.local else max(grace_s, DAY_S)
    half = {
        i: folder.bytes
        for i, folder in census.folders.items()
        if folder.manifest is None and now - folder.changed >= unfinished_s
    }
    aside = {name: size for name, (size, changed) in census.aside.items() if now - changed >= grace_s}
    return half | aside | orphaned(census, now)
