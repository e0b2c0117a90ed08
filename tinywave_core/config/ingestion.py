"""Settings of ingestion: any audio files -> mono 16 kHz utterances in shards."""

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from tinywave_core.config.base import Config


class IngestionConfig(Config):
    """Which audio is taken, how it is cut, and what is held out."""

    corpus: str = Field("default", pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    """Name of the append-only corpus that new files join; a second name in one store is a second, separate corpus."""
    min_utterance_s: float = Field(0.5, gt=0.08, le=10)
    """Shortest utterance in seconds; shorter recordings are rejected, shorter speech segments dropped."""
    max_utterance_s: float = Field(30.0, ge=2, le=100)
    """Longest utterance in seconds; longer recordings are cut by voice activity. SpiritLM's chunks are 100 s."""
    max_recording_hours: float = Field(12.0, gt=0, le=100)
    """Longest recording in hours, decoded; a longer one (a decompression bomb, say) is rejected."""
    channels: Literal["mix", "split"] = "mix"
    """What becomes of two channels with a voice each, as calls and dialogues are recorded: `mix` makes one recording of both, `split` one of
    each, with speakers of their own (-1 and -2 behind the file's speaker or path) on the same side of the split. Others are mixed."""
    vad_threshold: float = Field(0.5, gt=0, lt=1)
    """Speech probability above which silero-vad counts a window of 32 ms as speech."""
    min_silence_s: float = Field(0.3, ge=0.05, le=5)
    """Pause in seconds at which a long recording may be cut."""
    min_speech_share: float = Field(0.1, ge=0, le=1)
    """Recordings of at most max_utterance_s with a smaller share of speech are rejected as `no_speech`; of longer ones, which are
    cut, the speech is kept however little it is."""
    split_by: Literal["speaker", "recording"] = "speaker"
    """Held-out unit: all recordings of a speaker go to one side (unlabelled recordings: each by itself)."""
    held_out_fraction: float = Field(0.1, gt=0, lt=0.9)
    """Expected share of speakers (or recordings) that are held out, decided by a hash of the id: stable for ever."""
    shard_megabytes: float = Field(256.0, gt=0)
    """Size of the source files of one shard in MB; a shard is the unit of caching, retry and progress."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `channels` at its default: corpora that were made before there was such a setting stay what they are."""
        values: dict[str, Any] = dump(self)
        if self.channels == "mix":
            values.pop("channels", None)
        return values

    @model_validator(mode="after")
    def _utterances_can_be_cut(self) -> Self:
        if self.max_utterance_s < 2 * self.min_utterance_s:
            raise ValueError(
                f"max_utterance_s is {self.max_utterance_s:g}; expected at least twice min_utterance_s "
                f"({self.min_utterance_s:g}), so that a long recording can be cut into utterances"
            )
        return self
