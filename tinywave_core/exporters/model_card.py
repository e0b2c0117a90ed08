"""The model card: what the student is, what it was made from, how it scored, its limits and licence, how to load it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinywave_core.counts import count
from tinywave_core.escaping import code, markdown, table, yaml_text
from tinywave_core.evals.figures import Generated, Judges, Likelihood, ProbeFigures, Scores
from tinywave_core.exporters.judge_words import HEARD, judges_rows, judges_text
from tinywave_core.exporters.licence import Licence
from tinywave_core.tokenizers.trained_on import TrainedOn
from tinywave_core.tokenizers.vocabulary import Vocabulary
from tinywave_core.wording import (
    MODELS,
    OVER_TEACHER,
    counts_label,
    figure,
    gen_ppl_ratio,
    nll_ratio,
    perplexity_ratio,
    share,
    with_interval,
)

_LABELS = {"teacher": "Teacher", "student": "This student", "control": MODELS["control"].capitalize()}
_HEARD = {**HEARD, "student": "continued by this student"}
_SOURCES = {**_LABELS, "recording": "How the recordings really went on"}


@dataclass(frozen=True)
class Data:
    """The speech that a student was trained on."""

    hours: float
    utterances: int
    recordings: int


@dataclass(frozen=True)
class CardVoice:
    """A voice that the model carries, and whose recordings it is made of."""

    name: str
    speakers: Sequence[str]
    recordings: Sequence[str]
    """Their ids."""
    seconds: float


@dataclass(frozen=True)
class Card:
    """All that a card tells; what was not computed is empty."""

    name: str
    student: Mapping[str, Any]
    vocabulary: Vocabulary
    trained: TrainedOn
    scores: Scores
    data: Data
    licence: Licence
    lineage: dict[str, str]
    """Artifact id by part."""
    probes: Mapping[str, ProbeFigures] = field(default_factory=dict)
    generated: Generated | None = None
    judges: Judges | None = None
    voices: Sequence[CardVoice] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The group `distillation` that the student was made with."""
    drafter: str | None = None
    """How much the model keeps of what the drafter beside it proposes; empty: not measured. None: there is no drafter."""
    tuned: str = ""
    """What preference tuning did to held-out likelihood, in a sentence; empty where it was not tuned, or not measured."""


def model_card(card: Card) -> str:
    """Markdown with the front matter that model hubs read."""
    vocabulary, student = card.vocabulary, card.student
    hz = vocabulary.rates.frames_hz
    expressive = f", {vocabulary.pitch} pitch codes at {hz['pitch']:g} Hz and {vocabulary.style} style codes at {hz['style']:g} Hz"
    return f"""---
{yaml_text(_front_matter(card))}---

# {markdown(card.name)}

A speech language model of {student["parameters"] / 1e6:.2f} M parameters in {student["layers"]} blocks, distilled from a
teacher of {student["teacher_parameters"] / 1e6:.2f} M after "Efficient Interleaved Speech Modeling through Knowledge
Distillation" (arXiv 2506.23670). It continues speech as discrete tokens: {vocabulary.hubert} phonetic units at {hz["units"]:g} Hz\
{expressive if vocabulary.pitch else ""}.
{_made(card.settings, card.tuned)}{_drafter(card)}
## Scores on held-out speech

{_sections(card)}

## Use

It takes {" and ".join(card.trained.modalities)}, and gives {_listed(card.trained.outputs)}: it was trained on {card.trained.in_words}. Nothing
else that its vocabulary has room for was in its training, and what it would make of that is noise.

{_example(card)}

In plain transformers it is a model that continues ids, without code of its own (`trust_remote_code` stays off). Its processor turns
{" and ".join(card.trained.modalities)} into ids{" and ids into audio" if "speech" in card.trained.outputs else ""}:

{_plain_example(card)}

Ids as strings go through transformers' own tokenizer and `pipeline`, without TinyWave:

```python
from transformers import pipeline

generate = pipeline("text-generation", "path/to/this/directory")
print(generate("[Speech][Hu0][Hu1]", max_new_tokens=50, skip_special_tokens=False))
```

`speech.json` has the token ids and rates, and how a prompt begins; `speech_tokenizer/` turns audio into prompts and tokens into
audio (with SpiritLM's tokens it names the files of its release, which are not in here).

## Data and lineage

Trained on {_length(card.data.hours)} of speech: {card.data.utterances:,} utterances of {card.data.recordings:,} recordings. The corpus
keeps no record of their licences.

{chr(10).join(f"- {markdown(part)}: {code(artifact)}" for part, artifact in card.lineage.items())}{_started(card.student)}

{_voices(card.voices)}## Limits

The model knows the speech it was trained on and no more: other languages, voices, rooms and microphones were not tested. Scores
are of held-out recordings of the same corpus, and figures whose intervals overlap are not told apart by them. It has no
safeguards against imitating a voice's manner, and nothing that it says is checked for truth.

## Licence

{_licence(card.licence)}
"""


def _made(settings: Mapping[str, Any], tuned_words: str) -> str:
    """A sentence for each way in which it was not made as students are by default; empty for none."""
    told = []
    if (width := settings.get("width")) is not None:
        told.append(
            f"It is {width} channels wide: those of the teacher's channels, heads and neurons that mattered most."
        )
    if settings.get("start") == "fresh":
        told.append("Its weights were random before it was distilled.")
    if settings.get("start") == "given":
        told.append("Before it was distilled it was a student of another run.")
    own = settings.get("on_policy", {})
    if settings.get("regime") == "on_policy" and own["share"] > 0:
        told.append(
            f"In {own['share']:.0%} of the rows it learned from what it said itself, which the teacher scored (on-policy)"
            + (f", after the first {own['after_share']:.0%} of the steps." if own["after_share"] else ".")
        )
    if (tuned := settings.get("preference", {})).get("share"):
        told.append(
            f"Then it was tuned by preference (DPO) on its own continuations, ranked by the judge `{tuned['judge']}`."
            + (f" {tuned_words}" if tuned_words else "")
        )
    return "".join(f"\n{sentence}" for sentence in told) + ("\n" if told else "")


def _example(card: Card) -> str:
    """From audio to audio, or to text where it gives no speech."""
    heard = 'prompt_audio="question.wav"' if "speech" in card.trained.modalities else 'prompt_text="Once upon a time"'
    if "speech" not in card.trained.outputs:
        asked = f'print(model.generate({heard}, output="text").text)'
    else:
        asked = f'answer = model.generate({heard}, seconds=5)\nsoundfile.write("answer.wav", answer.audio, model.sample_rate)'
    return f"""```python
# pip install tinywave
import soundfile
import tinywave

model = tinywave.Model.open("path/to/this/directory")
{asked}
```"""


def _drafter(card: Card) -> str:
    if card.drafter is None:
        return ""
    measured = f" {card.drafter[:1].upper()}{card.drafter[1:]}." if card.drafter else ""
    return f"""
`drafter/` is a smaller model that proposes tokens (`tinywave generate DIR --drafter own`): the continuations have this model's own distribution.{measured}
"""


def _plain_example(card: Card) -> str:
    """The same with AutoProcessor and AutoModelForCausalLM."""
    hears, speaks = "speech" in card.trained.modalities, "speech" in card.trained.outputs
    heard = "audio=samples, sampling_rate=rate" if hears else 'text="Once upon a time"'
    asked = heard if speaks else f'{heard}, output="text"'
    output = "" if speaks else '"text"'
    read = ['samples, rate = soundfile.read("question.wav")'] if hears else []
    new = "ids[0, inputs.input_ids.shape[1] :]"
    given = f'soundfile.write("answer.wav", processor.decode_audio({new}), processor.sampling_rate)'
    lines = [
        *(["import soundfile"] if hears or speaks else []),
        "import tinywave.transformers",
        "from transformers import AutoModelForCausalLM, AutoProcessor",
        "",
        'processor = AutoProcessor.from_pretrained("path/to/this/directory")',
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/directory")',
        *read,
        f'inputs = processor({asked}, return_tensors="pt")',
        f"ids = model.generate(**inputs, min_new_tokens=50, max_new_tokens=200, suppress_tokens=processor.banned_ids({output}))",
        given if speaks else f"print(processor.decode({new}))",
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _listed(outputs: Sequence[str]) -> str:
    """As in "speech, text or mixed"."""
    return " or ".join(part for part in (", ".join(outputs[:-1]), outputs[-1]) if part)


def _voices(voices: Sequence[CardVoice]) -> str:
    """Whose recordings lie in the directory: who passes it on, passes them on."""
    if not voices:
        return ""
    lines = [
        f"- {markdown(voice.name)}: {voice.seconds / 60:.1f} minutes, recordings of "
        f"{', '.join(map(markdown, voice.speakers)) or 'speakers without a name'}: "
        f"{', '.join(map(code, voice.recordings))}"
        for voice in voices
    ]
    return f"""## Voice

The model speaks with stretches of recorded speech. `speech_tokenizer/voice.flac` contains these recordings of people, whole: ask
whoever they are of, and mind their licences, before the directory is passed on.

{chr(10).join(lines)}

"""


def _front_matter(card: Card) -> dict[str, Any]:
    metrics = [
        {"type": kind, "name": name, "value": round(float(value), 4)}
        for kind, name, value in _metrics(card)
        if value is not None
    ]
    dataset = {"name": "held-out recordings of the training corpus", "type": "held-out"}
    results = [
        {"task": {"type": "text-generation", "name": "speech continuation"}, "dataset": dataset, "metrics": metrics}
    ]
    return {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["speech", "audio", "distillation"],
        **card.licence.front_matter,
        "model-index": [{"name": card.name, "results": results}],
    }


def _metrics(card: Card) -> list[tuple[str, str, float | None]]:
    own, after = card.scores.models["student"], card.scores.continuation.models.get("student")
    continued = None if card.generated is None else card.generated.sources.get("student")
    return [
        ("perplexity", "perplexity per token", own.perplexity),
        ("bits_per_second", "bits per second of audio", own.bits_per_second),
        ("perplexity", "perplexity per token after the prompt", None if after is None else after.perplexity),
        ("accuracy", "continuation cloze", own.cloze),
        *(("accuracy", _plain(name), probe.models["student"].accuracy) for name, probe in card.probes.items()),
        ("perplexity", "generative perplexity", None if continued is None else continued.gen_ppl),
    ]


def _length(hours: float) -> str:
    return f"{hours * 60:.1f} minutes" if hours < 2 else f"{hours:,.1f} hours"


def _plain(probe: str) -> str:
    return f"probe: {probe.replace('_', ' ')}"


def _licence(licence: Licence) -> str:
    named = licence.name or licence.id
    if named is None:
        return markdown(licence.why)
    place = f" ({markdown(licence.link)})" if licence.link else ""
    copied = licence.link == "LICENSE"
    duty = (
        "a copy lies beside this card" if copied else "put a copy of it beside this card before you pass the model on"
    )
    if licence.name == "fair-noncommercial-research-license":
        return (
            f"**FAIR Noncommercial Research License**{place}: {duty}. {markdown(licence.why)} The licence binds derivatives, such as this "
            "model, and what it generates: noncommercial research only. The recordings' licences bind as well."
        )
    return f"**{markdown(named)}**{place}. {markdown(licence.why)} The recordings' licences bind as well."


# Scores ----------------------------------------------------------------------------------------------------------


def _sections(card: Card) -> str:
    held_out = card.scores.held_out
    about = (
        f"{held_out.hours * 60:.1f} minutes of held-out recordings, {count(held_out.tokens, 'token')}, {held_out.cloze_items} cloze "
        "items; in brackets stand 95 % intervals. Guessing, and counts of the tokens that the student was trained on, need no model: "
        "a model that is not better than these is worth nothing."
    )
    return "\n\n".join(
        [
            table(_likelihood(card.scores)),
            about,
            *_continuation(card.scores),
            *_probes(card),
            *_generated(card),
            *_sound(card),
        ]
    )


def _likelihood(scores: Scores) -> list[dict[str, str]]:
    rows = []
    for key, label in _LABELS.items():
        m = scores.models[key]
        cloze = (
            "–"
            if m.cloze is None or m.cloze_interval is None
            else share(m.cloze, m.cloze_interval, scores.held_out.cloze_items)
        )
        rows.append(
            {"model": label, "parameters": f"{m.parameters / 1e6:.2f} M"}
            | _row(m, nll_ratio(scores.ratios.get(key)))
            | {"cloze accuracy": cloze}
        )
    return rows + _floors(scores)


def _floors(scores: Scores) -> list[dict[str, str]]:
    """Rows of what needs no model."""
    guessing, none = scores.floors.guessing, {"cloze accuracy": "–"}
    # Every token costs a guess the same: its intervals are points.
    exact = {
        "NLL, nats per token": f"{guessing.nll:.3f}",
        "perplexity": figure(guessing.perplexity, ".1f"),
    }
    rows = [{"model": "Guessing", "parameters": "–"} | _row(guessing, "–") | exact | none]
    for order, counts in enumerate(scores.floors.counts, start=1):
        rows.append({"model": counts_label(order).capitalize(), "parameters": "–"} | _row(counts, "–") | none)
    return rows


def _started(student: Mapping[str, Any]) -> str:
    """Which student of another run it started from; empty for none."""
    start = student.get("start")
    if start is None:
        return ""
    return (
        f"\n- start: {code(start['name'])} (SHA-256 {code(start['sha256'])}), a student of another run. What that one heard, and its "
        "licence, count for this model too."
    )


def _row(m: Likelihood, over_the_teacher: str) -> dict[str, str]:
    bits = with_interval(m.bits_per_second, m.bits_per_second_interval, ".1f")
    return {
        "NLL, nats per token": with_interval(m.nll, m.nll_interval, ".3f"),
        OVER_TEACHER: over_the_teacher,
        "perplexity": with_interval(m.perplexity, m.perplexity_interval, ".1f"),
        "bits per second": "–" if m.bits_per_second is None else bits,
    }


def _continuation(scores: Scores) -> list[str]:
    after = scores.continuation
    if not after.models:
        return []
    rows = []
    for key, label in _LABELS.items():
        m = after.models[key]
        rows.append(
            {
                "model": label,
                "NLL after the prompt": with_interval(m.nll, m.nll_interval, ".3f"),
                "perplexity, as a multiple of the teacher's": perplexity_ratio(after.ratios.get(key)),
                "bits per second": with_interval(m.bits_per_second, m.bits_per_second_interval, ".1f"),
            }
        )
    head = f"What comes after a prompt of {after.prompt_s:g} s, in {count(after.utterances, 'utterance')} of {after.min_s:g} s and more:"
    return [head, table(rows)]


def _probes(card: Card) -> list[str]:
    if not card.probes:
        return []
    rows = []
    for name, probe in card.probes.items():
        row = {"probe": name.replace("_", " "), "pairs": str(probe.items)}
        for key, label in _LABELS.items():
            row[label] = share(probe.models[key].accuracy, probe.models[key].interval, probe.items)
        kept = probe.retention
        known = with_interval(kept.above_chance, kept.above_chance_interval, ".0%")
        row["kept of the teacher's lead over chance"] = (
            "not known: the teacher is not shown to be above chance" if kept.above_chance is None else known
        )
        rows.append(row)
    return ["Pairs of recordings of which one is wrong from its middle on (chance is 50 %):", table(rows)]


def _generated(card: Card) -> list[str]:
    if card.generated is None or not card.generated.sources:
        return []
    rows = []
    for source, figures in card.generated.sources.items():
        repeated = with_interval(figures.auto_bleu, figures.auto_bleu_interval, ".1%")
        rows.append(
            {
                "continued by": _SOURCES[source],
                "generative perplexity": with_interval(figures.gen_ppl, figures.gen_ppl_interval, ".1f"),
                "as a multiple of the teacher's": gen_ppl_ratio(card.generated.ratios.get(source)),
                "auto-BLEU-2": "–" if figures.auto_bleu is None else repeated,
                "clips in which nothing was understood": f"{figures.empty} of {card.generated.items}",
            }
        )
    head = "Sampled continuations, spoken, written down by a speech recogniser and read by a language model of text:"
    return [head, table(rows)]


def _sound(card: Card) -> list[str]:
    rows = judges_rows(card.judges, _HEARD)
    return [f"How it sounds. {markdown(judges_text(card.judges))}", *([table(rows)] if rows else [])]
