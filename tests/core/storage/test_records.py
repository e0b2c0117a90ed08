"""Records: every flipped bit is found, and put back; what is not one is refused."""

import hashlib
import json

import pytest

from tinywave_core.storage.records import RecordFault, flipped_back, seal, unseal

CONTENT = {"artifact": "export/0123", "hours": 0.5, "name": "größer", "files": [1, 2]}


def with_bit(data: bytes, bit: int) -> bytes:
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def test_a_record_is_json_that_ends_with_the_digest_of_all_before():
    data = seal(CONTENT)
    above, _, last = data.rpartition(b',\n "digest": ')
    assert json.loads(data) == {**CONTENT, "digest": hashlib.sha256(above).hexdigest()}
    assert json.loads(last.removesuffix(b"\n}\n")) == hashlib.sha256(above).hexdigest()
    assert unseal(data) == CONTENT


def test_every_flipped_bit_of_a_record_is_found_and_put_back():
    data = seal(CONTENT)
    for bit in range(8 * len(data)):
        with pytest.raises(RecordFault):
            unseal(with_bit(data, bit))
        assert flipped_back(with_bit(data, bit)) == data


@pytest.mark.parametrize("data", [b"", b"{}", b"\0" * 400, seal(CONTENT)[:-1], seal(CONTENT)[1:], seal(CONTENT) + b" "])
def test_what_is_cut_or_is_no_record_is_refused_and_not_guessed(data: bytes):
    with pytest.raises(RecordFault):
        unseal(data)
    assert flipped_back(data) is None


def test_two_flipped_bits_are_found_and_not_guessed():
    data = with_bit(with_bit(seal(CONTENT), 40), 90)
    with pytest.raises(RecordFault, match="contents have SHA-256"):
        unseal(data)
    assert flipped_back(data) is None
