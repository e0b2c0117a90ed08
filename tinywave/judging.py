"""A speech language model on a benchmark of pairs: a folder in, accuracies with their intervals out."""

from typing import Literal

from tinywave.places import Place, model_folder
from tinywave_core.config.base import Device
from tinywave_core.evals.benchmark import Result, SpeechLM, run_suite
from tinywave_core.evals.pair_scores import Definition
from tinywave_core.evals.suites.opening import open_suite, split_word


def evaluate(
    model: Place,
    suite: str,
    *,
    reduction: Literal["sum", "mean"] = "mean",
    over: Literal["all", "continuation"] = "all",
    streams: Literal["all", "hubert"] = "all",
    vocabulary: Literal["all", "own"] = "all",
    spiritlm_dir: str | None = None,
    device: Device = "auto",
) -> Result:
    """Let a model choose the right one of two recordings or texts, for every pair of a suite; chance is 0.5.

    `model` is the model/ directory of an export, an artifact with one, or a Llama directory with SpiritLM's tokenizer. `suite` is a
    folder as its authors publish it (sSC, tSC, SALMon, sWUGGY, sBLIMP), or one with a pairs.jsonl of your own; `salmon=DIR` says which where
    the folder does not. The score of a sequence is a `reduction` (`mean` or `sum`) of log-probabilities in nats, `over` all tokens or those
    after the prompt, of all `streams` or HuBERT's alone; a token competes with the whole `vocabulary` or its `own` modality.

    `spiritlm_dir` is for models of SpiritLM's tokens, as in `Model.open`. `accuracies` of the result has shares of right answers with 95 % intervals, by subset. SourceError where the folder is no suite or no
    pair can be scored, CheckpointError where the model is none.
    """
    kind, folder = split_word(suite)
    opened = open_suite(kind, folder)  # what is wrong with it is said before a model is loaded
    lm = SpeechLM.load(model_folder(model), spiritlm_dir, device)
    return run_suite(lm, opened, Definition(reduction, over, streams, vocabulary))
