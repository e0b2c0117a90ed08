"""STSP, Speech-Text Sentiment Preservation (arXiv 2402.05755): does a continuation have the sentiment of its prompt, in either modality?

References are JSON lines {id, sentiment or emotion, wav_path, asr}: a prompt as recording and as text. wav_path is absolute or lies
beside the file. Predictions are JSON lines {id, pred}.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinywave_core.errors import SourceError
from tinywave_core.evals.sentiments import Sentiment, sentiment_of

LABELS = ("sentiment", "emotion")


@dataclass(frozen=True)
class Reference:
    """One prompt."""

    id: str
    sentiment: Sentiment
    wav: Path
    text: str
    """As a recogniser heard it; empty where it heard nothing."""


def read_references(path: Path, table: Mapping[str, Sentiment]) -> list[Reference]:
    """The prompts of a file in its order; SourceError where it is no such file, or a recording is missing."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read ({error}): expected the JSON lines of STSP's references") from error
    found: dict[str, Reference] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            reference = _reference(path, f"{path}:{number}", line, table)
            if reference.id in found:
                raise SourceError(
                    f"{path}:{number}: the id {reference.id!r} is there already; expected a new one in every line"
                )
            found[reference.id] = reference
    if not found:
        raise SourceError(f"{path} has no lines: expected {{id, {' or '.join(LABELS)}, wav_path, asr}} in each")
    missing = [reference.wav for reference in found.values() if not reference.wav.is_file()]
    if missing:
        raise SourceError(
            f"{path} names {len(missing)} of {len(found)} recordings that are not there, such as {missing[0]}: a wav_path is absolute "
            "or lies beside the file; copy the recordings, or correct the paths"
        )
    return list(found.values())


def _reference(path: Path, place: str, line: str, table: Mapping[str, Sentiment]) -> Reference:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{place} is no JSON ({error}): expected an object of STSP's references") from error
    row = row if isinstance(row, dict) else {}
    label = next((row[name] for name in LABELS if name in row), None)
    lacking = [name for name in ("id", "wav_path", "asr") if name not in row]
    if label is None or lacking:
        lacking += [] if label is not None else [" or ".join(LABELS)]
        raise SourceError(f"{place} has no {', '.join(lacking)}; expected id, {' or '.join(LABELS)}, wav_path and asr")
    return Reference(
        str(row["id"]),
        sentiment_of(str(label), table, place),
        path.parent / str(row["wav_path"]),
        str(row["asr"] or "").strip(),
    )


def write_predictions(path: Path, predictions: Sequence[tuple[str, Sentiment | None]]) -> None:
    """As STSP has them; null where a continuation could not be classified, so that no id is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": i, "pred": pred}) + "\n" for i, pred in predictions), encoding="utf-8")
