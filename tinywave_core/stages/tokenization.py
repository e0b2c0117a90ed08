"""Tokenization: audio shards in, token shards out, and one `tokens` artifact that describes them all.

Parts: `codebooks` (fitted once on training speech, then pinned; with the draft vocoder beside it), `shard` (tokens.parquet
and vocabulary.json for one audio shard; same audio, same tokens, whatever else is in the shard) and `tokens` (numbers only).
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.errors import MissingInputError
from tinywave_core.stages.base import Execute, Output, Step, Summary
from tinywave_core.stages.ingestion import corpus_key
from tinywave_core.stages.pins import pinned
from tinywave_core.storage.schemas import SAMPLE_RATE, TOKENS
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.threads import use_one_thread
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.audio.utterances import Utterance

VERSION = 1
TOKENS_FILE, VOCABULARY_FILE, STREAMS_FILE = "tokens.parquet", "vocabulary.json", "streams.json"
ID_CONVENTION = "fast"
STREAMS = ("units", "pitch", "style")


def build(config: PipelineConfig, corpus: Artifact, execute: Execute) -> Artifact:
    """The `tokens` artifact of a corpus."""

    def step(part: str, run: Any, inputs: dict[str, list[Artifact]], params: dict[str, Any] | None = None) -> Step:
        return Step(
            store=corpus.store,
            stage="tokenization",
            part=part,
            version=VERSION,
            run=run,
            config=config.tokenization,
            inputs=inputs,
            params=params or {},
            runtime=config.runtime,
        )

    codebooks = pinned(
        step("codebooks", run_codebooks, {"corpus": [corpus]}),
        config.refresh.codebooks,
        config.refresh,
        lambda: float(corpus.summary["hours_train"]),
        execute,
        corpus=corpus_key(config),
    )
    duplicates = corpus.summary["duplicates"]
    shards = execute(
        [
            step(
                "shard",
                run_shard,
                {"audio": [audio], "codebooks": [codebooks]},
                {"drop": sorted(duplicates.get(audio.id, []))},
            )
            for audio in _audio_shards(corpus)
        ]
    )
    return execute([step("tokens", run_tokens, {"shards": shards, "codebooks": [codebooks]})])[0]


def _audio_shards(corpus: Artifact) -> list[Artifact]:
    return [corpus.store.find(shard, "shard") for shard in corpus.summary["shards"]]


# Codebooks -----------------------------------------------------------------------------------------------------------


def run_codebooks(step: Step, output: Output) -> Summary:
    """Fit codebooks and draft vocoder on training speech."""
    from tinywave_core.synthesis.vocoder import DraftVocoder
    from tinywave_core.tokenizers.codebooks import Codebooks

    use_one_thread()
    config = step.config
    assert isinstance(config, TokenizationConfig)
    spoken = _FitSpeech.choose(_audio_shards(step.input("corpus")), config, output)
    codebooks = Codebooks.fit(config, spoken.read("features"))
    counts = np.zeros(codebooks.vocabulary.hubert, np.int64)

    def with_streams() -> Iterator[tuple[Any, Any]]:
        for utterance in spoken.read("vocoder"):
            streams = codebooks.tokenize(utterance.samples, utterance.speaker)
            counts[:] += np.bincount(streams.units, minlength=len(counts))
            yield utterance.samples, streams

    vocoder = DraftVocoder.fit(codebooks, with_streams())
    codebooks.save(output.folder)
    vocoder.save(output.folder)
    return {
        "vocabulary": codebooks.vocabulary.to_json(),
        "utterances": len(spoken.chosen),
        "hours": spoken.samples / SAMPLE_RATE / 3600,
        "unit_counts": counts.tolist(),
        "unused_units": int((counts == 0).sum()),
        "median_f0_hz": vocoder.median_hz,
    }


@dataclass(frozen=True)
class _FitSpeech:
    """The training utterances that are fitted on: by a hash of their ids, so that other shards hold no sway."""

    shards: list[Artifact]
    chosen: frozenset[str]
    samples: int
    output: Output

    @classmethod
    def choose(cls, shards: list[Artifact], config: TokenizationConfig, output: Output) -> "_FitSpeech":
        lengths: dict[str, int] = {}
        for shard in shards:
            table = read_table(shard.path("audio.parquet"), ["utterance_id", "num_samples", "split"])
            lengths |= {row["utterance_id"]: row["num_samples"] for row in table.to_pylist() if row["split"] == "train"}
        if not lengths:
            raise MissingInputError(
                "the corpus has no training utterances to fit the codebooks on: add recordings, or lower "
                "--ingestion.held_out_fraction"
            )
        chosen: list[str] = []
        total = 0
        for utterance_id in sorted(lengths, key=lambda i: hashlib.sha256(f"fit/{config.seed}/{i}".encode()).digest()):
            if total >= config.fit_hours * 3600 * SAMPLE_RATE:
                break
            chosen.append(utterance_id)
            total += lengths[utterance_id]
        return cls(shards, frozenset(chosen), total, output)

    def read(self, what: str) -> Iterator["Utterance"]:
        """Each chosen utterance once."""
        from tinywave_core.audio.utterances import read_utterances

        seen: set[str] = set()
        for shard in self.shards:
            for utterance in read_utterances(shard):
                if utterance.utterance_id in self.chosen and utterance.utterance_id not in seen:
                    seen.add(utterance.utterance_id)
                    yield utterance
                    self.output.progress(len(seen), len(self.chosen), what)


# Shards --------------------------------------------------------------------------------------------------------------


def run_shard(step: Step, output: Output) -> Summary:
    """Tokenize one audio shard."""
    from tinywave_core.audio.utterances import read_utterances
    from tinywave_core.tokenizers.codebooks import Codebooks
    from tinywave_core.tokenizers.speech import RATES_HZ

    use_one_thread()
    audio, codebooks = step.input("audio"), Codebooks.load(step.input("codebooks").path())
    drop = set(step.params["drop"])
    total = pq.read_metadata(audio.path("audio.parquet")).num_rows
    rows = []
    for number, utterance in enumerate(read_utterances(audio), start=1):
        if utterance.utterance_id not in drop:
            rows.append(_row(utterance, codebooks))
        output.progress(number, total, "utterances")
    rows.sort(key=lambda row: row["utterance_id"])
    vocabulary = codebooks.vocabulary
    about = {
        "vocabulary": json.dumps(vocabulary.to_json(), sort_keys=True),
        "rates_hz": json.dumps(RATES_HZ, sort_keys=True),
        "id_convention": ID_CONVENTION,
    }
    path = output.folder / TOKENS_FILE
    write_table(pa.Table.from_pylist(rows, schema=TOKENS).replace_schema_metadata(about), path)
    (output.folder / VOCABULARY_FILE).write_text(json.dumps(vocabulary.to_json(), indent=1, sort_keys=True) + "\n")
    return _shard_summary(rows, vocabulary) | {"ids_bytes": _column_bytes(path, "ids")}


def _row(utterance: "Utterance", codebooks: Any) -> dict[str, Any]:
    from tinywave_core.tokenizers.speech import encode_utterance

    streams = codebooks.tokenize(utterance.samples, utterance.speaker)
    return {
        "utterance_id": utterance.utterance_id,
        "recording_id": utterance.recording_id,
        "speaker": utterance.speaker,
        "transcript": utterance.transcript,
        "split": utterance.split,
        "num_samples": len(utterance.samples),
        **{name: getattr(streams, name).astype(np.uint16) for name in STREAMS},
        "ids": encode_utterance(streams, codebooks.vocabulary).astype(np.uint16),
    }


def _shard_summary(rows: list[dict[str, Any]], vocabulary: Vocabulary) -> Summary:
    summary: Summary = {"vocabulary": vocabulary.to_json()}
    for split in ("train", "held_out"):
        inside = [row for row in rows if row["split"] == split]
        summary[f"{split}_utterances"] = len(inside)
        summary[f"{split}_tokens"] = sum(len(row["ids"]) for row in inside)
        summary[f"{split}_seconds"] = sum(row["num_samples"] for row in inside) / SAMPLE_RATE
    ids = np.concatenate([np.zeros(0, np.uint16), *(row["ids"] for row in rows)])
    kinds = np.bincount(vocabulary.kinds(ids), minlength=len(KINDS))
    summary["kinds"] = {kind: int(count) for kind, count in zip(KINDS, kinds, strict=True)}
    sizes = {"units": vocabulary.hubert, "pitch": vocabulary.pitch, "style": vocabulary.style}
    for name, size in sizes.items():
        codes = np.concatenate([np.zeros(0, np.uint16), *(row[name] for row in rows)])
        summary[f"{name}_counts"] = np.bincount(codes, minlength=size).tolist()
    return summary


def _column_bytes(path: Any, column: str) -> int:
    """Compressed bytes of one column in a Parquet file."""
    metadata = pq.read_metadata(path)
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(c.total_compressed_size for c in chunks if c.path_in_schema.split(".")[0] == column)


# Tokens --------------------------------------------------------------------------------------------------------------

_PER_SHARD = ("utterances", "tokens", "seconds")


def run_tokens(step: Step, output: Output) -> Summary:
    """Add up what the shards report; no tokens are read."""
    codebooks, shards = step.input("codebooks"), step.inputs["shards"]
    summaries = [shard.summary for shard in shards]
    fitted_on = np.asarray(codebooks.summary["unit_counts"], dtype=np.float64)
    splits = [f"{split}_{what}" for split in ("train", "held_out") for what in _PER_SHARD]
    tokens = sum(s["train_tokens"] + s["held_out_tokens"] for s in summaries)
    seconds = sum(s["train_seconds"] + s["held_out_seconds"] for s in summaries)
    kinds = {kind: sum(s["kinds"][kind] for s in summaries) for kind in KINDS}
    counts = {name: np.sum([s[f"{name}_counts"] for s in summaries], axis=0).astype(int).tolist() for name in STREAMS}
    (output.folder / STREAMS_FILE).write_text(json.dumps({"kinds": kinds, **counts}, indent=1, sort_keys=True) + "\n")
    return {
        "shards": [{"id": shard.id, **{name: shard.summary[name] for name in splits}} for shard in shards],
        "codebooks": codebooks.id,
        "vocabulary": codebooks.summary["vocabulary"],
        **{name: sum(s[name] for s in summaries) for name in splits},
        "tokens": tokens,
        "tokens_per_s": tokens / seconds if seconds else 0.0,
        "bytes_per_token": sum(s["ids_bytes"] for s in summaries) / tokens if tokens else 0.0,
        "streams": kinds,
        "unit_histogram": counts["units"],
        "pitch_histogram": counts["pitch"],
        "style_histogram": counts["style"],
        "drift": {
            shard.id: jensen_shannon_bits(fitted_on, np.asarray(shard.summary["units_counts"], np.float64))
            for shard in shards
        },
    }


def jensen_shannon_bits(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """Divergence of two count vectors: 0 when they have the same shape, 1 when they share nothing; 0 for no counts."""
    if not left.sum() or not right.sum():
        return 0.0
    p, q = left / left.sum(), right / right.sum()
    middle = (p + q) / 2

    def bits(x: npt.NDArray[np.float64]) -> float:
        return float((x[x > 0] * np.log2(x[x > 0] / middle[x > 0])).sum())

    return (bits(p) + bits(q)) / 2
