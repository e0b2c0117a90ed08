"""Judges that rank continuations: the teacher, or models that evaluation was given, loaded once and asked many times.

In come prompts and continuations in the ids of the token shards; out comes a verdict for each, the higher the better.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tinywave_core.checkpoints.digests import sha256_once
from tinywave_core.checkpoints.spiritlm import digest_of, vocoder_part
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.config.preference import JudgeName, PreferenceConfig
from tinywave_core.errors import ConfigError
from tinywave_core.evals.ranking import Verdict
from tinywave_core.evals.rating import TEMPLATE_VERSION, is_gguf
from tinywave_core.stages.evaluation.continuations import speaks
from tinywave_core.stages.evaluation.judges_given import files_of
from tinywave_core.stages.evaluation.ratings import speaker_and_recogniser
from tinywave_core.stages.export import vocoder
from tinywave_core.stages.tokenization.summary import TokensSummary
from tinywave_core.steps.base import Execute, Inputs, Output, Step
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.opening import choose_tokenizer
from tinywave_core.tokenizers.vocabulary import Ids, Vocabulary

Judging = Callable[[Sequence[Ids], Sequence[Ids]], list[Verdict]]
UNIT: dict[JudgeName, str] = {
    "teacher": "log-probability per token by the teacher, nats",
    "rating": "rating from 1 to 5 by the language model",
    "perplexity": "log-probability per token of the transcript by the language model, nats",
}
SAYS_NOTHING = "no words"


def check_judge(config: PipelineConfig) -> None:
    """Refuse a judge whose models are not given."""
    asked, given = config.distillation.preference, config.evaluation.generated
    lacking = {"rating": "judge", "perplexity": "language_model"}.get(asked.judge)
    if asked.share and lacking and not getattr(given, lacking):
        raise ConfigError(
            f"distillation.preference.judge is {asked.judge}, but evaluation.generated.{lacking} is not given: give it, with "
            "evaluation.generated.asr to write down what is said, or take judge teacher"
        )


def judge_of(
    config: PipelineConfig, tokens: Artifact, teacher: Artifact, execute: Execute
) -> tuple[Inputs, dict[str, Any], dict[str, Any]]:
    """Of a step that asks the judge: inputs, parameters, and the places of given models."""
    asked, given = config.distillation.preference, config.evaluation.generated
    if asked.judge == "teacher":
        return {"teacher": [teacher]}, {}, {}
    voice = vocoder.build(config, tokens, execute)
    release = choose_tokenizer(config).vocoder()
    params: dict[str, Any] = {
        "asr_sha256": digest_of(files_of(Path(given.asr))),
        "language": given.language,
        "vocoder": "voice" if release is None else release.digest(vocoder_part(config.tokenization.tokens)),
    }
    place = given.judge if asked.judge == "rating" else given.language_model
    params["judge_sha256"] = sha256_once(Path(place)) if is_gguf(Path(place)) else digest_of(files_of(Path(place)))
    if asked.judge == "rating":
        params["template"] = TEMPLATE_VERSION
    tokenizer = TokensSummary.of(tokens).tokenizer_artifact(tokens)
    inputs: Inputs = {"tokenizer": [tokenizer]}
    if voice:
        inputs["vocoder"] = list(voice.values())
    return inputs, params, {"asr": given.asr, "judge": place, "spiritlm_dir": config.spiritlm_dir}


def load_judging(step: Step[PreferenceConfig, Any], output: Output, vocabulary: Vocabulary) -> Judging:
    """The judge of a step, loaded."""
    if step.config.judge == "teacher":
        return by_teacher(step, output)
    from tinywave_core.devices import pick_device
    from tinywave_core.evals.text_likelihood import TextModel
    from tinywave_core.runtimes.rating import load_judge

    heard = partial(_heard, *speaker_and_recogniser(step, output, vocabulary, step.params["language"]), vocabulary)
    device, place = pick_device(output.runtime), Path(step.context["judge"])
    if step.config.judge == "perplexity":
        return partial(_by_perplexity, heard, TextModel.load(place, device).mean_nll)
    return partial(_by_rating, heard, load_judge(place, str(device), output.runtime.threads).rate)


def by_teacher(step: Step[PreferenceConfig, Any], output: Output) -> Judging:
    """The teacher as a judge."""
    from tinywave_core.devices import pick_device
    from tinywave_core.models.llama import load_llama, on_device

    model = on_device(load_llama(step.input("teacher").path("teacher")), pick_device(output.runtime)).eval()
    return partial(likelihoods, model)


def likelihoods(model: Any, prompts: Sequence[Ids], new: Sequence[Ids]) -> list[Verdict]:
    """Mean log-probability of the tokens of each continuation behind its prompt."""
    from tinywave_core.evals.scoring import token_log_probabilities

    said = [i for i, ids in enumerate(new) if len(ids)]
    scores = token_log_probabilities(model, [np.concatenate([prompts[i], new[i]]) for i in said])
    found = {i: float(score[-len(new[i]) :].mean(dtype=np.float64)) for i, score in zip(said, scores, strict=True)}
    return [Verdict(found[i]) if i in found else Verdict(None, "says nothing") for i in range(len(new))]


def _heard(
    speak: Callable[[Any], Any], transcribe: Callable[[Any], str], vocabulary: Vocabulary, ids: Sequence[int]
) -> str:
    """What the recogniser writes down of spoken ids; nothing where there is no unit."""
    return transcribe(speak(np.asarray(ids, np.int64))) if speaks(ids, vocabulary) else ""


def _by_perplexity(
    heard: Callable[[Any], str],
    mean_nll: Callable[[str], float],
    _: Sequence[Ids],
    new: Sequence[Ids],
) -> list[Verdict]:
    texts = [heard(ids.tolist()) for ids in new]
    return [Verdict(-mean_nll(text)) if text.strip() else Verdict(None, SAYS_NOTHING) for text in texts]


def _by_rating(
    heard: Callable[[Any], str], rate: Callable[[str, str], Any], prompts: Sequence[Ids], new: Sequence[Ids]
) -> list[Verdict]:
    written: dict[bytes, str] = {}  # a prompt has several continuations
    verdicts = []
    for prompt, ids in zip(prompts, new, strict=True):
        key = prompt.tobytes()
        if key not in written:
            written[key] = heard(prompt.tolist())
        rating = rate(written[key], heard(ids.tolist()))
        verdicts.append(Verdict(rating.value, rating.failure or ""))
    return verdicts
