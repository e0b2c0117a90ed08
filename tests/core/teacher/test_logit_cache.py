"""Sparse teacher targets: exactly K, exact head, unbiased, independent of batch and order, small."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tinywave_core.errors import DamagedArtifactError, TrainingError
from tinywave_core.storage.shards import write_table
from tinywave_core.storage.values import Layout
from tinywave_core.teacher.logit_cache import (
    Captured,
    LogitCache,
    encode,
    read_about,
    sample_offsets,
    sparse_targets,
    write_shard,
)

pytestmark = pytest.mark.arithmetic


def peaky(rows: int, vocabulary: int, scale: float = 2.5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.softmax(torch.randn(rows, vocabulary, dtype=torch.float64, generator=generator) * scale, -1)


@settings(max_examples=40)
@given(st.integers(2, 24), st.floats(0, 0.9999), st.floats(0.0, 60.0))
def test_there_are_exactly_k_different_entries_that_sum_to_one(entries, offset, scale):
    p = peaky(4, 200, scale)
    ids, weights = sparse_targets(p, entries, torch.full((4,), offset, dtype=torch.float64))
    assert all(len(set(row)) == entries for row in ids.tolist())
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, dtype=torch.float64))


def test_the_head_is_kept_as_it_is():
    p = peaky(8, 300)
    ids, weights = sparse_targets(p, 12, torch.rand(8, dtype=torch.float64))
    assert torch.equal(ids[:, 0], p.argmax(-1))
    assert torch.equal(weights[:, 0], p.max(-1).values)


DRAWS = 1000


def estimates_of(p: torch.Tensor, entries: int, seed: int) -> torch.Tensor:
    """Dense estimates [DRAWS, V] of one distribution."""
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.rand(DRAWS, dtype=torch.float64, generator=generator)
    ids, weights = sparse_targets(p.expand(DRAWS, -1), entries, offsets)
    return torch.zeros(DRAWS, p.shape[-1], dtype=torch.float64).scatter_(1, ids, weights)


def multinomial_estimates(p: torch.Tensor, entries: int, seed: int) -> torch.Tensor:
    """RS-KD (arXiv 2503.16870): as many draws as leave `entries` different ids on average, each of weight 1 / draws."""
    generator = torch.Generator().manual_seed(seed)
    draws = entries
    while (1 - (1 - p) ** draws).sum() < entries:  # expected number of different ids
        draws += 1
    found = torch.multinomial(p.expand(DRAWS, -1), draws, replacement=True, generator=generator)
    return torch.zeros(DRAWS, p.shape[-1], dtype=torch.float64).scatter_add_(
        1, found, torch.full(found.shape, 1 / draws, dtype=torch.float64)
    )


def renormalised(p: torch.Tensor, entries: int) -> torch.Tensor:
    top = p.topk(entries)
    return torch.zeros_like(p).scatter_(-1, top.indices, top.values / top.values.sum(-1, keepdim=True))


def test_the_estimate_is_unbiased_within_monte_carlo_error():
    p = peaky(1, 300)
    threshold = sparse_targets(p, 12, torch.zeros(1, dtype=torch.float64))[1][0, -1]
    error = (p[0] * (threshold - p[0]).clamp(min=0) / DRAWS).sqrt()  # of a value c drawn with probability p / c
    assert ((estimates_of(p, 12, seed=2).mean(0) - p[0]).abs() <= 5 * error + 1e-9).all()
    assert 1 - p[0].topk(12).values.sum() > 0.1  # there is a tail to be missed


@pytest.mark.parametrize("entries", [8, 12, 16])
def test_the_error_power_is_at_most_0_8_of_multinomial_sampling_with_as_many_entries(entries):
    ours, theirs = [], []
    for number, p in enumerate(peaky(12, 300)):
        ours.append(((estimates_of(p[None], entries, number) - p) ** 2).sum(-1).mean())
        theirs.append(((multinomial_estimates(p[None], entries, number) - p) ** 2).sum(-1).mean())
    assert sum(ours) <= 0.8 * sum(theirs)


def test_a_renormalised_top_16_is_biased_beyond_anything_that_chance_does_to_ours():
    """Our mean over draws goes to p; a renormalised top 16 stays where it is, and gives the tail nothing."""
    p = peaky(1, 300)
    bias = (renormalised(p, 16) - p).abs().sum()
    ours = (estimates_of(p, 16, seed=3).mean(0) - p[0]).abs().sum()
    assert bias > 0.2
    assert ours < bias / 5


def test_one_certain_token_is_not_divided_by_zero():
    ids, weights = sparse_targets(torch.eye(50, dtype=torch.float64)[:1], 12, torch.tensor([0.5], dtype=torch.float64))
    assert ids[0, 0] == 0 and weights[0, 0] == 1 and torch.isfinite(weights).all()


def test_the_sampler_depends_on_sequence_and_position_only():
    assert np.array_equal(sample_offsets(7, "abc", 10)[:5], sample_offsets(7, "abc", 5))
    assert not np.array_equal(sample_offsets(7, "abc", 5), sample_offsets(7, "abd", 5))
    assert not np.array_equal(sample_offsets(7, "abc", 5), sample_offsets(8, "abc", 5))


def test_a_tokens_targets_are_the_same_alone_in_any_batch_and_in_any_order():
    p, offsets = peaky(40, 300), torch.rand(40, dtype=torch.float64)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    whole = encode(*(x.numpy() for x in sparse_targets(p, 12, offsets)))
    shuffled = encode(*(x.numpy() for x in sparse_targets(p[order], 12, offsets[order])))
    alone = [encode(*(x.numpy() for x in sparse_targets(p[i : i + 1], 12, offsets[i : i + 1]))) for i in range(40)]
    for part in range(3):
        assert np.array_equal(shuffled[part], whole[part][order])
        assert np.array_equal(np.concatenate([each[part] for each in alone]), whole[part])


# The file ------------------------------------------------------------------------------------------------------------


def captured(sequences: int, length: int, entries: int, seed: int = 0) -> list[Captured]:
    """Made-up sequences of different lengths around `length`, of 501 units in a vocabulary of 32,503."""
    rng = np.random.default_rng(seed)
    p, offsets = peaky(2000, 501), torch.from_numpy(rng.random(2000))
    ids, weights = (x.numpy() for x in sparse_targets(p, entries, offsets))
    found = []
    for number in range(sequences):
        at = rng.integers(0, 2000, int(length * rng.uniform(0.5, 1.5)))
        entropy = -(p * p.log()).sum(-1).numpy()[at]
        about = {"target_logp": -rng.gamma(2, 1, len(at)), "entropy": entropy}
        units = (32_002 + rng.integers(0, 501, len(at))).astype(np.uint16)
        found.append(Captured(f"{seed:016x}{number:016x}", units, ids[at] + 32_002, weights[at], **about))
    return found


ABOUT = {"format": "tw-logits/2", "entries": 12, "temperature": 1.0, "teacher": "adaptation/a", "sequence_length": 64}


def opened(*paths: Path) -> LogitCache:
    return LogitCache.of_files({path.name: path for path in paths}, {})


@pytest.mark.parametrize("entries", [2, 8, 12, 16])
def test_a_file_gives_back_ids_and_weights_within_three_percent(tmp_path: Path, entries):
    given = captured(70, 30, entries)
    write_shard(given, ABOUT | {"entries": entries}, tmp_path / "logits.parquet")
    cache = opened(tmp_path / "logits.parquet")
    assert len(cache) == len(given)
    for place, one in enumerate(given):
        found = cache[one.seq_id]
        assert np.array_equal(found.ids, one.ids_LK)
        np.testing.assert_allclose(found.weights, one.weights_LK, rtol=0.03)
        np.testing.assert_allclose(found.entropy, one.entropy, rtol=1e-3)
        np.testing.assert_allclose(cache.target_logp(place), one.target_logp, rtol=1e-3, atol=1e-6)


@pytest.mark.one_machine  # about files
def test_a_sequence_is_found_by_its_id_in_whichever_shard_it_lies(tmp_path: Path):
    given = [captured(70, 30, 12, seed=shard) for shard in range(2)]
    for shard in range(2):
        write_shard(given[shard], ABOUT, tmp_path / f"{shard}.parquet")
    cache = opened(*(tmp_path / f"{shard}.parquet" for shard in range(2)))
    assert len(cache) == 140 and "0" * 32 in cache and "f" * 32 not in cache
    assert all(np.array_equal(cache[c.seq_id].ids, c.ids_LK) for shard in given for c in shard)


@pytest.mark.one_machine  # about files
def test_a_token_costs_at_most_45_bytes_all_in(tmp_path: Path):
    given = captured(200, 250, 12)
    write_shard(given, ABOUT, tmp_path / "logits.parquet")
    assert (tmp_path / "logits.parquet").stat().st_size <= 45 * sum(len(c.ids_LK) for c in given)


def test_the_same_targets_give_the_same_bytes(tmp_path: Path):
    for name in "ab":
        write_shard(iter(captured(70, 30, 8)), ABOUT, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.one_machine  # about files
def test_an_empty_shard_can_be_written_and_read(tmp_path: Path):
    write_shard([], ABOUT, tmp_path / "logits.parquet")
    cache = opened(tmp_path / "logits.parquet")
    assert len(cache) == 0 and "0" * 32 not in cache


def read_all(path: Path) -> LogitCache:
    cache = opened(path)
    cache.read(np.arange(len(cache)))
    return cache


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize("at", [0.05, 0.2, 0.5, 0.8])
def test_a_flipped_bit_is_not_read(tmp_path: Path, at):
    path = tmp_path / "logits.parquet"
    write_shard(captured(64, 200, 12), ABOUT, path)
    read_all(path)
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)
    with pytest.raises((OSError, DamagedArtifactError), match="checksum|CRC|damaged in row group 0"):
        for place in range(len(cache := read_all(path))):
            cache.target_logp(place)


@pytest.mark.one_machine  # about files
def test_a_bit_that_flips_after_the_shard_was_opened_is_found_when_its_page_is_touched(tmp_path: Path):
    path = tmp_path / "logits.parquet"
    write_shard(captured(130, 40, 12), ABOUT, path)
    cache = opened(path)
    (page,) = Layout.of(path, ["logw"]).chunks[:, 2]  # of the third row group
    data = bytearray(path.read_bytes())
    data[int(page[0] + page[1]) - 1] ^= 1
    path.write_bytes(data)
    cache.read(np.arange(128))
    with pytest.raises(DamagedArtifactError, match="logits.parquet is damaged in row group 2, column logw"):
        cache.read(np.array([128]))


@pytest.mark.one_machine  # about files
def test_a_shard_that_is_cut_while_it_is_read_is_an_error_and_no_wrong_token(tmp_path: Path):
    path = tmp_path / "logits.parquet"
    write_shard(captured(130, 40, 12), ABOUT, path)
    cache = read_all(path)
    with path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(DamagedArtifactError, match="has 5,000 bytes.*it was cut"):
        cache.read(np.array([129]))
    path.unlink()
    with pytest.raises(DamagedArtifactError, match="is gone"):
        cache.read(np.array([0]))


@pytest.mark.one_machine  # about files
def test_many_sequences_of_several_shards_are_read_at_once_in_the_order_in_which_they_are_asked_for(tmp_path: Path):
    given = [captured(70, 30, 12, seed=shard) for shard in range(2)]
    for shard in range(2):
        write_shard(given[shard], ABOUT, tmp_path / f"{shard}.parquet")
    places = np.random.default_rng(0).permutation(140)
    found = opened(*(tmp_path / f"{shard}.parquet" for shard in range(2))).read(places)
    wanted = [[*given[0], *given[1]][place] for place in places]
    assert np.array_equal(found.ids, np.concatenate([c.ids_LK for c in wanted]))
    np.testing.assert_allclose(found.entropy, np.concatenate([c.entropy for c in wanted]), rtol=1e-3)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"teacher": "adaptation/b"}, "shard 7 .*teacher 'adaptation/a'.*'adaptation/b' is needed"),
        ({"sequence_length": 2048}, "sequence_length 64, but 2048 is needed"),
        ({"vocabulary": {"text": 259}}, "vocabulary None"),
    ],
    ids=str,
)
def test_a_shard_of_another_teacher_packing_or_vocabulary_is_named_beside_the_right_one(tmp_path, wanted, says):
    write_shard(captured(1, 9, 8), ABOUT, tmp_path / "logits.parquet")
    assert len(LogitCache.of_files({"shard 7": tmp_path / "logits.parquet"}, {"teacher": "adaptation/a"})) == 1
    with pytest.raises(TrainingError, match=says):
        LogitCache.of_files({"shard 7": tmp_path / "logits.parquet"}, wanted)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize(("name", "value"), [("format", "tw-logits/3"), ("temperature", 2.0)])
def test_shards_of_another_format_or_temperature_are_no_part_of_a_cache(tmp_path: Path, name, value):
    write_shard(captured(1, 9, 8), ABOUT, tmp_path / "a")
    write_shard(captured(1, 9, 8), ABOUT | {name: value}, tmp_path / "b")
    with pytest.raises(TrainingError, match=f"b was captured with {name} {value!r}, but {ABOUT[name]!r} is needed"):
        opened(tmp_path / "a", tmp_path / "b")


@pytest.mark.one_machine  # about files
def test_the_temperature_is_that_of_the_capture(tmp_path: Path):
    write_shard(captured(1, 9, 8), ABOUT | {"temperature": 1.5}, tmp_path / "a")
    assert opened(tmp_path / "a").temperature == 1.5


@pytest.mark.one_machine  # about files
def test_what_a_shard_says_of_itself_is_read_without_settings(tmp_path: Path):
    write_shard(captured(1, 9, 8), ABOUT, tmp_path / "logits.parquet")
    assert read_about(tmp_path / "logits.parquet") == ABOUT


@pytest.mark.one_machine  # about files
def test_sequences_without_targets_are_counted_and_one_is_named(tmp_path: Path):
    (one,) = captured(1, 9, 8)
    write_shard([one], ABOUT, tmp_path / "logits.parquet")
    names = np.array([bytes.fromhex(name) for name in (one.seq_id, "e" * 32, "f" * 32)], "S16")
    assert opened(tmp_path / "logits.parquet").require_all(names[:1]).tolist() == [0]
    with pytest.raises(TrainingError, match="2 of 3 training sequences have no cached logits, such as eeee"):
        opened(tmp_path / "logits.parquet").require_all(names)


@pytest.mark.one_machine  # about files
def test_a_parquet_file_of_another_kind_is_refused(tmp_path: Path):
    write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(TrainingError, match="other.parquet does not say what it is"):
        opened(tmp_path / "other.parquet")
