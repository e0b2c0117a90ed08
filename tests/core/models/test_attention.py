"""Attention by blocks is dense attention to rounding: what is seen, outputs, gradients, rows of the maps; padding included.

Sums run in another order, so that numbers agree to float32's rounding: 1e-5 of values near 1.
"""

import itertools

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from transformers import LlamaConfig, LlamaForCausalLM

from tests.fixtures.training import RUNTIME, gradients
from tinywave_core.losses.attention import sample_tap, tapping
from tinywave_core.models.attention import (
    BLOCK_SPARSE,
    DENSE,
    allowed_rows,
    block_sparse_mask,
    dense_mask,
    is_block_sparse,
    packed_mask,
)

pytestmark = pytest.mark.arithmetic


def laid(*rows: list[int]) -> torch.Tensor:
    """Documents of rows: so many positions each, the rest padding."""
    length = max(sum(row) for row in rows)
    laid_out = torch.zeros(len(rows), length, dtype=torch.long)
    for r, row in enumerate(rows):
        ends = torch.tensor([0, *row]).cumsum(0).tolist()
        for number, (start, end) in enumerate(itertools.pairwise(ends), start=1):
            laid_out[r, start:end] = number
    return laid_out


MANY = laid([400], [100, 150, 60, 90], [256, 144], [20, 30], [130, 140])
"""Rows of 400: one document, several within and over blocks, one that ends with a block, and two that end in padding."""
EVEN = laid([384], [128, 128, 128], [5])
"""Rows of three whole blocks."""


@pytest.mark.parametrize("documents", [MANY, EVEN], ids=["400", "384"])
def test_blocks_are_those_that_torch_finds_in_the_dense_mask(documents: torch.Tensor):
    rows, length = documents.shape
    same = lambda b, _, q, k: (q >= k) & (documents[b, q] == documents[b, k])
    expected = create_block_mask(same, rows, None, length, length, device="cpu")
    found = block_sparse_mask(documents)
    assert found.shape == (rows, 1, length, length)
    for partial in (True, False):
        name = "kv" if partial else "full_kv"
        counts, wanted = getattr(found, f"{name}_num_blocks"), getattr(expected, f"{name}_num_blocks")
        assert torch.equal(counts, wanted)
        for at in counts.nonzero().tolist():
            first = counts[tuple(at)]
            pair = (getattr(mask, f"{name}_indices")[tuple(at)][:first].tolist() for mask in (found, expected))
            assert next(pair) == next(pair)
    assert found.full_kv_num_blocks.sum() > 0


def test_documents_that_do_not_ascend_are_seen_all_the_same():
    documents = torch.tensor([[3] * 150 + [1] * 150 + [3] * 100])
    assert torch.equal(allowed_rows(block_sparse_mask(documents), torch.arange(400), 400), dense_mask(documents))
    seen = block_sparse_mask(documents).to_dense()[0, 0].bool()
    touched = dense_mask(documents)[0, 0].float()
    touched = torch.nn.functional.max_pool2d(touched[None], 128, ceil_mode=True)[0].bool()
    assert (seen | ~touched).all()


def test_a_block_of_one_document_is_whole_only_beside_that_document():
    mask = block_sparse_mask(torch.tensor([[3] * 128 + [1] * 128 + [1] * 128]))
    assert mask.full_kv_num_blocks.tolist() == [[[0, 0, 1]]]
    assert mask.full_kv_indices[0, 0, 2, 0] == 1


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Four query heads share two key heads."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=50, num_attention_heads=4, num_key_value_heads=2, initializer_range=0.1, **shape)
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def seen(model: LlamaForCausalLM, implementation: str) -> dict[str, torch.Tensor]:
    """Outputs, sampled rows of the maps and gradients."""
    model.set_attn_implementation(implementation)
    model.zero_grad()
    tap = sample_tap(400, heads=3, rows=50, num_heads=4, layers={0, 1}, seed=0)
    ids = torch.arange(MANY.numel()).reshape(MANY.shape) * 7 % 50
    with tapping(tap):
        out = model.model(input_ids=ids, attention_mask=packed_mask(MANY, implementation), use_cache=False)
    towards = torch.randn(*MANY.shape, 32, generator=torch.Generator().manual_seed(1))
    (out.last_hidden_state * towards).sum().backward()
    found = {f"row {layer}": log_map.exp().detach() for layer, log_map in tap.log_maps.items()}
    grads = {name: p.grad.clone() / p.grad.abs().max() for name, p in model.model.named_parameters()}
    return found | grads | {"output": out.last_hidden_state.detach()}


def test_outputs_rows_of_maps_and_gradients_are_those_of_the_dense_mask_to_1e_5(model: LlamaForCausalLM):
    found, expected = seen(model, BLOCK_SPARSE), seen(model, DENSE)
    assert {"row 0", "row 1", "output", "layers.0.self_attn.k_proj.weight"} <= found.keys() == expected.keys()
    for name, wanted in expected.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-5, msg=name)


def test_under_autocast_both_attend_in_bfloat16(model: LlamaForCausalLM):
    """bfloat16 has 8 bits: outputs near 1 agree to some hundredths."""
    ids = torch.arange(MANY.numel()).reshape(MANY.shape) * 7 % 50
    outputs = {}
    for implementation in (BLOCK_SPARSE, DENSE):
        model.set_attn_implementation(implementation)
        mask = packed_mask(MANY, implementation)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            outputs[implementation] = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    torch.testing.assert_close(outputs[BLOCK_SPARSE], outputs[DENSE], rtol=0, atol=0.2)
    assert (outputs[BLOCK_SPARSE] - outputs[DENSE]).abs().mean() < 5e-3


def test_a_training_step_of_all_terms_has_the_gradients_of_the_dense_one():
    found, expected = gradients(RUNTIME.model_copy(update={"attention": "block_sparse"})), gradients()
    assert found.keys() == expected.keys()
    for name, wanted in expected.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5, msg=name)


def test_auto_attends_by_blocks_on_a_gpu_alone_and_by_heads_that_its_kernel_takes(model: LlamaForCausalLM):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    wide = LlamaForCausalLM(LlamaConfig(vocab_size=8, hidden_size=32, num_attention_heads=2, num_hidden_layers=0))
    assert [is_block_sparse(RUNTIME, m, d) for m in (wide, model) for d in (cuda, cpu)] == [True, False, False, False]
    chosen = [RUNTIME.model_copy(update={"attention": name}) for name in ("dense", "block_sparse")]
    assert [is_block_sparse(runtime, wide, cuda) for runtime in chosen] == [False, True]
