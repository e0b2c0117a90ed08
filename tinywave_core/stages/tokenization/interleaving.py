"""The parts of tokenization that bring text in: word times, interleaved sequences, and plain text beside the speech.

`alignment` (words.parquet and refused.parquet for one audio shard), `interleaved` (the sequences of one token shard: as many
drawings of spans as the config says) and `text` (documents of a text corpus, as many tokens as their share). The last two
are read as token shards by everything that follows.
"""

import hashlib
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tinywave_core.checkpoints.teacher import teacher_folder
from tinywave_core.config.interleaving import InterleavingConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.tokenization import AlignmentConfig, TextCorpusConfig
from tinywave_core.errors import ConfigError, MissingInputError, TinyWaveError
from tinywave_core.stages.tokenization.summary import (
    AlignmentSummary,
    InterleavedSummary,
    TextSummary,
    shard_summary,
)
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.storage.schemas import INTERLEAVED, REFUSED, SAMPLE_RATE, TOKENS_FILE, WORDS
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.threads import use_one_thread
from tinywave_core.tokenizers.streams import STREAMS
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tinywave_core.alignment.base import Aligner
    from tinywave_core.alignment.words import Word
    from tinywave_core.audio.utterances import Utterance
    from tinywave_core.sequences.interleaving import EncodeText

VERSION = 2
WORDS_FILE, REFUSED_FILE = "words.parquet", "refused.parquet"
MakeStep = Callable[..., Step]


def with_text(
    config: PipelineConfig, audio: list[Artifact], shards: list[Artifact], step: MakeStep, execute: Execute
) -> list[Artifact]:
    """The token shards that models are trained on: `shards` as they are, interleaved, and with plain text beside them."""
    tokenization = config.tokenization
    text = _text_identity(config)
    if tokenization.interleaving.policy != "speech":
        aligned = execute([_alignment_step(config, shard, step) for shard in audio])
        shards = execute(
            [
                step(
                    "interleaved",
                    run_interleaved,
                    {"tokens": [tokens], "words": [words]},
                    text,
                    config=tokenization.interleaving,
                    version=VERSION,
                )
                for tokens, words in zip(shards, aligned, strict=True)
            ]
        )
    if tokenization.text.source is None:
        return shards
    return [*shards, _text(config, shards, text, step, execute)]


def check_text(config: PipelineConfig) -> None:
    """Refuse alignments and texts that are not there, before any speech is tokenized."""
    tokenization = config.tokenization
    if tokenization.interleaving.policy != "speech":
        alignment = tokenization.alignment
        if alignment.kind == "pocketsphinx" and find_spec("pocketsphinx") is None:
            raise ConfigError(
                "tokenization.alignment.kind is pocketsphinx, but the package is not installed: pip install "
                "'tinywave[alignment]', or choose `given` or `ctc`"
            )
        if alignment.kind == "ctc" and not (Path(str(alignment.path)) / "config.json").is_file():
            raise MissingInputError(
                f"tokenization.alignment.path {alignment.path!r} has no config.json; expected the directory of a Wav2Vec2ForCTC"
            )
    source = tokenization.text.source
    if source is not None and not Path(source).exists():
        raise MissingInputError(
            f"tokenization.text.source {source!r} does not exist; expected a file or folder of text"
        )


def _alignment_step(config: PipelineConfig, audio: Artifact, step: MakeStep) -> Step:
    alignment = config.tokenization.alignment
    return step(
        "alignment",
        run_alignment,
        {"audio": [audio]},
        {"given": _digest_of_alignments(alignment, audio)},
        config=alignment.model_copy(update={"path": None if alignment.path is None else "given"}),
        version=VERSION,
        context={"path": alignment.path},
    )


def _digest_of_alignments(config: AlignmentConfig, audio: Artifact) -> str | None:
    """What identifies the times that a shard gets from outside: its recordings' own words, or the model's files."""
    if config.path is None:
        return None
    if config.kind == "ctc":
        from tinywave_core.checkpoints.spiritlm import digest_of

        wanted = (".json", ".safetensors", ".bin", ".txt")
        files = sorted(path for path in Path(config.path).glob("*") if path.suffix in wanted)
        if not files:
            raise MissingInputError(
                f"tokenization.alignment.path {config.path!r} has no files of a model; expected a Wav2Vec2ForCTC directory"
            )
        return digest_of(files)
    from tinywave_core.alignment.readers import open_alignments

    paths = _recordings(audio)
    alignments = open_alignments(config.path, paths)
    words = [[path, [vars(word) for word in alignments.words(path) or ()]] for path in paths]
    for path, channel in _channels(audio):
        words.append([f"{path}-{channel}", [vars(word) for word in alignments.words(path, channel) or ()]])
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


def _recordings(audio: Artifact) -> list[str]:
    """Paths of a shard's recordings, relative to the source."""
    return sorted(set(pq.read_table(audio.path("utterances.parquet"), columns=["path"])["path"].to_pylist()))


def _channels(audio: Artifact) -> list[tuple[str, int]]:
    """Path and channel of a shard's recordings that are one channel of a file."""
    from tinywave_core.audio.utterances import channels_of

    channel_of = channels_of(audio)
    table = pq.read_table(audio.path("utterances.parquet"), columns=["path", "recording_id"]).to_pydict()
    pairs = zip(table["path"], table["recording_id"], strict=True)
    return sorted({(path, channel_of[recording]) for path, recording in pairs if recording in channel_of})


def run_alignment(step: Step[AlignmentConfig, AlignmentSummary], output: Output) -> AlignmentSummary:
    """Times for the words of every transcribed utterance of an audio shard, or the reason why there are none."""
    from tinywave_core.audio.utterances import read_utterances

    use_one_thread()
    config, audio = step.config, step.input("audio")
    align = _aligner(config, step.context["path"], audio)
    total = pq.read_metadata(audio.path("audio.parquet")).num_rows
    words, refused = [], []
    aligned_samples = 0
    for number, utterance in enumerate(read_utterances(audio), start=1):
        found = align(utterance)
        if isinstance(found, list):
            words += [_word_row(utterance.utterance_id, word, config.kind) for word in found]
            aligned_samples += len(utterance.samples)
        else:
            refused.append(
                {
                    "utterance_id": utterance.utterance_id,
                    "path": utterance.path,
                    "reason": found.reason,
                    "detail": found.detail,
                }
            )
        output.progress(number, total, "utterances aligned")
    words.sort(key=lambda row: (row["utterance_id"], row["start_samples"]))
    refused.sort(key=lambda row: row["utterance_id"])
    write_table(pa.Table.from_pylist(words, schema=WORDS), output.folder / WORDS_FILE)
    write_table(pa.Table.from_pylist(refused, schema=REFUSED), output.folder / REFUSED_FILE)
    reasons = [row["reason"] for row in refused]
    return AlignmentSummary(
        utterances=total,
        aligned=total - len(refused),
        words=len(words),
        aligned_hours=aligned_samples / SAMPLE_RATE / 3600,
        refused=_counts(reasons),
    )


def _word_row(utterance_id: str, word: "Word", source: str) -> dict[str, Any]:
    return {
        "utterance_id": utterance_id,
        "word": word.text,
        "start_samples": word.start_samples,
        "end_samples": word.end_samples,
        "source": source,
        "confidence": word.confidence,
    }


def _aligner(config: AlignmentConfig, path: str | None, audio: Artifact) -> "Callable[[Utterance], Any]":
    """Utterance -> its words, or a refusal."""
    from tinywave_core.alignment.base import Refusal
    from tinywave_core.alignment.checks import check

    if config.kind == "given":
        from tinywave_core.alignment.normalize import as_written
        from tinywave_core.alignment.readers import open_alignments, words_of_cut

        assert path is not None
        from tinywave_core.audio.utterances import channels_of

        alignments, channel_of = open_alignments(path, _recordings(audio)), channels_of(audio)

        def given(utterance: "Utterance") -> Any:
            channel = channel_of.get(utterance.recording_id)
            words = alignments.words(utterance.path, channel)
            if words is None:
                of_channel = f", channel {channel}" if channel else ""
                return Refusal("no_alignment", f"{path} has no words for {utterance.path}{of_channel}")
            samples = len(utterance.samples)
            inside = words_of_cut(words, utterance.start_samples, samples)
            if utterance.transcript:  # the alignment may be of another writing: upper case, no punctuation
                written = as_written(inside, utterance.transcript)
                if isinstance(written, Refusal):
                    return written
                inside = written
            return check(inside, samples, min_confidence=config.min_confidence) or inside

        return given
    aligner: Aligner
    if config.kind == "ctc":
        from tinywave_core.alignment.ctc import CtcAligner

        assert path is not None
        aligner = CtcAligner.load(Path(path))
    else:
        from tinywave_core.alignment.sphinx import SphinxAligner

        aligner = SphinxAligner()

    def automatic(utterance: "Utterance") -> Any:
        if not utterance.transcript:
            return Refusal(
                "no_transcript", "the recording has no transcript, or the utterance is a cut of a longer one"
            )
        found = aligner.align(utterance.samples, utterance.transcript)
        if isinstance(found, Refusal):
            return found
        least = aligner.min_confidence if config.min_confidence is None else config.min_confidence
        fault = check(found, len(utterance.samples), transcript=utterance.transcript, min_confidence=least)
        return fault or found

    return automatic


# Interleaved sequences -----------------------------------------------------------------------------------------------


def _text_identity(config: PipelineConfig) -> dict[str, Any]:
    """What identifies the text tokenizer: the teacher's own, or bytes."""
    from tinywave_core.checkpoints.spiritlm import digest_of

    folder = teacher_folder(config)
    if folder is None:
        return {"text_tokenizer": "bytes"}
    names = ("tokenizer.model", "tokenizer.json", "vocabulary.json")
    files = [folder / name for name in names if (folder / name).is_file()]
    return {"text_tokenizer": digest_of(files), "id_convention": config.adaptation.id_convention}


def _encoder(step: Step, vocabulary: Vocabulary) -> "EncodeText":
    """The text encoder of the teacher."""
    from tinywave_core.sequences.interleaving import text_encoder
    from tinywave_core.tokenizers.directory import load_tokenizer
    from tinywave_core.tokenizers.text import build_tokenizer

    folder = step.context["teacher"]
    tokenizer = build_tokenizer(vocabulary) if folder is None else load_tokenizer(Path(folder), vocabulary)
    return text_encoder(tokenizer, vocabulary)


def run_interleaved(step: Step[InterleavingConfig, InterleavedSummary], output: Output) -> InterleavedSummary:
    """Draw the spans of every utterance of a token shard, and write the sequences."""
    from tinywave_core.alignment.words import Word
    from tinywave_core.sequences.interleaving import draw_spans, interleaved_ids, modalities, switches
    from tinywave_core.tokenizers.speech import Streams

    use_one_thread()
    config, tokens = step.config, step.input("tokens")
    vocabulary = shard_summary(tokens).vocabulary
    encode_text = _encoder(step, vocabulary)
    words: dict[str, list[Word]] = {}
    for row in read_table(step.input("words").path(WORDS_FILE)).to_pylist():
        times = (row["start_samples"], row["end_samples"], row["confidence"])
        words.setdefault(row["utterance_id"], []).append(Word(row["word"], *times))
    rows: list[dict[str, Any]] = []
    source = read_table(tokens.path(TOKENS_FILE)).to_pylist()
    for number, row in enumerate(source, start=1):
        own = words.get(row["utterance_id"], [])
        streams = Streams.of_row(row)
        for variant in range(config.drawings if own else 1):
            spans = draw_spans(own, row["num_samples"], config, epoch=variant, utterance_id=row["utterance_id"])
            drawn = interleaved_ids(streams, own, spans, vocabulary, encode_text)
            letters = "".join("S" if span.modality == "speech" else "T" for span in drawn.spans)
            # What has one drawing beside others that have several takes part in every epoch.
            number_of = variant if own or config.drawings == 1 else -1
            rows.append(_sequence_row(row, drawn.ids, number_of, letters, own if variant == 0 else []))
        output.progress(number, len(source), "utterances interleaved")
    table = pa.Table.from_pylist(rows, schema=INTERLEAVED)
    _write(table, vocabulary, output)
    ids = [np.asarray(row["ids"]) for row in rows]
    return InterleavedSummary.of_rows(
        rows,
        vocabulary,
        output.folder / TOKENS_FILE,
        drawings=config.drawings,
        patterns=_counts([row["modalities"] for row in rows]),
        modalities=np.bincount(
            np.concatenate([np.zeros(0, np.int8), *(modalities(each, vocabulary) for each in ids)]), minlength=3
        ).tolist(),
        switches=int(sum(switches(each, vocabulary).sum() for each in ids)),
    )


def _sequence_row(row: dict[str, Any], ids: Any, variant: int, letters: str, words: "list[Word]") -> dict[str, Any]:
    streams: dict[str, Any] = {} if variant <= 0 else {stream.name: [] for stream in STREAMS}
    return (
        row
        | streams
        | {
            "ids": ids.astype(np.uint16),
            "variant": variant,
            "modalities": letters,
            "words": [word.text for word in words],
            "word_starts": [word.start_samples for word in words],
            "word_ends": [word.end_samples for word in words],
        }
    )


def _write(table: pa.Table, vocabulary: Vocabulary, output: Output) -> None:
    about = {"vocabulary": json.dumps(vocabulary.to_json(), sort_keys=True), "id_convention": vocabulary.convention}
    write_table(table.replace_schema_metadata(about), output.folder / TOKENS_FILE)


def _counts(names: list[str]) -> dict[str, int]:
    return {name: names.count(name) for name in sorted(set(names))}


# Plain text ----------------------------------------------------------------------------------------------------------


def _text(
    config: PipelineConfig, shards: list[Artifact], text: dict[str, Any], step: MakeStep, execute: Execute
) -> Artifact:
    """The shard of documents, sized by the tokens of speech and of its transcripts."""
    settings = config.tokenization.text
    assert settings.source is not None
    params = {
        **text,
        "documents": _corpus_digest(Path(settings.source)),
        "speech_tokens": sum(shard_summary(shard).train_tokens for shard in shards),
        "held_out_fraction": config.ingestion.held_out_fraction,
        "vocabulary": shard_summary(shards[0]).vocabulary.to_json(),
    }
    return execute(
        [
            step(
                "text",
                run_text,
                {},
                params,
                config=settings.model_copy(update={"source": "given"}),
                version=VERSION,
                context={"source": settings.source},
            )
        ]
    )[0]


def _corpus_digest(source: Path) -> str:
    from tinywave_core.checkpoints.spiritlm import digest_of

    kinds = (".txt", ".jsonl", ".parquet")
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.suffix.lower() in kinds)
    return digest_of(files)


def run_text(step: Step[TextCorpusConfig, TextSummary], output: Output) -> TextSummary:
    """Documents in the order of a hash, until they make up their share of the training tokens."""
    from tinywave_core.sequences.text_corpus import choose_for_share, read_documents, text_ids

    config, params = step.config, step.params
    vocabulary = Vocabulary.from_json(params["vocabulary"])
    encode_text = _encoder(step, vocabulary)
    refused: list[Any] = []
    found = read_documents(Path(step.context["source"]), refused.append)
    documents = {document.id: document for document in found}
    ids = {name: text_ids(document, vocabulary, encode_text) for name, document in documents.items()}
    held_out = {name for name in ids if _share_of(name) < params["held_out_fraction"]}
    train = {name: len(value) for name, value in ids.items() if name not in held_out}
    chosen = choose_for_share(train, params["speech_tokens"], config.share, seed=0)
    # As much held-out text, in proportion, as there is to train on.
    kept = len(chosen) / max(len(train), 1)
    rows = [
        _document_row(name, ids[name], "train" if name in train else "held_out")
        for name in sorted({*chosen, *(name for name in held_out if _share_of("held out" + name) < kept)})
    ]
    if not chosen:
        raise TinyWaveError(
            f"the text corpus {step.context['source']} gives no document to train on ({len(documents)} documents were read): add "
            "text, raise tokenization.text.share, or leave tokenization.text.source out"
        )
    _write(pa.Table.from_pylist(rows, schema=INTERLEAVED), vocabulary, output)
    output.progress(len(rows), len(rows), "documents")
    return TextSummary.of_rows(
        rows,
        vocabulary,
        output.folder / TOKENS_FILE,
        documents=len(rows),
        documents_read=len(documents),
        rows_refused=len(refused),
        refused_examples=[f"{each.source}: {each.reason}" for each in refused[:10]],
        patterns={"T": len(rows)},
    )


def _share_of(name: str) -> float:
    return int.from_bytes(hashlib.sha256(f"text/{name}".encode()).digest()[:6], "big") / 2**48


def _document_row(name: str, ids: Any, split: str) -> dict[str, Any]:
    return {
        "utterance_id": name,
        "recording_id": name,
        "speaker": None,
        "transcript": None,
        "split": split,
        "num_samples": 0,
        **{stream.name: [] for stream in STREAMS},
        "unvoiced_chunks": 0,
        "ids": np.asarray(ids, np.uint16),
        "variant": -1,
        "modalities": "T",
        "words": [],
        "word_starts": [],
        "word_ends": [],
    }
