"""Labels that come later, or change: an audio shard stays what it is, and its part `relabelled` is the shard with the labels of today.

Nothing is decoded and nothing is cut: rows get another speaker, transcript and side of the split. Which shards are relabelled is the
newest record of the log `labels/<corpus>`. A label that is no longer there says nothing, as a file that is gone does: what it said
holds. See infra/decisions/0037-labels-that-come-later.md.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tinywave_core.audio.channels import is_channel, labelled_speaker, speaker_of_channel, unit_of
from tinywave_core.audio.cutting import split_of
from tinywave_core.audio.sidecars import Label
from tinywave_core.audio.utterances import FILES_FILE, UTTERANCES_FILE, UtteranceWriter, read_rows
from tinywave_core.config.ingestion import CorpusConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.stages.ingestion.summary import RELABELLED, AudioShardSummary, Relabelled, RelabelledSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import corpus_key
from tinywave_core.storage.fingerprint import fingerprint
from tinywave_core.storage.schemas import FILES
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact, Store

VERSION = 1
RelabelledStep = Step[CorpusConfig, RelabelledSummary]
LabelRow = dict[str, str | None]
"""`speaker` and `transcript`, each only where it is another one than the shard's own."""


def with_labels_of_today(
    config: PipelineConfig, store: Store, labels: Mapping[str, Label], shards: list[Artifact], execute: Execute
) -> list[Artifact]:
    """The shards of the corpus, relabelled where `labels` (by the digest of a file) or those of an earlier run are other than theirs."""
    log = store.log(f"labels/{corpus_key(config)}")
    known = log.latest() or {"shards": {}}
    asked = fingerprint(
        [[shard.id for shard in shards], {digest: _values(labels[digest]) for digest in sorted(labels)}]
    )
    before = dict(zip(known["shards"], store.find_all(list(known["shards"].values()), RELABELLED), strict=True))
    if known.get("asked") == asked and all(shard.complete for shard in before.values()):
        return [before.get(shard.id, shard) for shard in shards]
    steps = {
        shard.id: _step(config, store, shard, change)
        for shard in shards
        # A plan has shards that are not made yet: they get the labels of today when they are.
        if shard.complete and (change := _change(config.ingestion, shard, before.get(shard.id), labels))
    }
    made = dict(zip(steps, execute(list(steps.values())) if steps else [], strict=True))
    if all(shard.complete for shard in [*shards, *made.values()]) and (made or before):
        record = {"asked": asked, "shards": {original: shard.id for original, shard in made.items()}}
        if record != known:
            with contextlib.suppress(FileExistsError):  # another run was faster: the next one compares anew
                log.append(record)
    return [made.get(shard.id, shard) for shard in shards]


def _step(config: PipelineConfig, store: Store, shard: Artifact, change: "_Change") -> RelabelledStep:
    return Step(
        store,
        "ingestion",
        RELABELLED,
        VERSION,
        run_relabelled,
        config.ingestion.of_corpus,
        {"shard": [shard]},
        {"labels": change.labels, "trained_on": change.trained_on},
        runtime=config.runtime,
    )


# What is other --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Change:
    """What a shard's labels are today, where they are not its own."""

    labels: dict[str, LabelRow]
    """By the digest of a file."""
    trained_on: list[str]
    """Recordings that the shard holds out and that later labels put, or once put, on the training side: models may have heard them."""


@dataclass(frozen=True)
class _Recordings:
    """The recordings of a shard as it was cut."""

    ids_of: dict[str, list[str]] = field(default_factory=dict)
    """By digest, of those that were accepted: two where channels were taken apart."""
    unit_of: dict[str, str] = field(default_factory=dict)
    """By digest, what puts a recording without a speaker on a side."""
    own: dict[str, LabelRow] = field(default_factory=dict)
    """Speaker and, where the recording is one utterance, transcript."""

    @classmethod
    def of(cls, shard: Artifact, wanted: Mapping[str, Any]) -> "_Recordings":
        columns = ["path", "sha256", "recording_id", "speaker", "status", "channel_mix"]
        files = read_table(shard.path(FILES_FILE), columns)
        index = read_table(shard.path(UTTERANCES_FILE), ["utterance_id", "recording_id", "transcript"]).to_pydict()
        texts = zip(index["utterance_id"], index["recording_id"], index["transcript"], strict=True)
        # A recording that is one utterance has its samples, and so its id. What is cut has no transcript: whose words would be where?
        whole = {recording: text for utterance, recording, text in texts if utterance == recording}
        found = cls()
        for row in files.to_pylist():
            if row["status"] == "accepted" and row["sha256"] in wanted:
                found.ids_of.setdefault(row["sha256"], []).append(row["recording_id"])
                found.unit_of[row["sha256"]] = unit_of(row)
                has_text = row["recording_id"] in whole and not is_channel(row["channel_mix"])
                found.own[row["sha256"]] = {"speaker": labelled_speaker(row)} | (
                    {"transcript": whole[row["recording_id"]]} if has_text else {}
                )
        return found


def _change(
    config: CorpusConfig, shard: Artifact, before: Artifact | None, labels: Mapping[str, Label]
) -> _Change | None:
    """None where the shard's own labels are those of today, and always were."""
    earlier: dict[str, Any] = {"labels": {}, "trained_on": []}
    if before is not None and before.manifest is not None:
        earlier = before.manifest.params
    wanted = {**labels, **earlier["labels"]}
    if not wanted:
        return None
    recordings = _Recordings.of(shard, wanted)
    own = recordings.own
    changed: dict[str, LabelRow] = {}
    trained_on = set(earlier["trained_on"])
    for digest in sorted(own):
        today = own[digest] | earlier["labels"].get(digest, {}) | _values(labels.get(digest, Label()))
        if row := {what: today[what] for what in own[digest] if today[what] != own[digest][what]}:
            changed[digest] = row
        unit = recordings.unit_of[digest]
        sides = [split_of(config, speaker, unit) for speaker in (own[digest]["speaker"], today["speaker"])]
        trained_on |= set(recordings.ids_of[digest]) if sides == ["held_out", "train"] else set()
    return _Change(changed, sorted(trained_on)) if changed or trained_on else None


def _values(label: Label) -> LabelRow:
    """What a label says; what it does not say is not in it."""
    return {what: value for what in ("speaker", "transcript") if (value := getattr(label, what))}


# The shard with other labels ------------------------------------------------------------------------------------------


def run_relabelled(step: RelabelledStep, output: Output) -> RelabelledSummary:
    """The same utterances and files in the same order, with the labels of today."""
    config, shard = step.config, step.input("shard")
    labels: dict[str, LabelRow] = step.params["labels"]
    files = read_table(shard.path(FILES_FILE)).to_pylist()
    of_recording = {
        row["recording_id"]: labels[row["sha256"]]
        for row in files
        if row["status"] == "accepted" and row["sha256"] in labels
    }
    # By id: training can have heard what the shard trains on, and what later labels once put there.
    heard = set(step.params["trained_on"])
    to_held_out, to_train = set[str](), set[str]()
    for row in files:
        if row["status"] != "accepted":
            continue
        recording = row["recording_id"]
        was, speaker = row["split"], of_recording.get(recording, {}).get("speaker", labelled_speaker(row))
        row["speaker"] = speaker_of_channel(speaker, row["path"], row["channel_mix"])
        row["split"] = split_of(config, speaker, unit_of(row))
        if row["split"] == "held_out" and (was == "train" or recording in heard):
            to_held_out.add(recording)
        if row["split"] == "train" and was == "held_out":
            to_train.add(recording)
    row_of = {row["recording_id"]: row for row in files if row["status"] == "accepted"}
    with UtteranceWriter(output.folder) as writer:
        for utterance in read_rows(shard):
            recording = utterance["recording_id"]
            label, row = of_recording.get(recording, {}), row_of[recording]
            utterance["speaker"], utterance["split"] = row["speaker"], row["split"]
            if "transcript" in label and utterance["utterance_id"] == utterance["recording_id"]:
                utterance["transcript"] = label["transcript"]
            writer.add(utterance)
    write_table(pa.Table.from_pylist(files, schema=FILES), output.folder / FILES_FILE)
    counts = {what: sum(what in label for label in of_recording.values()) for what in ("speaker", "transcript")}
    return RelabelledSummary(
        **AudioShardSummary.of(shard).model_dump(),
        other_speakers=counts["speaker"],
        other_transcripts=counts["transcript"],
        to_train=len(to_train),
        to_held_out=sorted(to_held_out),
    )


def relabelled(shards: Sequence[Artifact]) -> Relabelled | None:
    """What later labels change in a corpus of these shards; None where none is relabelled."""
    changed = [RelabelledSummary.of(shard) for shard in shards if shard.part == RELABELLED]
    heard = sorted(recording for summary in changed for recording in summary.to_held_out)
    return (
        Relabelled(
            speakers=sum(summary.other_speakers for summary in changed),
            transcripts=sum(summary.other_transcripts for summary in changed),
            to_train=sum(summary.to_train for summary in changed),
            to_held_out=len(heard),
            heard=fingerprint(heard) if heard else "",
        )
        if changed
        else None
    )
