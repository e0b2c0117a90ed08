"""The model card: what the student is, what it was made from, how it scored, how to load it."""

from typing import Any

from tinywave_core.tokenizers.vocabulary import Vocabulary

_LABELS = {"teacher": "Teacher", "student": "This student", "control": "Same student, undistilled"}


def model_card(
    name: str, student: dict[str, Any], scores: dict[str, Any], vocabulary: Vocabulary, lineage: dict[str, str]
) -> str:
    """Markdown with the front matter that model hubs read."""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [speech, audio, distillation]
---

# {name}

A speech language model of {student["parameters"] / 1e6:.2f} M parameters in {student["layers"]} blocks, distilled from a
teacher of {student["teacher_parameters"] / 1e6:.2f} M after "Efficient Interleaved Speech Modeling through Knowledge
Distillation" (arXiv 2506.23670). It continues speech as discrete tokens: {vocabulary.hubert} phonetic units at 25 Hz\
{f", {vocabulary.pitch} pitch codes at 12.5 Hz and {vocabulary.style} style codes at 1 Hz" if vocabulary.pitch else ""}.

## Held-out scores

{_table(scores)}

{scores["held_out"]["hours"] * 60:.1f} minutes of held-out recordings, {scores["held_out"]["tokens"]} tokens, \
{scores["held_out"]["cloze_items"]} cloze items; intervals are 95 %.

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

## Lineage

{chr(10).join(f"- {part}: `{artifact}`" for part, artifact in lineage.items())}

## Limits and licence

The model knows the speech it was trained on and no more; it has no safeguards against imitating a voice's manner.
Its licence follows from its teacher and its training data: a student of SpiritLM carries the FAIR Noncommercial
Research License; a student of a fresh teacher is bound by the licences of the recordings alone.
"""


def _table(scores: dict[str, Any]) -> str:
    lines = [
        "| model | parameters | NLL, nats per token | perplexity | bits per second | cloze accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for key, label in _LABELS.items():
        m = scores["models"][key]
        low, high = m["nll_interval"]
        cloze = (
            f"{m['cloze']:.1%} ({m['cloze_interval'][0]:.1%} to {m['cloze_interval'][1]:.1%})" if "cloze" in m else "-"
        )
        lines.append(
            f"| {label} | {m['parameters'] / 1e6:.2f} M | {m['nll']:.3f} ({low:.3f} to {high:.3f}) | {m['perplexity']:.1f} "
            f"| {'–' if m['bits_per_second'] is None else format(m['bits_per_second'], '.1f')} | {cloze} |"
        )
    return "\n".join(lines)
