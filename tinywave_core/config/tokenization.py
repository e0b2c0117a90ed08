"""Settings of tokenization: audio -> phonetic units, pitch at 12.5 Hz, style at 1 Hz, and their merge."""

from typing import Literal

from pydantic import Field, model_validator

from tinywave_core.config.base import Config
from tinywave_core.config.interleaving import InterleavingConfig


class UnitsConfig(Config):
    """[Hu…] tokens of the embedded tokenizer: k-means over features of speech."""

    kind: Literal["mfcc", "encoder"] = "mfcc"
    """`mfcc`: cepstra at 25 Hz, HuBERT's own first-iteration targets, which need no download; `encoder`: a layer of a pretrained
    speech encoder that you have, at its own rate. `encoder` goes before `spiritlm_dir`."""
    clusters: int = Field(100, ge=2, le=5000)
    """Size of the codebook (HuBERT's first iteration: 100; SpiritLM: 500)."""
    encoder: str | None = None
    """For `encoder`: directory or s3:// prefix of a transformers HubertModel, Wav2Vec2Model, WavLMModel, Data2VecAudioModel,
    Wav2Vec2BertModel or Whisper, at 16 kHz, with model.safetensors. Known by its content: weights go into no store and no export."""
    layer: int | None = Field(None, ge=0, le=1000)
    """For `encoder`: number of the hidden state, as transformers counts: 0 goes into the first layer."""
    codebook: str | None = None
    """For `encoder`: file or s3:// URL of k-means centres of that layer as it is, in place of a fit on your speech: .npy, `cluster_centers`
    in .pt or .safetensors, or a scikit-learn k-means as joblib or pickle writes it (.bin, .pt; read without unpickling). `clusters` says how
    many it has."""

    @model_validator(mode="after")
    def _encoder_where_one_is_asked_for(self) -> "UnitsConfig":
        if self.kind == "encoder" and (self.encoder is None or self.layer is None):
            missing = "encoder" if self.encoder is None else "layer"
            raise ValueError(f"units of kind `encoder` need tokenization.units.{missing}")
        for name in ("encoder", "layer", "codebook"):
            if self.kind == "mfcc" and getattr(self, name) is not None:
                raise ValueError(
                    f"tokenization.units.{name} is set, but units of kind `mfcc` take none: set tokenization.units.kind encoder"
                )
        return self


class F0PitchConfig(Config):
    """The embedded default for [Pi…] tokens: k-means over speaker-normalised log-F0 and voicing."""

    kind: Literal["f0_kmeans"] = "f0_kmeans"
    """Kind of pitch extractor."""
    clusters: int = Field(32, ge=2, le=1024)
    """Size of the codebook, the unvoiced code included (SpiritLM: 64)."""


class ProsodyStyleConfig(Config):
    """The embedded default for [St…] tokens: k-means over energy, pitch and rate statistics of each second."""

    kind: Literal["prosody"] = "prosody"
    """Kind of style extractor."""
    clusters: int = Field(16, ge=2, le=1024)
    """Size of the codebook (SpiritLM: 100)."""


class AlignmentConfig(Config):
    """Where the words of transcribed speech get their times from; used by interleaving only."""

    kind: Literal["given", "pocketsphinx", "ctc"] = "pocketsphinx"
    """`given`: times that you have (`path`); `pocketsphinx`: English, no download (the extra `alignment`); `ctc`: a
    transformers `Wav2Vec2ForCTC` directory (`path`)."""
    path: str | None = None
    """For `given`: a folder or s3:// prefix of .TextGrid, .ctm or .json files named like the recordings, or one table (.csv,
    .parquet). For `ctc`: the model's directory."""
    min_confidence: float | None = Field(None, ge=0, le=1)
    """Least lower quartile of the confidences of an utterance's words, where they have any; none: what right transcripts were measured to reach
    with this aligner."""

    @model_validator(mode="after")
    def _path_where_one_is_needed(self) -> "AlignmentConfig":
        if (self.path is None) == (self.kind != "pocketsphinx"):
            needed = "needs" if self.path is None else "takes no"
            raise ValueError(f"alignment `{self.kind}` {needed} tokenization.alignment.path")
        return self


class TextCorpusConfig(Config):
    """Plain text beside the speech."""

    source: str | None = None
    """File or folder of .txt, .jsonl (field `text`) or .parquet (column `text`); none: speech and its transcripts only."""
    share: float = Field(0.2, gt=0, lt=1)
    """Share of the training tokens that comes from it."""


class NearDuplicatesConfig(Config):
    """Speech that is there more than once: the same reading in another encoding, excerpts, jingles."""

    use: Literal["off", "report", "leave_out"] = "off"
    """`off`: not looked for; `report`: pairs in near_duplicates.parquet, and a line for held-out speech that training speech has;
    `leave_out`: one of each group stays in training (held-out speech, else the longest), the others go."""
    limit: float = Field(0.2, gt=0, le=1)
    """Share of an utterance's runs of units that another one has, from which the two are a pair."""
    starts: Literal[1, 4] = 1
    """How often speech is listened to: `1`: as its tokens are, at next to no cost; `4`: also 10, 20 and 30 ms later, which finds
    excerpts that begin anywhere, and costs the speech tokenizer's time three times more."""


class BenchmarksConfig(Config):
    """Benchmark suites whose recordings are looked up in the training speech: figures of what was trained on are too good."""

    suites: str = ""
    """Folders of suites, with commas between them, as `tinywave evaluate --suite` takes them: `swuggy=DIR,tSC=DIR`. Empty: nothing is
    looked up."""
    use: Literal["report", "leave_out"] = "report"
    """`report`: a line for each suite, and benchmarks.parquet; `leave_out`: training utterances that a suite has are left out as well."""
    limit: float = Field(0.2, gt=0, le=1)
    """Share of a recording's runs of units that the other one has, from which it counts as heard. `near_duplicates.starts` says how
    often training speech is listened to."""


class TokenizationConfig(Config):
    """How speech becomes tokens."""

    came_later = ("near_duplicates", "benchmarks")  # they have no say in tokens

    tokens: Literal["base", "expressive"] = "expressive"
    """`base`: phonetic units only; `expressive`: pitch and style tokens merged in by time."""
    units: UnitsConfig = UnitsConfig()
    """Phonetic units of the embedded tokenizer."""
    pitch: F0PitchConfig = F0PitchConfig()
    """Pitch codes of the embedded tokenizer; used by `expressive` only."""
    style: ProsodyStyleConfig = ProsodyStyleConfig()
    """Style codes of the embedded tokenizer; used by `expressive` only."""
    interleaving: InterleavingConfig = InterleavingConfig()
    """Which parts of transcribed speech are given as text."""
    alignment: AlignmentConfig = AlignmentConfig()
    """Times of the words, where interleaving needs them."""
    text: TextCorpusConfig = TextCorpusConfig()
    """Plain text to train on beside the speech."""
    near_duplicates: NearDuplicatesConfig = NearDuplicatesConfig()
    """Speech that is there more than once."""
    benchmarks: BenchmarksConfig = BenchmarksConfig()
    """Benchmark suites that training speech must not have."""
    fit_hours: float = Field(5.0, gt=0)
    """Hours of training speech that the codebooks are fitted on (drawn by utterance id)."""
    seed: int = Field(0, ge=0)
    """Seed of the k-means initialisation."""
