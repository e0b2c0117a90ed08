"""TinyWave in Python: the pipeline, the tokens of speech, and the models that it makes.

    import tinywave

    print(tinywave.plan("~/recordings", "store").stages)   # what would run, and why
    run = tinywave.run("~/recordings", "store")            # raw audio to a small model
    model = tinywave.Model.open(run.student)
    answer = model.generate(prompt_audio="question.wav", seconds=5)

`__all__` is the whole of it, and what stays: other modules of this repository may change with every version. Importing this package
loads nothing; a name loads what it needs when it is first used. All that is wrong with what you pass is a `TinyWaveError`
which says what was found, what was expected and what to do. Sound is mono float32 between -1 and 1, at 16 kHz where nothing else is said.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tinywave.judging import evaluate
    from tinywave.models import Model
    from tinywave.running import plan, run
    from tinywave.speech import SpeechTokenizer
    from tinywave.stores import Store
    from tinywave.transformers import TinyWaveProcessor
    from tinywave_core.errors import TinyWaveError
    from tinywave_core.evals.benchmark import Result
    from tinywave_core.evals.pair_scores import Accuracy
    from tinywave_core.run.plan import Plan, StagePlan
    from tinywave_core.run.record import RunRecord, StageRow, StepRow
    from tinywave_core.storage.store import Artifact
    from tinywave_core.synthesis.events import AudioMade, Done, TextMade, Timings, TokenMade
    from tinywave_core.synthesis.generator import Continuation
    from tinywave_core.tokenizers.spiritlm import SpeechTokens

    __version__: str

_WHERE = {
    "run": "tinywave.running",
    "plan": "tinywave.running",
    "evaluate": "tinywave.judging",
    "SpeechTokenizer": "tinywave.speech",
    "Model": "tinywave.models",
    "Store": "tinywave.stores",
    "TinyWaveProcessor": "tinywave.transformers",
    "SpeechTokens": "tinywave_core.tokenizers.spiritlm",
    "Continuation": "tinywave_core.synthesis.generator",
    "TokenMade": "tinywave_core.synthesis.events",
    "TextMade": "tinywave_core.synthesis.events",
    "AudioMade": "tinywave_core.synthesis.events",
    "Done": "tinywave_core.synthesis.events",
    "Timings": "tinywave_core.synthesis.events",
    "Plan": "tinywave_core.run.plan",
    "StagePlan": "tinywave_core.run.plan",
    "RunRecord": "tinywave_core.run.record",
    "StageRow": "tinywave_core.run.record",
    "StepRow": "tinywave_core.run.record",
    "Artifact": "tinywave_core.storage.store",
    "Result": "tinywave_core.evals.benchmark",
    "Accuracy": "tinywave_core.evals.pair_scores",
    "TinyWaveError": "tinywave_core.errors",
}

__all__ = [  # noqa: RUF022  (in the order of the reference)
    "run",
    "plan",
    "SpeechTokenizer",
    "Model",
    "evaluate",
    "Store",
    "TinyWaveProcessor",
    "SpeechTokens",
    "Continuation",
    "TokenMade",
    "TextMade",
    "AudioMade",
    "Done",
    "Timings",
    "Plan",
    "StagePlan",
    "RunRecord",
    "StageRow",
    "StepRow",
    "Artifact",
    "Result",
    "Accuracy",
    "TinyWaveError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """A public name, loaded now."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tinywave")
    if name not in _WHERE:
        raise AttributeError(f"tinywave has no {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
