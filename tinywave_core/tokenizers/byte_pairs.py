"""By which rule a tokenizer.json of byte-level pairs cuts a text before it merges, under the name that llama.cpp has for the rule.

Only rules that are equal part for part have a name here: another one would give other ids without a word. One thing is let pass:
Qwen's tokenizers first compose what is written in parts (e and a combining accent: é; Unicode's NFC), llama.cpp does not.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """What a tokenizer does before it merges."""

    steps: list[tuple[Any, ...]]
    """Of its pre_tokenizer."""
    normalizer: dict[str, str] | None = None
    takes_whole_words: bool = False
    """Whether a word that is a token is not merged (`ignore_merges`)."""


def _split(digits: str) -> list[tuple[Any, ...]]:
    """The rule of OpenAI's cl100k, which Llama 3 has with up to three digits and Qwen with one."""
    pattern = rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    return [("Split", pattern, "Isolated", False), ("ByteLevel", False, False)]


RULES = {
    "gpt-2": Rule([("ByteLevel", False, True)]),
    "smollm": Rule([("Digits", True), ("ByteLevel", False, True)]),
    "llama-bpe": Rule(_split(r"\p{N}{1,3}"), takes_whole_words=True),
    "qwen2": Rule(_split(r"\p{N}"), normalizer={"type": "NFC"}),
}
"""By llama.cpp's names: GPT-2's own rule, the same after single digits (SmolLM), Llama 3's and Qwen's."""


def rule_of(about: Any) -> str | None:
    """llama.cpp's name of the rule by which a tokenizer.json of byte-level pairs cuts a text; None where it has none for it."""
    if not isinstance(about, dict):
        return None
    whole_words = bool((about.get("model") or {}).get("ignore_merges"))
    found = Rule(_steps(about.get("pre_tokenizer")), about.get("normalizer"), whole_words)
    return next((name for name, rule in RULES.items() if rule == found), None)


def _steps(cut: Any) -> list[tuple[Any, ...]]:
    """What a pre_tokenizer does, in order, without what changes no token."""
    if not isinstance(cut, dict):
        return []
    if cut.get("type") == "Sequence":
        return [step for part in cut.get("pretokenizers", []) for step in _steps(part)]
    values = {
        "ByteLevel": ("add_prefix_space", "use_regex"),
        "Digits": ("individual_digits",),
        "Split": ("pattern", "behavior", "invert"),
    }
    return [(cut.get("type"), *(_plain(cut.get(name)) for name in values.get(str(cut.get("type")), ())))]


def _plain(value: Any) -> Any:
    return value.get("Regex") if isinstance(value, dict) else value
