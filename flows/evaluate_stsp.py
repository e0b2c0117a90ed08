"""`tinywave evaluate --suite stsp=FILE.jsonl`: how often a model keeps the sentiment of its prompt, in every direction that it can."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from flows.console import console
from tasks import terminal
from tinywave_core.errors import ConfigError
from tinywave_core.evals.suites.opening import split_word

if TYPE_CHECKING:
    from tinywave_core.evals.benchmark import SpeechLM
    from tinywave_core.evals.sentiment_kept import Classifiers, Direction, Kept
    from tinywave_core.evals.suites.stsp import Reference


def files_of_stsp(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The files of `stsp=FILE`, and the other words."""
    named = [split_word(word) for word in words]
    files = [path for name, path in named if name is not None and name.lower() == "stsp"]
    return files, [word for word, (name, _) in zip(words, named, strict=True) if name is None or name.lower() != "stsp"]


def evaluate_stsp(options: Namespace, files: Sequence[Path]) -> None:
    """Print a table per file; with --out write predictions as STSP has them, and stsp.json. All is read before a model is loaded."""
    from tinywave_core.config.base import RuntimeConfig
    from tinywave_core.devices import pick_device
    from tinywave_core.evals.benchmark import SpeechLM
    from tinywave_core.evals.sentiment_kept import NEW_TOKENS, SAMPLING, sentiment_kept
    from tinywave_core.evals.sentiments import speech_classifier, table_with, text_classifier
    from tinywave_core.evals.suites.stsp import read_references

    if options.against:
        raise ConfigError("--against is for pairs: run stsp once for each model, and compare the predictions of --out")
    table = table_with(options.sentiment_of)
    references = {path: read_references(path, table) for path in files}
    device = str(pick_device(RuntimeConfig.model_validate({"device": options.device})))
    classifiers: Classifiers = {}
    if options.speech_classifier:
        classifiers["speech"] = speech_classifier(Path(options.speech_classifier).expanduser(), table, device)
    if options.text_classifier:
        classifiers["text"] = text_classifier(Path(options.text_classifier).expanduser(), table, device)
    if not classifiers:
        raise ConfigError(
            "stsp needs a classifier of what the model gives: --speech-classifier DIR, --text-classifier DIR, or both"
        )
    lm = SpeechLM.load(options.model, options.spiritlm_dir, options.device)
    speak = _speaker(lm, device) if "speech" in classifiers else None
    about = {
        "model": {"folder": options.model, "digest": lm.digest, "parameters": lm.parameters},
        "classifiers": {of: {"folder": str(c.folder), "digest": c.digest} for of, c in classifiers.items()},
        "sampling": {**SAMPLING, "new_tokens": NEW_TOKENS, "seed": 0},
    }
    results = {}
    for path, prompts in references.items():
        kept = sentiment_kept(lm, prompts, classifiers, speak, progress=terminal.progress(f"STSP, {path.stem}"))
        console().print(_shown(path, kept))
        for name, why in kept.absent.items():
            terminal.say(f"{name} was not measured: {why}")
        results[path] = kept
    if options.out:
        _write(Path(options.out).expanduser(), about, references, results)


def _speaker(lm: "SpeechLM", device: str) -> Any:
    from tinywave_core.synthesis.speaking import load_speaker, released_speaker
    from tinywave_core.tokenizers.opening import SPEECH_TOKENIZER

    place = lm.folder / SPEECH_TOKENIZER
    if place.is_dir():
        return load_speaker(place, lm.vocabulary, lm.spiritlm_dir, device)
    return released_speaker(lm.vocabulary, lm.spiritlm_dir, device)


def _shown(path: Path, kept: "Kept") -> Table:
    title = f"{path}: sentiment kept; one answer to everything gets {100 * kept.chance:.1f} %"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("direction", overflow="fold")
    for name in ("prompts", "kept", "95 %", "without a sentiment, counted as wrong"):
        table.add_column(name, justify="right")
    for each in kept.directions.values():
        table.add_row(*_cells(each.name, each))
    for of, each in kept.prompts.items():
        table.add_row(*_cells(f"the {of} classifier on the prompts themselves", each))
    return table


def _cells(name: str, each: "Direction") -> tuple[str, ...]:
    low, high = each.interval
    share, interval = f"{100 * each.accuracy:.1f} %", f"{100 * low:.1f} to {100 * high:.1f}"
    return name, f"{each.items:,}", share, interval, f"{sum(each.failures.values()):,}"


def _write(
    folder: Path, about: dict[str, Any], references: "dict[Path, list[Reference]]", results: "dict[Path, Kept]"
) -> None:
    from tinywave_core.evals.suites.stsp import write_predictions

    told = []
    for number, (path, kept) in enumerate(results.items(), start=1):
        place = Path("stsp") / f"{number}-{path.stem}"
        files = {}
        for name, each in kept.directions.items():
            files[name] = str(place / f"{name.replace('→', '2').lower()}.jsonl")
            write_predictions(folder / files[name], each.predictions)
        measured = {name: each.to_json() for name, each in kept.directions.items()}
        prompts = {of: each.to_json() for of, each in kept.prompts.items()}
        told.append(
            {"references": str(path), "prompts": len(references[path]), "chance": kept.chance, "directions": measured}
            | {"on_prompts": prompts, "absent": kept.absent, "files": files}
        )
    text = json.dumps(about | {"suites": told}, ensure_ascii=False, indent=1)
    (folder / "stsp.json").write_text(text + "\n", encoding="utf-8")
    terminal.say(f"predictions and stsp.json: {folder}")
