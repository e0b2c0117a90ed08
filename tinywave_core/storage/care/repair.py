"""Repair: what `verify` found damaged is moved to `.damaged/`, so that the next run computes it again.

A record in which one bit flipped is mended first. Ids follow from content, so what was made from a damaged artifact stays valid
and is not touched. Records of logs are found by counting up, so one that cannot be read is set aside and its number is filled with
what is still known.
"""

import contextlib
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tinywave_core.counts import count
from tinywave_core.storage.care.census import NEWER, Census, Records, pointed_at, read_manifest
from tinywave_core.storage.care.unfinished import STALE_WORK_S, orphaned
from tinywave_core.storage.care.verify import DAMAGE, Finding, work_folders
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.records import RecordFault, flipped_back
from tinywave_core.storage.store import ABOUT, MANIFEST, Manifest, Store

# An upload to S3, or a run that holds no lease (decision 28), cannot be told from a dead one in less.
DAY_S = 86_400.0
_LEFT_OVER = "left over from a killed run, deleted"


@dataclass(frozen=True)
class Action:
    """One thing that repair did, or did not do, and why."""

    where: str
    what: str


def flip_back(census: Census) -> list[Action]:
    """Mend records in which one bit flipped. Call it before `verify`, under the store's lock; `repair` does the rest."""
    store = census.store
    # Manifests of a newer TinyWave are not damaged: this one just cannot read them.
    names = [ABOUT] if census.fault else []
    names += [f"{i}/{MANIFEST}" for i, folder in census.folders.items() if folder.fault not in ("", NEWER)]
    names += [log.path(n) for log in census.logs.values() for n, record in enumerate(log.records) if record is None]
    done = []
    for name in names:
        if store.exists(name) and (right := flipped_back(store.read(name))):
            store.replace(name, right)
            done.append(Action(name, "one bit had flipped, and was put back: its digest is right again"))
    return done


def repair(census: Census, findings: Iterable[Finding], now: float | None = None) -> list[Action]:
    """Move damage out of the way and sweep leftovers. Run it under the store's lock."""
    now = time.time() if now is None else now
    findings = list(findings)
    done = [
        *_store_file(census),
        *_artifacts(census, findings, now),
        *_foreign(census.store, findings),
        *_reports(census.store, findings),
        *(action for log in census.logs.values() for action in _log(census, log)),
        *_checkpoints(census, findings),
        *_indices(census.store, findings),
        *_work(census, now),
        *_orphaned(census, now),
    ]
    return done + _uploads(census.store, now)


def _store_file(census: Census) -> list[Action]:
    """`store.json` holds nothing but format and version."""
    if not census.fault:
        return []
    if any(folder.fault == NEWER for folder in census.folders.values()):
        return [Action(ABOUT, "left: a newer TinyWave wrote in this store and has to write it anew")]
    # It holds nothing that is not known, so writing it anew loses nothing.
    aside = census.store.set_aside(ABOUT)
    census.store.create_about()
    return [Action(ABOUT, f"moved to {aside}, written anew")]


def _artifacts(census: Census, findings: list[Finding], now: float) -> list[Action]:
    damaged = sorted({f.where for f in findings if f.what in DAMAGE})
    done = [Action(i, f"moved to {census.store.set_aside(i)}") for i in damaged]
    for finding in findings:
        if finding.what == "half-written" and finding.where in census.folders and finding.where not in damaged:
            done.append(_half_written(census, finding, now))
    return done


def _half_written(census: Census, finding: Finding, now: float) -> Action:
    store, folder = census.store, census.folders[finding.where]
    if folder.manifest is not None:  # a file beside what is whole
        name = f"{folder.id}/{finding.detail}"
        store.delete(name)
        return Action(name, _LEFT_OVER)
    if not store.local and now - folder.changed < DAY_S:  # a run that holds no lease may be committing it
        return Action(folder.id, "left: half-written less than a day ago, perhaps by a run that goes on")
    return Action(folder.id, f"half-written, moved to {store.set_aside(folder.id)}")


def _foreign(store: Store, findings: list[Finding]) -> list[Action]:
    """Set aside files that no manifest lists; those of an artifact that was moved as a whole went with it."""
    damaged = {f.where for f in findings if f.what in DAMAGE}
    foreign = [f"{f.where}/{f.detail}" for f in findings if f.what == "foreign file" and f.where not in damaged]
    return [Action(name, f"foreign, moved to {store.set_aside(name)}") for name in foreign]


def _reports(store: Store, findings: list[Finding]) -> list[Action]:
    return [
        Action(f.where, f"altered, moved to {store.set_aside(f.where)}; the run's artifacts are not touched")
        for f in findings
        if f.what == "altered report"
    ]


def _checkpoints(census: Census, findings: list[Finding]) -> list[Action]:
    """Delete checkpoints that a run would refuse: it goes on from the one before, or begins again."""
    done = []
    for finding in findings:
        if finding.what == "bad checkpoint":
            _, step, checkpoint = finding.where.split("/", 2)
            if any(file.startswith(f"{checkpoint}/") for file in census.work.get(step, ())):  # uploaded
                census.store.delete(finding.where)
            else:
                damaged = census.store.work_folder("any/any").parent / step / checkpoint
                census.store.check_lease()
                shutil.rmtree(damaged) if damaged.is_dir() else damaged.unlink()
            done.append(Action(finding.where, "deleted: the next run goes on from the one before, or begins again"))
    return done


def _indices(store: Store, findings: list[Finding]) -> list[Action]:
    done = []
    for finding in findings:
        if finding.what == "damaged index":
            folder, name = finding.where.split("/")[1:]
            (store.index_folder("any/any").parent / folder / name).unlink(missing_ok=True)
            done.append(Action(finding.where, "deleted: the next run makes it anew"))
    return done


# Logs ------------------------------------------------------------------------------------------------------------


def _log(census: Census, log: Records) -> list[Action]:
    """Fill every number whose record is lost, or drop it at the end of a log that says nothing of the store."""
    done = []
    for name in (name for name in log.foreign if name.startswith(".new-")):
        census.store.delete(f"{log.name}/{name}")
        done.append(Action(f"{log.name}/{name}", _LEFT_OVER))
    missing = [index for index, record in enumerate(log.records) if record is None]
    for index in reversed(missing):
        path = log.path(index)
        aside = f", moved to {census.store.set_aside(path)}" if census.store.exists(path) else ""
        filling = _filling(census, log, index)
        if filling is not None:
            census.store.create_record(path, filling)
        done.append(Action(path, f"unreadable{aside}; {_what_follows(log, index, filling)}"))
    return done


def _filling(census: Census, log: Records, index: int) -> dict[str, Any] | None:
    """The record that replaces a lost one; None where the log may end before it."""
    later = [record for record in log.records[index + 1 :] if record is not None]
    match log.kind:
        case "pins" | "published" | "starts" | "labels":  # only the newest is followed
            return later[0] if later else None
        case "runs":
            return {"artifacts": {}} if later else None
        case "forgotten":
            return {"sha256": _forgotten_by_corpora(census)}
    return _shards_outside(census, log)


def _what_follows(log: Records, index: int, filling: dict[str, Any] | None) -> str:
    """What is lost with a record, and what follows from it."""
    before = [record for record in log.records[:index] if record is not None]
    match log.kind, filling:
        case (("pins" | "published" | "starts" | "labels"), dict()):
            return "the next one takes its place, and nothing is lost: only the newest is followed"
        case "pins", None if before:
            return (
                f"lost is which fit was pinned last: {pointed_at(before[-1])[0]}, pinned before it, holds again, unless the "
                "settings under `refresh` ask for a new fit"
            )
        case "pins", None:
            return (
                "lost is which fit was pinned: the next run pins what it fits on the corpus of today, which is the same "
                "artifact unless audio is newer than that fit, and then stages after it run again"
            )
        case "published", None if before:
            return (
                f"lost is which student was published last: {pointed_at(before[-1])[0]}, published before it, is the "
                "published one again: `tinywave publish EXPORT` publishes another"
            )
        case "published", None:
            return (
                "lost is which student was published: none is now, and the next run publishes its own: `tinywave publish "
                "EXPORT` publishes another"
            )
        case "starts", None:
            return (
                "lost is from where the teacher of that corpus starts: the one before holds again, or the next run decides by the "
                "speech of today"
            )
        case "labels", None:
            return (
                "lost is which later labels the corpus had: the next run takes those of its source, and recordings without any there have "
                "those that they were taken with"
            )
        case "runs", _:
            return "lost is the history of that run: `tinywave plan` says less about why, no artifact is lost"
        case "forgotten", _:
            return (
                f"written anew with the {len((filling or {})['sha256'])} digests that corpora list: call `tinywave forget` again "
                "for a recording that was forgotten after the last run, before the next one"
            )
    shards = (filling or {})["shards"]
    return f"written anew from {count(len(shards), 'shard')} of the corpus: the next run hashes its source again, no recording is lost"


def _forgotten_by_corpora(census: Census) -> list[str]:
    """Every corpus lists what was forgotten when it was made."""
    corpora = [i for i, f in census.artifacts.items() if f.manifest is not None and f.manifest.part == "corpus"]
    return sorted({digest for i in corpora for digest in _params(census, i).get("forgotten", [])})


def _params(census: Census, artifact_id: str) -> dict[str, Any]:
    try:
        return read_manifest(census.store, artifact_id).params
    except (RecordFault, FileNotFoundError):  # moved away a moment ago
        return {}


def _shards_outside(census: Census, catalog: Records) -> dict[str, Any]:
    """A catalog's record of the shards of its corpus that no other record names. Without stamps: files are hashed again."""
    listed = {shard for record in catalog.readable for shard in record["shards"]}
    manifests = [f.manifest for f in census.artifacts.values() if f.manifest is not None and f.stage == "ingestion"]
    corpora = sorted((m for m in manifests if m.part == "corpus"), key=lambda m: m.created_at)
    # The order in which the corpus has them is part of its identity.
    order = {shard: position for corpus in corpora for position, shard in enumerate(corpus.inputs["shards"])}
    files: list[dict[str, Any]] = []
    shards: list[str] = []
    for m in sorted((m for m in manifests if m.part == "shard"), key=lambda m: order.get(_id(m), len(order))):
        key = f"{m.config.get('corpus')}-{fingerprint([m.version, m.config])[:12]}"
        if _id(m) in listed or catalog.name != f"catalog/{key}":
            continue
        if files_of_shard := _params(census, _id(m)).get("files", []):
            files += [
                {"path": "", "bytes": -1, "stamp": "", "sha256": f["sha256"], "shard": len(shards)}
                for f in files_of_shard
            ]
            shards.append(_id(m))
    return {"files": files, "shards": shards}


def _id(manifest: Manifest) -> str:
    return f"{manifest.stage}/{manifest.fingerprint}"


# Leftovers of killed runs ------------------------------------------------------------------------------------------


def _work(census: Census, now: float) -> list[Action]:
    """Sweep work folders that no run can go on from; checkpoints stay."""
    done = []
    for folder in work_folders(census.store):
        where = f".work/{folder.name}"
        idle = now - max((path.stat().st_mtime for path in [folder, *folder.rglob("*")]), default=0.0)
        if not census.store.local and idle < DAY_S:  # a run that holds no lease may go on with it
            done.append(Action(where, "left: changed less than a day ago, perhaps by a run that goes on"))
        elif idle > STALE_WORK_S or not _resumable(census, folder):
            census.store.check_lease()
            shutil.rmtree(folder)
            done.append(Action(where, "deleted: no run can go on from it"))
        else:
            done.append(Action(where, "left: the next run of this step goes on from it"))
    return done


def _orphaned(census: Census, now: float) -> list[Action]:
    """Sweep uploaded checkpoints that no run can go on from."""
    done = []
    for name in orphaned(census, now):
        census.store.delete(name)
        done.append(Action(name, "uploaded checkpoints deleted: no run can go on from them"))
    return done


def _resumable(census: Census, folder: Path) -> bool:
    stage, _, digest = folder.name.rpartition("-")
    artifact = census.folders.get(f"{stage}/{digest}")
    return not (artifact and artifact.whole) and any(path.is_file() for path in (folder / "resume").rglob("*"))


def _uploads(store: Store, now: float) -> list[Action]:
    """Abort multipart uploads on S3 that began more than a day ago: their parts cost money and are in no listing."""
    if "s3" not in store.filesystem.protocol:
        return []
    bucket, _, prefix = store.root.partition("/")
    done, after = list[Action](), dict[str, str]()
    while True:
        try:
            page = store.filesystem.call_s3(
                "list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", **after
            )
        except OSError as error:  # a right of its own, and not every server has the call
            return [*done, Action(store.url, f"unfinished uploads left: they cannot be listed ({error})")]
        # Only old ones: a younger one may be a run's that is writing now.
        for upload in page.get("Uploads", []):
            started: datetime = upload["Initiated"]
            if now - started.timestamp() > DAY_S:
                with contextlib.suppress(FileNotFoundError):  # another repair was faster
                    store.filesystem.call_s3(
                        "abort_multipart_upload", Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                    )
                done.append(Action(upload["Key"], f"upload of {started:%Y-%m-%d} aborted"))
        if not page.get("IsTruncated"):
            return done
        after = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
