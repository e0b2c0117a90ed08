"""How the export sounds: held-out originals, their resynthesis by its own vocoder, and continuations, before the judges.

Part `judges`: judges.parquet, every clip with what each judge said of it. The settings are those of `evaluation.judges`; the part
stands here because the voice is made here. Which judges were there is part of its identity, so that figures made with
DNSMOS and without it are two artifacts, and never mixed.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tinywave_core.checkpoints.spiritlm import vocoder_part
from tinywave_core.config.evaluation import JudgesConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.costs.estimates import SPEAK_S, UTTERANCE_S
from tinywave_core.drawing import draw
from tinywave_core.errors import MissingInputError
from tinywave_core.stages.evaluation.continuations import Continued, Progress, continued, drawing_key, kept, speaks
from tinywave_core.stages.evaluation.judges_given import GivenJudges, given_judges
from tinywave_core.stages.export.summary import JudgesSummary
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.steps.base import Execute, Output, Outputs, Step
from tinywave_core.steps.inputs import audio_of, each_held_out_row, held_out_shards
from tinywave_core.storage.schemas import SAMPLE_RATE
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.opening import choose_tokenizer

if TYPE_CHECKING:
    from tinywave_core.evals.dnsmos import Rate
    from tinywave_core.evals.judges import Clip
    from tinywave_core.evals.voices import Embed, Vector
    from tinywave_core.synthesis.speaking import Speaker
    from tinywave_core.tokenizers.vocabulary import Ids

VERSION = 2
FILE = "judges.parquet"
COLUMNS = ("utterance_id", "speaker", "transcript", "num_samples", "units", "pitch", "style")
SHORTEST_S = 1.0
LONGEST_S = 25.0  # recognisers hear 30 s, and resynthesis may be slower than the original
DNSMOS_S = 1.5  # of one core, for a clip: three to four windows (measured)
VOCODERS = {
    "voice": "voice",
    "hifigan": "HiFi-GAN of the SpiritLM release",
    "unit-hifigan": "HiFi-GAN trained on these units",
}
_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("source", pa.string()),
        ("seconds", pa.float64()),
        ("sig", pa.float64()),
        ("bak", pa.float64()),
        ("ovrl", pa.float64()),
        ("transcript", pa.string()),  # what was heard
        ("reference", pa.string()),  # what was said, as far as it is known
        ("similarity", pa.float64()),
    ]
)

JudgesStep = Step[JudgesConfig, JudgesSummary]


def build(config: PipelineConfig, done: Outputs, execute: Execute) -> dict[str, Artifact]:
    """The artifact `judges`; none where no judge is there."""
    given = given_judges(config)
    if not given:
        return {}
    tokens, vocoder = done["tokens"], [done["vocoder"]] if "vocoder" in done else []
    part = vocoder_part(config.tokenization.tokens)
    release = None if vocoder else choose_tokenizer(config).vocoder()
    shards = [shard for shard in held_out_shards(tokens) if shard.part != "text"]
    (judged,) = execute(
        [
            Step(
                store=tokens.store,
                stage="export",
                part="judges",
                version=VERSION,
                run=run_judges,
                # Judges are identified by their content, not by where they lie or how they were asked for.
                config=config.evaluation.judges.model_copy(update={"dnsmos": "auto", "speaker_model": ""}),
                params={
                    "judges": given.digests(),
                    "language": config.evaluation.generated.language if given.asr else "",
                    "drawing_seed": config.evaluation.generated.seed,
                    "vocoder": None if release is None else release.digest(part),
                },
                context={"places": given.places(), "spiritlm_dir": config.spiritlm_dir},
                inputs={
                    "tokens": shards,
                    "audio": audio_of(shards),
                    "continuations": [done["continuations"]],
                    "tokenizer": [TokensSummary.of(tokens).tokenizer_artifact(tokens)],
                    **({"vocoder": vocoder} if vocoder else {}),
                },
                runtime=config.runtime,
            )
        ]
    )
    return {"judges": judged}


def seconds(config: PipelineConfig, held_out_hours: float) -> float:
    """What DNSMOS and the vocoder cost; recognisers and models of speakers are not counted."""
    given = given_judges(config)
    clips = min(config.evaluation.judges.items, held_out_hours * 3600 / UTTERANCE_S) if given else 0
    return clips * (5 * (DNSMOS_S if given.dnsmos else 0.0) + 4 * UTTERANCE_S * SPEAK_S)


def run_judges(step: JudgesStep, output: Output) -> JudgesSummary:
    """Speak, listen, and compare; what a crash left of a source's clips is used."""
    from tinywave_core.evals.judges import SOURCES, Clip, sources_figures
    from tinywave_core.threads import use_threads

    use_threads(output.runtime)
    made, judges = continued(step.input("continuations"), step.config.items), step.params["judges"]
    drawn = _drawn(step)
    chosen = [row["utterance_id"] for row in drawn]
    if not chosen:
        write_table(_SCHEMA.empty_table(), output.folder / FILE)
        why = f"no held-out utterance has {SHORTEST_S:g} to {LONGEST_S:g} s"
        return JudgesSummary(utterances=0, why=why, sources={}, judges=judges)
    rows = {row["utterance_id"]: row for row in drawn} | _rows_of(step, set(made.utterance_ids) - set(chosen))
    panel = _Panel.load(step, output, rows, chosen, made)
    wanted = [source for source in SOURCES if source != "stranger" or panel.has_strangers]
    progress = Progress(output, len(wanted) * len(chosen))
    clips: dict[str, list[Clip]] = {}
    for source in wanted:
        listen = partial(panel.listen, source, progress)
        clips[source] = [Clip(**values) for values in kept(output.resume / f"{source}.json", listen)]
        progress.reached(len(chosen))
    transcripts = {i: row["transcript"] for i, row in rows.items()}
    table = [{**asdict(c), "source": s, "reference": transcripts[c.utterance_id]} for s in wanted for c in clips[s]]
    write_table(pa.Table.from_pylist(table, schema=_SCHEMA), output.folder / FILE)
    return JudgesSummary(
        utterances=len(chosen),
        sources=sources_figures(clips, transcripts, step.config.seed),
        judges=judges,
        vocoder=VOCODERS[panel.speaker.name],
    )


def _rows_of(step: JudgesStep, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """These held-out utterances."""
    ids = pa.array(sorted(wanted), pa.string())
    found = each_held_out_row(
        step.inputs["tokens"], COLUMNS, lambda table: pc.is_in(table["utterance_id"], ids), ["utterance_id"]
    )
    rows: dict[str, dict[str, Any]] = {}
    for row in found:
        rows.setdefault(row["utterance_id"], row)
    return rows


def _drawn(step: JudgesStep) -> list[dict[str, Any]]:
    """Utterances that are judged, in the order in which prompts are drawn: mostly the same ones."""
    rows = each_held_out_row(step.inputs["tokens"], COLUMNS)
    fit = (row for row in rows if SHORTEST_S <= row["num_samples"] / SAMPLE_RATE <= LONGEST_S)
    return draw(fit, lambda row: drawing_key(step.params["drawing_seed"], row["utterance_id"]), step.config.items)


@dataclass
class _Panel:
    """The vocoder and the judges, loaded, and what they hear."""

    rows: dict[str, dict[str, Any]]
    chosen: list[str]
    made: Continued
    originals: "dict[str, np.ndarray]" = field(repr=False)
    speaker: "Speaker"
    rate: "Rate | None"
    transcribe: Callable[[Any], str] | None
    embed: "Embed | None"
    vectors: "dict[tuple[str, str], Vector | None]" = field(default_factory=dict, repr=False)

    @classmethod
    def load(
        cls, step: JudgesStep, output: Output, rows: dict[str, dict[str, Any]], chosen: list[str], made: Continued
    ) -> "_Panel":
        from tinywave_core.audio.utterances import recordings
        from tinywave_core.devices import pick_device
        from tinywave_core.evals.dnsmos import load_dnsmos
        from tinywave_core.evals.voices import load_voices
        from tinywave_core.synthesis.speaking import load_speaker

        places, device = _places(step), pick_device(output.runtime)
        voice = step.input("vocoder").path() if "vocoder" in step.inputs else None
        transcribe = None
        if "asr" in places:
            from tinywave_core.evals.transcription import load_recogniser

            transcribe = load_recogniser(places["asr"], step.params["language"], device)
        return cls(
            rows,
            chosen,
            made,
            recordings(step.inputs["audio"], {*chosen, *made.utterance_ids}),
            load_speaker(step.input("tokenizer").path(), made.vocabulary, step.context["spiritlm_dir"], device, voice),
            load_dnsmos(places["dnsmos"]) if "dnsmos" in places else None,
            transcribe,
            load_voices(places["speaker_model"], device) if "speaker_model" in places else None,
        )

    @property
    def has_strangers(self) -> bool:
        """Whether voices are compared, and two speakers are known."""
        known = {self.rows[i]["speaker"] for i in self.chosen} - {None}
        return self.embed is not None and len(known) > 1

    def listen(self, source: str, progress: Progress) -> list[dict[str, Any]]:
        """What the judges say of every clip of a source, as values of `Clip`."""
        from tinywave_core.evals.judges import Clip

        ids = self.chosen if source in ("original", "resynthesis", "stranger") else self.made.utterance_ids
        hear: dict[str, Callable[[str], Clip | None]] = {
            "original": self._original,
            "resynthesis": self._resynthesis,
            "stranger": self._stranger,
        }
        listened = []
        for number, utterance_id in enumerate(ids):
            clip = hear[source](utterance_id) if source in hear else self._continuation(source, number)
            listened += [] if clip is None else [asdict(clip)]
            progress(number + 1, len(ids), f"{source} judged")
        return listened

    def _original(self, utterance_id: str) -> "Clip":
        samples = self.originals[utterance_id]
        return self._judged(utterance_id, samples, words=True, voice=self._vector(utterance_id, "second"))

    def _resynthesis(self, utterance_id: str) -> "Clip":
        from tinywave_core.tokenizers.speech import Streams, encode_utterance

        streams: Streams = Streams.of_row(self.rows[utterance_id])
        samples = self._spoken(encode_utterance(streams, self.made.vocabulary), utterance_id)
        return self._judged(utterance_id, samples, words=True, voice=self._embedded(_half(samples, "second")))

    def _continuation(self, source: str, number: int) -> "Clip":
        utterance_id = self.made.utterance_ids[number]
        samples = self._spoken(self.made.ids[source][number], utterance_id)
        # Its words are not compared: nobody knows which ones would be right.
        return self._judged(utterance_id, samples, words=False, voice=self._embedded(samples))

    def _stranger(self, utterance_id: str) -> "Clip | None":
        """The original of the next utterance of another speaker, for its voice alone; None where none is known."""
        from tinywave_core.evals.judges import Clip
        from tinywave_core.evals.voices import cosine

        at, own = self.chosen.index(utterance_id), self.rows[utterance_id]["speaker"]
        following = self.chosen[at + 1 :] + self.chosen[:at]
        others = (i for i in following if own and self.rows[i]["speaker"] not in (None, own))
        other = next(others, None)
        if other is None:
            return None
        likeness = cosine(self._vector(utterance_id, "first"), self._vector(other, "second"))
        return Clip(utterance_id, len(self.originals[other]) / SAMPLE_RATE, similarity=likeness)

    def _spoken(self, ids: "Ids | Iterable[int]", utterance_id: str) -> np.ndarray:
        """Token ids as sound, in the speaker's own voice where the vocoder has it; empty where there is nothing to speak."""
        own = self.rows[utterance_id]["speaker"]
        listed = [int(i) for i in ids]
        if not speaks(listed, self.made.vocabulary):
            return np.zeros(0, np.float32)
        return self.speaker(np.asarray(listed, np.int64), own if own in self.speaker.voices else None)

    def _judged(self, utterance_id: str, samples: np.ndarray, *, words: bool, voice: "Vector | None") -> "Clip":
        from tinywave_core.evals.judges import Clip
        from tinywave_core.evals.voices import cosine

        heard = self.transcribe(samples) if words and self.transcribe is not None else None
        if not len(samples):
            return Clip(utterance_id, 0.0, transcript=heard)
        opinions = {} if self.rate is None else self.rate(samples)._asdict()
        likeness = cosine(self._vector(utterance_id, "first"), voice)
        return Clip(utterance_id, len(samples) / SAMPLE_RATE, **opinions, transcript=heard, similarity=likeness)

    def _vector(self, utterance_id: str, half: str) -> "Vector | None":
        """The voice in half of an original, made once."""
        key = (utterance_id, half)
        if key not in self.vectors:
            self.vectors[key] = self._embedded(_half(self.originals[utterance_id], half))
        return self.vectors[key]

    def _embedded(self, samples: np.ndarray) -> "Vector | None":
        return None if self.embed is None else self.embed(samples)


def _half(samples: np.ndarray, half: str) -> np.ndarray:
    middle = len(samples) // 2
    return samples[:middle] if half == "first" else samples[middle:]


def _places(step: JudgesStep) -> dict[str, Path]:
    """Where the judges lie on this machine, which need not be the one that planned; an error where one of them is another."""
    places = {name: Path(place) for name, place in step.context["places"].items()}
    if "dnsmos" in places and not places["dnsmos"].is_file():
        from tinywave_core.evals.dnsmos import installed_dnsmos

        found = installed_dnsmos()
        places |= {"dnsmos": found} if found is not None else {}
    gone = [f"{name} {place}" for name, place in places.items() if not place.exists()]
    if gone or GivenJudges(**places).digests() != step.params["judges"]:
        raise MissingInputError(
            f"the judges of this run are not, or not the same, on this machine ({', '.join(gone) or 'other files'}): install the "
            "same ones on every worker, or run without them, --evaluation.judges.dnsmos none"
        )
    return places
