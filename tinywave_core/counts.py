"""A number and its noun in words. Apart from wording.py, so that every folder may use it."""


def count(number: float, noun: str, plural: str = "", form: str = ",") -> str:
    """A number with its noun: `1 file`, `2 files`, `1,204 utterances`. `plural` where it is not the noun with an s."""
    return f"{number:{form}} {noun if number == 1 else plural or noun + 's'}"
