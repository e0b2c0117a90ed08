"""Identity of outputs: canonical, complete, and refusing what it cannot write down."""

import math
from pathlib import Path

import pytest

from tinywave_core.config.distillation import DistillationConfig
from tinywave_core.storage.fingerprint import canonical_json, fingerprint


def test_key_order_does_not_matter():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})


def test_canonical_json_is_what_it_says():
    assert canonical_json({"b": 1.5, "a": ("x", None)}) == '{"a":["x",null],"b":1.5}'


def test_every_field_identifies_defaults_included():
    assert '"attention_rows":32' in canonical_json(DistillationConfig())


@pytest.mark.parametrize("value", [Path("/x"), {1: "a"}, object(), b"bytes", {1, 2}])
def test_what_has_no_canonical_form_is_refused(value):
    with pytest.raises(TypeError, match="canonical|not strings"):
        fingerprint(value)


def test_nan_is_refused_by_the_name_of_its_place():
    with pytest.raises(ValueError, match=r"\$\.rate is nan"):
        fingerprint({"rate": math.nan})
