"""Prompts, bans and the splitting of outputs: equal to SpiritLM's recorded ones; no string breaks the parser."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.release import STRINGS
from tinywave_core.errors import TokenError
from tinywave_core.tokenizers.prompts import (
    build_prompt,
    continuation_text,
    ends_with_speech,
    forbidden_ids,
    last_speech_start,
    runs,
    starts_with_speech,
    units_in,
)
from tinywave_core.tokenizers.speech import from_string
from tinywave_core.tokenizers.vocabulary import SPIRITLM_BASE, SPIRITLM_EXPRESSIVE, Vocabulary

VOCABULARIES = {"base": SPIRITLM_BASE, "expressive": SPIRITLM_EXPRESSIVE}
pieces = ["[Hu33]", "[Pi2]", "[St1]", "[Hu", "[Hu501]", "[Hu05]", "[Hu٣]", "[Hu12345]", "[Text]", "[Speech]", "[", "]"]
outputs = st.lists(st.one_of(st.sampled_from(pieces), st.text(max_size=6)), max_size=12).map("".join)


@pytest.mark.parametrize("case", STRINGS["prompts"])
def test_prompts_equal_those_of_spiritlm(case: dict[str, Any]) -> None:
    inputs = [(modality, content) for modality, content in case["inputs"]]
    assert build_prompt(inputs, case["output_modality"]) == case["prompt"]


def test_a_prompt_of_nothing_is_the_marker_of_the_output() -> None:
    assert [build_prompt([], output) for output in ("text", "speech", "arbitrary")] == ["[Text]", "[Speech]", ""]


@pytest.mark.parametrize("case", STRINGS["forbidden"])
def test_bans_equal_those_of_spiritlm(case: str) -> None:
    model, output = case.split("/")
    expected = [i for first, last in STRINGS["forbidden"][case]["ids_ranges"] for i in range(first, last + 1)]
    assert list(forbidden_ids(VOCABULARIES[model], output)) == expected
    assert len(expected) == STRINGS["forbidden"][case]["n"]


@pytest.mark.parametrize("case", STRINGS["parse"], ids=lambda case: repr(case["s"]))
def test_outputs_split_as_those_of_spiritlm(case: dict[str, Any]) -> None:
    output = case["s"]
    assert [[run.content, run.modality[0]] for run in runs(output)] == case["split"]
    assert starts_with_speech(output) == case["starts"]
    assert ends_with_speech(output) == case["ends"]
    assert last_speech_start(output) == case["last_speech_start"]


@given(outputs)
def test_splitting_loses_markers_only_and_alternates(output: str) -> None:
    found = runs(output)
    assert all(a.modality != b.modality for a, b in pairwise(found))
    kept = iter(output)
    assert all(character in kept for run in found for character in run.content)
    assert "".join(units_in(run.content) for run in found if run.modality == "text") == ""


@given(st.lists(st.tuples(st.sampled_from(["text", "speech"]), st.sampled_from(["[Hu1][Hu2]", " the cat"]))))
def test_well_formed_outputs_come_back_from_their_prompt(inputs: list[tuple[Any, str]]) -> None:
    inputs = [("speech" if content.startswith("[Hu") else "text", content) for _, content in inputs]
    found = [(run.modality, run.content) for run in runs(build_prompt(inputs, "arbitrary"))]
    assert "".join(content for _, content in found) == "".join(content for _, content in inputs)
    assert build_prompt(found, "arbitrary") == build_prompt(inputs, "arbitrary")


@given(st.one_of(outputs, st.text(alphabet="[]HuPiStTexSpch0123456789٣² ", max_size=30)))
def test_no_string_raises_anything_but_a_token_error(output: str) -> None:
    for string in (output, units_in(output)):
        try:
            ids = SPIRITLM_EXPRESSIVE.encode(string)
        except TokenError:
            continue
        names = SPIRITLM_EXPRESSIVE.decode(ids)
        assert SPIRITLM_EXPRESSIVE.encode(names) == ids
        assert names == string or "0" in string  # [Hu05] is read as [Hu5]
        assert len(from_string(string, SPIRITLM_EXPRESSIVE).units) == string.count("[Hu")


def test_units_of_a_malformed_output_are_the_well_formed_ones() -> None:
    assert units_in("[Text]ab[Hu1][Hu[Pi2] [Hux][St٣][Hu12345][Hu77]") == "[Hu1][Pi2][Hu77]"
    with pytest.raises(TokenError, match="501 is out of range"):
        from_string(units_in("a[Hu501]"), SPIRITLM_BASE)


def test_text_after_a_prompt_is_counted_in_characters_and_stripped() -> None:
    assert continuation_text("[Speech][Hu1][Text] the cat \n", "[Speech][Hu1][Text]") == "the cat"


def test_layouts_of_the_release() -> None:
    assert (SPIRITLM_BASE.tokens, SPIRITLM_BASE.rows) == (32_503, 32_512)
    assert (SPIRITLM_EXPRESSIVE.tokens, SPIRITLM_EXPRESSIVE.rows) == (32_667, 32_768)
    assert SPIRITLM_EXPRESSIVE.first == {"hubert": 32_002, "pitch": 32_503, "style": 32_567}


def test_conventions_differ_by_the_boundary() -> None:
    fast = Vocabulary(text=32_000, hubert=501)
    assert (fast.convention, fast.prompt_ids(fast.speech_marker)) == ("fast", [1, 32_001])
    assert SPIRITLM_BASE.convention == "slow" and SPIRITLM_BASE.prompt_ids(32_000) == [1, 29_871, 32_000]
    for vocabulary in (fast, SPIRITLM_BASE):
        assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary
