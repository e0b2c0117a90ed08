"""What the phonetic units are worth, as a part of evaluation: against phones and words, and by how much of the speaker is in them.

Part `units`: spans.parquet, the phones and words that were found with their times. Times come from where interleaving takes them
(`tokenization.alignment`): pocketsphinx gives phones and words of English transcripts, TextGrids give both where they have a
tier "phones"; a Wav2Vec2ForCTC and all others give words alone. What needs no times is measured without them.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tinywave_core.config.evaluation import UnitsConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.tokenization import AlignmentConfig
from tinywave_core.drawing import draw
from tinywave_core.stages.evaluation.judges_given import files_of
from tinywave_core.stages.evaluation.summary import UnitsSummary
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import (
    audio_of,
    each_held_out_row,
    each_training_row,
    held_out_shards,
    training_shards,
)
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tinywave_core.alignment.words import Word
    from tinywave_core.audio.utterances import Utterance
    from tinywave_core.evals.units import Span

VERSION = 1
SPANS = "spans.parquet"
ALIGN_S = 0.1  # of one core, for a second of speech (measured)
NOT_INSTALLED = "pocketsphinx is not installed: pip install 'tinywave[alignment]'"
WORDS_ALONE = 'only words have times: phones come from pocketsphinx (English), or from a tier "phones" of TextGrids'
_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("kind", pa.string()),  # phone or word
        ("label", pa.string()),
        ("start_samples", pa.int64()),
        ("end_samples", pa.int64()),
    ]
)

UnitsStep = Step[UnitsConfig, UnitsSummary]


def build(config: PipelineConfig, tokens: Artifact, execute: Execute) -> dict[str, Artifact]:
    """The artifact `units`; none where it is not wanted."""
    if not config.evaluation.units.items:
        return {}
    (made,) = execute([units_step(config, tokens)])
    return {"units": made}


def units_step(config: PipelineConfig, tokens: Artifact) -> UnitsStep:
    """The step that measures the units of a `tokens` artifact."""
    asked, alignment = config.evaluation.units, config.tokenization.alignment
    listed = {shard.id: shard for shard in held_out_shards(tokens)}
    if asked.split == "all":
        listed |= {shard.id: shard for shard in training_shards(tokens)}
    shards = [listed[i] for i in sorted(listed) if listed[i].part != "text"]
    drift = TokensSummary.of(tokens).drift.values()
    return Step(
        store=tokens.store,
        stage="evaluation",
        part="units",
        version=VERSION,
        run=run_units,
        config=asked,
        params={
            "alignment": alignment.model_copy(update={"path": None}).model_dump(),
            "given": _identity(alignment),
            "drift": max(drift) if drift else None,
        },
        context={"path": alignment.path},
        inputs={"tokens": shards, "audio": audio_of(shards)},
        runtime=config.runtime,
    )


def _identity(alignment: AlignmentConfig) -> str | None:
    """What identifies the times: the files that have or make them; of pocketsphinx, whether it is there."""
    from tinywave_core.checkpoints.spiritlm import digest_of

    if alignment.path is None:
        return "pocketsphinx" if find_spec("pocketsphinx") else None
    folder = Path(alignment.path)
    if alignment.kind == "ctc":
        return digest_of(files_of(folder))
    # Files are read by the names of recordings, which only the step knows: all of them, by name, size and time of change.
    places = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    stats = [[str(p.relative_to(folder)), p.stat().st_size, p.stat().st_mtime_ns] for p in places if p.is_file()]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def seconds(config: PipelineConfig, utterances: float, utterance_s: float) -> float:
    """What it costs, nearly all of it for times."""
    return ALIGN_S * min(config.evaluation.units.items, utterances) * utterance_s


# The work ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """Phones and words of an utterance."""

    phones: "Sequence[Word]" = ()
    words: "Sequence[Word]" = ()


def run_units(step: UnitsStep, output: Output) -> UnitsSummary:
    """Find times, and measure."""
    import numpy as np

    from tinywave_core.evals.units import Spoken, unit_figures
    from tinywave_core.threads import use_one_thread

    use_one_thread()
    config = step.config
    rows = _drawn(step)
    if not rows:
        write_table(_SCHEMA.empty_table(), output.folder / SPANS)
        return UnitsSummary(figures=None, split=config.split, why="there is no speech", refused={}, drift=None)
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    times, refused = _times(step, output, set(rows))
    spoken = [
        Spoken(
            i,
            row["speaker"],
            np.asarray(row["units"], np.int64),
            vocabulary.rates.units,
            _spans(times[i].phones),
            _spans(times[i].words),
        )
        for i, row in rows.items()
    ]
    _write(times, output.folder / SPANS)
    return UnitsSummary(
        figures=unit_figures(spoken, vocabulary.hubert, config.seed, config.triples),
        split=config.split,
        why=_why_no_phones(step, times),
        refused=refused,
        drift=step.params["drift"],
    )


def _drawn(step: UnitsStep) -> dict[str, dict[str, Any]]:
    """Rows of so many utterances, in the order of a hash of their ids; those with a transcript first, since they have times."""
    columns = ["utterance_id", "speaker", "transcript", "units"]
    found = each_held_out_row(step.inputs["tokens"], columns)
    if step.config.split == "all":
        found = chain(found, each_training_row(step.inputs["tokens"], columns))

    def key(row: dict[str, Any]) -> tuple[bool, bytes]:
        return not row["transcript"], hashlib.sha256(
            f"units/{step.config.seed}/{row['utterance_id']}".encode()
        ).digest()

    drawn = draw((row for row in found if row["units"]), key, step.config.items)
    return {row["utterance_id"]: row for row in drawn}


def _times(step: UnitsStep, output: Output, wanted: set[str]) -> tuple[dict[str, Times], dict[str, int]]:
    """Times of every wanted utterance, and of how many there are none, by reason."""
    from tinywave_core.alignment.base import Refusal
    from tinywave_core.audio.utterances import read_utterances

    find, times, reasons = _finder(step), dict.fromkeys(sorted(wanted), Times()), Counter[str]()
    done = set[str]()
    for audio in step.inputs["audio"]:
        for utterance in read_utterances(audio, wanted - done):
            found = find(utterance)
            if isinstance(found, Refusal):
                reasons[found.reason] += 1
            else:
                times[utterance.utterance_id] = found
            done.add(utterance.utterance_id)
            output.progress(len(done), len(wanted), "utterances aligned")
    return times, dict(sorted(reasons.items()))


def _finder(step: UnitsStep) -> "Callable[[Utterance], Any]":
    """Utterance -> its times, or a refusal."""
    from tinywave_core.alignment.base import Refusal

    config, path = AlignmentConfig.model_construct(**step.params["alignment"]), step.context["path"]
    if config.kind == "given":
        return _given(step, path)
    if config.kind == "ctc":
        from tinywave_core.alignment.ctc import CtcAligner

        ctc = CtcAligner.load(Path(path))

        def align(utterance: "Utterance") -> Any:
            found = ctc.align(utterance.samples, utterance.transcript or "")
            return found if isinstance(found, Refusal) else Times((), found)

        return _where_transcribed(align)
    if step.params["given"] is None:
        return lambda _: Refusal("not_installed", NOT_INSTALLED)
    from tinywave_core.alignment.sphinx import SphinxAligner

    sphinx = SphinxAligner()

    def align_phones(utterance: "Utterance") -> Any:
        from tinywave_core.alignment.checks import check

        found = sphinx.align_phones(utterance.samples, utterance.transcript or "")
        if isinstance(found, Refusal):
            return found
        words, phones = found
        least = sphinx.min_confidence if config.min_confidence is None else config.min_confidence
        fault = check(words, len(utterance.samples), transcript=utterance.transcript, min_confidence=least)
        return fault or Times(phones, words)

    return _where_transcribed(align_phones)


def _where_transcribed(align: "Callable[[Utterance], Any]") -> "Callable[[Utterance], Any]":
    from tinywave_core.alignment.base import Refusal

    def find(utterance: "Utterance") -> Any:
        lacking = "the recording has no transcript, or the utterance is a cut of a longer one"
        return align(utterance) if utterance.transcript else Refusal("no_transcript", lacking)

    return find


def _given(step: UnitsStep, path: str) -> "Callable[[Utterance], Any]":
    from tinywave_core.alignment.base import Refusal
    from tinywave_core.alignment.readers import open_alignments, words_of_cut
    from tinywave_core.audio.utterances import UTTERANCES_FILE, channels_of
    from tinywave_core.storage.shards import rows_of

    # All of them: a file of words that fits two recordings is an error whichever of them was drawn.
    recordings = {
        row["path"] for audio in step.inputs["audio"] for row in rows_of(audio.path(UTTERANCES_FILE), ["path"])
    }
    alignments = open_alignments(path, sorted(recordings))
    channel_of = {
        recording: channel for audio in step.inputs["audio"] for recording, channel in channels_of(audio).items()
    }

    def find(utterance: "Utterance") -> Any:
        channel = channel_of.get(utterance.recording_id)
        words = alignments.words(utterance.path, channel)
        if words is None:
            return Refusal("no_alignment", f"{path} has no words for {utterance.path}")
        phones = [] if channel else alignments.phones(utterance.path) or []
        start, length = utterance.start_samples, len(utterance.samples)
        return Times(words_of_cut(phones, start, length), words_of_cut(words, start, length))

    return find


def _spans(words: "Sequence[Word]") -> "list[Span]":
    from tinywave_core.evals.units import Span

    return [Span(word.text, word.start_samples / SAMPLE_RATE, word.end_samples / SAMPLE_RATE) for word in words]


def _write(times: dict[str, Times], path: Path) -> None:
    rows = [
        {
            "utterance_id": i,
            "kind": kind,
            "label": w.text,
            "start_samples": w.start_samples,
            "end_samples": w.end_samples,
        }
        for i, found in sorted(times.items())
        for kind, words in (("phone", found.phones), ("word", found.words))
        for w in words
    ]
    write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), path)


def _why_no_phones(step: UnitsStep, times: dict[str, Times]) -> str:
    if any(found.phones for found in times.values()):
        return ""
    if any(found.words for found in times.values()):
        return WORDS_ALONE
    if step.params["alignment"]["kind"] == "pocketsphinx" and step.params["given"] is None:
        return NOT_INSTALLED
    return "no utterance has a transcript that could be aligned, or given times"
