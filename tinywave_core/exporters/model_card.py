"""The model card: what the student is, what it was made from, how it scored, its limits and licence, how to load it."""

from dataclasses import dataclass, field
from typing import Any

from tinywave_core.escaping import code, markdown, table, yaml_text
from tinywave_core.exporters.licence import Licence
from tinywave_core.tokenizers.vocabulary import Vocabulary
from tinywave_core.wording import ratio, with_interval

SummaryDict = dict[str, Any]
_LABELS = {"teacher": "Teacher", "student": "This student", "control": "Same student, undistilled"}
_SOURCES = {**_LABELS, "recording": "How the recordings really went on"}


@dataclass(frozen=True)
class Data:
    """The speech that a student was trained on."""

    hours: float
    utterances: int
    recordings: int


@dataclass(frozen=True)
class Card:
    """All that a card tells; what was not computed is empty."""

    name: str
    student: SummaryDict
    vocabulary: Vocabulary
    scores: SummaryDict
    data: Data
    licence: Licence
    lineage: dict[str, str]
    """Artifact id by part."""
    probes: SummaryDict = field(default_factory=dict)
    generated: SummaryDict = field(default_factory=dict)


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

## Scores on held-out speech

{_sections(card)}

## Use

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
model = AutoModelForCausalLM.from_pretrained("path/to/this/directory")
prompt = tokenizer("[Speech][Hu0][Hu1]", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=50)[0]))
```

`speech.json` has the token ids and rates, and how a prompt begins; `speech_tokenizer/` turns audio into prompts and tokens into
audio (with SpiritLM's tokens it names the files of its release, which are not in here).

## Data and lineage

Trained on {_length(card.data.hours)} of speech: {card.data.utterances:,} utterances of {card.data.recordings:,} recordings. The corpus
keeps no record of their licences.

{chr(10).join(f"- {markdown(part)}: {code(artifact)}" for part, artifact in card.lineage.items())}

## Limits

The model knows the speech it was trained on and no more: other languages, voices, rooms and microphones were not tested. Scores
are of held-out recordings of the same corpus, and figures whose intervals overlap are not told apart by them. It has no
safeguards against imitating a voice's manner, and nothing that it says is checked for truth.

## Licence

{_licence(card.licence)}
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
    own = card.scores["models"]["student"]
    after = card.scores["continuation"]["models"].get("student", {})
    probes = card.probes.get("probes", {})
    return [
        ("perplexity", "perplexity per token", own["perplexity"]),
        ("bits_per_second", "bits per second of audio", own["bits_per_second"]),
        ("perplexity", "perplexity per token after the prompt", after.get("perplexity")),
        ("accuracy", "continuation cloze", own.get("cloze")),
        *(("accuracy", _plain(name), found["models"]["student"]["accuracy"]) for name, found in probes.items()),
        ("perplexity", "generative perplexity", _sources(card).get("student", {}).get("gen_ppl")),
    ]


def _sources(card: Card) -> dict[str, Any]:
    return dict(card.generated.get("sources", {}))


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
    held_out = card.scores["held_out"]
    about = (
        f"{held_out['hours'] * 60:.1f} minutes of held-out recordings, {held_out['tokens']} tokens, {held_out['cloze_items']} cloze "
        "items; in brackets stand 95 % intervals."
    )
    return "\n\n".join(
        [table(_likelihood(card.scores)), about, *_continuation(card), *_probes(card), *_generated(card)]
    )


def _likelihood(scores: SummaryDict) -> list[dict[str, str]]:
    rows = []
    for key, label in _LABELS.items():
        m = scores["models"][key]
        row = {"model": label, "parameters": f"{m['parameters'] / 1e6:.2f} M"}
        row["NLL, nats per token"] = with_interval(m, "nll", ".3f")
        row["over the teacher's"] = ratio(scores["ratios"].get(key), "nll")
        row["perplexity"] = with_interval(m, "perplexity", ".1f")
        silent = m["bits_per_second"] is None
        row["bits per second"] = "–" if silent else with_interval(m, "bits_per_second", ".1f")
        row["cloze accuracy"] = with_interval(m, "cloze", ".1%") if "cloze" in m else "–"
        rows.append(row)
    return rows


def _continuation(card: Card) -> list[str]:
    found = card.scores["continuation"]
    if not found["models"]:
        return []
    rows = [
        {
            "model": label,
            "NLL after the prompt": with_interval(found["models"][key], "nll", ".3f"),
            "perplexity over the teacher's": ratio(found["ratios"].get(key), "perplexity"),
            "bits per second": with_interval(found["models"][key], "bits_per_second", ".1f"),
        }
        for key, label in _LABELS.items()
    ]
    head = f"What comes after a prompt of {found['prompt_s']:g} s, in {found['utterances']} utterances of {found['min_s']:g} s and more:"
    return [head, table(rows)]


def _probes(card: Card) -> list[str]:
    probes = card.probes.get("probes", {})
    if not probes:
        return []
    rows = []
    for name, found in probes.items():
        row = {"probe": name.replace("_", " "), "pairs": str(found["items"])}
        row |= {
            label: with_interval(found["models"][key], "accuracy", ".1%", "interval") for key, label in _LABELS.items()
        }
        kept = found["retention"]
        known = kept["above_chance"] is not None
        row["kept above chance"] = (
            with_interval(kept, "above_chance", ".0%") if known else "undefined: teacher not surely above chance"
        )
        rows.append(row)
    return ["Pairs of recordings of which one is wrong from its middle on (chance is 50 %):", table(rows)]


def _generated(card: Card) -> list[str]:
    if not _sources(card):
        return []
    rows = []
    for key, found in _sources(card).items():
        row = {"continued by": _SOURCES[key], "generative perplexity": with_interval(found, "gen_ppl", ".1f")}
        row["over the teacher's"] = ratio(card.generated["ratios"].get(key), "gen_ppl")
        row["auto-BLEU-2"] = "–" if found["auto_bleu"] is None else with_interval(found, "auto_bleu", ".1%")
        row["nothing heard in"] = f"{found['empty']} of {card.generated['items']}"
        rows.append(row)
    head = "Sampled continuations, spoken, written down by a speech recogniser and read by a language model of text:"
    return [head, table(rows)]
