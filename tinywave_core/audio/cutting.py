"""Decoded recordings -> utterances: where speech is found, it is cut, named by its content and put on one side of the split.

In: 16-bit mono samples at 16 kHz with what decoding found. Out: rows of the schemas AUDIO and FILES. A recording without usable
speech is a row with its reason, never an error. Shapes: N samples, W windows of the voice activity detector.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tinywave_core.audio.channels import labelled_speaker, labels_of_recording, unit_of
from tinywave_core.audio.decode import Recording
from tinywave_core.audio.decoder_process import decoder_name
from tinywave_core.audio.quality import UNFIT, bandwidth_hz, warnings_of
from tinywave_core.audio.segment import utterance_bounds
from tinywave_core.audio.utterances import encode_flac
from tinywave_core.audio.vad import Region, speech_probabilities, speech_regions, speech_share
from tinywave_core.config.ingestion import CorpusConfig
from tinywave_core.storage.fingerprint import place_of
from tinywave_core.storage.schemas import FILES, SAMPLE_RATE

ID_LENGTH = 32
SLACK_SAMPLES = SAMPLE_RATE // 2  # that a given part may end behind its recording: times are rounded
Row = dict[str, Any]


class Cutter:
    """Cuts recordings one after the other. It remembers them, so that no recording and no utterance is taken twice."""

    def __init__(self, config: CorpusConfig) -> None:
        self._config = config
        self._path_of: dict[str, str] = {}  # by recording id
        self.utterance_ids: set[str] = set()
        self.rows: list[Row] = []
        """Rows of FILES, of every file and of its copies."""

    def cut(self, file: Row, path: str, copies: Sequence[str], size: int, recording: Recording) -> Iterator[Row]:
        """The recording's utterances as rows of AUDIO; `file` has its digest and labels. Adds to `rows` when it is through."""
        # One utterance at a time: the sound of a recording of hours is not held a second time as FLAC.
        file, lost = labels_of_recording(file, path, recording.verdict.channel_mix)
        row = _file_row(file, path, size, recording)
        for utterance in self._utterances(file, row, recording.samples_N):
            if utterance["utterance_id"] not in self.utterance_ids:
                self.utterance_ids.add(utterance["utterance_id"])
                row["utterances"] += 1
                row["speech_samples"] += utterance["num_samples"]
                yield utterance
        if row["status"] == "accepted" and not row["utterances"]:
            _refuse(row, "skipped", "duplicate", "all of its utterances are in other files")
        if lost and row["status"] == "accepted":
            # Before what decoding found: some warnings are told by how the detail ends.
            row["detail"] = "; ".join(filter(None, [lost, row["detail"]]))
        row["warnings"] = (row["status"] == "accepted" and warnings_of(row)) or None
        self.rows += [row, *(_copy_row(row, copy) for copy in copies)]

    def _utterances(self, file: Row, row: Row, samples_N: npt.NDArray[np.int16] | None) -> Iterator[Row]:
        """All utterances. Fills in `row` what is found out on the way, or why there are none."""
        if samples_N is None:
            return
        row["recording_id"] = content_id(samples_N)
        if row["recording_id"] in self._path_of:
            _refuse(row, "skipped", "duplicate", f"the same samples as {self._path_of[row['recording_id']]}")
            return
        given = _given(file, row, len(samples_N))
        said = {part: text for part, text in given.items() if text}
        bounds = self._bounds(row, samples_N, said, [part for part in given if part not in said])
        if not bounds:
            return
        self._path_of[row["recording_id"]] = row["path"]
        row["bandwidth_hz"] = bandwidth_hz(samples_N, bounds)
        row["split"] = split_of(self._config, labelled_speaker(row), unit_of(row))
        for start, end in bounds:
            yield {
                "utterance_id": content_id(samples_N[start:end]),
                "recording_id": row["recording_id"],
                "path": row["path"],
                "start_samples": start,
                "num_samples": end - start,
                "speaker": file["speaker"],
                # A transcript is of the whole recording: which of its words a piece holds is not known.
                "transcript": said.get((start, end)) or (file["transcript"] if end - start == len(samples_N) else None),
                "split": row["split"],
                "flac": encode_flac(samples_N[start:end]),
            }

    def _bounds(
        self, row: Row, samples_N: npt.NDArray[np.int16], said: Collection[Region], spoken: Sequence[Region]
    ) -> list[Region]:
        """(start, end) of each utterance in samples: the parts of which labels tell what is `said`, else what is `spoken` by the labels or
        by voice activity; none, with the reason in `row`, where there is too little speech."""
        config, seconds = self._config, len(samples_N) / SAMPLE_RATE
        if seconds < config.min_utterance_s:
            detail = f"{seconds:.3f} s; ingestion.min_utterance_s is {config.min_utterance_s:g}"
            _refuse(row, "rejected", "too_short", detail)
            return []
        probabilities_W = speech_probabilities(samples_N)
        row["speech_share"] = speech_share(probabilities_W, config.vad_threshold)
        regions = speech_regions(
            probabilities_W, len(samples_N), config.vad_threshold, _in_samples(config.min_silence_s)
        )
        regions = _merged(spoken) or regions
        shortest, longest = _in_samples(config.min_utterance_s), _in_samples(config.max_utterance_s)
        if said:
            return _given_bounds(config, row, sorted(said), regions, probabilities_W)
        bounds = utterance_bounds(regions, probabilities_W, len(samples_N), shortest=shortest, longest=longest)
        # A recording that is cut leaves its silence behind, however long that is: what is left is speech.
        is_cut = len(samples_N) > _in_samples(config.max_utterance_s)
        if bounds and (is_cut or row["speech_share"] >= config.min_speech_share):
            return bounds
        share, wanted = row["speech_share"], config.min_speech_share
        expected = "no stretch of it can be cut out" if is_cut else f"ingestion.min_speech_share is {wanted:.1%}"
        detail = f"{share:.1%} of {seconds:.1f} s is speech; {expected}"
        _refuse(row, "rejected", "no_speech", detail)
        return []


def _given(file: Row, row: Row, total: int) -> dict[Region, str]:
    """What is said in each given part of a recording of so many samples; nothing where there are none, or they are of another one."""
    segments = file.get("segments") or []
    parts = {(_in_samples(start), min(_in_samples(stop), total)): text for start, stop, text in segments}
    outside = sum(stop > (total + SLACK_SAMPLES) / SAMPLE_RATE for _, stop, _ in segments)
    if outside:
        row["detail"] = f"{outside} of {len(segments)} given parts end behind the recording: {UNFIT}"
        return {}
    return parts


def _merged(regions: Sequence[Region]) -> list[Region]:
    """The same stretches in order, those that overlap or touch as one."""
    merged = list[Region]()
    for start, end in sorted(regions):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _given_bounds(
    config: CorpusConfig,
    row: Row,
    given: Sequence[Region],
    regions: Sequence[Region],
    probabilities_W: npt.NDArray[np.float32],
) -> list[Region]:
    """The parts of a recording that labels name, as they are; those that are too long are cut at pauses, those too short left out."""
    shortest, longest = _in_samples(config.min_utterance_s), _in_samples(config.max_utterance_s)
    bounds = list[Region]()
    for start, end in given:
        if end - start <= longest:
            bounds += [(start, end)] if end - start >= shortest else []
            continue
        inside = [(max(a, start), min(b, end)) for a, b in regions if a < end and b > start]
        pieces = utterance_bounds(inside, probabilities_W, end, shortest=shortest, longest=longest)
        bounds += [(max(start, first), last) for first, last in pieces]
    if not bounds:
        detail = f"each of its {len(given)} given parts is shorter than ingestion.min_utterance_s ({config.min_utterance_s:g} s)"
        _refuse(row, "rejected", "too_short", detail)
    return bounds


def _in_samples(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def content_id(samples_N: npt.NDArray[np.int16]) -> str:
    """Id of audio: SHA-256 of its 16-bit samples, 32 hex digits."""
    # Little-endian on every machine: the id is the same everywhere.
    return hashlib.sha256(samples_N.astype("<i2").tobytes()).hexdigest()[:ID_LENGTH]


def split_of(config: CorpusConfig, speaker: str | None, recording_id: str) -> str:
    """`held_out` or `train`, from a hash of the speaker or the recording alone: stable however the corpus grows."""
    return "held_out" if position_of(config.split_by, speaker, recording_id) < config.held_out_fraction else "train"


def position_of(split_by: str, speaker: str | None, recording_id: str) -> float:
    """A place in [0, 1): held out is what lies below the fraction."""
    # The whole speaker, so that held-out speech is of voices that were never trained on.
    return place_of(f"speaker:{speaker}" if split_by == "speaker" and speaker else f"recording:{recording_id}")


# Rows of FILES -----------------------------------------------------------------------------------------------------


def forgotten_row(digest: str) -> Row:
    """The row of a file that was removed for good."""
    detail = "removed by `tinywave forget`; nothing but this digest is kept"
    return _unused_row("", digest, 0, "rejected", "forgotten", detail)


def _copy_row(row: Row, path: str) -> Row:
    """The row of a further file with the same bytes: it shares the fate of the first, or is one time too many."""
    if row["status"] == "rejected":
        detail = f"{row['detail']} (the same bytes as {row['path']})"
        return _unused_row(path, row["sha256"], row["bytes"], "rejected", row["reason"], detail)
    return _unused_row(path, row["sha256"], row["bytes"], "skipped", "duplicate", f"the same bytes as {row['path']}")


def _unused_row(path: str, digest: str, size: int, status: str, reason: str, detail: str) -> Row:
    row = {**dict.fromkeys(FILES.names), "path": path, "sha256": digest, "bytes": size}
    _refuse(row, status, reason, detail)
    return {**row, "utterances": 0, "speech_samples": 0}


def _refuse(row: Row, status: str, reason: str, detail: str) -> None:
    row.update(status=status, reason=reason, detail=detail)


def _file_row(file: Row, path: str, size: int, recording: Recording) -> Row:
    """The row of a file before anything is known about its speech."""
    verdict = recording.verdict
    frames, rate = verdict.decoded_frames, verdict.sample_rate
    return {
        **dict.fromkeys(FILES.names),
        "path": path,
        "sha256": file["sha256"],
        "bytes": size,
        "status": "rejected" if verdict.reason else "accepted",
        "reason": verdict.reason,
        "detail": verdict.detail,
        "decoder": verdict.decoder or decoder_name(),
        "container": verdict.container,
        "encoding": verdict.encoding,
        "sample_rate": verdict.sample_rate,
        "channels": verdict.channels,
        "header_frames": verdict.header_frames,
        "decoded_frames": verdict.decoded_frames,
        "duration_s": frames / rate if frames and rate else None,
        "peak": verdict.peak,
        "dc_offset": verdict.dc_offset,
        "clipped_share": verdict.clipped_share,
        "flat_share": verdict.flat_share,
        "channel_mix": verdict.channel_mix,
        "channel_correlation": verdict.channel_correlation,
        "channel_alternation": verdict.channel_alternation,
        "speaker": file["speaker"],
        "utterances": 0,
        "speech_samples": 0,
    }
