"""Full-size figures: the formula's parameters against models of the real shapes, and prices worked out by hand."""

from functools import partial

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from tinywave_core.config.load import load_config
from tinywave_core.costs.budget import activation_bytes, budget
from tinywave_core.costs.estimates import vocabulary_rows
from tinywave_core.models.llama import student_from
from tinywave_core.teacher.layer_map import layer_map


@pytest.mark.parametrize(
    ("preset", "rows"), [("base-2b", 32_512), ("expressive-2b", 32_768), ("interleaved-2b", 32_768)]
)
def test_the_2b_presets_are_built_in_their_real_shapes(preset: str, rows: int):
    config = load_config(preset, {})
    shape = config.adaptation.fresh
    assert vocabulary_rows(config) == rows
    with torch.device("meta"):
        teacher = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=rows,
                hidden_size=shape.width,
                intermediate_size=shape.intermediate,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
            )
        )
        student = student_from(
            teacher, layer_map(config.distillation.layer_map, shape.layers, config.distillation.layers)
        )
    found = budget(config, hours=1000)
    assert found.teacher_parameters == sum(p.numel() for p in teacher.parameters())
    assert found.student_parameters == sum(p.numel() for p in student.parameters())
    assert len(student.model.layers) == 10 and student.config.hidden_size == 4096


def test_a_gpu_hour_is_what_400_teraflops_do_in_an_hour():
    config = load_config("base-2b", {})
    found = budget(config, hours=0)
    trained = 2000 * 262_144 * 6 * found.teacher_parameters
    distilled = 6000 * 524_288 * (12 * found.student_parameters + 2 * found.teacher_parameters)
    assert found.gpu_hours == pytest.approx((trained + distilled) / 4e14 / 3600)
    assert found.dollars == pytest.approx(2.5 * found.gpu_hours)


def test_cached_logits_pay_from_the_second_pass_on():
    found = budget(load_config("base-2b", {}), hours=1000)
    assert 1 < found.passes_that_pay < 2


@pytest.mark.parametrize("flags", [{}, {"distillation.logit_signal": "live"}], ids=str)
def test_a_live_teacher_costs_its_weights_in_memory(flags):
    off = {"distillation.weights.hidden": "0", "distillation.weights.attention": "0"}
    live, alone = load_config("base-2b", {**off, **flags} if flags else {}), load_config("base-2b", off)
    difference = budget(live, 1).distillation_gib - budget(alone, 1).distillation_gib
    assert difference == pytest.approx(2 * budget(live, 1).teacher_parameters / 2**30)


def test_a_teacher_in_eight_shards_leaves_each_gpu_an_eighth_of_its_blocks_one_block_and_the_rest():
    eight = {"runtime.training_processes": "8", "distillation.logit_signal": "live"}
    whole, shared = (load_config("base-2b", eight | {"runtime.shard_teacher": flag}) for flag in ("false", "true"))
    teacher, outside = budget(whole, 1).teacher_parameters, 2 * 32_512 * 4096
    saved = 2 * (teacher - outside) * (1 - 1 / 8 - 1 / 32)
    assert budget(whole, 1).distillation_gib - budget(shared, 1).distillation_gib == pytest.approx(saved / 2**30)


def test_a_trained_model_is_shared_by_all_processes_or_by_those_of_a_machine():
    """22 bytes of each parameter over 16 processes or over 8; gathered are embeddings and head, and a block with its gradients."""
    machines = {"runtime.training_processes": "8", "runtime.training_nodes": "2", "runtime.rendezvous": "node-0:29400"}
    off = {"distillation.weights.hidden": "0", "distillation.weights.attention": "0", "validation.fraction": "0.01"}
    one, everywhere, within = (
        load_config("base-2b", {**off, **flags})
        for flags in ({}, machines, {**machines, "runtime.shard_over": "machine"})
    )
    student, outside = budget(one, 1).student_parameters, 2 * 32_512 * 4096
    gathered = 4 * outside + 8 * (student - outside) / 10
    gib = [budget(config, 1).distillation_gib * 2**30 for config in (one, everywhere, within)]
    assert gib[0] - gib[1] == pytest.approx(22 * student * 15 / 16 - gathered)
    assert gib[0] - gib[2] == pytest.approx(22 * student * 7 / 8 - gathered)


def test_a_warm_up_costs_its_share_of_the_live_teacher():
    flags = {"distillation.regime": "aligned-warmup", "distillation.training.stop_after_tokens": str(524_288 * 3000)}
    found, without = budget(load_config("base-2b", flags), hours=0), 2000 * 262_144 * 6
    trained, student = without * found.teacher_parameters, 12 * found.student_parameters
    distilled = 524_288 * (3000 * student + 900 * 2 * found.teacher_parameters)
    assert found.gpu_hours == pytest.approx((trained + distilled) / 4e14 / 3600)


def kept_bytes(width: int, layers: int, rows: int, *, autocast: bool, again: bool) -> int:
    """Bytes that PyTorch keeps of the blocks for the backward pass of `rows` rows of 128 tokens, weights and their copies left out."""
    shape = LlamaConfig(
        vocab_size=40,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
    )
    model, kept, seen = LlamaForCausalLM(shape).train(), {}, []
    weights = {p.shape for p in model.parameters()} | {p.shape[::-1] for p in model.parameters()}
    if again:
        for block in model.model.layers:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape not in weights:
            seen.append(tensor)  # alive, so that no other one takes its place
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda each: each), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        model.model(torch.zeros(rows, 128, dtype=torch.long))
    return sum(kept.values())


@pytest.mark.parametrize(("width", "layers", "rows"), [(128, 2, 3), (256, 6, 5)])
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("again", [False, True])
def test_activations_are_those_that_pytorch_keeps(width: int, layers: int, rows: int, autocast: bool, again: bool):
    shape = {"adaptation.fresh.width": str(width), "adaptation.fresh.intermediate": str(3 * width)}
    flags = {"runtime.micro_batch_rows": str(rows), "runtime.activation_checkpointing": str(float(again))}
    config = load_config("demo", {**shape, "adaptation.fresh.heads": str(width // 64), **flags})
    training = config.adaptation.training.model_copy(update={"sequence_length": 128, "batch_tokens": 128 * rows})
    formula = [activation_bytes(config, training, number, autocast=autocast) for number in (1, layers)]
    # The difference: what lies outside of the blocks is no matter of theirs.
    kept = [kept_bytes(width, number, rows, autocast=autocast, again=again) for number in (1, layers)]
    assert kept[1] - kept[0] == pytest.approx(formula[1] - formula[0], rel=0.25)
