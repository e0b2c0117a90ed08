"""By which rule a tokenizer.json of byte-level pairs cuts a text before it merges, under the name that llama.cpp has for the rule.

Only rules that are equal part for part have a name here: another one would give other ids without a word.
"""

from typing import Any

RULES: dict[str, list[tuple[Any, ...]]] = {
    "gpt-2": [("ByteLevel", False, True)],
    "smollm": [("Digits", True), ("ByteLevel", False, True)],
}
"""By llama.cpp's names: GPT-2's own rule, and the same after single digits (SmolLM). Text of Qwen has too many tokens to be kept."""


def rule_of(about: Any) -> str | None:
    """llama.cpp's name of the rule by which a tokenizer.json of byte-level pairs cuts a text; None where it has none for it."""
    if not isinstance(about, dict) or about.get("normalizer") is not None:
        return None
    found = _steps(about.get("pre_tokenizer"))
    return next((name for name, steps in RULES.items() if steps == found), None)


def _steps(cut: Any) -> list[tuple[Any, ...]]:
    """What a pre_tokenizer does, in order, without what changes no token."""
    if not isinstance(cut, dict):
        return []
    if cut.get("type") == "Sequence":
        return [step for part in cut.get("pretokenizers", []) for step in _steps(part)]
    values = {"ByteLevel": ("add_prefix_space", "use_regex"), "Digits": ("individual_digits",)}
    return [(cut.get("type"), *(cut.get(name) for name in values.get(str(cut.get("type")), ())))]
