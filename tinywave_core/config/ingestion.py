"""Settings of ingestion: any audio files -> mono 16 kHz utterances in shards, and which of them are used."""

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from tinywave_core.config.base import Config

_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,40}"
# A label is the model's own text, and may hold commas and dots: it ends before a number that a comma or the end follows.
_BOUND = re.compile(rf"\s*(?P<measure>{_NAME}\.\S.*?)\s*=\s*(?P<bound>[0-9.eE-]+)\s*(?:,|$)")


class CorpusConfig(Config):
    """What shapes a corpus: which audio is taken, how it is cut, and what is held out. Its shards are named by these settings."""

    came_later = ("channels",)

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

    @model_validator(mode="after")
    def _utterances_can_be_cut(self) -> Self:
        if self.max_utterance_s < 2 * self.min_utterance_s:
            raise ValueError(
                f"max_utterance_s is {self.max_utterance_s:g}; expected at least twice min_utterance_s "
                f"({self.min_utterance_s:g}), so that a long recording can be cut into utterances"
            )
        return self


class MeasuresConfig(Config):
    """What is measured of every utterance, once: whatever thresholds follow, nothing is measured twice."""

    came_later = ("classifiers",)

    always: bool = False
    """Measure although no threshold of ingestion.keep is set, for the histograms. About 9 s of a core per hour of speech."""
    dnsmos: bool = False
    """Also what listeners would say (DNSMOS P.835, overall, 1 to 5), by the extra `judges`. It costs one to two seconds of a core per
    utterance, and stays empty where the extra is not installed."""
    classifiers: str = ""
    """Models that say what is heard (music, two speakers at once, the language), by names of yours: `music=DIR,language=DIR`. A directory
    has a transformers Wav2Vec2-, Hubert-, WavLM- or Data2VecAudioForSequenceClassification or an ASTForAudioClassification at 16 kHz,
    with model.safetensors. Each label's probability is kept of each utterance. The model is known by its content, and costs what it costs."""

    @property
    def models(self) -> dict[str, str]:
        """Folder of each model of `classifiers`, by its name."""
        pairs = (word.partition("=") for word in self.classifiers.split(",") if word.strip())
        return {name.strip(): folder.strip() for name, _, folder in pairs}

    @model_validator(mode="after")
    def _each_model_has_a_name(self) -> Self:
        words = [word for word in self.classifiers.split(",") if word.strip()]
        good = [name for name, folder in self.models.items() if folder and re.fullmatch(_NAME, name)]
        if len(good) < len(words):
            raise ValueError(
                f"classifiers is {self.classifiers!r}; expected a name of letters, digits, - and _ and a directory for each model, no name "
                "twice: music=DIR,language=DIR"
            )
        return self


class KeepConfig(Config):
    """Which utterances are used, by what was measured of them. None leaves out nothing; what cannot be measured is never a reason.

    Left out is left out on both sides of the split. Nothing is decoded or tokenized again when a threshold changes; teacher and
    student of other thresholds are others.
    """

    came_later = ("most_of", "least_of")

    min_snr_db: float | None = Field(None, ge=-20, le=80)
    """Lowest signal-to-noise ratio in dB: speech over its pauses. Studio 40 and more, a quiet room 25, a street 10."""
    min_bandwidth_hz: float | None = Field(None, ge=250, le=8000)
    """Lowest upper edge of what sounds, in Hz, of at most 8000. A telephone's is 3500 to 5000."""
    max_clipped_share: float | None = Field(None, ge=0, le=1)
    """Largest share of samples that are cut flat at the loudest. Natural speech has 0.00005, speech cut at half its peak 0.005."""
    min_level_db: float | None = Field(None, ge=-100, le=0)
    """Lowest level of the speech in dB below full scale (RMS). Usual recordings have -35 to -15."""
    min_speech_share: float | None = Field(None, ge=0, le=1)
    """Smallest share of an utterance's time that is speech; `ingestion.min_speech_share` is of whole recordings, before they are cut."""
    min_dnsmos: float | None = Field(None, ge=1, le=5)
    """Lowest DNSMOS, 1 to 5; needs ingestion.measures.dnsmos. Clean readings have 3.0 to 3.5."""
    min_words_per_s: float | None = Field(None, ge=0, le=20)
    """Fewest words of the transcript per second of speech: below it words are missing in the transcript. Speakers have 1.5 to 4."""
    max_words_per_s: float | None = Field(None, gt=0, le=50)
    """Most words of the transcript per second of speech: above it the transcript has words that are not in the audio."""
    most_of: str = ""
    """Largest probability, 0 to 1, of labels of ingestion.measures.classifiers, each as name.label: `music.Music=0.5,voices.overlap=0.3`.
    What is above is left out."""
    least_of: str = ""
    """Smallest probability, likewise: `language.en=0.5` leaves out what is below."""

    @property
    def thresholds(self) -> dict[str, float]:
        """Those that are set, by the name of their setting; of labels `most_of music.Music` and the like."""
        numbers = {name: value for name, value in self if value is not None and not isinstance(value, str)}
        return numbers | {
            f"{setting} {measure}": bound
            for setting in ("most_of", "least_of")
            for measure, bound in _bounds(setting, getattr(self, setting)).items()
        }

    @property
    def labels(self) -> list[str]:
        """Labels that have a threshold, as name.label."""
        return [*_bounds("most_of", self.most_of), *_bounds("least_of", self.least_of)]

    @model_validator(mode="after")
    def _labels_have_bounds(self) -> Self:
        assert self.thresholds is not None  # reads them, and refuses what is none
        return self

    @model_validator(mode="after")
    def _some_rate_is_allowed(self) -> Self:
        low, high = self.min_words_per_s, self.max_words_per_s
        if low is not None and high is not None and low > high:
            raise ValueError(f"min_words_per_s is {low:g}, above max_words_per_s ({high:g}): expected a smaller one")
        return self


def _bounds(setting: str, text: str) -> dict[str, float]:
    """Bound by name.label; ValueError where the text is something else."""
    bounds, at = dict[str, float](), 0
    while at < len(text):
        found = _BOUND.match(text, at)
        try:
            bound = float(found["bound"]) if found else -1.0
        except ValueError:
            bound = -1.0
        if found is None or not 0 <= bound <= 1 or found["measure"] in bounds:
            raise ValueError(
                f"{setting} is {text!r}; expected the name of a model of ingestion.measures.classifiers, a dot, one of its labels, and a "
                "probability of 0 to 1, each label once: music.Music=0.5"
            )
        bounds[found["measure"]], at = bound, found.end()
    return bounds


class IngestionConfig(CorpusConfig):
    """Which audio is taken, how it is cut, what is held out, and which utterances are used."""

    measures: MeasuresConfig = MeasuresConfig()
    """What is measured of every utterance."""
    keep: KeepConfig = KeepConfig()
    """Thresholds that leave utterances out."""

    @property
    def of_corpus(self) -> CorpusConfig:
        """The settings that shape the corpus, without those that say what of it is used: thresholds never decode again."""
        return CorpusConfig(**{name: getattr(self, name) for name in CorpusConfig.model_fields})

    @property
    def measures_wanted(self) -> bool:
        """Whether anybody asks for measures."""
        return self.measures.always or bool(self.measures.classifiers) or bool(self.keep.thresholds)

    @model_validator(mode="after")
    def _opinions_are_asked_for(self) -> Self:
        if self.keep.min_dnsmos is not None and not self.measures.dnsmos:
            raise ValueError("keep.min_dnsmos is set, but nothing is rated: set measures.dnsmos to true")
        return self

    @model_validator(mode="after")
    def _labels_are_of_models(self) -> Self:
        models = self.measures.models
        for label in self.keep.labels:
            if (name := label.partition(".")[0]) not in models:
                raise ValueError(
                    f"keep names the label {label}, but measures.classifiers has {', '.join(models) or 'no model'}: add {name}=DIR"
                )
        return self
