"""Settings of evaluation on the held-out recordings."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from tinywave_core.config.base import Config


class ProbesConfig(Config):
    """Pairs of recordings made from held-out speech, of which a model should find the right one likelier (after SALMon)."""

    items: int = Field(40, ge=0, le=1000)
    """Most pairs per probe; 0 makes no probes."""
    max_s: float = Field(6.0, ge=2, le=30)
    """Longest recording of a pair, in seconds: of a longer utterance a stretch between pauses is taken."""
    min_part_s: float = Field(0.8, gt=0.1, le=10)
    """Shortest part before and after the splice, in seconds."""
    min_pause_s: float = Field(0.12, ge=0.064, le=1)
    """Shortest pause at which recordings are spliced, in seconds; utterances without one in their middle are skipped."""
    snr_db: float = Field(10.0, ge=-10, le=40)
    """Level of the speech over the noise of the probe `background_noise`, in decibels."""
    genders: str = Field("", pattern=r"^(\s*[^=,\s][^=,]*=\s*[^=,\s]+\s*(,|$))*$")
    """Gender of speakers as the corpus names them, such as `84=f,1272=m`; the layout of a corpus does not have it. The probe
    `gender_swap` needs two that differ."""
    seed: int = Field(0, ge=0)
    """Seed of all that is drawn: utterances, partners, noises, rooms, and the bootstrap of the scores."""

    @property
    def gender_of(self) -> dict[str, str]:
        """Gender by speaker."""
        pairs = [pair.partition("=") for pair in self.genders.split(",") if pair.strip()]
        return {speaker.strip(): gender.strip() for speaker, _, gender in pairs}


class GapConfig(Config):
    """Where the student differs from its teacher: per block, per stream, per position, and in which utterances."""

    utterances: int = Field(200, ge=0, le=100_000)
    """Most held-out utterances on which the models run side by side, drawn by a hash of their ids; 0 leaves the gap out."""
    attention_rows: int = Field(32, ge=1, le=4096)
    """Query positions per utterance whose attention is compared."""
    attention_heads: int = Field(8, ge=1, le=256)
    """Heads per block whose attention is compared."""
    worst: int = Field(4, ge=0, le=50)
    """Utterances with the largest loss against the teacher that are kept to listen to."""
    worst_min_tokens: int = Field(30, ge=1)
    """Shortest of these, in tokens: the mean over a handful is chance."""
    costly_tokens: int = Field(12, ge=0, le=1000)
    """Tokens whose predictions cost the student most against the teacher that are listed."""
    costly_min_count: int = Field(5, ge=1)
    """How often such a token must occur."""
    seed: int = Field(0, ge=0)
    """Seed of the utterances, of positions and heads, and of the bootstrap."""


class GeneratedConfig(Config):
    """Continuations of held-out prompts, spoken, written down by a recogniser, and judged by a language model of text."""

    came_later: ClassVar[tuple[str, ...]] = ("judge",)

    asr: str = ""
    """Directory of a speech recogniser that transformers loads, with safetensors: WhisperForConditionalGeneration or
    Wav2Vec2ForCTC. Alone it counts word errors (`evaluation.judges`); with `language_model` it writes down continuations too."""
    language_model: str = ""
    """Directory of a causal language model of text that transformers loads, with safetensors and its tokenizer. Empty: no
    generative perplexity."""
    judge: str = ""
    """A language model of text that rates each written continuation 1 to 5 beside its written prompt: a GGUF file (pip install
    'tinywave[llama-cpp]') or a directory that transformers loads, with safetensors. Empty: no ratings."""
    language: str = Field("", pattern=r"^([a-z]{2,3})?$")
    """Language that Whisper is told to expect, such as `en`; empty: it guesses one for each continuation."""
    items: int = Field(100, ge=1, le=10_000)
    """Most held-out utterances that are continued (drawn by utterance id); slamkit takes 1000."""
    prompt_s: float = Field(3.0, gt=0.2, le=60)
    """Length of the prompt in seconds; utterances twice as long are continued."""
    max_new_tokens: int = Field(150, ge=1, le=1000)
    """Longest continuation in tokens; recognisers hear at most 30 s of it."""
    temperature: float = Field(0.8, gt=0, le=5)
    """Softmax temperature of sampling."""
    top_k: int = Field(25, ge=1)
    """Tokens that are sampled from: the likeliest ones."""
    seed: int = Field(0, ge=0)
    """Seed of the sampling, mixed with the utterance id, and of the bootstrap."""

    @model_validator(mode="after")
    def _text_is_heard_first(self) -> Self:
        if self.language_model and not self.asr:
            raise ValueError(
                "language_model is given and asr is not: a generative perplexity needs the directories of both a speech "
                "recogniser (asr) and a language model of text (language_model)"
            )
        if self.judge and not self.language_model:
            raise ValueError(
                "judge is given and language_model is not: ratings stand beside the generative perplexity of the same transcripts, "
                "which needs language_model and asr (all three may be one family; the judge's directory can be the language model's)"
            )
        return self

    def of_continuations(self, items: int) -> Self:
        """The settings that decide what is continued and how, of so many utterances, whoever judges it."""
        return self.model_copy(update={"asr": "", "language_model": "", "judge": "", "language": "", "items": items})


class UnitsConfig(Config):
    """What the phonetic units are worth: against phones and words whose times `tokenization.alignment` gives, and how much of the
    speaker is in them."""

    items: int = Field(50, ge=0, le=100_000)
    """Most utterances that are looked at, drawn by a hash of their ids; 0 measures nothing."""
    split: Literal["held_out", "all"] = "held_out"
    """Whether training speech is looked at as well: more to count, and another result with every new recording."""
    triples: int = Field(2000, ge=1, le=1_000_000)
    """Most triples of words that are told apart by their units, within speakers and across them."""
    seed: int = Field(0, ge=0)
    """Seed of the utterances, the triples and the bootstrap."""


class JudgesConfig(Config):
    """How recordings, their resynthesis and continuations sound: DNSMOS, word errors by `generated.asr`, likeness of voices."""

    items: int = Field(20, ge=0, le=10_000)
    """Most held-out utterances and most continuations of each model that are judged, drawn by utterance id; 0 judges none."""
    dnsmos: str = Field("auto", min_length=1)
    """`auto`: DNSMOS P.835 where the extra is installed (pip install 'tinywave[judges]'); `none`: without it; else the path of
    its sig_bak_ovr.onnx. Its digest, or that there was none, is part of what identifies the figures."""
    speaker_model: str = ""
    """Directory of a speaker verification model that transformers loads, with safetensors: WavLMForXVector,
    Wav2Vec2ForXVector or UniSpeechSatForXVector. Empty: voices are not compared."""
    seed: int = Field(0, ge=0)
    """Seed of the bootstrap."""


class EvaluationConfig(Config):
    """What is measured on teacher, student and undistilled control."""

    came_later = ("utterances", "preferred_prompts")

    utterances: int | None = Field(None, ge=1)
    """Most held-out utterances that are scored, drawn by a hash of their ids: a few thousand say as much as a hundred thousand, and the
    teacher has to read all of them. None: all."""
    cloze_prompt_share: float = Field(0.5, gt=0, lt=1)
    """Share of an utterance's tokens that is the prompt of the continuation cloze."""
    cloze_min_tokens: int = Field(24, ge=4)
    """Shortest prompt and shortest continuation of a cloze item, in tokens."""
    cloze_items: int = Field(500, ge=1)
    """Most cloze items (drawn by utterance id); each pits the true continuation against one of another utterance."""
    cloze_min_words: int = Field(4, ge=1)
    """Fewest words in either half of an item of the cross-modal cloze, which needs transcribed held-out speech."""
    continuation_prompt_s: float = Field(3.0, gt=0.2, le=60)
    """Length of the prompt in seconds where likelihood is counted on what comes after a prompt only."""
    continuation_min_s: float = Field(6.0, gt=0.2, le=120)
    """Shortest utterance, in seconds, of which the continuation is counted; longer than the prompt."""
    seed: int = Field(0, ge=0)
    """Seed of the wrong continuations and of the bootstrap."""
    probes: ProbesConfig = ProbesConfig()
    """Probes of voice, order, background and room."""
    gap: GapConfig = GapConfig()
    """Where the student differs from its teacher."""
    generated: GeneratedConfig = GeneratedConfig()
    """Generative perplexity and auto-BLEU, where models are given."""
    units: UnitsConfig = UnitsConfig()
    """What the phonetic units are worth."""
    judges: JudgesConfig = JudgesConfig()
    """How it sounds, as far as judges are there."""
    preferred_prompts: int = Field(200, ge=0)
    """After preference tuning: most held-out prompts on which the student before and after it is compared, drawn by a hash of their ids.
    0: no comparison."""

    def continued(self) -> int:
        """Of how many utterances a judge of text or of sound wants continuations, where they are there."""
        return max(self.generated.items if self.generated.language_model else 0, self.judges.items)

    def without_parts(self) -> Self:
        """The settings that identify `scores`: all others identify parts of their own."""
        parts = {"probes": ProbesConfig(), "gap": GapConfig(), "generated": GeneratedConfig()}
        return self.model_copy(
            update={**parts, "units": UnitsConfig(), "judges": JudgesConfig(), "preferred_prompts": 200}
        )

    @model_validator(mode="after")
    def _continuations_have_a_length(self) -> Self:
        if self.continuation_min_s <= self.continuation_prompt_s:
            raise ValueError(
                f"continuation_min_s is {self.continuation_min_s:g} and continuation_prompt_s {self.continuation_prompt_s:g}: "
                "an utterance must be longer than its prompt for anything to come after it"
            )
        return self
