"""Ratings of written continuations by a language model that was given, as part of evaluation.

Part `ratings`: ratings.parquet, every continuation's rating or why it has none, with the written prompt. Transcripts of continuations are
those of `generated`; the prompts are spoken and written down by the same vocoder and recogniser, so that the judge reads one kind of text.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa

from tinywave_core.checkpoints.digests import sha256_once
from tinywave_core.checkpoints.spiritlm import digest_of
from tinywave_core.config.evaluation import GeneratedConfig
from tinywave_core.errors import MissingInputError
from tinywave_core.evals.rating import TEMPLATE_VERSION, Rating, gaps, is_gguf, rated
from tinywave_core.stages.evaluation.continuations import SOURCES, Progress, held_out_prompts, kept, speaks
from tinywave_core.stages.evaluation.judges_given import files_of
from tinywave_core.stages.evaluation.summary import GeneratedSummary, RatingsSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import held_out_shards
from tinywave_core.storage.shards import read_table, write_table
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import Vocabulary

VERSION = 1
RatingsStep = Step[GeneratedConfig, RatingsSummary]
FILE = "ratings.parquet"
_SCHEMA = pa.schema(
    [
        ("utterance_id", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.string()),
        ("rating", pa.float64()),  # null where there is none
        ("failure", pa.string()),  # why
    ]
)


def build(
    judge: str, tokens: Artifact, generated: Artifact, made_by: Step[GeneratedConfig, Any], execute: Execute
) -> dict[str, Artifact]:
    """The artifact `ratings` of what the step `made_by` wrote down; none without a judge."""
    if not judge:
        return {}
    place = Path(judge)
    speech = [shard for shard in held_out_shards(tokens) if shard.part != "text"]
    inputs = {"tokens": speech, "generated": [generated]}
    inputs |= {name: of for name, of in made_by.inputs.items() if name in ("tokenizer", "vocoder")}
    (made,) = execute(
        [
            Step(
                store=tokens.store,
                stage="evaluation",
                part="ratings",
                version=VERSION,
                run=run_ratings,
                config=made_by.config.model_copy(update={"judge": "given"}),
                params={
                    "asr_sha256": made_by.params["asr_sha256"],
                    "vocoder": made_by.params["vocoder"],
                    "judge_sha256": sha256_once(place) if is_gguf(place) else digest_of(files_of(place)),
                    "template": TEMPLATE_VERSION,
                },
                context={**made_by.context, "judge": judge},
                inputs=inputs,
                runtime=made_by.runtime,
            )
        ]
    )
    return {"ratings": made}


def check_gguf(path: Path) -> None:
    """Refuse a file that is no judge, or that nothing here can run."""
    from tinywave_core.runtimes.gguf_file import GgufFile

    GgufFile.read(path)
    if find_spec("xllamacpp") is None:
        raise MissingInputError(
            f"evaluation.generated.judge {path} needs the package xllamacpp: pip install 'tinywave[llama-cpp]', or give a directory of "
            "transformers"
        )


# The work ----------------------------------------------------------------------------------------------------------


def speaker_and_recogniser(
    step: Step[Any, Any], output: Output, vocabulary: Vocabulary, language: str
) -> tuple[Callable[[Any], Any], Callable[[Any], str]]:
    """What makes audio of ids, and text of audio in a language, with the vocoder and the recogniser of a step."""
    from tinywave_core.devices import pick_device
    from tinywave_core.evals.transcription import load_recogniser
    from tinywave_core.synthesis.speaking import load_speaker

    device = pick_device(output.runtime)
    voice = step.input("vocoder").path() if "vocoder" in step.inputs else None
    place = step.input("tokenizer").path()
    speaker = load_speaker(place, vocabulary, step.context["spiritlm_dir"], device, voice)
    return speaker, load_recogniser(Path(step.context["asr"]), language, device)


def run_ratings(step: RatingsStep, output: Output) -> RatingsSummary:
    """Write down the prompts and rate what followed; what a crash left of either is used."""
    from tinywave_core.threads import use_threads

    use_threads(output.runtime)
    generated = step.input("generated")
    if why := GeneratedSummary.of(generated).why:
        write_table(_SCHEMA.empty_table(), output.folder / FILE)
        return RatingsSummary(items=0, why=why, sources={}, gaps={})
    rows = read_table(generated.path("generated.parquet")).to_pylist()
    by_source = {source: [row for row in rows if row["source"] == source] for source in SOURCES}
    items = len(by_source[SOURCES[0]])
    progress = Progress(output, items * (1 + len(SOURCES)))
    prompts = kept(output.resume / "prompts.json", partial(_written_prompts, step, output, progress))
    progress.reached(items)
    ratings = _ratings(step, output, by_source, prompts, progress)
    table = [
        {"utterance_id": row["utterance_id"], "source": source, "prompt": prompts[row["utterance_id"]]}
        | {"rating": rating.value, "failure": rating.failure}
        for source, of_source in by_source.items()
        for row, rating in zip(of_source, ratings[source], strict=True)
    ]
    write_table(pa.Table.from_pylist(table, schema=_SCHEMA), output.folder / FILE)
    return RatingsSummary(items=items, sources=rated(ratings, step.config.seed), gaps=gaps(ratings, step.config.seed))


def _written_prompts(step: RatingsStep, output: Output, progress: Progress) -> dict[str, str]:
    """The prompts as the recogniser hears them, by utterance."""
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    prompts = held_out_prompts(step.config, step.inputs["tokens"], vocabulary)
    speak, transcribe = speaker_and_recogniser(step, output, vocabulary, step.config.language)
    written = {}
    for number, prompt in enumerate(prompts, start=1):
        ids = prompt.ids
        written[prompt.utterance_id] = transcribe(speak(ids)) if speaks(ids.tolist(), vocabulary) else ""
        progress(number, len(prompts), "prompts written down")
    return written


def _ratings(
    step: RatingsStep,
    output: Output,
    by_source: dict[str, list[dict[str, Any]]],
    prompts: dict[str, str],
    progress: Progress,
) -> dict[str, list[Rating]]:
    from tinywave_core.devices import pick_device
    from tinywave_core.runtimes.rating import load_judge

    judge = load_judge(Path(step.context["judge"]), str(pick_device(output.runtime)), output.runtime.threads)

    def rate(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        found = []
        for number, row in enumerate(rows, start=1):
            found.append(asdict(judge.rate(prompts[row["utterance_id"]], row["transcript"])))
            progress(number, len(rows), "continuations rated")
        return found

    ratings = {}
    for source, rows in by_source.items():
        made = kept(output.resume / f"{source}-rated.json", partial(rate, rows))
        ratings[source] = [Rating(**each) for each in made]
        progress.reached(len(rows))
    return ratings
