"""The merge and its way back: equal to SpiritLM's recorded strings, and inverse to one another."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.release import STRINGS
from tinywave_core.errors import TokenError
from tinywave_core.tokenizers.prompts import units_in
from tinywave_core.tokenizers.speech import (
    Streams,
    encode_utterance,
    from_string,
    merge,
    positions,
    positions_of_stream,
    run_starts,
    to_string,
)
from tinywave_core.tokenizers.vocabulary import SPIRITLM_BASE, SPIRITLM_EXPRESSIVE, Vocabulary

pytestmark = pytest.mark.arithmetic

SPIRITLM = Vocabulary(text=32_000, hubert=501, pitch=64, style=100)


def _units(string: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([int(unit) for unit in string.split()], dtype=np.int64)


def _streams(units: str, pitch: str = "", style: str = "") -> Streams:
    return Streams(_units(units), _units(pitch), _units(style))


streams = st.builds(
    lambda units, pitch, style: Streams(*(np.array(x, dtype=np.int64) for x in (units, pitch, style))),
    st.lists(st.integers(0, 500), max_size=80),
    st.lists(st.integers(0, 63), max_size=40),
    st.lists(st.integers(0, 99), max_size=4),
)


@pytest.mark.parametrize("case", STRINGS["units_to_string"])
def test_strings_equal_those_of_spiritlm(case: dict[str, Any]) -> None:
    units = case["units"]
    assert to_string(_streams(units["hubert"]), SPIRITLM) == case["base"]
    assert to_string(_streams(units["hubert"], units["pitch"]), SPIRITLM) == case["pitch_only"]
    assert to_string(_streams(units["hubert"], units["pitch"], units["style"]), SPIRITLM) == case["expressive"]


@pytest.mark.parametrize(("variant", "deduplicate"), [("no_dedup", ()), ("style_dedup", ("units", "pitch", "style"))])
@pytest.mark.parametrize("case", STRINGS["units_to_string"])
def test_strings_with_other_deduplication_equal_those_of_spiritlm(
    case: dict[str, Any], variant: str, deduplicate: tuple[str, ...]
) -> None:
    units = _streams(*(case["units"][name] for name in ("hubert", "pitch", "style")))
    assert to_string(units, SPIRITLM, deduplicate=deduplicate) == case[variant]


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("case", STRINGS["string_to_units"])
def test_units_of_strings_equal_those_of_spiritlm(case: dict[str, Any], repeat: bool) -> None:
    expected = case["units_dup" if repeat else "units"]
    found = from_string(units_in(case["string"]), SPIRITLM, default_style=68, repeat_for_pitch=repeat)
    for name, stream in [("hubert", found.units), ("pitch", found.pitch), ("style", found.style)]:
        assert " ".join(map(str, stream)) == expected.get(name, "")


def test_pitches_before_the_first_unit_repeat_it_as_in_spiritlm() -> None:
    # Recorded from the reference.
    found = from_string("[St3][Pi28][Pi59][Pi27][Hu276][Hu250]", SPIRITLM, repeat_for_pitch=True)
    assert (found.units.tolist(), found.pitch.tolist()) == ([276, 276, 276, 250], [59, 27, 27, 27])
    assert found.style.tolist() == [3] * 4


def test_pitches_without_any_unit_repeat_nothing() -> None:
    found = from_string("[St3][Pi28][Pi59]", SPIRITLM, repeat_for_pitch=True)
    assert [len(found.units), len(found.pitch), len(found.style)] == [0, 0, 0]


def test_order_at_equal_times_is_style_pitch_unit() -> None:
    assert to_string(_streams("5 5 6", "1 1", "9"), SPIRITLM) == "[St9][Pi1][Hu5][Hu6]"


def test_rate_is_24_99_units_per_second() -> None:
    # Unit 2499 starts at 2499 / 24.99 = 100 s: after the style token of that second, not before it as at 25 Hz.
    string = to_string(Streams(np.arange(2500) % 2, np.zeros(0, np.int64), np.arange(101) % 100), SPIRITLM)
    assert string.endswith("[Hu0][St0][Hu1]")


def _naive(speech: Streams) -> str:
    """SpiritLM's rules word by word: lists of (time, token) in the order St, Pi, Hu, a stable sort, joined."""
    timed = [(i / 1, f"[St{unit}]") for i, unit in enumerate(speech.style)]
    for letters, rate, stream in [("Pi", 12.5, speech.pitch), ("Hu", 24.99, speech.units)]:
        previous = None
        for i, unit in enumerate(stream):
            if unit != previous:
                timed.append((i / rate, f"[{letters}{unit}]"))
            previous = unit
    return "".join(token for _, token in sorted(timed, key=lambda pair: pair[0]))


@given(st.integers(0, 2**32 - 1), st.integers(0, 5200), st.sampled_from([1, 3, 500]))
def test_merge_is_the_rules_word_by_word_also_beyond_100_seconds(seed: int, length: int, units: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [(units, length), (min(units, 63), length // 2), (99, length // 25)]
    speech = Streams(*(rng.integers(0, highest + 1, size) for highest, size in sizes))
    assert merge(speech, SPIRITLM).tolist() == SPIRITLM.encode(_naive(speech))


@given(streams)
def test_the_slow_convention_puts_the_boundary_before_the_marker(speech: Streams) -> None:
    slow, fast = (encode_utterance(speech, vocabulary).tolist() for vocabulary in (SPIRITLM_EXPRESSIVE, SPIRITLM))
    assert slow == [1, 29_871, *fast[1:]]
    np.testing.assert_array_equal(positions(slow, SPIRITLM_EXPRESSIVE).units, positions(fast, SPIRITLM).units)


@given(streams)
def test_ids_and_string_are_the_same_thing(speech: Streams) -> None:
    ids = merge(speech, SPIRITLM)
    assert SPIRITLM.encode(to_string(speech, SPIRITLM)) == ids.tolist()
    assert encode_utterance(speech, SPIRITLM).tolist() == [1, 32_001, *ids.tolist(), 2]


@given(streams)
def test_every_deduplicated_unit_comes_back_in_order(speech: Streams) -> None:
    found = positions(encode_utterance(speech, SPIRITLM), SPIRITLM)
    np.testing.assert_array_equal(found.units, speech.units[run_starts(speech.units)])
    assert len(found.pitch) in (0, len(found.units)) and len(found.style) in (0, len(found.units))


_KINDS = st.sampled_from([5, 32_001, *SPIRITLM.encode("[Hu1][Hu1][Hu2][Hu2][Pi3][Pi4][St5][St6]")])


@given(st.lists(_KINDS, max_size=30), st.sampled_from([SPIRITLM, SPIRITLM_BASE]), st.booleans())
def test_positions_of_ids_that_come_one_by_one_are_those_of_all(ids: list[int], vocabulary: Vocabulary, repeat: bool):
    ids = [i for i in ids if i < vocabulary.tokens]
    whole = positions(ids, vocabulary, default_style=9, repeat_for_pitch=repeat)
    found = [*positions_of_stream(iter(ids), vocabulary, default_style=9, repeat_for_pitch=repeat)]
    for kind in ("units", "pitch", "style"):
        pieces = [np.zeros(0, np.int64), *(getattr(piece, kind) for piece in found)]
        assert np.concatenate(pieces).tolist() == getattr(whole, kind).tolist()


def test_position_comes_with_its_unit_once_pitch_and_style_are_known() -> None:
    ids = SPIRITLM.encode("[Hu1][Pi2][Hu3][St4][Hu5][Hu6]")
    asked = iter(ids)
    found = positions_of_stream(asked, SPIRITLM)
    assert [next(found).units.tolist() for _ in range(2)] == [[1, 3], [5]]
    assert [*asked] == ids[-1:]


@given(st.text(alphabet="[]HuPiStTexSpch0123456789٣² ", max_size=30))
def test_any_string_is_parsed_exactly_or_refused(string: str) -> None:
    try:
        ids = SPIRITLM.encode(string)
    except TokenError:
        return
    assert SPIRITLM.decode(ids).replace("[Hu0", "[Hu") == "" or len(from_string(string, SPIRITLM).units) <= len(ids)


@pytest.mark.parametrize(
    "string",
    [
        "[Hu٣]",
        "[Hu²]",
        "[Hu12345]",
        "[Hu501]",
        "[Pi64]",
        "[St100]",
        "[Hu]",
        "[Hu1",
        "Hu1]",
        "[Hu1] [Hu2]",
        "[hu1]",
        "[Hu-1]",
        "x",
    ],
)
def test_malformed_strings_are_token_errors(string: str) -> None:
    with pytest.raises(TokenError):
        from_string(string, SPIRITLM)


def test_units_beyond_the_vocabulary_are_token_errors() -> None:
    with pytest.raises(TokenError, match="has 501 of their kind"):
        merge(_streams("501"), SPIRITLM)
    with pytest.raises(TokenError, match="has 0 of their kind"):
        merge(_streams("1", "1"), Vocabulary(text=259, hubert=10))
