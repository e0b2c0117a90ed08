"""Decoders of other architectures: packed rows give what each sequence gives alone, students are blocks, rows can be cut and added."""

import numpy as np
import pytest
import torch

from tests.fixtures.text_models import config_of, model_of
from tinywave_core.checkpoints.architectures import ARCHITECTURES, fault_of
from tinywave_core.config.base import RuntimeConfig
from tinywave_core.errors import CheckpointError
from tinywave_core.losses.attention import IMPLEMENTATION, sample_tap, tapping
from tinywave_core.models.attention import BLOCK_SPARSE, is_block_sparse
from tinywave_core.models.enlarge import enlarge
from tinywave_core.models.forward import forward
from tinywave_core.models.llama import load_llama, student_from
from tinywave_core.models.parts import blocks_of, embedding_of, head_of
from tinywave_core.models.trim import trim
from tinywave_core.sequences.dataset import PackedDataset
from tinywave_core.sequences.table import TokenSequence
from tinywave_core.teacher.layer_map import LayerMap
from tinywave_core.tokenizers.vocabulary import Vocabulary
from tinywave_core.training.dropout import add_dropout

pytestmark = pytest.mark.arithmetic
every = pytest.mark.parametrize("kind", ARCHITECTURES)
LENGTHS = (9, 14, 20, 7, 11)
SEQUENCES = [
    TokenSequence(f"{i:032x}", str(i), str(i), None, np.arange(3, 3 + length).astype(np.uint16) * 7 % 57 + 3, 1.0)
    for i, length in enumerate(LENGTHS)
]
VOCABULARY = Vocabulary(text=40, hubert=12)


def ids_of(number: int) -> torch.Tensor:
    return torch.from_numpy(SEQUENCES[number].ids.astype(np.int64))[None]


@every
@pytest.mark.parametrize("implementation", ["sdpa", IMPLEMENTATION, BLOCK_SPARSE])
def test_a_sequence_in_a_packed_row_gives_what_it_gives_alone(kind: str, implementation: str):
    """To float32's rounding: 1e-4 of logits near 1."""
    if implementation == BLOCK_SPARSE and not ARCHITECTURES[kind].takes_blocks:
        return
    model = model_of(kind)
    data = PackedDataset(SEQUENCES, 32, 2, seed=0)
    batch = data.collate(data.rows_of_pass(0).lists())
    assert max(len(row) for row in batch.rows) > 1
    with torch.no_grad():
        alone = [model(ids_of(number)).logits[0] for number in range(len(SEQUENCES))]
        model.set_attn_implementation(implementation)
        out = forward(model, batch, hidden=True)
        logits = head_of(model)(out.last_BTD)
    assert len(out.hidden) == 4 and torch.equal(out.hidden[-1], out.last_BTD)
    for r, row in enumerate(batch.rows):
        start = 0
        for number in row:
            end = start + LENGTHS[number]
            torch.testing.assert_close(logits[r, start:end], alone[number], rtol=1e-4, atol=1e-4)
            start = end


@every
def test_rows_of_attention_are_those_of_eager_attention(kind: str):
    model = model_of(kind)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        whole = model(ids_of(2), output_attentions=True).attentions
        model.set_attn_implementation(IMPLEMENTATION)
        tap = sample_tap(20, heads=4, rows=20, num_heads=4, layers={0, 3}, seed=0)
        with tapping(tap):
            model(ids_of(2), attention_mask=torch.ones(1, 20, dtype=torch.long))
    for layer in (0, 3):
        torch.testing.assert_close(tap.log_maps[layer].exp(), whole[layer], rtol=1e-4, atol=1e-5)


@every
def test_a_student_of_all_blocks_but_one_without_effect_is_the_teacher(kind: str):
    teacher = model_of(kind)
    with torch.no_grad():  # whatever this block adds is 0
        for name, weight in blocks_of(teacher)[1].named_parameters():
            if any(part in name for part in ("o_proj", "out_proj", "down_proj", "fc2", "dense.", "dense_4h_to_h")):
                weight.zero_()
    student = student_from(teacher, LayerMap((0, 2, 3), ()))
    assert len(blocks_of(student)) == student.config.num_hidden_layers == 3
    assert student.config.tie_word_embeddings == teacher.config.tie_word_embeddings
    torch.testing.assert_close(student.eval()(ids_of(1)).logits, teacher(ids_of(1)).logits)


@every
def test_an_enlarged_model_says_of_text_what_it_said(kind: str):
    model = model_of(kind)
    sources = [None, 9, 9, *range(3, 40)]
    enlarged = enlarge(model, sources, VOCABULARY, seed=0)
    ids = torch.arange(3, 30)[None]
    assert torch.equal(enlarged(ids).logits[..., 3:40], model(ids).logits[..., 3:40])
    assert torch.equal(embedding_of(enlarged).weight[2], embedding_of(model).weight[9])
    config = enlarged.config
    assert (config.vocab_size, config.bos_token_id, config.eos_token_id) == (VOCABULARY.tokens, 1, 2)
    assert enlarged.generation_config.eos_token_id == 2 and embedding_of(enlarged).padding_idx is None
    tied = model.config.tie_word_embeddings
    assert (head_of(enlarged).weight is embedding_of(enlarged).weight) == tied
    again, other = (enlarge(model, sources, VOCABULARY, seed=seed) for seed in (0, 1))
    assert torch.equal(head_of(again).weight, head_of(enlarged).weight)
    assert not torch.equal(head_of(other).weight, head_of(enlarged).weight)


def test_new_rows_lie_a_tenth_of_the_deviation_around_the_mean_and_differ():
    model = model_of("qwen2", rows=4000)
    new = embedding_of(enlarge(model, [None] * 40, VOCABULARY, seed=0)).weight
    old = embedding_of(model).weight
    off = (new - old.mean(0)) / old.std(0)
    assert off.std().item() == pytest.approx(0.1, rel=0.1) and len(new.unique(dim=0)) == len(new)


@every
def test_without_text_the_logits_of_speech_are_the_same(kind: str):
    model = enlarge(model_of(kind), list(range(40)), VOCABULARY, seed=0)
    trimmed, _, kept = trim(model, VOCABULARY)
    ids = torch.arange(1, 15)[None]
    whole = model(torch.tensor(kept)[ids]).logits[..., kept]
    torch.testing.assert_close(
        trimmed(ids).logits, whole, atol=1e-5, rtol=1e-5
    )  # a smaller head may be summed in another order


@every
def test_in_training_only_our_own_dropout_draws(kind: str, tmp_path):
    model_of(kind, attention_dropout=0.5, hidden_dropout=0.5, dropout=0.5, layerdrop=0.5).save_pretrained(tmp_path)
    model = load_llama(tmp_path).train()
    assert torch.equal(model(ids_of(0)).logits, model(ids_of(0)).logits)
    assert torch.equal(student_from(model, LayerMap((0, 2), ()))(ids_of(0)).logits.isnan().any(), torch.tensor(False))
    draw = add_dropout(model, 0.2, seed=0)
    first = model(ids_of(0)).logits
    assert torch.equal(model(ids_of(0)).logits, first)
    draw.step = 1
    assert not torch.equal(model(ids_of(0)).logits, first)


def test_block_by_block_attention_is_left_out_where_the_architecture_takes_none():
    chosen = RuntimeConfig(attention="block_sparse")
    assert [is_block_sparse(chosen, model_of(k), torch.device("cpu")) for k in ("llama", "opt")] == [True, False]


@pytest.mark.parametrize(
    ("kind", "values", "fault"),
    [
        ("mistral", {"sliding_window": 16}, "attends to a window only"),
        ("qwen2", {"use_sliding_window": True}, "attends to a window only"),
        ("opt", {"do_layer_norm_before": False}, "norms come after"),
        ("opt", {"word_embed_proj_dim": 16}, "embeddings are 16 wide, its blocks 32"),
        ("llama", {"model_type": ["llama"]}, "a model of type"),
        ("llama", {"model_type": "gemma2"}, "a model of type 'gemma2'; expected one of llama"),
    ],
)
def test_what_cannot_work_is_refused_by_its_config_alone(kind: str, values: dict, fault: str):
    assert fault_of(config_of(kind).to_dict()) is None
    assert fault in str(fault_of(config_of(kind).to_dict() | values))


def test_a_text_model_with_fewer_rows_than_its_tokenizer_has_tokens_is_refused():
    with pytest.raises(CheckpointError, match="60 embeddings, its tokenizer a token 99"):
        enlarge(model_of("llama"), [99, *range(39)], VOCABULARY, seed=0)
