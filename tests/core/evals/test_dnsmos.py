"""Windows and polynomials of DNSMOS by hand, files that are none, and the real one where its package is installed."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.fixtures.judges import write_dnsmos
from tests.fixtures.tiny import EXAMPLES
from tinywave_core.errors import CheckpointError, MissingInputError
from tinywave_core.evals.dnsmos import WINDOW, chosen_dnsmos, installed_dnsmos, load_dnsmos, opinions, windows


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dnsmos(tmp_path_factory.mktemp("dnsmos") / "sig_bak_ovr.onnx")


@pytest.mark.parametrize(
    ("seconds", "heard"),
    [
        (3, [0, 16_000, 32_000]),  # doubled to 6 and 12 s
        (9.01, [0]),
        (10, [0]),
        (11.5, [0, 16_000]),
        (20, [16_000 * hop for hop in range(11)]),
    ],
)
def test_nine_seconds_are_heard_at_a_time_a_second_apart(seconds: float, heard: list[int]):
    clip = np.linspace(0, 1, round(seconds * 16_000), dtype=np.float32)
    repeated = np.concatenate([clip] * 4)
    found = windows(clip)
    assert len(found) == len(heard)
    for window, start in zip(found, heard, strict=True):
        assert np.array_equal(window, repeated[start : start + 144_160])


def test_raw_opinions_are_put_on_the_scale_by_the_published_polynomials():
    found = opinions(np.array([[3.0, 3.5, 2.5], [1.0, 1.0, 1.0]]))
    sig = -0.08397278 * 9 + 1.22083953 * 3 + 0.0052439
    bak = -0.13166888 * 12.25 + 1.60915514 * 3.5 - 0.39604546
    ovrl = -0.06766283 * 6.25 + 1.11546468 * 2.5 + 0.04602535
    assert found[0] == pytest.approx([sig, bak, ovrl])
    assert found[1] == pytest.approx([1.14211065, 1.0814408, 1.0938272])


def test_a_clip_has_the_mean_of_its_windows(toy: Path):
    clip = np.concatenate([np.full(WINDOW, 0.1), np.full(3 * 16_000, 0.9)]).astype(np.float32)  # three windows
    shares = np.array([0, 16_000, 32_000]) / WINDOW
    raw = 1 + 0.1 + 0.8 * shares
    expected = (-0.08397278 * raw**2 + 1.22083953 * raw + 0.0052439).mean()
    assert load_dnsmos(toy)(clip).sig == pytest.approx(expected, rel=1e-4)  # the toy sums in float32


def test_what_a_vocoder_makes_too_loud_is_heard_as_a_wav_file_has_it(toy: Path):
    rate = load_dnsmos(toy)
    assert rate(np.full(WINDOW, 7, np.float32)) == rate(np.full(WINDOW, 1, np.float32))


def test_a_file_that_is_no_dnsmos_is_refused(tmp_path: Path):
    (tmp_path / "text.onnx").write_text("no network")
    for path, said in (
        (tmp_path / "text.onnx", "cannot be run"),
        (write_dnsmos(tmp_path / "wide.onnx", samples=1_000), "cannot be run"),
        (write_dnsmos(tmp_path / "five.onnx", outputs=5), r"makes an output of shape \(1, 5\)"),
    ):
        with pytest.raises(CheckpointError, match=f"{said}.*expected DNSMOS's sig_bak_ovr.onnx"):
            load_dnsmos(path)


def test_a_path_that_leads_nowhere_is_refused_and_none_is_none():
    assert chosen_dnsmos("none") is None
    with pytest.raises(MissingInputError, match="'nowhere.onnx' is no file; expected auto, none, or the path"):
        chosen_dnsmos("nowhere.onnx")


def test_noise_lowers_what_the_real_network_says():
    path = installed_dnsmos()
    if path is None:
        pytest.skip("no DNSMOS: install speechmos")
    rate = load_dnsmos(path)
    speech, _ = soundfile.read(next((EXAMPLES / "LJSpeech").rglob("*0002.wav")), dtype="float32")
    noise = np.random.default_rng(0).normal(0, 0.05, len(speech)).astype(np.float32)
    clean, noisy = rate(speech), rate(speech + noise)
    assert all(1 <= opinion <= 5 for opinion in (*clean, *noisy))
    assert clean.ovrl > noisy.ovrl + 0.5 and clean.bak > noisy.bak + 1
