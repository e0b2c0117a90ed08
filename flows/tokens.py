"""`tinywave tokens`: the tokens of SpiritLM's speech tokenizer, or of a model's own, for audio files, one JSON line each."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks import terminal
from tinywave_core.audio.waveform import read_waveform
from tinywave_core.checkpoints.spiritlm import Kind
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.counts import count
from tinywave_core.devices import pick_device
from tinywave_core.errors import TinyWaveError
from tinywave_core.threads import keep_large_blocks
from tinywave_core.tokenizers.base import Places
from tinywave_core.tokenizers.opening import open_beside
from tinywave_core.tokenizers.spiritlm import SpeechTokens, SpiritLMTokenizer


def show_tokens(
    paths: Sequence[str],
    model: Kind,
    spiritlm_dir: str | None,
    hubert: str | None,
    quantizer: str | None,
    device: str,
    of_model: str | None = None,
) -> int:
    """Print {path, hubert, pitch, style, string, ids} per file; a file that cannot be used is a line {path, error}, status 2."""
    keep_large_blocks()
    device_type = pick_device(RuntimeConfig.model_validate({"device": device})).type
    tokenizer: Callable[[str], SpeechTokens]
    if of_model is None:
        tokenizer = SpiritLMTokenizer.load(spiritlm_dir, model, hubert=hubert, quantizer=quantizer, device=device_type)
    else:
        tokenizer = _of_model(Path(of_model), spiritlm_dir, device_type)
    failed = 0
    for number, path in enumerate(paths, start=1):
        try:
            line = _line(path, tokenizer)
        except TinyWaveError as error:
            failed += 1
            line = {"path": path, "error": str(error)}
        terminal.say(json.dumps(line, ensure_ascii=False), flush=True)
        if len(paths) > 1 and sys.stderr.isatty():
            terminal.say_over(f"{number} of {count(len(paths), 'file')}", last=number == len(paths))
    if failed:
        terminal.say(
            f"error: {failed} of {count(len(paths), 'file')} could not be tokenized; their lines say why",
            file=sys.stderr,
        )
    return 2 if failed else 0


def _of_model(model: Path, spiritlm_dir: str | None, device: str) -> Callable[[str], SpeechTokens]:
    """The tokenizer of an export's model/ directory, or of an artifact of codebooks."""
    opened = open_beside(model, Places(spiritlm_dir), device)

    def tokens(path: str) -> SpeechTokens:
        (streams,) = opened.tokenize([read_waveform(path)])
        return SpeechTokens.of(streams, opened.vocabulary)

    return tokens


def _line(path: str, tokenizer: Callable[[str], SpeechTokens]) -> dict[str, Any]:
    tokens = tokenizer(path)
    return {
        "path": path,
        "hubert": _string(tokens.hubert),
        "pitch": None if tokens.pitch is None else _string(tokens.pitch),
        "style": None if tokens.style is None else _string(tokens.style),
        "string": tokens.string,
        "ids": tokens.ids.tolist(),
        **({"unvoiced_chunks": tokens.unvoiced_chunks} if tokens.unvoiced_chunks else {}),
    }


def _string(units: Any) -> str:
    """Units as SpiritLM writes them: decimal numbers with spaces between."""
    return " ".join(map(str, units.tolist()))
