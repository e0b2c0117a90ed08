"""Ingestion: any audio files -> shards of mono 16 kHz utterances, and the corpus that they make up.

Part `shard`: audio.parquet, utterances.parquet and files.parquet of some source files; never changes. Part `corpus`:
the table of all files and the numbers of the whole corpus. The catalog (a numbered log) says which content was taken
and in which shards; content is known by its SHA-256, so renamed, copied or touched files are never taken again.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tinywave_core.audio.decode import Decoder, Recording
from tinywave_core.audio.decoder_process import decoder_name
from tinywave_core.audio.segment import utterance_bounds
from tinywave_core.audio.sidecars import Label, read_labels
from tinywave_core.audio.source import Source, SourceFile
from tinywave_core.audio.utterances import FILES_FILE, UTTERANCES_FILE, UtteranceWriter, encode_flac
from tinywave_core.audio.vad import speech_probabilities, speech_regions, speech_share, vad_name
from tinywave_core.config.ingestion import IngestionConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import SourceError
from tinywave_core.steps.base import Execute, Output, Step, SummaryDict
from tinywave_core.steps.inputs import CORPUS_VERSION, corpus_key
from tinywave_core.storage.forgotten import forgotten
from tinywave_core.storage.schemas import FILES, SAMPLE_RATE
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact, Log, Store, sha256_of

VERSION = CORPUS_VERSION

# Upper edges in seconds of the duration histogram; the last bin is everything above.
DURATION_EDGES_S = (1, 2, 5, 10, 15, 20, 30, 60)
ID_LENGTH = 32

Row = dict[str, Any]


# The plan --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewFile:
    """Content that is not in the corpus yet, with every path under which it lies in the source."""

    file: SourceFile
    sha256: str
    label: Label
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scan:
    """What a source holds today, seen from the corpus: found = new + known + copies + forgotten + unreadable."""

    source: str | None
    found: int = 0
    new: int = 0  # files with content that the corpus does not have
    known: int = 0  # files with content that it has
    copies: int = 0  # further files with the content of a new one
    forgotten: int = 0  # files with content that `tinywave forget` removed: never taken again
    absent: int = 0  # contents of the corpus that the source does not hold today
    hashed: int = 0  # files that were read, because their name, size or time was not known
    unreadable: tuple[str, ...] = ()
    links: int = 0  # symbolic links, left alone
    orphan_transcripts: tuple[str, ...] = ()
    groups: tuple[tuple[NewFile, ...], ...] = field(default=(), repr=False)  # one per shard to make
    seen: tuple[Row, ...] = field(default=(), repr=False)  # stat records that the catalog does not have


def build(config: PipelineConfig, store: Store, execute: Execute) -> Artifact:
    """The corpus: all shards of the catalog and those of the files that are new in the source."""
    today = scan(config, store)
    log = _catalog(config, store)
    made = execute([_shard_step(config, store, group) for group in today.groups]) if today.groups else []
    if all(shard.complete for shard in made):
        _remember(log, today, made)
    by_id = {shard.id: shard for shard in made}
    contents, gone = _contents(log), forgotten(store)
    ids = dict.fromkeys([*_shard_ids(log), *by_id])
    kept = [i for i in ids if not contents.get(i, set()) & gone]
    stored = store.find_all([i for i in kept if i not in by_id], "shard")
    by_id_now = {shard.id: shard for shard in stored} | by_id
    shards = [by_id_now[i] for i in kept]
    # A lost shard that came out under another id (another decoder version, say) has been replaced.
    live = [shard for shard in shards if shard.complete or shard.id in by_id]
    params = {"forgotten": sorted(gone)} if gone else {}
    step = Step(
        store,
        "ingestion",
        "corpus",
        VERSION,
        run_corpus,
        config.ingestion,
        {"shards": live},
        params,
        runtime=config.runtime,
    )
    return execute([step])[0]


def scan(config: PipelineConfig, store: Store) -> Scan:
    """Look at the source: list it, hash what the catalog does not know by path, size and stamp, group what is new."""
    log = _catalog(config, store)
    known, lost = _known_content(log, store)
    if config.source is None:
        if not log.records():
            raise SourceError(
                "no --source was given and the corpus is empty; expected a folder or s3:// URL with audio"
            )
        _check_lost(lost, set(), store)
        return Scan(None, absent=len(known))
    source = Source(config.source)
    listing = source.listing()
    stats = {(f["path"], f["bytes"], f["stamp"]): f["sha256"] for record in log.records() for f in record["files"]}
    unknown = [file for file in listing.audio if (file.path, file.bytes, file.stamp) not in stats]
    hashes = dict(zip((file.path for file in unknown), source.hashes(unknown), strict=True))
    digests = {**hashes, **{f.path: stats[f.path, f.bytes, f.stamp] for f in listing.audio if f.path not in hashes}}
    gone = forgotten(store)
    # A forgotten file is not noted either, so it is read again in each look: the price of keeping only its digest.
    readable = [(f, digest) for f in listing.audio if (digest := digests[f.path]) is not None and digest not in gone]
    by_content: dict[str, list[SourceFile]] = {}
    for file, digest in readable:
        by_content.setdefault(digest, []).append(file)
    fresh = {digest: files for digest, files in by_content.items() if digest not in known}
    labels = read_labels(source, listing, [file.path for files in fresh.values() for file in files])
    new = {digest: _new_file(digest, files, labels.by_path) for digest, files in fresh.items()}
    _check_lost(lost, set(by_content), store)
    return Scan(
        source=config.source,
        found=len(listing.audio),
        new=len(new),
        known=sum(len(files) for digest, files in by_content.items() if digest in known),
        copies=sum(len(files) - 1 for files in fresh.values()),
        forgotten=sum(digest in gone for digest in digests.values()),
        absent=len(known - by_content.keys()),
        hashed=len(unknown),
        unreadable=(*listing.unreadable, *(path for path, digest in hashes.items() if digest is None)),
        links=listing.links,
        orphan_transcripts=labels.orphans,
        groups=_groups(new, lost, config.ingestion.shard_megabytes * 1e6),
        seen=tuple(_stat_row(file, digest) for file, digest in readable if file.path in hashes),
    )


def _new_file(digest: str, files: Sequence[SourceFile], labels: Mapping[str, Label]) -> NewFile:
    """One content under all its paths; speaker and transcript are those of the first path that has one."""
    known = [labels.get(file.path, Label()) for file in files]
    label = Label(
        next((found.speaker for found in known if found.speaker), None),
        next((found.transcript for found in known if found.transcript), None),
    )
    return NewFile(files[0], digest, label, tuple(file.path for file in files[1:]))


def _groups(new: Mapping[str, NewFile], lost: Iterable[Sequence[str]], limit: float) -> tuple[tuple[NewFile, ...], ...]:
    """New files by shard: lost shards as they were, the rest in the order of content, about `limit` bytes each."""
    again = [tuple(new[digest] for digest in sorted(digests)) for digests in lost]
    taken = {file.sha256 for group in again for file in group}
    rest = [new[digest] for digest in sorted(new) if digest not in taken]
    count = max(1, round(sum(file.file.bytes for file in rest) / limit))
    groups: list[list[NewFile]] = [[] for _ in range(count)]
    share = max(1, sum(file.file.bytes for file in rest)) / count
    before = 0
    for file in rest:
        groups[min(count - 1, int(before / share))].append(file)
        before += file.file.bytes
    return (*again, *(tuple(group) for group in groups if group))


def _shard_step(config: PipelineConfig, store: Store, group: Sequence[NewFile]) -> Step:
    """One shard. Its identity is the content and its labels, and what decodes and cuts it; paths are context."""
    files = [{"sha256": f.sha256, "speaker": f.label.speaker, "transcript": f.label.transcript} for f in group]
    places = {f.sha256: {"path": f.file.path, "location": f.file.location, "copies": list(f.copies)} for f in group}
    return Step(
        store,
        "ingestion",
        "shard",
        VERSION,
        run_shard,
        config.ingestion,
        params={"files": files, "decoder": decoder_name(), "vad": vad_name()},
        context={"source": config.source, "files": places},
        runtime=config.runtime,
    )


# The catalog -----------------------------------------------------------------------------------------------------


def _catalog(config: PipelineConfig, store: Store) -> Log:
    return store.log(f"catalog/{corpus_key(config)}")


def _shard_ids(log: Log) -> list[str]:
    return list(dict.fromkeys(shard for record in log.records() for shard in record["shards"]))


def _known_content(log: Log, store: Store) -> tuple[set[str], list[list[str]]]:
    """Content that whole shards hold, and the content of each shard that is lost and not replaced.

    A shard that holds a forgotten recording counts as lost; what else it held goes into a new one.
    """
    contents, gone = _contents(log), forgotten(store)
    sound = [shard for shard, held in contents.items() if not held & gone]
    whole = {shard.id for shard in store.find_all(sound, "shard") if shard.complete}
    known = set().union(*(contents[shard] for shard in whole))
    lost = dict.fromkeys(tuple(sorted(contents[shard] - known - gone)) for shard in contents if shard not in whole)
    return known, [list(digests) for digests in lost if digests]


def _contents(log: Log) -> dict[str, set[str]]:
    """Digests of the files in each shard of the catalog."""
    contents: dict[str, set[str]] = {}
    for record in log.records():
        for file in record["files"]:
            if file["shard"] is not None:
                contents.setdefault(record["shards"][file["shard"]], set()).add(file["sha256"])
    return contents


def _check_lost(lost: Sequence[Sequence[str]], present: set[str], store: Store) -> None:
    """A shard that is lost from the store is made again, which needs all of its files."""
    for digests in lost:
        gone = [digest for digest in digests if digest not in present]
        if gone:
            raise SourceError(
                f"the store {store.url} has lost a shard of the corpus, and {len(gone)} of its {len(digests)} source "
                "files are not in the source: pass the --source that has them, or start another corpus with "
                "--ingestion.corpus"
            )


def _remember(log: Log, today: Scan, made: Sequence[Artifact]) -> None:
    """Append what this run took; if another run was faster, append what it did not."""
    while True:
        listed = set(_shard_ids(log))
        kept = [(shard, group) for shard, group in zip(made, today.groups, strict=True) if shard.id not in listed]
        shard_of = {file.sha256: number for number, (_, group) in enumerate(kept) for file in group}
        files = [{**row, "shard": shard_of.get(row["sha256"])} for row in today.seen]
        hashed = {row["sha256"] for row in today.seen}
        # Content of a lost shard that was remade under another id: its stat is known already.
        files += [
            {**_stat_row(file.file, file.sha256), "shard": shard_of[file.sha256]}
            for _, group in kept
            for file in group
            if file.sha256 not in hashed
        ]
        if not files and not kept:
            return
        try:
            log.append({"files": files, "shards": [shard.id for shard, _ in kept]})
            return
        except FileExistsError:
            continue


def _stat_row(file: SourceFile, digest: str) -> Row:
    return {"path": file.path, "bytes": file.bytes, "stamp": file.stamp, "sha256": digest}


# Part `shard` ----------------------------------------------------------------------------------------------------


def run_shard(step: Step, output: Output) -> SummaryDict:
    """Decode, cut and store the files of one shard, in the order of their content."""
    config = step.config
    assert isinstance(config, IngestionConfig)
    source = Source(step.context["source"])
    rows: list[Row] = []
    recordings: dict[str, str] = {}
    utterances: set[str] = set()
    files = step.params["files"]
    with Decoder(output.runtime, config.max_recording_hours) as decoder, UtteranceWriter(output.folder) as writer:
        for number, file in enumerate(files):
            place = step.context["files"][file["sha256"]]
            output.progress(number, len(files), place["path"])
            with source.local_path(place["location"], output.resume / "download") as path:
                size = path.stat().st_size if path.exists() else -1
                if size < 0 or sha256_of(path) != file["sha256"]:
                    raise SourceError(
                        f"{place['path']} changed while it was being ingested: run again when it is at rest"
                    )
                recording = decoder.decode(path)
            row = _file_row(file, place["path"], size, recording)
            for utterance in _take(config, file, row, recording, recordings):
                if utterance["utterance_id"] not in utterances:
                    utterances.add(utterance["utterance_id"])
                    writer.add(utterance)
                    row["utterances"] += 1
                    row["speech_samples"] += utterance["num_samples"]
            if row["status"] == "accepted" and not row["utterances"]:
                row.update(status="skipped", reason="duplicate", detail="all of its utterances are in other files")
            rows += [row, *(_copy_row(row, copy) for copy in place["copies"])]
    output.progress(len(files), len(files))
    write_table(pa.Table.from_pylist(rows, schema=FILES), output.folder / FILES_FILE)
    speech = sum(row["speech_samples"] for row in rows)
    return {**_counts(rows), "utterances": len(utterances), "hours": speech / SAMPLE_RATE / 3600}


def _file_row(file: Row, path: str, size: int, recording: Recording) -> Row:
    """The row of FILES before anything is known about speech."""
    seen = recording.verdict
    duration_s = seen.decoded_frames / seen.sample_rate if seen.decoded_frames and seen.sample_rate else None
    return {
        **dict.fromkeys(FILES.names),
        "path": path,
        "sha256": file["sha256"],
        "bytes": size,
        "status": "rejected" if seen.reason else "accepted",
        "reason": seen.reason,
        "detail": seen.detail,
        "decoder": decoder_name(),
        "container": seen.container,
        "encoding": seen.encoding,
        "sample_rate": seen.sample_rate,
        "channels": seen.channels,
        "header_frames": seen.header_frames,
        "decoded_frames": seen.decoded_frames,
        "duration_s": duration_s,
        "peak": seen.peak,
        "dc_offset": seen.dc_offset,
        "clipped_share": seen.clipped_share,
        "speaker": file["speaker"],
        "utterances": 0,
        "speech_samples": 0,
    }


def _copy_row(row: Row, path: str) -> Row:
    """The row of a further file with the same bytes."""
    copy = {**dict.fromkeys(FILES.names), "path": path, "sha256": row["sha256"], "bytes": row["bytes"]}
    detail = f"the same bytes as {row['path']}"
    return {**copy, "status": "skipped", "reason": "duplicate", "detail": detail, "utterances": 0, "speech_samples": 0}


def _take(
    config: IngestionConfig, file: Row, row: Row, recording: Recording, recordings: dict[str, str]
) -> Iterator[Row]:
    """The utterances of a recording. Fills in `row` what is found out on the way, or why there are none."""
    samples_N = recording.samples_N
    if samples_N is None:
        return
    row["recording_id"] = content_id(samples_N)
    if row["recording_id"] in recordings:
        row.update(
            status="skipped", reason="duplicate", detail=f"the same samples as {recordings[row['recording_id']]}"
        )
        return
    seconds = len(samples_N) / SAMPLE_RATE
    if seconds < config.min_utterance_s:
        detail = f"{seconds:.3f} s; ingestion.min_utterance_s is {config.min_utterance_s:g}"
        row.update(status="rejected", reason="too_short", detail=detail)
        return
    probabilities_W = speech_probabilities(samples_N)
    row["speech_share"] = speech_share(probabilities_W, config.vad_threshold)
    bounds = _bounds(config, samples_N, probabilities_W)
    if row["speech_share"] < config.min_speech_share or not bounds:
        found, wanted = row["speech_share"], config.min_speech_share
        detail = f"{found:.1%} of {seconds:.1f} s is speech; ingestion.min_speech_share is {wanted:.1%}"
        row.update(status="rejected", reason="no_speech", detail=detail)
        return
    recordings[row["recording_id"]] = row["path"]
    row["split"] = split_of(config, file["speaker"], row["recording_id"])
    for start, end in bounds:
        yield {
            "utterance_id": content_id(samples_N[start:end]),
            "recording_id": row["recording_id"],
            "path": row["path"],
            "start_samples": start,
            "num_samples": end - start,
            "speaker": file["speaker"],
            "transcript": file["transcript"] if end - start == len(samples_N) else None,
            "split": row["split"],
            "flac": encode_flac(samples_N[start:end]),
        }


def _bounds(
    config: IngestionConfig, samples_N: npt.NDArray[np.int16], probabilities_W: npt.NDArray[np.float32]
) -> list[tuple[int, int]]:
    in_samples = partial(_samples, rate=SAMPLE_RATE)
    regions = speech_regions(probabilities_W, len(samples_N), config.vad_threshold, in_samples(config.min_silence_s))
    return utterance_bounds(
        regions,
        probabilities_W,
        len(samples_N),
        shortest=in_samples(config.min_utterance_s),
        longest=in_samples(config.max_utterance_s),
    )


def _samples(seconds: float, rate: int) -> int:
    return round(seconds * rate)


def content_id(samples_N: npt.NDArray[np.int16]) -> str:
    """Id of audio: SHA-256 of its 16-bit samples, 32 hex digits."""
    return hashlib.sha256(samples_N.astype("<i2").tobytes()).hexdigest()[:ID_LENGTH]


def split_of(config: IngestionConfig, speaker: str | None, recording_id: str) -> str:
    """`held_out` or `train`, from a hash of the speaker or the recording alone: stable however the corpus grows."""
    unit = f"speaker:{speaker}" if config.split_by == "speaker" and speaker else f"recording:{recording_id}"
    position = int.from_bytes(hashlib.sha256(unit.encode()).digest()[:8], "big") / 2**64
    return "held_out" if position < config.held_out_fraction else "train"


def _counts(rows: Sequence[Row]) -> SummaryDict:
    status = Counter(row["status"] for row in rows)
    reasons = Counter(row["reason"] for row in rows if row["reason"])
    return {
        "files": {"found": len(rows), **{name: status[name] for name in ("accepted", "rejected", "skipped")}},
        "reasons": dict(sorted(reasons.items())),
    }


# Part `corpus` ---------------------------------------------------------------------------------------------------


def run_corpus(step: Step, output: Output) -> SummaryDict:
    """Merge the shards' tables, drop what an earlier shard has, and count."""
    files: list[Row] = []
    utterances: list[Row] = []
    shards: list[str] = []
    duplicates: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, shard in enumerate(step.inputs["shards"]):
        output.progress(number, len(step.inputs["shards"]), shard.id)
        index = read_table(shard.path(UTTERANCES_FILE)).to_pylist()
        fresh = [row for row in index if row["utterance_id"] not in seen]
        again = [row["utterance_id"] for row in index if row["utterance_id"] in seen]
        seen.update(row["utterance_id"] for row in fresh)
        files += _without_duplicates(read_table(shard.path(FILES_FILE)).to_pylist(), fresh)
        utterances += fresh
        shards += [shard.id] if fresh else []
        duplicates.update({shard.id: again} if again else {})
    files += map(_forgotten_row, step.params.get("forgotten", []))
    write_table(pa.Table.from_pylist(files, schema=FILES), output.folder / FILES_FILE)
    counts = _counts(files)
    if not utterances:
        raise _nothing_accepted(counts, files)
    return {"shards": shards, "duplicates": duplicates, **counts, **_speech(utterances)}


def _forgotten_row(digest: str) -> Row:
    detail = "removed by `tinywave forget`; nothing but this digest is kept"
    row = {**dict.fromkeys(FILES.names), "path": "", "sha256": digest, "bytes": 0}
    return {**row, "status": "rejected", "reason": "forgotten", "detail": detail, "utterances": 0, "speech_samples": 0}


def _without_duplicates(files: list[Row], fresh: Sequence[Row]) -> list[Row]:
    """A shard's file rows with only what no earlier shard has; a file of which nothing is left is skipped."""
    samples: Counter[str] = Counter()
    number: Counter[str] = Counter()
    for row in fresh:
        samples[row["recording_id"]] += row["num_samples"]
        number[row["recording_id"]] += 1
    for row in files:
        if row["status"] == "accepted":
            row["utterances"], row["speech_samples"] = (number[row["recording_id"]], samples[row["recording_id"]])
            if not row["utterances"]:
                row.update(
                    status="skipped", reason="duplicate", detail="the same samples as a file of an earlier shard"
                )
    return files


def _speech(utterances: Sequence[Row]) -> SummaryDict:
    """The corpus in numbers."""
    samples: Counter[str] = Counter()
    for row in utterances:
        samples[row["split"]] += row["num_samples"]
    number = Counter(row["split"] for row in utterances)
    hours = {split: samples[split] / SAMPLE_RATE / 3600 for split in ("train", "held_out")}
    durations = Counter(sum(row["num_samples"] > edge * SAMPLE_RATE for edge in DURATION_EDGES_S) for row in utterances)
    return {
        "hours": hours["train"] + hours["held_out"],
        "hours_train": hours["train"],
        "hours_held_out": hours["held_out"],
        "utterances": len(utterances),
        "utterances_train": number["train"],
        "utterances_held_out": number["held_out"],
        "speakers": len({row["speaker"] for row in utterances if row["speaker"]}),
        "speakers_held_out": len(
            {row["speaker"] for row in utterances if row["speaker"] and row["split"] == "held_out"}
        ),
        "recordings": len({row["recording_id"] for row in utterances}),
        "unlabelled_recordings": len({row["recording_id"] for row in utterances if not row["speaker"]}),
        "transcribed_utterances": sum(row["transcript"] is not None for row in utterances),
        "duration_histogram": {
            "edges_s": list(DURATION_EDGES_S),
            "utterances": [durations[i] for i in range(len(DURATION_EDGES_S) + 1)],
        },
    }


def _nothing_accepted(counts: SummaryDict, files: Sequence[Row]) -> SourceError:
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts["reasons"].items())
    example = next((f"; {row['path']}: {row['detail']}" for row in files if row["detail"]), "")
    return SourceError(
        f"none of the {counts['files']['found']} files gave speech ({reasons}){example}. Expected recordings of speech "
        "of at least ingestion.min_utterance_s: pass another --source, or change the settings that the reasons name"
    )


def require_split(corpus: Artifact) -> None:
    """SourceError unless the corpus has utterances on both sides of the split."""
    summary = corpus.summary
    if summary["utterances_train"] and summary["utterances_held_out"]:
        return
    raise SourceError(
        f"the corpus has {summary['utterances_train']} training and {summary['utterances_held_out']} held-out "
        f"utterances of {summary['speakers']} labelled speakers and {summary['unlabelled_recordings']} unlabelled "
        "recordings; expected at least one of each: pass --ingestion.split_by recording, change "
        "--ingestion.held_out_fraction, or add recordings"
    )
