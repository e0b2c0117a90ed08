"""Tokenization: audio shards in, token shards out, and one `tokens` artifact that describes them all.

Parts: the speech tokenizer, whose part is its kind: `codebooks` (fitted once on training speech, then pinned, or those of the base
where the teacher is) or one whose models are given, such as `release` (digests of SpiritLM's files, never weights); then `shard` (tokens.parquet
and vocabulary.json for one audio shard; same audio, same tokens, whatever else is in the shard) and `tokens` (numbers only).
Ids follow the vocabulary of the teacher.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tinywave_core.audio.utterances import UTTERANCES_FILE
from tinywave_core.base.opening import CODEBOOKS, open_base, require_base
from tinywave_core.checkpoints.digests import sha256_once
from tinywave_core.checkpoints.places import given_file
from tinywave_core.checkpoints.teacher import teacher_folder
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.tokenization import TokenizationConfig
from tinywave_core.drawing import draw
from tinywave_core.errors import CheckpointError, MissingInputError
from tinywave_core.stages.ingestion.quality import left_out
from tinywave_core.stages.ingestion.summary import RELABELLED, CorpusSummary, hours_of, original_of
from tinywave_core.stages.tokenization.interleaving import with_text
from tinywave_core.stages.tokenization.kept import without
from tinywave_core.stages.tokenization.leaks import require_no_leak, run_leaks
from tinywave_core.stages.tokenization.summary import (
    Aligned,
    AlignmentSummary,
    CodebooksSummary,
    GivenSummary,
    InterleavedSummary,
    LeaksSummary,
    ListedShard,
    ShardSummary,
    SpokenSummary,
    TextSummary,
    TokensSummary,
    shard_summary,
    tokenizer_vocabulary,
)
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import corpus_key
from tinywave_core.steps.pins import pinned
from tinywave_core.storage.schemas import SAMPLE_RATE, TOKENS, TOKENS_FILE
from tinywave_core.storage.shards import read_table, rows_of, where, write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.threads import keep_large_blocks, use_one_thread
from tinywave_core.tokenizers.base import Places, SpeechTokenizer
from tinywave_core.tokenizers.embedded import EMBEDDED, open_codebook, open_encoder
from tinywave_core.tokenizers.opening import choose_tokenizer, kind_named, open_tokenizer
from tinywave_core.tokenizers.streams import STREAMS
from tinywave_core.tokenizers.text_model import check_text_model, text_model_of, text_tokens
from tinywave_core.tokenizers.vocabulary import KINDS, Vocabulary

if TYPE_CHECKING:
    from tinywave_core.audio.utterances import Utterance
    from tinywave_core.encoders.pretrained import SpeechEncoder
    from tinywave_core.tokenizers.codebooks import GivenCodebook
    from tinywave_core.tokenizers.speech import Streams

VERSION = 4
VOCABULARY_FILE, STREAMS_FILE = "vocabulary.json", "streams.json"
GATHERED_SAMPLES = 120 * SAMPLE_RATE  # a tokenizer sees so much at once: enough for batches on a GPU, little to keep

ShardStep = Step[TokenizationConfig, SpokenSummary]
TokensStep = Step[TokenizationConfig, TokensSummary]


Repeats = Callable[[list[Artifact], Artifact], Mapping[str, str]]
"""Token shards and their tokenizer -> why each utterance is left out that is there already, by id."""


def build(
    config: PipelineConfig, corpus: Artifact, execute: Execute, repeats: Repeats = lambda _shards, _tokenizer: {}
) -> Artifact:
    """The `tokens` artifact of a corpus."""
    check_speech_tokenizer(config)
    chosen = choose_tokenizer(config)
    settings = chosen.settings()
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

    base = require_base(config) if config.adaptation.teacher == "base" else None
    if base is not None:
        (tokenizer,) = execute([step(chosen.kind, run_base_codebooks, {}, {"base": base.digest})])
    elif chosen.is_fitted:
        tokenizer = pinned(
            step(chosen.kind, run_codebooks, {"corpus": [corpus]}, chosen.given()),
            config.refresh.codebooks,
            config.refresh,
            lambda: CorpusSummary.of(corpus).hours_train,
            execute,
            corpus=corpus_key(config),
        )
    else:
        (tokenizer,) = execute([step(chosen.kind, run_given, {}, chosen.given())])
    of_teacher = of_teachers_ids(config)
    duplicates = CorpusSummary.of(corpus).duplicates
    audio_shards = _audio_shards(corpus)
    shards = execute(
        [
            replace(
                step(
                    "shard",
                    run_shard,
                    {"audio": [original_of(audio)], "tokenizer": [tokenizer]},
                    {"drop": sorted(duplicates.get(audio.id, [])), **of_teacher},
                ),
                hours=hours_of(audio),
            )
            for audio in audio_shards
        ]
    )
    shards = without(left_out(config, corpus), duplicates, audio_shards, shards, step, execute)
    relabelled = {
        number: step("shard", run_relabelled, {"audio": [audio], "tokens": [shards[number]]})
        for number, audio in enumerate(audio_shards)
        if audio.part == RELABELLED
    }
    for number, shard in zip(relabelled, execute(list(relabelled.values())) if relabelled else [], strict=True):
        shards[number] = shard
    shards = without(repeats(shards, tokenizer), duplicates, audio_shards, shards, step, execute)
    shards = with_text(config, audio_shards, shards, step, execute)
    inputs = {"shards": shards, "tokenizer": [tokenizer]}
    if base is not None:
        inputs["leaks"] = execute(
            [step("leaks", run_leaks, {"corpus": [corpus], "shards": shards}, {"base": base.digest})]
        )
        require_no_leak(inputs["leaks"][0])
    changed = CorpusSummary.of(corpus).relabelled
    heard = {"heard": changed.heard} if changed and changed.heard else {}
    return execute([step("tokens", run_tokens, inputs, of_teacher | heard)])[0]


def teacher_vocabulary(config: PipelineConfig) -> Vocabulary | None:
    """The vocabulary of the configured teacher; None for that of bytes and units, which a fresh one takes, and for a text model's,
    which the units of this corpus enlarge."""
    from tinywave_core.tokenizers.directory import read_directory

    folder = teacher_folder(config)
    if text_model_of(config) is not None:
        return None
    vocabulary = None if folder is None else read_directory(folder, config.adaptation.id_convention)
    return None if vocabulary is None or vocabulary.is_of_bytes else vocabulary


def of_teachers_ids(config: PipelineConfig) -> dict[str, Any]:
    """What a step has to know of the teacher's ids: its vocabulary, or how many text tokens go before the units; nothing of bytes."""
    text = text_tokens(config)
    if text is not None:
        return {"text_tokens": text}
    vocabulary = teacher_vocabulary(config)
    return {} if vocabulary is None else {"vocabulary": vocabulary.to_json()}


def places(config: PipelineConfig) -> dict[str, Any]:
    """Where the models lie that tokens are made with: a step's context, for they are known by their content."""
    folder = teacher_folder(config)
    base = None if config.adaptation.base is None else Path(config.adaptation.base)
    return {"places": Places.of(config), "teacher": None if folder is None else str(folder), "base": base}


def _audio_shards(corpus: Artifact) -> list[Artifact]:
    return corpus.store.find_all(CorpusSummary.of(corpus).shards, "shard")


# Given models --------------------------------------------------------------------------------------------------------


def check_speech_tokenizer(config: PipelineConfig) -> None:
    """Refuse settings, files and sizes that do not go together; reads headers and configs only."""
    chosen = choose_tokenizer(config)
    chosen.settings()
    chosen.check(teacher_vocabulary(config))
    check_text_model(config, sum(astuple(chosen.expected_sizes)))


def run_given(step: Step[TokenizationConfig, GivenSummary], output: Output) -> GivenSummary:
    """Write down which models they are, and load every one once, strictly."""
    kind = kind_named(step.part)
    about = {"tokens": step.config.tokens, "rates_hz": kind.rates.merge_hz, **step.params}
    (output.folder / kind.description).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer = open_tokenizer(output.folder, None, step.context["places"], _device(step))
    return GivenSummary(vocabulary=tokenizer.vocabulary, **step.params)


def _device(step: Step) -> str:
    from tinywave_core.devices import pick_device

    return pick_device(step.runtime).type


# Codebooks -----------------------------------------------------------------------------------------------------------


def run_codebooks(step: Step[TokenizationConfig, CodebooksSummary], output: Output) -> CodebooksSummary:
    """Fit codebooks on training speech."""
    from tinywave_core.tokenizers.codebooks import Codebooks

    use_one_thread()
    config = step.config
    spoken = _FitSpeech.choose(_audio_shards(step.input("corpus")), config, output)
    codebooks = Codebooks.fit(config, spoken.read("features"), *_given_to_fit(step))
    codebooks.save(output.folder)
    counts = np.zeros(codebooks.vocabulary.hubert, np.int64)
    for utterance in spoken.read("counted"):
        counts += np.bincount(codebooks.tokenize(utterance.samples).units, minlength=len(counts))
    return CodebooksSummary(
        vocabulary=codebooks.vocabulary,
        utterances=len(spoken.chosen),
        hours=spoken.samples / SAMPLE_RATE / 3600,
        unit_counts=counts.tolist(),
        unused_units=int((counts == 0).sum()),
    )


def _given_to_fit(
    step: Step[TokenizationConfig, CodebooksSummary],
) -> "tuple[SpeechEncoder | None, GivenCodebook | None]":
    """The encoder that the units are of, and the codebook that is given, if they are."""
    units, places = step.config.units, step.context["places"]
    if units.layer is None:
        return None, None
    encoder = open_encoder(places.encoder, units.layer, step.params["encoder_sha256"], _device(step))
    if units.codebook is None:
        return encoder, None
    codebook = given_file(places.codebook)
    if sha256_once(codebook) != step.params["codebook_sha256"]:
        raise CheckpointError(
            f"{codebook} is not the codebook that the run was planned with: run again, with one file on all machines"
        )
    return encoder, open_codebook(codebook, units.clusters, encoder.shape.width)


def run_base_codebooks(step: Step[TokenizationConfig, CodebooksSummary], output: Output) -> CodebooksSummary:
    """The codebooks of the base: a copy, so that the store and its exports have all that they need."""
    base = open_base(step.context["base"])
    if base.digest != step.params["base"]:
        raise CheckpointError(
            f"the base here is {base.digest[:12]}…, the run was planned with {step.params['base'][:12]}…: install the same TinyWave on "
            "every machine, and run again"
        )
    shutil.copytree(base.place(CODEBOOKS), output.folder, dirs_exist_ok=True)
    return CodebooksSummary.model_validate(base.codebooks)


@dataclass(frozen=True)
class _FitSpeech:
    """The training utterances that are fitted on: by a hash of their ids, so that other shards hold no sway."""

    shards: list[Artifact]
    chosen: frozenset[str]
    samples: int
    output: Output

    @classmethod
    def choose(cls, shards: list[Artifact], config: TokenizationConfig, output: Output) -> "_FitSpeech":
        columns = ["utterance_id", "num_samples", "split"]
        rows = (row for each in shards for row in rows_of(each.path(UTTERANCES_FILE), columns, where("split", "train")))
        drawn = draw(
            rows,
            lambda row: hashlib.sha256(f"fit/{config.seed}/{row['utterance_id']}".encode()).digest(),
            config.fit_hours * 3600 * SAMPLE_RATE,
            lambda row: row["num_samples"],
        )
        if not drawn:
            raise MissingInputError(
                "the corpus has no training utterances to fit the codebooks on: add recordings, or lower "
                "--ingestion.held_out_fraction"
            )
        chosen = frozenset(row["utterance_id"] for row in drawn)
        return cls(shards, chosen, sum(row["num_samples"] for row in drawn), output)

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


def run_shard(step: ShardStep, output: Output) -> SpokenSummary:
    """Tokenize one audio shard."""
    from tinywave_core.audio.utterances import read_ahead

    use_one_thread()
    keep_large_blocks()
    audio = step.input("audio")
    tokenizer = open_step_tokenizer(step)
    vocabulary = tokenizer.vocabulary
    drop = set(step.params["drop"])
    lengths = pq.read_table(audio.path("utterances.parquet"), columns=["num_samples"])["num_samples"].to_numpy()
    total = int(lengths.sum()) // SAMPLE_RATE
    rows = []
    samples = 0
    for batch in batches(read_ahead(audio, 2 * GATHERED_SAMPLES), GATHERED_SAMPLES):
        kept = [utterance for utterance in batch if utterance.utterance_id not in drop]
        for utterance, streams in zip(kept, tokenizer.tokenize([each.samples for each in kept]), strict=True):
            rows.append(_row(utterance, streams, vocabulary))
        samples += sum(len(utterance.samples) for utterance in batch)
        output.progress(samples // SAMPLE_RATE, total, "s of speech")
    rows.sort(key=lambda row: row["utterance_id"])
    about = {
        "vocabulary": json.dumps(vocabulary.to_json(), sort_keys=True),
        "rates_hz": json.dumps(vocabulary.rates.merge_hz, sort_keys=True),
        "id_convention": vocabulary.convention,
    }
    path = output.folder / TOKENS_FILE
    write_table(pa.Table.from_pylist(rows, schema=TOKENS).replace_schema_metadata(about), path)
    (output.folder / VOCABULARY_FILE).write_text(
        json.dumps(vocabulary.to_json(), indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    return SpokenSummary.of_rows(rows, vocabulary, path)


def run_relabelled(step: Step[TokenizationConfig, SpokenSummary], output: Output) -> SpokenSummary:
    """A token shard with the labels of its relabelled audio: the tokens are those that it has."""
    shard, path = step.input("tokens"), output.folder / TOKENS_FILE
    audio = read_table(step.input("audio").path(UTTERANCES_FILE), ["utterance_id", *_LABELS])
    labels = {row.pop("utterance_id"): row for row in audio.to_pylist()}
    table = read_table(shard.path(TOKENS_FILE))
    own = table.select(_LABELS).to_pylist()
    ids = table["utterance_id"].to_pylist()
    later = [labels[i] for i in ids]
    for name in _LABELS:
        column = pa.array([row[name] for row in later], TOKENS.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), TOKENS.field(name), column)
    write_table(table, path)
    shutil.copyfile(shard.path(VOCABULARY_FILE), output.folder / VOCABULARY_FILE)
    before = SpokenSummary.of(shard)
    summary = SpokenSummary.of_rows(table.to_pylist(), before.vocabulary, path)
    # Speakers say what validates: with the same ones on the same sides a transcript changes nothing of training on speech.
    is_same = all(old[what] == new[what] for old, new in zip(own, later, strict=True) for what in ("split", "speaker"))
    return summary.model_copy(update={"trains_as": before.trains_as or shard.id}) if is_same else summary


_LABELS = ["speaker", "transcript", "split"]


def open_step_tokenizer(step: Step) -> SpeechTokenizer:
    """The tokenizer of a step's input `tokenizer`, for ids as `of_teachers_ids` has them in the step's params, with the models that
    lie in its context's `places`."""
    of_teacher = step.params.get("vocabulary")
    vocabulary = None if of_teacher is None else Vocabulary.from_json(of_teacher)
    tokenizer = open_tokenizer(step.input("tokenizer").path(), vocabulary, step.context["places"], _device(step))
    return replace(tokenizer, vocabulary=_after_text(step, tokenizer.vocabulary))


def _after_text(step: Step, vocabulary: Vocabulary) -> Vocabulary:
    """A speech tokenizer's own vocabulary, behind the text of the step's text model, where there is one."""
    return replace(vocabulary, text=step.params["text_tokens"]) if "text_tokens" in step.params else vocabulary


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
        **{stream.name: getattr(streams, stream.name).astype(np.uint16) for stream in STREAMS},
        "unvoiced_chunks": streams.unvoiced_chunks,
        "ids": encode_utterance(streams, vocabulary).astype(np.uint16),
    }


# Tokens --------------------------------------------------------------------------------------------------------------


def run_tokens(step: TokensStep, output: Output) -> TokensSummary:
    """Add up what the shards report; no tokens are read."""
    tokenizer, shards = step.input("tokenizer"), step.inputs["shards"]
    summaries = [shard_summary(shard) for shard in shards]
    totals = {name: sum(getattr(s, name) for s in summaries) for name in _PER_SPLIT}
    tokens = sum(s.train_tokens + s.held_out_tokens for s in summaries)
    seconds = sum(s.train_seconds + s.held_out_seconds for s in summaries)
    kinds = {kind: sum(s.kinds[kind] for s in summaries) for kind in KINDS}
    counts = {
        name: np.sum([s.counts(name) for s in summaries], axis=0).astype(int).tolist()
        for name in (stream.name for stream in STREAMS)
    }
    (output.folder / STREAMS_FILE).write_text(
        json.dumps({"kinds": kinds, **counts}, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    return TokensSummary(
        shards=[
            ListedShard(
                id=shard.id,
                part=shard.part,
                **{name: getattr(s, name) for name in _PER_SPLIT},
                **({"trains_as": s.trains_as} if isinstance(s, SpokenSummary) and s.trains_as else {}),
            )
            for shard, s in zip(shards, summaries, strict=True)
        ],
        **_of_text(step, shards, summaries),
        **({"heard": step.params["heard"]} if "heard" in step.params else {}),
        **({"leaks": LeaksSummary.of(step.input("leaks"))} if "leaks" in step.inputs else {}),
        tokenizer=tokenizer.id,
        tokenizer_kind=tokenizer.part,
        vocabulary=step.params.get("vocabulary") or _after_text(step, tokenizer_vocabulary(tokenizer)),
        unvoiced_chunks=sum(s.unvoiced_chunks for s in summaries),
        **totals,
        tokens=tokens,
        tokens_per_s=tokens / seconds if seconds else 0.0,
        bytes_per_token=sum(s.ids_bytes for s in summaries) / tokens if tokens else 0.0,
        streams=kinds,
        unit_histogram=counts["units"],
        pitch_histogram=counts["pitch"],
        style_histogram=counts["style"],
        drift=_drift(tokenizer, shards, summaries),
    )


_PER_SPLIT = [f"{split}_{what}" for split in ("train", "held_out") for what in ("utterances", "tokens", "seconds")]


def _of_text(step: TokensStep, shards: list[Artifact], summaries: list[ShardSummary]) -> dict[str, Any]:
    """What alignment refused and what was drawn, where there is text."""
    if not any(shard.part != "shard" for shard in shards):
        return {}
    mixed = [shard for shard in shards if shard.part == "interleaved"]
    ids = [i for shard in mixed for i in shard.manifest.inputs["words"]]  # type: ignore[union-attr]
    aligned = [AlignmentSummary.of(step.store.find(i, "alignment")) for i in ids]
    return {
        "aligned": Aligned(
            utterances=sum(words.utterances for words in aligned),
            aligned=sum(words.aligned for words in aligned),
            words=sum(words.words for words in aligned),
            aligned_hours=sum(words.aligned_hours for words in aligned),
        ),
        "refused": _added([words.refused for words in aligned]),
        "patterns": _added([s.patterns for s in summaries if not isinstance(s, SpokenSummary)]),
        "switches": sum(s.switches for s in summaries if isinstance(s, InterleavedSummary)),
        "documents": sum(s.documents for s in summaries if isinstance(s, TextSummary)),
    }


def _added(counts: list[dict[str, int]]) -> dict[str, int]:
    return {
        name: sum(count.get(name, 0) for count in counts) for name in sorted({n for count in counts for n in count})
    }


def _drift(tokenizer: Artifact, shards: list[Artifact], summaries: list[ShardSummary]) -> dict[str, float]:
    """How far each shard's units are from those that the codebooks were fitted on; given models were fitted elsewhere."""
    if tokenizer.part != EMBEDDED.name:
        return {}
    fitted_on = np.asarray(CodebooksSummary.of(tokenizer).unit_counts, dtype=np.float64)
    return {
        shard.id: jensen_shannon_bits(fitted_on, np.asarray(s.units_counts, np.float64))
        for shard, s in zip(shards, summaries, strict=True)
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
