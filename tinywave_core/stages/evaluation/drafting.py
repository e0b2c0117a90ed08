"""How well the drafter proposes for the student, on held-out speech: part `drafting`. No file; the summary has it all."""

from typing import TYPE_CHECKING

import numpy as np

from tinywave_core.config.evaluation import GapConfig
from tinywave_core.config.pipeline import PipelineConfig
from tinywave_core.runtimes.base import DRAFTED
from tinywave_core.stages.evaluation.gap import sample
from tinywave_core.stages.evaluation.summary import DraftingSummary
from tinywave_core.steps.base import Execute, Output, Step
from tinywave_core.steps.inputs import held_out_shards
from tinywave_core.storage.store import Artifact
from tinywave_core.tokenizers.vocabulary import Vocabulary

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

VERSION = 1
DraftingStep = Step[GapConfig, DraftingSummary]


def build(config: PipelineConfig, tokens: Artifact, done: dict[str, Artifact], execute: Execute) -> dict[str, Artifact]:
    """The artifact `drafting`; none where there is no drafter, or nothing is to be compared."""
    if "drafter" not in done or not config.evaluation.gap.utterances:
        return {}
    (made,) = execute(
        [
            Step(
                store=tokens.store,
                stage="evaluation",
                part="drafting",
                version=VERSION,
                run=run_drafting,
                config=GapConfig(utterances=config.evaluation.gap.utterances, seed=config.evaluation.gap.seed),
                params={"sequence_length": config.distillation.training.sequence_length},
                inputs={"tokens": held_out_shards(tokens), "student": [done["student"]], "drafter": [done["drafter"]]},
                runtime=config.runtime,
            )
        ]
    )
    return {"drafting": made}


def run_drafting(step: DraftingStep, output: Output) -> DraftingSummary:
    """Run both models over the same sample of the held-out utterances as the gap to the teacher is measured on."""
    from tinywave_core.devices import pick_device
    from tinywave_core.evals.comparison import by_recording
    from tinywave_core.evals.drafting import kept_shares, tokens_a_round
    from tinywave_core.evals.intervals import bootstrap_interval
    from tinywave_core.models.llama import load_llama, on_device
    from tinywave_core.models.trim import in_ids_of
    from tinywave_core.sequences.index import load_sequences
    from tinywave_core.threads import use_threads

    use_threads(output.runtime)
    device = pick_device(output.runtime)
    sequences = sample(load_sequences(step.inputs["tokens"], "held_out", step.params["sequence_length"]), step.config)
    vocabulary = Vocabulary.from_json(step.inputs["tokens"][0].summary["vocabulary"])
    models = [on_device(load_llama(step.input(name).path("model")), device).eval() for name in ("student", "drafter")]
    ids = in_ids_of(models[0], vocabulary, [sequence.ids for sequence in sequences])
    kept = []
    for number, row in enumerate(ids, start=1):
        kept.append(kept_shares(*(_logits(model, row, device) for model in models)).sum().item())
        output.progress(number, len(ids), "utterances drafted")
    recordings = [sequence.recording_id for sequence in sequences]
    tops, bottoms = (
        by_recording(recordings, np.array(kept)),
        by_recording(recordings, np.array([len(row) - 1 for row in ids])),
    )
    share = float(tops.sum() / bottoms.sum())
    return DraftingSummary(
        recordings=len(tops),
        tokens=int(bottoms.sum()),
        kept=share,
        interval=bootstrap_interval(tops, bottoms, step.config.seed),
        proposed=DRAFTED,
        tokens_a_round=tokens_a_round(share, DRAFTED),
        parameters=sum(p.numel() for p in models[1].parameters()),
        layers=models[1].config.num_hidden_layers,
    )


def _logits(model: "LlamaForCausalLM", ids: "np.ndarray", device: "torch.device") -> "torch.Tensor":
    """After all tokens but the last [L - 1, V]."""
    import torch

    with torch.no_grad():
        return model(torch.from_numpy(ids.astype(np.int64))[None].to(device)).logits[0, :-1].cpu()
