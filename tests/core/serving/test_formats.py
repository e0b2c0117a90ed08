"""WS /v1/realtime in other forms of audio: what goes out is the whole answer in that form, what comes in is heard as such."""

import io
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from tests.fixtures.serving import Serving
from tinywave_core.audio.pcm import to_pcm16
from tinywave_core.runtimes.base import Sampling
from tinywave_core.synthesis.generator import Generator, Sound

FEW = {"max_output_tokens": 60, "min_output_tokens": 60, "seed": 3}
TELEPHONE = {"audio/pcmu": "ULAW", "audio/pcma": "ALAW"}


def at_rate(samples: np.ndarray, rate: int) -> np.ndarray:
    return torchaudio.functional.resample(torch.from_numpy(samples), 16_000, rate).numpy()


def read(data: bytes, rate: int, subtype: str) -> np.ndarray:
    form = {"format": "RAW", "subtype": subtype, "channels": 1, "samplerate": rate}
    return soundfile.read(io.BytesIO(data), dtype="int16", **form)[0].astype(np.int64)


@pytest.mark.parametrize(
    ("form", "rate", "subtype"),
    [
        ({"type": "audio/pcm", "rate": 24_000}, 24_000, "PCM_16"),
        ({"type": "audio/pcm"}, 24_000, "PCM_16"),  # the protocol's own
        ({"rate": 8_000}, 8_000, "PCM_16"),
        *[({"type": kind}, 8_000, subtype) for kind, subtype in TELEPHONE.items()],
    ],
)
def test_an_answer_is_the_whole_of_it_in_the_form_that_was_asked_for(
    serving: Serving, student: Generator, speech: np.ndarray, form: dict[str, Any], rate: int, subtype: str
):
    with serving.talk() as client:
        client.say("session.update", session={"audio": {"output": {"format": form}}})
        assert client.hear("session.updated")["session"]["audio"]["output"]["format"].get("rate", 8_000) == rate
        client.speak(speech, **FEW)
        sound, _, response = client.answer()
    heard = np.frombuffer(to_pcm16(speech), "<i2").astype(np.float32) / 32768
    made = student([Sound(heard)], "speech", Sampling(max_new_tokens=60, min_new_tokens=60, seed=3)).audio
    whole = np.frombuffer(to_pcm16(at_rate(made, rate)), "<i2").astype(np.int64)
    found = read(sound, rate, subtype)
    assert response["status"] == "completed" and len(found) == len(whole) > 0
    # Samples that lie on a border between two values may fall to either side; a step of a law is a 32nd of the level.
    off = 1 if subtype == "PCM_16" else 8 + np.abs(whole) / 31
    assert (np.abs(found - whole) <= off).all()


@pytest.mark.parametrize("kind", TELEPHONE)
def test_a_telephones_codes_are_heard(serving: Serving, student: Generator, speech: np.ndarray, kind: str):
    file = io.BytesIO()
    soundfile.write(file, at_rate(speech, 8_000), 8_000, format="RAW", subtype=TELEPHONE[kind])
    with serving.talk() as client:
        client.say("session.update", session={"audio": {"input": {"format": {"type": kind}}}})
        client.append_bytes(file.getvalue())
        client.say("input_audio_buffer.commit")
        committed = client.hear("input_audio_buffer.committed")
    line = read(file.getvalue(), 8_000, TELEPHONE[kind]).astype(np.float32) / 32768
    wide = torchaudio.functional.resample(torch.from_numpy(line), 8_000, 16_000).numpy()
    assert committed["tokens"] == len(student.unit_ids(wide))
    assert committed["seconds"] == pytest.approx(len(speech) / 16_000, abs=0.01)
