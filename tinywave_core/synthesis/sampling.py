"""Continuations of a token prompt by a model that is loaded already, in the runtime `transformers`."""

import numpy as np
import numpy.typing as npt
from transformers import LlamaForCausalLM

from tinywave_core.config.generation import GenerationConfig
from tinywave_core.runtimes.base import Sampling
from tinywave_core.runtimes.transformers_runtime import TransformersRuntime
from tinywave_core.tokenizers.prompts import OutputModality
from tinywave_core.tokenizers.vocabulary import Vocabulary


def continue_tokens(
    model: LlamaForCausalLM,
    prompt: npt.NDArray,
    vocabulary: Vocabulary,
    config: GenerationConfig,
    seed: int,
    output: OutputModality = "speech",
) -> npt.NDArray[np.int64]:
    """New ids of the modality `output` after `prompt` (which starts with <s> and a marker), without the prompt and </s>.

    The same seed gives the same continuation on the same kind of device.
    """
    sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens, config.min_new_tokens, seed)
    new = TransformersRuntime(model, vocabulary).stream(np.asarray(prompt).tolist(), sampling, output)
    return np.array(list(new), dtype=np.int64)
