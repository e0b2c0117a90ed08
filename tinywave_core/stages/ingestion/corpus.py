"""Ingestion: any audio files -> shards of mono 16 kHz utterances, and the corpus that they make up.

Part `shard`: audio.parquet, utterances.parquet and files.parquet of some source files; never changes. Part `relabelled`: a shard
with labels that came later. Part `corpus`: the table of all files and the numbers of the whole corpus. The catalog (`audio.catalog`) says which content was taken
and in which shards; `audio.scan` finds what is new in the source, `audio.cutting` cuts recordings into utterances.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tinywave_core.audio.catalog import Catalog
from tinywave_core.audio.channels import labelled_speaker, unit_of
from tinywave_core.audio.cutting import Cutter, forgotten_row, position_of
from tinywave_core.audio.decode import Decoder, Recording
from tinywave_core.audio.decoder_process import decoder_name
from tinywave_core.audio.scan import NewFile, Scan, nothing_to_take, scan_source
from tinywave_core.audio.sidecars import Label
from tinywave_core.audio.source import Source
from tinywave_core.audio.utterances import FILES_FILE, UTTERANCES_FILE, UtteranceWriter
from tinywave_core.audio.vad import vad_name
from tinywave_core.config.ingestion import CorpusConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.errors import SourceError
from tinywave_core.stages.ingestion.counts import (
    CorpusCounts,
    Row,
    compact_id,
    count_files,
    count_reasons,
    replacement,
    without_duplicates,
)
from tinywave_core.stages.ingestion.extras import decoders, judged_later, taken_again, without_refusals
from tinywave_core.stages.ingestion.late_parts import with_late_parts
from tinywave_core.stages.ingestion.relabelling import relabelled, with_labels_of_today
from tinywave_core.stages.ingestion.summary import AudioShardSummary, CorpusSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import CORPUS_VERSION, corpus_key
from tinywave_core.storage.schemas import FILES, SAMPLE_RATE
from tinywave_core.storage.shards import RowWriter, read_table, rows_of, where, write_table
from tinywave_core.storage.store import Artifact, Store, sha256_of

VERSION = CORPUS_VERSION


def scan(config: PipelineConfig, store: Store) -> Scan:
    """Look at the source: list it, hash what the catalog does not know by path, size and stamp, group what is new."""
    catalog = Catalog(store, corpus_key(config))
    today = scan_source(config.source, catalog, config.ingestion.shard_megabytes * 1e6, taken_again(catalog))
    return with_late_parts(catalog, today)


def build(config: PipelineConfig, store: Store, execute: Execute) -> Artifact:
    """The corpus of a source as it is now."""
    return take(config, store, scan(config, store), execute)


def take(config: PipelineConfig, store: Store, today: Scan, execute: Execute) -> Artifact:
    """The corpus: all shards of the catalog and those of the files that are new in the source."""
    made = execute([_shard_step(config, store, group) for group in today.groups]) if today.groups else []
    catalog = Catalog(store, corpus_key(config))
    # A plan makes no shards: what it would make is not remembered.
    if all(shard.complete for shard in made):
        taken = [[(file.file, file.sha256) for file in group] for group in today.groups]
        catalog.remember(today.seen, [(shard.id, files) for shard, files in zip(made, taken, strict=True)])
    step = Step(
        store,
        "ingestion",
        "corpus",
        VERSION,
        run_corpus,
        config.ingestion.of_corpus,
        {"shards": with_labels_of_today(config, store, today.labels_of_known, _live_shards(catalog, made), execute)},
        _no_longer_wanted(catalog, today),
        runtime=config.runtime,
    )
    return execute([step])[0]


def _no_longer_wanted(catalog: Catalog, today: Scan) -> dict[str, Any]:
    """What was forgotten, and what other content has replaced, as far as there is any."""
    forgotten, replaced = sorted(catalog.forgotten), catalog.replaced(today.seen)
    return ({"forgotten": forgotten} if forgotten else {}) | (
        {"replaced": dict(sorted(replaced.items()))} if replaced else {}
    )


def check_source(config: PipelineConfig, store: Store) -> None:
    """SourceError for a source without audio, and for none where the corpus is empty; a quick look before anything is started."""
    if config.source is not None:
        Source(config.source).require_audio()
    elif Catalog(store, corpus_key(config)).is_empty:
        raise nothing_to_take()


def _live_shards(catalog: Catalog, made: Sequence[Artifact]) -> list[Artifact]:
    """The shards of the corpus in the order of the catalog, then those that were made now and it does not have."""
    by_id = {shard.id: shard for shard in made}
    ids = catalog.usable_shards(by_id)
    stored = catalog.store.find_all([i for i in ids if i not in by_id], "shard")
    shards = {shard.id: shard for shard in stored} | by_id
    # A lost shard that came out under another id (another decoder version, say) has been replaced.
    return [shards[i] for i in ids if shards[i].complete or i in by_id]


def _shard_step(
    config: PipelineConfig, store: Store, group: Sequence[NewFile]
) -> Step[CorpusConfig, AudioShardSummary]:
    """One shard. Its identity is the content and its labels, and what decodes and cuts it; paths are context."""
    special = decoders(config.source, group)
    files = [
        {"sha256": f.sha256, "speaker": f.label.speaker, "transcript": f.label.transcript}
        | special.get(f.sha256, {})
        | ({"segments": [list(segment) for segment in f.label.segments]} if f.label.segments else {})
        | _of_channels(f.label, config.ingestion.channels)
        for f in group
    ]
    paths = {f.sha256: {"path": f.file.path, "location": f.file.location, "copies": list(f.copies)} for f in group}
    return Step(
        store,
        "ingestion",
        "shard",
        VERSION,
        run_shard,
        config.ingestion.of_corpus,
        params={"files": files, "decoder": decoder_name(), "vad": vad_name()},
        context={"source": config.source, "files": paths},
        runtime=config.runtime,
    )


def _of_channels(label: Label, channels: str) -> dict[str, Any]:
    """What labels say of each channel, where that has a say in what is made of the file."""
    if not label.channels or not (channels == "split" or label.is_of_channels):
        return {}
    return {
        "channels": [
            {"channel": number, "transcript": of.transcript, "segments": [list(segment) for segment in of.segments]}
            for number, of in label.channels
        ]
    }


def run_shard(step: Step[CorpusConfig, AudioShardSummary], output: Output) -> AudioShardSummary:
    """Decode, cut and store the files of one shard, in the order of their content."""
    config, source, files = step.config, Source(step.context["source"]), step.params["files"]
    cutter, download = Cutter(config), output.resume / "download"
    locations = [paths["location"] for paths in step.context["files"].values()]
    with (
        Decoder(output.runtime, config.max_recording_hours) as decoder,
        UtteranceWriter(output.folder) as writer,
        source.unpacked(locations, output.resume / "rows"),
    ):
        for number, file in enumerate(files):
            paths = step.context["files"][file["sha256"]]
            output.progress(number, len(files), paths["path"])
            is_split = config.channels == "split"
            size, recordings = _decode(decoder, source, paths, file["sha256"], download, split=is_split)
            for copies, recording in zip((paths["copies"], ()), recordings, strict=False):
                for utterance in cutter.cut(file, paths["path"], copies, size, recording):
                    writer.add(utterance)
    output.progress(len(files), len(files))
    write_table(pa.Table.from_pylist(cutter.rows, schema=FILES), output.folder / FILES_FILE)
    return AudioShardSummary(
        files=count_files(cutter.rows),
        reasons=count_reasons(cutter.rows),
        utterances=len(cutter.utterance_ids),
        hours=sum(row["speech_samples"] for row in cutter.rows) / SAMPLE_RATE / 3600,
    )


def _decode(
    decoder: Decoder, source: Source, paths: dict[str, Any], sha256: str, download: Path, *, split: bool
) -> tuple[int, list[Recording]]:
    """Bytes of a source file, and what is in it, one recording or one per channel; SourceError if it is not the file that was scanned."""
    with source.local_path(paths["location"], download) as path:
        size = path.stat().st_size if path.exists() else -1
        # A file that is still being copied would be stored under the digest of what it is not.
        if size < 0 or sha256_of(path) != sha256:
            raise SourceError(f"{paths['path']} changed while it was being ingested: run again when it is at rest")
        return size, decoder.decode_channels(path) if split else [decoder.decode(path)]


def run_corpus(step: Step[CorpusConfig, CorpusSummary], output: Output) -> CorpusSummary:
    """Merge the shards' tables, drop what an earlier shard has and what was replaced, and count; one shard's rows at a time."""
    counts = CorpusCounts()
    shards: list[str] = []
    dropped: dict[str, list[str]] = {}
    seen: set[bytes] = set()
    inputs = step.inputs["shards"]
    replaced = replacement(lambda: _looks(inputs), step.params.get("replaced", {}))
    judged = judged_later(inputs)
    with RowWriter(output.folder / FILES_FILE, FILES) as writer:
        for number, shard in enumerate(inputs):
            output.progress(number, len(inputs), shard.id)
            files = read_table(shard.path(FILES_FILE)).to_pylist()
            replaced.mark(files)
            # The table without sound: a corpus of any size is counted without reading its audio.
            index = read_table(shard.path(UTTERANCES_FILE)).to_pylist()
            ids = [compact_id(row["utterance_id"]) for row in index]
            taken = [
                i not in seen and r["recording_id"] not in replaced.recordings for i, r in zip(ids, index, strict=True)
            ]
            fresh = [row for row, take in zip(index, taken, strict=True) if take]
            left = {i for i, take in zip(ids, taken, strict=True) if take}
            again = [row["utterance_id"] for i, row in zip(ids, index, strict=True) if i not in left]
            seen |= left
            files = without_duplicates(without_refusals(files, judged), fresh)
            writer.add(files)
            counts.add(files, fresh)
            shards += [shard.id] if fresh else []  # one of duplicates alone would be tokenized for nothing
            dropped.update({shard.id: again} if again else {})
        forgotten = [forgotten_row(digest) for digest in step.params.get("forgotten", [])]
        writer.add(forgotten)
        counts.add(forgotten, [])
    if not counts.utterances:
        raise _nothing_accepted(counts)
    summary = counts.summary(shards, dropped)
    changed = relabelled(inputs)
    return summary if changed is None else summary.model_copy(update={"relabelled": changed})


def _looks(shards: Sequence[Artifact]) -> Iterator[Row]:
    """What tells whether a file was replaced, of every file of these shards."""
    for shard in shards:
        yield from rows_of(shard.path(FILES_FILE), ["sha256", "recording_id", "status"])


def _nothing_accepted(counts: CorpusCounts) -> SourceError:
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(counts.reasons.items()))
    example = f"; {counts.example['path']}: {counts.example['detail']}" if counts.example else ""
    return SourceError(
        f"none of the {counts.found} files gave speech ({reasons}){example}. Expected recordings of speech "
        "of at least ingestion.min_utterance_s: pass another --source, or change the settings that the reasons name"
    )


def require_split(config: CorpusConfig, corpus: Artifact) -> None:
    """SourceError unless the corpus has utterances on both sides of the split, with the setting that would change that."""
    summary = CorpusSummary.of(corpus)
    if summary.utterances_train and summary.utterances_held_out:
        return
    columns = ["status", "speaker", "recording_id", "path", "sha256", "channel_mix"]
    rows = rows_of(corpus.path(FILES_FILE), columns, where("status", "accepted"))
    recordings = sorted({(labelled_speaker(row), unit_of(row)) for row in rows}, key=str)
    missing = "nothing is left to train on" if summary.utterances_held_out else "nothing is held out"
    raise SourceError(
        f"{missing}: the corpus has {summary.utterances_train} training and {summary.utterances_held_out} held-out utterances of "
        f"{summary.speakers} labelled speakers and {summary.unlabelled_recordings} unlabelled recordings, and what trains a model cannot "
        f"judge it. {_way_out(config.split_by, recordings)}"
    )


def _way_out(split_by: str, recordings: list[tuple[str | None, str]]) -> str:
    """What puts some recordings on each side."""
    for by in dict.fromkeys((split_by, "recording")):
        places = sorted({position_of(by, speaker, recording) for speaker, recording in recordings})
        # Between the first two, in as few digits as it takes: the first one is held out.
        fraction = (
            next((f for n in (1, 2, 3, 4) if (f := _rounded_up(places[0], n)) <= min(places[1], 0.89)), None)
            if len(places) > 1
            else None
        )
        if fraction is not None:
            flag = "" if by == split_by else f"--ingestion.split_by {by} "
            return f"Pass {flag}--ingestion.held_out_fraction {fraction:g}, which holds one out, or add recordings"
    return "Add recordings: one can be on one side only"


def _rounded_up(value: float, digits: int) -> float:
    return (int(value * 10**digits) + 1) / 10**digits
