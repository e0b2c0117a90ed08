"""Pruning by importance: what does nothing goes first, and then nothing changes; projections begin as what was kept."""

import numpy as np
import pytest
import torch

from tests.fixtures.text_models import config_of, model_of
from tinywave_core.checkpoints.model_shape import ModelShape
from tinywave_core.errors import ConfigError
from tinywave_core.models.prune import Kept, add_alignment, most_important, narrowed, without_alignment

IDS = [np.arange(3, 33), np.arange(20, 50)]
HALF = ModelShape(4, 16, 2, 24, 1, 8)


def idle(kind: str):
    """A model in which every other group of heads, the last 24 neurons and channels 1, 3, 5, … do nothing."""
    model = model_of(kind)
    odd = torch.arange(1, 32, 2)
    shape = ModelShape.of_config(model.config.to_dict())
    with torch.no_grad():
        model.model.embed_tokens.weight[:, odd] = 0
        model.lm_head.weight[:, odd] = 0
        for number, block in enumerate(model.model.layers):
            unused = number % 2  # which group of heads
            rows = torch.arange(unused * 2 * shape.head_width, (unused + 1) * 2 * shape.head_width)
            block.self_attn.o_proj.weight[:, rows] = 0
            block.self_attn.v_proj.weight[unused * shape.head_width : (unused + 1) * shape.head_width] = 0
            if block.self_attn.v_proj.bias is not None:
                block.self_attn.v_proj.bias[:] = 0
            block.mlp.up_proj.weight[24:] = 0
            block.self_attn.o_proj.weight[odd] = block.mlp.down_proj.weight[odd] = 0
    return model


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
def test_what_does_nothing_goes_and_the_rest_says_the_same_up_to_the_norms(kind: str):
    """A norm over half the channels, the others 0, is the root of a half as large: with that in its weights all is as it was. To 1e-3 of
    logits near 1, for the norms' epsilon is not in it."""
    model = idle(kind)
    shape = ModelShape.of_config(model.config.to_dict()).narrowed(16)
    kept = most_important(model, IDS, shape)
    assert kept.channels == tuple(range(0, 32, 2))
    assert kept.heads == ((2, 3), (0, 1), (2, 3), (0, 1))
    assert kept.neurons == (tuple(range(24)),) * 4
    narrow = narrowed(model, range(4), kept, shape)
    with torch.no_grad():
        for name, weight in narrow.named_parameters():
            if "norm" in name and not name.endswith(("q_norm.weight", "k_norm.weight")):
                weight *= 2**0.5
        ids = torch.from_numpy(IDS[0])[None]
        torch.testing.assert_close(narrow(ids).logits, model(ids).logits, rtol=0, atol=1e-3)


def test_blocks_of_a_shallower_copy_are_cut_as_the_teachers_blocks_that_they_are():
    kept = Kept(
        tuple(range(16)), ((0, 1), (2, 3), (0, 1), (2, 3)), tuple(tuple(range(n, n + 24)) for n in (0, 8, 16, 24))
    )
    model = model_of("llama", num_hidden_layers=2)
    narrow = narrowed(model, (1, 2), kept, HALF)
    for block, (rows, neurons) in enumerate(((range(16, 32), range(8, 32)), (range(16), range(16, 40)))):
        own, whole = narrow.model.layers[block], model.model.layers[block]
        assert torch.equal(own.self_attn.q_proj.weight, whole.self_attn.q_proj.weight[list(rows), :16])
        assert torch.equal(own.mlp.down_proj.weight, whole.mlp.down_proj.weight[:16, list(neurons)])


def test_a_projection_begins_as_the_channels_that_were_kept_and_goes_again():
    student = model_of("llama", hidden_size=16, num_attention_heads=2, num_key_value_heads=1)
    names = set(student.state_dict())
    add_alignment(student, Kept((1, 3, *range(10, 24)), (), ()), 32, 2)
    wide = student.alignment[1](torch.arange(16.0))
    assert (wide[1], wide[3], wide[10], wide[23], wide[0]) == (0, 1, 2, 15, 0)
    without_alignment(student)
    assert set(student.state_dict()) == names


@pytest.mark.parametrize(("width", "said"), [(12, "fit: 16"), (40, "fit: 16"), (24, "fit: 16")])
def test_widths_that_leave_no_whole_heads_are_refused(width: int, said: str):
    with pytest.raises(ConfigError, match=said):
        ModelShape.of_config(config_of("llama").to_dict()).narrowed(width)


def test_a_single_head_of_keys_stays_and_heads_go_one_by_one():
    shape = ModelShape.of_config(config_of("llama", num_key_value_heads=1).to_dict())
    assert (shape.narrowed(24).heads, shape.narrowed(24).key_heads, shape.narrowed(24).intermediate) == (3, 1, 36)
