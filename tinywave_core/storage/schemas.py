"""All Parquet schemas of the store, with the unit of each column.

Audio time is in integer samples at 16 kHz; ids are SHA-256 in hex, 32 digits, of content, never of a path.
"""

import pyarrow as pa

SAMPLE_RATE = 16_000
TOKENS_FILE = "tokens.parquet"
CURVES_FILE = "curves.parquet"  # of a training

# ingestion, part `shard`, file audio.parquet: one row per utterance.
AUDIO = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),  # of the utterance's 16-bit samples at 16 kHz
        pa.field("recording_id", pa.string(), nullable=False),  # of the source file's decoded samples
        pa.field("path", pa.string(), nullable=False),  # relative to the source, as first seen
        pa.field("start_samples", pa.int64(), nullable=False),  # in the recording, at 16 kHz
        pa.field("num_samples", pa.int64(), nullable=False),  # at 16 kHz
        pa.field("speaker", pa.string()),
        pa.field("transcript", pa.string()),  # of the whole utterance; null for cuts of a longer recording
        pa.field("split", pa.string(), nullable=False),  # train | held_out
        pa.field("flac", pa.binary(), nullable=False),  # mono, 16 bit, 16 kHz
    ]
)

# ingestion, part `labels`, file labels.parquet: one row per label row or file that gave no label.
LABELS = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),  # unmatched, unread, or a problem
        pa.field("place", pa.string(), nullable=False),  # a label file relative to the source, and the name in it
    ]
)

# ingestion, part `measures`, file measures.parquet: one row per utterance of an audio shard, in its order. Null is what cannot be measured.
MEASURES = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("snr_db", pa.float32()),  # speech over its pauses, -20 to 80
        pa.field("bandwidth_hz", pa.float32()),  # up to where it sounds, at most 8000
        pa.field("clipped_share", pa.float32()),  # share of samples on flat tops at the loudest
        pa.field("level_db", pa.float32()),  # RMS of the speech, of full scale
        pa.field("speech_share", pa.float32()),  # share of the time that the VAD calls speech
        pa.field("dnsmos", pa.float32()),  # overall, 1 to 5; null where nobody asked, or the judge is not installed
    ]
)

# ingestion, part `quality`, file quality.parquet: one row per utterance of a corpus.
QUALITY = pa.schema(
    [
        *MEASURES,
        pa.field("words_per_s", pa.float32()),  # of the transcript, per second of speech; null without one
        pa.field("path", pa.string(), nullable=False),  # of the recording
        pa.field("split", pa.string(), nullable=False),  # train | held_out
        pa.field("num_samples", pa.int64(), nullable=False),  # at 16 kHz
        pa.field("reason", pa.string()),  # code of audio/keeping.py: why it is left out; null: it is kept
        pa.field("detail", pa.string()),  # every threshold that it fails, for people
    ]
)

# ingestion, part `quality`, file listening.parquet: a few utterances of each measure, to set a threshold by ear.
LISTENING = pa.schema(
    [
        pa.field("measure", pa.string(), nullable=False),
        pa.field("place", pa.string(), nullable=False),  # worst | edge | middle
        pa.field("value", pa.float32(), nullable=False),
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("transcript", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("flac", pa.binary(), nullable=False),
    ]
)

# ingestion, parts `shard` and `corpus`, file files.parquet: one row per file found.
FILES = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # relative to the source
        pa.field("sha256", pa.string(), nullable=False),  # of the file's bytes
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # accepted | rejected | skipped
        pa.field("reason", pa.string()),  # code: empty_file, undecodable, no_speech, duplicate, …
        pa.field("detail", pa.string()),  # what was found and expected, for people
        pa.field("warnings", pa.list_(pa.string())),  # taken, but odd: codes of audio/quality.py
        pa.field("decoder", pa.string()),  # name and version: sample counts of Opus and MP3 depend on it
        pa.field("container", pa.string()),
        pa.field("encoding", pa.string()),
        pa.field("sample_rate", pa.int64()),  # Hz, of the file
        pa.field("channels", pa.int32()),
        pa.field("header_frames", pa.int64()),  # frames that the header promises
        pa.field("decoded_frames", pa.int64()),  # frames that came out
        pa.field("duration_s", pa.float64()),
        pa.field("peak", pa.float32()),  # of full scale, before any change
        pa.field("dc_offset", pa.float32()),  # of full scale
        pa.field("clipped_share", pa.float32()),  # share of samples at full scale
        pa.field("flat_share", pa.float32()),  # share of samples on flat tops at the loudest, whatever level that is
        pa.field(
            "channel_mix", pa.string()
        ),  # null: one channel; mean, one channel, flipped, strongest: see audio/levels.py; channel 1, channel 2: this one of two
        pa.field("channel_correlation", pa.float32()),  # the lowest of a living channel with the strongest one
        pa.field(
            "channel_alternation", pa.float32()
        ),  # of two: share of the sounding time of the one that is alone less often
        pa.field("bandwidth_hz", pa.float32()),  # up to where the speech sounds, at most 8000
        pa.field("speech_share", pa.float32()),  # share of the time that the VAD calls speech
        pa.field("speaker", pa.string()),
        pa.field("split", pa.string()),
        pa.field("recording_id", pa.string()),  # of the decoded samples, where they could be decoded
        pa.field("utterances", pa.int32()),  # utterances that came out
        pa.field("speech_samples", pa.int64()),  # samples at 16 kHz in those utterances
    ]
)

# tokenization, part `shard`, file tokens.parquet: one row per utterance, in the order of utterance_id.
TOKENS = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("speaker", pa.string()),
        pa.field("transcript", pa.string()),
        pa.field("split", pa.string(), nullable=False),  # train | held_out
        pa.field("num_samples", pa.int64(), nullable=False),  # at 16 kHz
        pa.field(
            "units", pa.list_(pa.uint16()), nullable=False
        ),  # raw, not deduplicated; rates_hz of the file says at what rate
        pa.field("pitch", pa.list_(pa.uint16()), nullable=False),  # raw, 12.5 Hz; empty for base tokens
        pa.field("style", pa.list_(pa.uint16()), nullable=False),  # raw, 1 Hz; empty for base tokens
        # Chunks of up to 100 s without any voiced frame, whose F0 counts as 0: SpiritLM's tokenizer has no result for them.
        pa.field("unvoiced_chunks", pa.int32(), nullable=False),
        pa.field("ids", pa.list_(pa.uint16()), nullable=False),  # <s> [Speech] merged stream </s>, see id_convention
    ]
)

# tokenization, part `alignment`, file words.parquet: one row per word, in the order of utterance_id and time.
WORDS = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("word", pa.string(), nullable=False),  # as in the transcript, punctuation included
        pa.field("start_samples", pa.int64(), nullable=False),  # in the utterance, at 16 kHz
        pa.field("end_samples", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),  # given, pocketsphinx or ctc
        pa.field("confidence", pa.float32()),  # 0 to 1, null where the source has none
    ]
)

# tokenization, part `alignment`, file refused.parquet: one row per utterance whose words have no times.
REFUSED = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),  # of the recording
        pa.field("reason", pa.string(), nullable=False),  # code: no_transcript, overlap, mismatch, …
        pa.field("detail", pa.string()),  # what was found and expected, for people
        pa.field("warnings", pa.list_(pa.string())),  # taken, but odd: codes of audio/quality.py
    ]
)

# tokenization, part `interleaved`, file tokens.parquet: one row per utterance and drawing of its spans. Streams and words stand
# in the row of drawing 0 only; documents of a text corpus are rows without them.
INTERLEAVED = pa.schema(
    [
        *TOKENS,
        pa.field(
            "variant", pa.int32(), nullable=False
        ),  # epoch e trains on drawing e modulo their number; -1: on every epoch
        pa.field("modalities", pa.string(), nullable=False),  # of the spans in order, such as STS
        pa.field("words", pa.list_(pa.string()), nullable=False),
        pa.field("word_starts", pa.list_(pa.int64()), nullable=False),  # samples in the utterance, at 16 kHz
        pa.field("word_ends", pa.list_(pa.int64()), nullable=False),
    ]
)
