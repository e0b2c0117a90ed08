"""SpiritLM's vocoder: the recorded waveforms, the way of codes into frames, streams that equal the whole, files that do not fit."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.fixtures import release
from tinywave_core.errors import CheckpointError, TinyWaveError, TokenError
from tinywave_core.synthesis.hifigan import HifiganVocoder
from tinywave_core.synthesis.hifigan_model import HifiganConfig, HifiganNetwork
from tinywave_core.synthesis.speaking import STREAM_CONTEXT
from tinywave_core.tokenizers.speech import EMPTY, Streams

pytestmark = pytest.mark.arithmetic

BASE = release.PARTS["hifigan"]["base"]
UNITS = [int(unit) for unit in release.PARTS["hifigan_inputs"]["hubert"].split()]
# The expressive kind at toy size: 3 frames of 4 samples for a pitch code, 6 for a style code.
EXPRESSIVE: dict[str, Any] = {
    "upsample_rates": [2, 2],
    "upsample_kernel_sizes": [4, 4],
    "upsample_initial_channel": 8,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "num_embeddings": 20,
    "embedding_dim": 4,
    "model_in_dim": 16,
    "code_hop_size": 4,
    "multispkr": "from_input_file",
    "num_speakers": 4,
    "num_f0_tokens": 6,
    "f0_hop_size": 12,
    "num_style_tokens": 5,
    "style_hop_size": 24,
    "dur_predictor_params": {
        "encoder_embed_dim": 4,
        "var_pred_hidden_dim": 4,
        "var_pred_kernel_size": 3,
        "var_pred_dropout": 0.5,
    },
}
RELEASED: dict[str, Any] = BASE["config"] | {
    "upsample_initial_channel": 512,
    "resblock_kernel_sizes": [3, 7, 11],
    "resblock_dilation_sizes": [[1, 3, 5]] * 3,
    "embedding_dim": 128,
    "model_in_dim": 384,
    "dur_predictor_params": BASE["config"]["dur_predictor_params"]
    | {"encoder_embed_dim": 128, "var_pred_hidden_dim": 128},
}


def _write(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    torch.save({"generator": weights}, folder / "generator.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _random_weights(config: dict[str, Any], rename: Callable[[str], str] = lambda key: key) -> dict[str, torch.Tensor]:
    shapes = {
        key: list(value.shape)
        for key, value in HifiganNetwork(HifiganConfig.model_validate(config)).state_dict().items()
    }
    recipe = {"seed": 7, "gains": [["weight", 1.0], ["dict.weight", 4.0]], "offsets": [["proj.bias", 1.2]]}
    return {rename(key): value for key, value in release.weights(recipe, shapes).items()}


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = _write(tmp_path_factory.mktemp("base") / "hifigan_spiritlm_base", BASE["config"], release.weights(BASE))
    (folder / "speakers.txt").write_text("ex01\nex02\nex03\nex04\n")
    (folder / "styles.txt").write_text("".join(f"{'conv-default' if i == 8 else f'style-{i}'}\n" for i in range(34)))
    return folder


@pytest.fixture(scope="module")
def base(base_folder: Path) -> HifiganVocoder:
    return HifiganVocoder.load(base_folder)


@pytest.fixture(scope="module")
def expressive(tmp_path_factory: pytest.TempPathFactory) -> HifiganVocoder:
    names = {"pitch_codes.weight": "f0_table.weight", "style_codes.weight": "style_table.weight"}
    weights = _random_weights(EXPRESSIVE, lambda key: names.get(key, key))
    return HifiganVocoder.load(_write(tmp_path_factory.mktemp("expressive"), EXPRESSIVE, weights))


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("nodur_spk2", {"predict_durations": False}),
        ("dur_dedup_spk1_style3", {"predict_durations": True, "speaker": 1, "global_style": 3}),
        ("dur_notdedup_spk0", {"predict_durations": True, "speaker": 0, "deduplicate": False}),
    ],
)
def test_recorded_waveform_comes_out_to_1e_4(base: HifiganVocoder, case: str, options: dict[str, Any]) -> None:
    samples = base.synthesize(UNITS, **options)
    assert samples.dtype == np.float32 and len(samples) == BASE["lengths"][case]
    np.testing.assert_allclose(samples[::17], release.arrays()[f"hifigan_base|{case}|every17"], rtol=0, atol=1e-4)


def test_voice_and_style_left_out_are_the_third_speaker_and_conv_default(base: HifiganVocoder) -> None:
    assert (base.speakers[2], base.styles[8]) == ("ex03", "conv-default")
    named = base.synthesize(UNITS, speaker=2, global_style=8, predict_durations=False)
    np.testing.assert_array_equal(base.synthesize(UNITS, predict_durations=False), named)
    for other in ({"speaker": 1}, {"global_style": 7}):
        assert np.abs(base.synthesize(UNITS, predict_durations=False, **other) - named).max() > 0.01


def test_runs_count_once_for_durations_unless_told_otherwise(base: HifiganVocoder) -> None:
    run = base.synthesize([5, 5, 9, 9, 9, 5], predict_durations=True)
    np.testing.assert_array_equal(run, base.synthesize([5, 9, 5], predict_durations=True, deduplicate=False))
    assert len(base.synthesize([5, 5, 9, 9, 9, 5], predict_durations=True, deduplicate=False)) > len(run)
    assert len(base.synthesize([5, 5, 9, 9, 9, 5], predict_durations=False)) == 6 * 640


@pytest.mark.parametrize(("log_frames", "frames"), [(-3.0, 1), (np.log(2.4), 1), (np.log(3.6), 3), (np.log(8.4), 7)])
def test_unit_lasts_exp_x_minus_1_frames_rounded_and_at_least_one(
    tmp_path: Path, log_frames: float, frames: int
) -> None:
    weights = _random_weights(EXPRESSIVE)
    weights["dur_predictor.proj.weight"].zero_()
    weights["dur_predictor.proj.bias"].fill_(log_frames)
    vocoder = HifiganVocoder.load(_write(tmp_path, EXPRESSIVE, weights))
    assert len(vocoder.synthesize([1, 2, 3], [0, 1, 2], [4, 4, 4], predict_durations=True)) == 3 * frames * 4


def test_input_channels_are_unit_pitch_style_speaker(tmp_path: Path) -> None:
    weights = _random_weights(EXPRESSIVE)
    for table, hundreds in [("dict", 100), ("pitch_codes", 200), ("style_codes", 300), ("spkr", 400)]:
        weights[f"{table}.weight"][:] = torch.arange(len(weights[f"{table}.weight"]))[:, None] + hundreds
    network = HifiganVocoder.load(_write(tmp_path, EXPRESSIVE, weights)).network
    channels = network.inputs(torch.tensor([[[7, 8], [1, 2], [3, 4]]]), torch.tensor([2]), torch.tensor([0]))
    assert channels.shape == (1, 16, 2)
    assert channels[0, ::4].tolist() == [[107, 108], [201, 202], [303, 304], [402, 402]]


def test_global_style_is_the_last_input_of_a_base_model(base: HifiganVocoder) -> None:
    channels = base.network.inputs(torch.tensor([[[5]]]), torch.tensor([1]), torch.tensor([3]))[0, :, 0]
    expected = [base.network.dict.weight[5], base.network.spkr.weight[1], base.network.style.weight[3]]
    torch.testing.assert_close(channels, torch.cat(expected), rtol=0, atol=0)


def _frames(vocoder: HifiganVocoder, *codes: Any, durations: bool = False, deduplicate: bool = True) -> list[list[int]]:
    return np.concatenate(
        [*vocoder._frames([Streams(*map(np.asarray, codes))], durations, deduplicate)], axis=1
    ).tolist()


def test_pitch_and_style_codes_last_as_long_as_their_hop(expressive: HifiganVocoder) -> None:
    assert _frames(expressive, range(9), [1, 2, 3], [0, 4]) == [
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
        [1, 1, 1, 2, 2, 2, 3, 3, 3],
        [0, 0, 0, 0, 0, 0, 4, 4, 4],
    ]


def test_last_code_is_extended_or_cut_by_up_to_one_step(expressive: HifiganVocoder) -> None:
    assert _frames(expressive, [7] * 9, [1, 2], [3])[1:] == [[1, 1, 1, 2, 2, 2, 2, 2, 2], [3] * 9]
    assert _frames(expressive, [7] * 7, [1, 2], [3, 4])[1:] == [[1, 1, 1, 2, 2, 2, 2], [3] * 6 + [4]]
    assert _frames(expressive, [7] * 9, [1, 2, 3, 4], [3, 4])[1:] == [[1, 1, 1, 2, 2, 2, 3, 3, 3], [3] * 6 + [4] * 3]


@pytest.mark.parametrize(
    ("pitch", "style", "message"),
    [
        ([1], [3, 3], "1 pitch codes for 9 units; expected one for every 3 units"),
        ([1] * 5, [3, 3], "5 pitch codes"),
        ([1] * 3, [3] * 4, "4 style codes for 9 units; expected one for every 6"),
        ([], [3, 3], "0 pitch codes"),
    ],
)
def test_codes_off_by_more_than_a_step_are_refused(
    expressive: HifiganVocoder, pitch: list[int], style: list[int], message: str
) -> None:
    with pytest.raises(TokenError, match=message):
        expressive.synthesize([7] * 9, pitch, style, predict_durations=False)


def test_with_durations_pitch_and_style_are_stretched_with_their_unit(expressive: HifiganVocoder) -> None:
    units, pitch, style = _frames(expressive, [3, 3, 11, 4], [1, 2, 3], [4, 0, 1], durations=True)
    assert len(units) > 3 and sorted(set(zip(units, pitch, style, strict=True))) == [(3, 1, 4), (4, 3, 1), (11, 2, 0)]


def test_with_durations_there_is_one_code_per_unit(expressive: HifiganVocoder) -> None:
    with pytest.raises(TokenError, match="4 pitch codes for 3 units .*deduplicate"):
        expressive.synthesize([3, 3, 11, 4], [1] * 4, [1] * 4, predict_durations=True)
    assert len(expressive.synthesize([3, 3, 11, 4], [1] * 4, [1] * 4, predict_durations=True, deduplicate=False))


@pytest.mark.parametrize("durations", [True, False])
def test_no_units_give_no_samples(base: HifiganVocoder, expressive: HifiganVocoder, durations: bool) -> None:
    for vocoder in (base, expressive):
        samples = vocoder.synthesize([], predict_durations=durations)
        assert samples.shape == (0,) and samples.dtype == np.float32
        assert not [*vocoder.stream([], predict_durations=durations)]
        assert not [*vocoder.stream([Streams(EMPTY, EMPTY, EMPTY)] * 2, predict_durations=durations)]


@pytest.mark.parametrize(
    ("codes", "options", "message"),
    [
        (([501],), {}, "found units from 501 to 501; this vocoder expects 0 to 500"),
        (([3, -1],), {}, "units from -1 to 3"),
        (([0.5],), {}, "units are float64 .* expected integers"),
        (([[1, 2]],), {}, r"shape \[1, 2\]"),
        (([1], [2]), {}, "found 1 pitch codes; this vocoder expects units only"),
        (([1],), {"speaker": 4}, r"speaker is 4: this vocoder has speakers 0 to 3 \(ex01, ex02"),
        (([1],), {"speaker": -1}, "speaker is -1"),
        (([1],), {"global_style": 34}, "global_style is 34: this vocoder has global_styles 0 to 33"),
    ],
)
def test_input_out_of_range_is_named(
    base: HifiganVocoder, codes: tuple[Any, ...], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TinyWaveError, match=message):
        base.synthesize(*codes, predict_durations=False, **options)


def test_expressive_model_has_no_global_style(expressive: HifiganVocoder) -> None:
    with pytest.raises(TinyWaveError, match="no global styles"):
        expressive.synthesize([1], [1], [1], global_style=8, predict_durations=True)
    with pytest.raises(TokenError, match="pitch from 6 to 6; this vocoder expects 0 to 5"):
        expressive.synthesize([1], [6], [1], predict_durations=True)


def _babble(codes: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 20, codes)


@pytest.mark.parametrize("durations", [True, False])
@pytest.mark.parametrize("borders", [[], range(1, 90), [3, 3, 50, 80]])
def test_stream_equals_the_whole_to_1e_5(base: HifiganVocoder, durations: bool, borders: Any) -> None:
    units = _babble(90)
    pieces = (Streams(piece, EMPTY, EMPTY) for piece in np.split(units, borders))
    chunks = [*base.stream(pieces, predict_durations=durations, chunk_frames=40)]
    whole = base.synthesize(units, predict_durations=durations)
    assert {len(chunk) for chunk in chunks[:-1]} == {40 * 640} and len(np.concatenate(chunks)) == len(whole)
    np.testing.assert_allclose(np.concatenate(chunks), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("chunk_frames", [1, 7, 10_000])
def test_stream_of_an_expressive_model_equals_the_whole(expressive: HifiganVocoder, chunk_frames: int) -> None:
    units, pitch, style = _babble(60), _babble(20) % 6, _babble(10) % 5
    pieces = [
        Streams(units[:7], pitch[:9], EMPTY),
        Streams(units[7:8], EMPTY, style),
        Streams(units[8:], pitch[9:], EMPTY),
    ]
    chunks = [*expressive.stream(pieces, predict_durations=False, chunk_frames=chunk_frames)]
    whole = expressive.synthesize(units, pitch, style, predict_durations=False)
    np.testing.assert_allclose(np.concatenate(chunks), whole, rtol=0, atol=1e-5)


def test_chunks_may_grow_by_half_up_to_the_longest(base: HifiganVocoder) -> None:
    units = _babble(120)
    stream = base.stream([Streams(units, EMPTY, EMPTY)], predict_durations=False, chunk_frames=10, longest_frames=30)
    chunks = [*stream]
    assert [len(chunk) // 640 for chunk in chunks] == [10, 15, 23, 30, 30, 12]
    whole = base.synthesize(units, predict_durations=False)
    np.testing.assert_allclose(np.concatenate(chunks), whole, rtol=0, atol=1e-5)


@pytest.mark.one_machine  # counts operations
@pytest.mark.parametrize(("chunk_frames", "times"), [(10, 1.65), (40, 1.2)])
def test_a_released_sizes_chunks_cost_little_more_than_the_whole(chunk_frames: int, times: float) -> None:
    """Operations, with the context that streams have: it is dropped level by level, for most of it is for the first one."""
    config = HifiganConfig.model_validate(RELEASED)
    network = HifiganNetwork(config).requires_grad_(False)
    counted = []
    for frames, start, stop in (
        (80, 0, 80),
        (chunk_frames + 2 * STREAM_CONTEXT, STREAM_CONTEXT, STREAM_CONTEXT + chunk_frames),
    ):
        with FlopCounterMode(display=False) as counter:
            samples = network(torch.zeros(1, frames, dtype=torch.long), 0, 0, start, stop)
        assert len(samples) == (stop - start) * config.hop
        counted.append(counter.get_total_flops() / len(samples))
    whole, chunk = counted
    assert 1 < chunk / whole < times


def test_run_that_is_cut_between_two_pieces_counts_once(expressive: HifiganVocoder) -> None:
    pieces = [([3, 3], [1], [1]), ([], [], []), ([3, 4], [2], [2]), ([4], [], [])]
    streamed = expressive.stream((Streams(*map(np.asarray, piece)) for piece in pieces), predict_durations=True)
    whole = expressive.synthesize([3, 4], [1, 2], [1, 2], predict_durations=True)
    np.testing.assert_allclose(np.concatenate([*streamed]), whole, rtol=0, atol=1e-5)


def test_first_chunk_comes_before_the_speech_ends(base: HifiganVocoder) -> None:
    taken = []

    def speaking() -> Any:
        for unit in _babble(200):
            taken.append(unit)
            yield Streams(np.asarray([unit]), EMPTY, EMPTY)

    with torch.enable_grad():
        chunk = next(base.stream(speaking(), predict_durations=False, chunk_frames=10))
        assert not torch.is_inference_mode_enabled()
    assert len(chunk) == 10 * 640 and len(taken) == 10 + base.config.context[1]


def test_settings_of_a_stream_are_checked_before_the_first_piece(base: HifiganVocoder) -> None:
    with pytest.raises(TinyWaveError, match="speaker is 9"):
        base.stream([], speaker=9, predict_durations=False)
    with pytest.raises(TinyWaveError, match="chunk_frames is 0"):
        base.stream([], chunk_frames=0, predict_durations=False)


def test_context_is_the_receptive_field_and_no_more(base: HifiganVocoder) -> None:
    before, after = base.config.context
    network = HifiganNetwork(base.config).double()
    network.load_state_dict(base.network.state_dict())
    units = torch.from_numpy(_babble(before + 1 + after + 2))[None]

    def middle_frame(changed: int) -> torch.Tensor:
        other = units.clone()
        other[0, changed] = 400
        with torch.inference_mode():
            return network(other, 0, 0)[(before + 1) * 640 : (before + 2) * 640]

    same = middle_frame(0)  # one frame further off than the context before
    assert torch.equal(same, middle_frame(before + 1 + after + 1))
    assert not torch.equal(same, middle_frame(1)) and not torch.equal(same, middle_frame(before + 1 + after))


def test_durations_depend_on_as_many_codes_as_said(base: HifiganVocoder) -> None:
    units = torch.from_numpy(_babble(9))
    with torch.inference_mode():
        for changed in range(9):
            other = units.clone()
            other[changed] = 400
            logs = [base.network.dur_predictor(base.network.dict(u))[4] for u in (units, other)]
            assert torch.equal(*logs) == (abs(changed - 4) > base.config.duration_context)


@pytest.mark.one_machine  # about threads
def test_threads_share_a_vocoder(base: HifiganVocoder) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _: base.synthesize(UNITS, predict_durations=True), range(8))]
    for samples in found:
        np.testing.assert_array_equal(samples, base.synthesize(UNITS, predict_durations=True))


def test_released_sizes_make_14_and_15_million_parameters() -> None:
    expressive = {"num_f0_tokens": 64, "f0_hop_size": 1280, "num_style_tokens": 100, "style_hop_size": 16000}
    for changes, millions in [({}, 14.3), (expressive | {"multistyle": None, "model_in_dim": 512}, 14.8)]:
        config = HifiganConfig.model_validate(RELEASED | changes)
        assert round(sum(p.numel() for p in HifiganNetwork(config).parameters()) / 1e6, 1) == millions
    assert config.frames_per_code == {"units": 1, "pitch": 2, "style": 25} and config.context == (20, 20)


def test_tables_of_equal_size_are_told_apart_by_name(tmp_path: Path) -> None:
    config = EXPRESSIVE | {"num_style_tokens": 6}
    names = {"pitch_codes.weight": "z_f0.weight", "style_codes.weight": "a_style.weight"}
    weights = _random_weights(config, lambda key: names.get(key, key))
    network = HifiganVocoder.load(_write(tmp_path, config, weights)).network
    torch.testing.assert_close(network.pitch_codes.weight, weights["z_f0.weight"], rtol=0, atol=0)
    torch.testing.assert_close(network.style_codes.weight, weights["a_style.weight"], rtol=0, atol=0)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code_hop_size": 320}, "code_hop_size 320, but upsample_rates .* make 640 samples"),
        ({"model_in_dim": 64}, "model_in_dim 64, but 3 inputs of embedding_dim 16 make 48"),
        ({"num_embeddings": "many"}, "num_embeddings: .*found 'many'"),
        ({"upsample_rates": None}, "upsample_rates"),
        ({"upsample_kernel_sizes": [11, 8, 8, 8]}, "upsample_kernel_sizes .* do not fit"),
        ({"resblock_dilation_sizes": [[1]]}, "1 lists of dilations"),
        ({"upsample_initial_channel": 48}, "48 cannot be halved 5 times"),
        ({"num_f0_tokens": 64, "model_in_dim": 64}, "f0_hop_size None: expected at least half"),
        ({"embedder_params": {"width": 3}}, "embedder_params: .*expected a table of speakers"),
        ({"f0": True, "model_in_dim": 49}, "F0 curve itself .*expected a vocoder of units"),
        ({"f0_quant_num_bin": 32}, "F0 curve itself"),
        ({"sampling_rate": 24000}, "sampling_rate 24000: expected 16000"),
        ({"num_styles": 30}, r"generator.pt .*style.weight is \[34, 16\], expected \[30, 16\]"),
        ({"dur_predictor_params": None}, "generator.pt .*10 that this architecture does not have"),
        ({"num_speakers": 3, "multispkr": None, "model_in_dim": 32}, "generator.pt .*spkr.weight"),
    ],
)
def test_config_that_does_not_fit_is_refused(
    base_folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    shutil.copy(base_folder / "generator.pt", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(BASE["config"] | changes))
    with pytest.raises(CheckpointError, match=message):
        HifiganVocoder.load(tmp_path)


@pytest.mark.one_machine  # about files
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", b"{", "config.json cannot be read as JSON"),
        ("config.json", b"[]", "config.json is not a config"),
        ("config.json", b"{}", "upsample_rates: Field required"),
        ("generator.pt", None, "generator.pt is missing"),
        ("generator.pt", b"PK\x03\x04 cut short", "generator.pt .*cut short"),
        ("speakers.txt", b"a\nb\nc\nd\ne\n", "speakers.txt has 5 names; expected 4 at most"),
        ("styles.txt", b"\xff\xfe", "styles.txt cannot be read as text"),
    ],
)
def test_file_that_is_missing_or_damaged_is_named(
    base_folder: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    folder = Path(shutil.copytree(base_folder, tmp_path / "vocoder"))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        HifiganVocoder.load(folder)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    folder = _write(tmp_path, BASE["config"], _random_weights(EXPRESSIVE))
    with pytest.raises(CheckpointError, match="another architecture"):
        HifiganVocoder.load(folder)
    torch.save({"model": {}}, folder / "generator.pt")
    with pytest.raises(CheckpointError, match="no weights under 'generator'"):
        HifiganVocoder.load(folder)


def test_model_without_a_duration_predictor_says_so(tmp_path: Path) -> None:
    config = EXPRESSIVE | {"dur_predictor_params": None}
    vocoder = HifiganVocoder.load(_write(tmp_path, config, _random_weights(config)))
    assert vocoder.speakers == vocoder.styles == ()
    with pytest.raises(TinyWaveError, match="predicts no durations"):
        vocoder.synthesize([1], [1], [1], predict_durations=True)
