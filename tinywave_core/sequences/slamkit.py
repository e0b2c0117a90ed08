"""slamkit's two files: units of utterances as features.jsonl, sequences of ids as tokens.jsonl.

Forms (github.com/slp-rl/slamkit, example_data and cli/prepare_tokens.py), one JSON object a line:
- features.jsonl: {"units": [3, 49], "duration": [1, 2], "file_name": "a.flac"}: runs of equal units and their lengths in
  frames of 25 Hz.
- tokens.jsonl: {"file_name": "a.flac", "audio_repr": "<Un3><Un49>"}; interleaved: "<text>the cat<speech><Un3><text> sat",
  in which words bring their leading spaces along.

slamkit has no pitch and no style: they are left out.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tinywave_core.sequences.interleaving import SPECIAL, SPEECH, DecodeText, modalities
from tinywave_core.tokenizers.speech import HUBERT, Streams, run_starts
from tinywave_core.tokenizers.vocabulary import Ids, Vocabulary


def write_features(path: Path, utterances: Iterable[tuple[str, Streams]]) -> None:
    """Write features.jsonl of (file name, streams)."""
    with path.open("w", encoding="utf-8") as file:
        for name, streams in utterances:
            starts = run_starts(streams.units)
            row = {
                "units": streams.units[starts].tolist(),
                "duration": np.diff(starts, append=len(streams.units)).tolist(),
                "file_name": name,
            }
            file.write(json.dumps(row) + "\n")


def write_tokens(
    path: Path, sequences: Iterable[tuple[str, Ids]], vocabulary: Vocabulary, decode_text: DecodeText
) -> None:
    """Write tokens.jsonl of (file name, ids). Sequences of speech alone have no markers, as slamkit's speech models want."""
    with path.open("w", encoding="utf-8") as file:
        for name, ids in sequences:
            row = {"file_name": name, "audio_repr": _representation(ids, vocabulary, decode_text)}
            file.write(json.dumps(row) + "\n")


def _representation(ids: Ids, vocabulary: Vocabulary, decode_text: DecodeText) -> str:
    found = modalities(ids, vocabulary)
    content, kinds = np.asarray(ids)[found != SPECIAL], found[found != SPECIAL]
    is_speech_only = bool((kinds == SPEECH).all())
    parts: list[str] = []
    for run in np.split(np.arange(len(kinds)), run_starts(kinds.astype(np.int64))[1:]):
        if len(run) and kinds[run[0]] != SPEECH:
            parts.append(f"<text>{' ' if parts else ''}{decode_text(content[run].tolist())}")
        else:
            units = content[run][vocabulary.kinds(content[run]) == HUBERT] - vocabulary.first["hubert"]
            parts.append("" if is_speech_only else "<speech>")
            parts.append("".join(f"<Un{unit}>" for unit in units.tolist()))
    return "".join(parts)
