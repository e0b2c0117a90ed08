"""Tokenization: audio shards in, token shards out, and one `tokens` artifact that describes them all.

Parts: the speech tokenizer, which is either `codebooks` (fitted once on training speech, then pinned; with the draft vocoder
beside it) or `release` (which files of SpiritLM's release speak here: digests, never weights), then `shard` (tokens.parquet
and vocabulary.json for one audio shard; same audio, same tokens, whatever else is in the shard) and `tokens` (numbers only).
Ids follow the vocabulary of the teacher.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tinywave_core.checkpoints.teacher import teacher_folder
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.errors import CheckpointError, ConfigError, MissingInputError
from tinywave_core.sequences.summary import shard_summary
from tinywave_core.stages.ingestion.summary import AudioShardSummary, CorpusSummary
from tinywave_core.stages.tokenization.interleaving import with_text
from tinywave_core.steps.base import Execute, Output, Step, SummaryDict
from tinywave_core.steps.inputs import corpus_key
from tinywave_core.steps.pins import pinned
from tinywave_core.storage.schemas import SAMPLE_RATE, TOKENS, TOKENS_FILE
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.threads import keep_large_blocks, use_one_thread
from tinywave_core.tokenizers.vocabulary import BYTE_TEXT, KINDS, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.audio.utterances import Utterance
    from tinywave_core.tokenizers.speech import Streams
    from tinywave_core.tokenizers.spiritlm import Kind, SpeechSource

VERSION = 3
VOCABULARY_FILE, STREAMS_FILE = "vocabulary.json", "streams.json"
STREAMS = ("units", "pitch", "style")
GATHERED_SAMPLES = 120 * SAMPLE_RATE  # a tokenizer sees so much at once: enough for batches on a GPU, little to keep


def build(config: PipelineConfig, corpus: Artifact, execute: Execute) -> Artifact:
    """The `tokens` artifact of a corpus."""
    check_speech_tokenizer(config)
    settings = speech_settings(config)
    context = places(config)

    def step(
        part: str,
        run: Any,
        inputs: dict[str, list[Artifact]],
        params: dict[str, Any] | None = None,
        **others: Any,
    ) -> Step:
        identity: dict[str, Any] = {"version": VERSION, "config": settings} | others
        return Step(
            store=corpus.store,
            stage="tokenization",
            part=part,
            run=run,
            inputs=inputs,
            params=params or {},
            runtime=config.runtime,
            **identity | {"context": context | others.get("context", {})},
        )

    vocabulary = teacher_vocabulary(config)
    if uses_release(config):
        tokenizer = _release(config, step, execute)
    else:
        tokenizer = pinned(
            step("codebooks", run_codebooks, {"corpus": [corpus]}),
            config.refresh.codebooks,
            config.refresh,
            lambda: CorpusSummary.of(corpus).hours_train,
            execute,
            corpus=corpus_key(config),
        )
    of_teacher = {} if vocabulary is None else {"vocabulary": vocabulary.to_json()}
    duplicates = CorpusSummary.of(corpus).duplicates
    shards = execute(
        [
            replace(
                step(
                    "shard",
                    run_shard,
                    {"audio": [audio], "tokenizer": [tokenizer]},
                    {"drop": sorted(duplicates.get(audio.id, [])), **of_teacher},
                ),
                hours=AudioShardSummary.of(audio).hours,
            )
            for audio in _audio_shards(corpus)
        ]
    )
    shards = with_text(config, _audio_shards(corpus), shards, step, execute)
    return execute([step("tokens", run_tokens, {"shards": shards, "tokenizer": [tokenizer]}, of_teacher)])[0]


def uses_release(config: PipelineConfig) -> bool:
    """Whether speech becomes tokens of SpiritLM's models rather than of codebooks of our own."""
    return config.spiritlm_dir is not None or config.tokenization.hubert.encoder is not None


def speech_settings(config: PipelineConfig) -> TokenizationConfig:
    """The settings that have a say in the tokens: models of a release are known by their content, codebooks by all the rest."""
    tokens, hubert = config.tokenization.tokens, config.tokenization.hubert
    if not uses_release(config):
        if hubert.quantizer is not None:
            raise ConfigError(
                "--tokenization.hubert.quantizer is set, but neither --spiritlm-dir nor --tokenization.hubert.encoder: a "
                "quantizer needs a HuBERT; set one of them"
            )
        # How the tokens are mixed with text comes after they are made.
        defaults = {name: getattr(TokenizationConfig(), name) for name in ("interleaving", "alignment", "text")}
        return config.tokenization.model_copy(update=defaults)
    if tokens == "expressive" and config.spiritlm_dir is None:
        raise ConfigError(
            "--tokenization.hubert.encoder gives units only; expressive tokens need SpiritLM's pitch and style models too: "
            "set --spiritlm-dir, or --tokenization.tokens base"
        )
    return TokenizationConfig(tokens=tokens)


def teacher_vocabulary(config: PipelineConfig) -> Vocabulary | None:
    """The vocabulary of the configured teacher; None for that of bytes and units, which a fresh one takes."""
    from tinywave_core.tokenizers.directory import read_directory

    folder = teacher_folder(config)
    vocabulary = None if folder is None else read_directory(folder, config.adaptation.id_convention)
    return None if vocabulary is None or vocabulary.is_of_bytes else vocabulary


def places(config: PipelineConfig) -> dict[str, Any]:
    """Where the models lie that `load_tokenizer` reads: a step's context, for they are known by their content."""
    hubert = config.tokenization.hubert
    folder = teacher_folder(config)
    return {
        "spiritlm_dir": config.spiritlm_dir,
        "encoder": hubert.encoder,
        "quantizer": hubert.quantizer,
        "teacher": None if folder is None else str(folder),
    }


def _source(context: dict[str, Any], tokens: str) -> "SpeechSource":
    from tinywave_core.tokenizers.spiritlm import SpeechSource

    hubert, quantizer = context["encoder"], context["quantizer"]
    return SpeechSource.of(context["spiritlm_dir"], tokens, hubert, quantizer)  # type: ignore[arg-type]


def _audio_shards(corpus: Artifact) -> list[Artifact]:
    return corpus.store.find_all(CorpusSummary.of(corpus).shards, "shard")


# SpiritLM's release -----------------------------------------------------------------------------------------------------


def check_speech_tokenizer(config: PipelineConfig) -> None:
    """Refuse settings, files and sizes that do not go together; reads headers and configs only."""
    speech_settings(config)
    vocabulary = teacher_vocabulary(config)
    if uses_release(config):
        sizes = _source(places(config), config.tokenization.tokens).sizes(config.tokenization.tokens)
        if vocabulary is not None:
            sizes.require(vocabulary)


def _release(config: PipelineConfig, step: Any, execute: Execute) -> Artifact:
    """The artifact that stands for the release's models."""
    tokens = config.tokenization.tokens
    source = _source(places(config), tokens)
    params = {"digests": source.digests(tokens), "sizes": asdict(source.sizes(tokens))}
    return execute([step("release", run_release, {}, params)])[0]


def run_release(step: Step, output: Output) -> SummaryDict:
    """Load every model once, strictly, and write down which they are."""
    from tinywave_core.tokenizers.hearing import RELEASE_FILE
    from tinywave_core.tokenizers.speech import RATES_HZ
    from tinywave_core.tokenizers.spiritlm import shared_tokenizer

    config, params = step.config, step.params
    assert isinstance(config, TokenizationConfig)
    vocabulary = Vocabulary(text=BYTE_TEXT, **params["sizes"])
    shared_tokenizer(
        _source(step.context, config.tokens), config.tokens, _device(step), vocabulary, params["digests"].items()
    )
    about = {"tokens": config.tokens, "rates_hz": RATES_HZ, **params}
    (output.folder / RELEASE_FILE).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return {"vocabulary": vocabulary.to_json(), **params}


def _device(step: Step) -> str:
    from tinywave_core.devices import pick_device

    return pick_device(step.runtime).type


# Codebooks -----------------------------------------------------------------------------------------------------------


def run_codebooks(step: Step, output: Output) -> SummaryDict:
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


def run_shard(step: Step, output: Output) -> SummaryDict:
    """Tokenize one audio shard."""
    from tinywave_core.audio.utterances import read_utterances
    from tinywave_core.tokenizers.speech import RATES_HZ

    use_one_thread()
    keep_large_blocks()
    audio = step.input("audio")
    tokenize, vocabulary = _tokenizer(step)
    drop = set(step.params["drop"])
    lengths = pq.read_table(audio.path("utterances.parquet"), columns=["num_samples"])["num_samples"].to_numpy()
    total = int(lengths.sum()) // SAMPLE_RATE
    rows = []
    samples = 0
    for batch in batches(read_utterances(audio), GATHERED_SAMPLES):
        kept = [utterance for utterance in batch if utterance.utterance_id not in drop]
        for utterance, streams in zip(kept, tokenize(kept), strict=True):
            rows.append(_row(utterance, streams, vocabulary))
        samples += sum(len(utterance.samples) for utterance in batch)
        output.progress(samples // SAMPLE_RATE, total, "s of speech")
    rows.sort(key=lambda row: row["utterance_id"])
    about = {
        "vocabulary": json.dumps(vocabulary.to_json(), sort_keys=True),
        "rates_hz": json.dumps(RATES_HZ, sort_keys=True),
        "id_convention": vocabulary.convention,
    }
    path = output.folder / TOKENS_FILE
    write_table(pa.Table.from_pylist(rows, schema=TOKENS).replace_schema_metadata(about), path)
    (output.folder / VOCABULARY_FILE).write_text(
        json.dumps(vocabulary.to_json(), indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    return shard_summary(rows, vocabulary, path)


Tokenize = Callable[[Sequence["Utterance"]], "list[Streams]"]


def _tokenizer(step: Step) -> tuple[Tokenize, Vocabulary]:
    config = step.config
    assert isinstance(config, TokenizationConfig)
    return load_tokenizer(step, config.tokens)


def load_tokenizer(step: Step, tokens: "Kind") -> tuple[Tokenize, Vocabulary]:
    """What turns utterances into streams, and the vocabulary that their ids are of: from a step's input `tokenizer`, param
    `vocabulary` (that of a teacher with its own) and context (`places`)."""
    artifact = step.input("tokenizer")
    of_teacher = step.params.get("vocabulary")
    if artifact.part == "release":
        from tinywave_core.tokenizers.spiritlm import shared_tokenizer

        vocabulary = Vocabulary.from_json(of_teacher or artifact.summary["vocabulary"])
        source = _source(step.context, tokens)
        digests = source.digests(tokens)
        if digests != artifact.summary["digests"]:
            raise CheckpointError(
                "the files of SpiritLM's release here are not those that this run started with: the release changed, or this "
                "machine has another one; give all of them the same files"
            )
        models = shared_tokenizer(source, tokens, _device(step), vocabulary, digests.items())
        return lambda utterances: models.streams([u.samples for u in utterances]), vocabulary

    from tinywave_core.tokenizers.codebooks import Codebooks
    from tinywave_core.tokenizers.spiritlm import Sizes

    codebooks = Codebooks.load(artifact.path())
    vocabulary = codebooks.vocabulary if of_teacher is None else Vocabulary.from_json(of_teacher)
    Sizes(codebooks.vocabulary.hubert, codebooks.vocabulary.pitch, codebooks.vocabulary.style).require(vocabulary)
    return lambda utterances: [codebooks.tokenize(u.samples, u.speaker) for u in utterances], vocabulary


def batches(utterances: "Iterable[Utterance]", samples: int) -> "Iterator[list[Utterance]]":
    """Utterances in groups of at least so many samples."""
    batch: list[Utterance] = []
    held = 0
    for utterance in utterances:
        batch.append(utterance)
        held += len(utterance.samples)
        if held >= samples:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _row(utterance: "Utterance", streams: "Streams", vocabulary: Vocabulary) -> dict[str, Any]:
    from tinywave_core.tokenizers.speech import encode_utterance

    return {
        "utterance_id": utterance.utterance_id,
        "recording_id": utterance.recording_id,
        "speaker": utterance.speaker,
        "transcript": utterance.transcript,
        "split": utterance.split,
        "num_samples": len(utterance.samples),
        **{name: getattr(streams, name).astype(np.uint16) for name in STREAMS},
        "unvoiced_chunks": streams.unvoiced_chunks,
        "ids": encode_utterance(streams, vocabulary).astype(np.uint16),
    }


# Tokens --------------------------------------------------------------------------------------------------------------

_PER_SHARD = ("utterances", "tokens", "seconds")


def run_tokens(step: Step, output: Output) -> SummaryDict:
    """Add up what the shards report; no tokens are read."""
    tokenizer, shards = step.input("tokenizer"), step.inputs["shards"]
    summaries = [shard.summary for shard in shards]
    splits = [f"{split}_{what}" for split in ("train", "held_out") for what in _PER_SHARD]
    tokens = sum(s["train_tokens"] + s["held_out_tokens"] for s in summaries)
    seconds = sum(s["train_seconds"] + s["held_out_seconds"] for s in summaries)
    kinds = {kind: sum(s["kinds"][kind] for s in summaries) for kind in KINDS}
    counts = {name: np.sum([s[f"{name}_counts"] for s in summaries], axis=0).astype(int).tolist() for name in STREAMS}
    (output.folder / STREAMS_FILE).write_text(
        json.dumps({"kinds": kinds, **counts}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    return {
        "shards": [
            {"id": shard.id, "part": shard.part, **{name: shard.summary[name] for name in splits}} for shard in shards
        ],
        **_of_text(step, shards),
        "tokenizer": tokenizer.id,
        "tokenizer_kind": tokenizer.part,
        "vocabulary": step.params.get("vocabulary") or tokenizer.summary["vocabulary"],
        "unvoiced_chunks": sum(s["unvoiced_chunks"] for s in summaries),
        **{name: sum(s[name] for s in summaries) for name in splits},
        "tokens": tokens,
        "tokens_per_s": tokens / seconds if seconds else 0.0,
        "bytes_per_token": sum(s["ids_bytes"] for s in summaries) / tokens if tokens else 0.0,
        "streams": kinds,
        "unit_histogram": counts["units"],
        "pitch_histogram": counts["pitch"],
        "style_histogram": counts["style"],
        "drift": _drift(tokenizer, shards),
    }


def _of_text(step: Step, shards: list[Artifact]) -> dict[str, Any]:
    """What alignment refused and what was drawn, where there is text."""
    mixed = [shard for shard in shards if shard.part == "interleaved"]
    if not any(shard.part != "shard" for shard in shards):
        return {}
    aligned = [step.store.find(i, "alignment") for shard in mixed for i in shard.manifest.inputs["words"]]  # type: ignore[union-attr]
    return {
        "aligned": {
            name: sum(words.summary[name] for words in aligned)
            for name in ("utterances", "aligned", "words", "aligned_hours")
        },
        "refused": _added([words.summary["refused"] for words in aligned]),
        "patterns": _added([shard.summary["patterns"] for shard in shards if shard.part != "shard"]),
        "switches": sum(shard.summary["switches"] for shard in mixed),
        "documents": sum(shard.summary["documents"] for shard in shards if shard.part == "text"),
    }


def _added(counts: list[dict[str, int]]) -> dict[str, int]:
    return {
        name: sum(count.get(name, 0) for count in counts) for name in sorted({n for count in counts for n in count})
    }


def _drift(tokenizer: Artifact, shards: list[Artifact]) -> dict[str, float]:
    """How far each shard's units are from those that the codebooks were fitted on; a release's models were fitted elsewhere."""
    if tokenizer.part == "release":
        return {}
    fitted_on = np.asarray(tokenizer.summary["unit_counts"], dtype=np.float64)
    counts = {shard.id: np.asarray(shard.summary["units_counts"], np.float64) for shard in shards}
    return {shard: jensen_shannon_bits(fitted_on, of_shard) for shard, of_shard in counts.items()}


def jensen_shannon_bits(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64]) -> float:
    """Divergence of two count vectors: 0 when they have the same shape, 1 when they share nothing; 0 for no counts."""
    if not left.sum() or not right.sum():
        return 0.0
    p, q = left / left.sum(), right / right.sum()
    middle = (p + q) / 2

    def bits(x: npt.NDArray[np.float64]) -> float:
        return float((x[x > 0] * np.log2(x[x > 0] / middle[x > 0])).sum())

    return (bits(p) + bits(q)) / 2
