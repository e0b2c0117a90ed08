"""Turns that the server finds: a speaker stops and is answered, begins and is not talked over."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio

from tests.fixtures.serving import Client, Serving
from tinywave_core.audio.pcm import from_pcm16, to_pcm16
from tinywave_core.audio.turns import Began, Ended
from tinywave_core.runtimes.base import Sampling
from tinywave_core.serving.session_fields import TurnDetection
from tinywave_core.serving.turn_taking import Edge, TurnTaking
from tinywave_core.synthesis.generator import Generator, Sound

FEW = {"max_output_tokens": 30, "min_output_tokens": 30, "seed": 3}
SILENCE = np.zeros(16_000, np.float32)


@pytest.fixture
def client(serving: Serving) -> Iterator[Client]:
    with serving.talk() as client:
        yield client


def detect(client: Client, answer: dict[str, Any] = FEW, form: dict[str, Any] | None = None, **vad: Any) -> None:
    hears = {"turn_detection": {"type": "server_vad", **vad}} | ({} if form is None else {"format": form})
    client.say("session.update", session={"audio": {"input": hears}, **answer})
    client.hear("session.updated")


def say(client: Client, samples: np.ndarray, step: int = 3_000) -> None:
    for start in range(0, len(samples), step):
        client.append(samples[start : start + step])


def test_who_stops_is_answered_with_what_goes_on_from_the_turn(client: Client, student: Generator, speech: np.ndarray):
    detect(client)
    signal = np.concatenate([SILENCE, speech, SILENCE])
    say(client, signal)
    kinds = ("speech_started", "speech_stopped", "committed")
    started, stopped, committed = (client.hear(f"input_audio_buffer.{kind}") for kind in kinds)
    assert started["item_id"] == stopped["item_id"] == committed["item_id"]
    first, last = started["audio_start_ms"] * 16, stopped["audio_end_ms"] * 16
    assert SILENCE.size - 4_800 <= first < SILENCE.size + 16_000 and abs(last - len(signal) + SILENCE.size) < 8_000
    assert committed["seconds"] == pytest.approx((last - first) / 16_000, abs=2e-3)
    sound, _, response = client.answer()
    assert response["status"] == "completed"
    heard = np.frombuffer(to_pcm16(signal[first:last]), "<i2").astype(np.float32) / 32768
    made = student([Sound(heard)], "speech", Sampling(max_new_tokens=30, min_new_tokens=30, seed=3))
    assert sound == to_pcm16(made.audio) != b""


def test_a_conversation_has_many_turns_each_answered(client: Client, speech: np.ndarray):
    detect(client, form={"type": "audio/pcm", "rate": 24_000})
    wide = torchaudio.functional.resample(torch.from_numpy(np.append(speech, SILENCE)), 16_000, 24_000).numpy()
    before = 0
    for _ in range(3):
        say(client, wide, step=4_799)
        started = client.hear("input_audio_buffer.speech_started")["audio_start_ms"]
        assert started >= before
        before = client.hear("input_audio_buffer.speech_stopped")["audio_end_ms"]
        assert client.answer()[2]["status"] == "completed"


def test_who_begins_to_speak_is_not_talked_over(client: Client, speech: np.ndarray):
    detect(client, {"max_output_tokens": 1500, "min_output_tokens": 1500})
    say(client, np.append(speech, SILENCE))
    client.hear("response.output_audio.delta")
    say(client, speech)
    assert client.answer()[2]["status"] == "cancelled"
    client.say("session.update", session=FEW)
    say(client, SILENCE)
    assert client.answer()[2]["status"] == "completed"


def test_an_answer_that_may_not_be_interrupted_is_not_and_the_turn_stays(client: Client, speech: np.ndarray):
    detect(client, {"max_output_tokens": 1500, "min_output_tokens": 1500}, interrupt_response=False)
    say(client, np.append(speech, SILENCE))
    client.hear("response.created")
    say(client, np.append(speech, SILENCE))
    client.hear("input_audio_buffer.committed")
    assert client.fault()["code"] == "response_active"
    client.say("response.cancel")
    client.hear("response.done")
    client.say("response.create", response=FEW)
    assert client.answer()[2]["status"] == "completed"


def test_without_answers_of_its_own_turns_are_one_prompt(client: Client, speech: np.ndarray):
    detect(client, create_response=False)
    tokens = 0
    for _ in range(2):
        say(client, np.append(speech, SILENCE))
        tokens += client.hear("input_audio_buffer.committed")["tokens"]
    client.say("response.create")
    assert client.hear("response.created")
    assert client.answer()[2]["usage"]["input_tokens"] == tokens + 2  # <s> and a marker


def test_a_turn_as_long_as_a_prompt_may_be_is_answered_and_goes_on_as_the_next(client: Client, speech: np.ndarray):
    detect(client, {"max_output_tokens": 2}, interrupt_response=False, silence_duration_ms=2000)
    say(client, np.append(np.tile(speech, 5)[: 16_000 * 12], np.zeros(40_000, np.float32)))  # the server takes 10 s
    lengths = [client.hear("input_audio_buffer.committed")["seconds"] for _ in range(2)]
    assert 9.4 <= lengths[0] <= 10 and lengths[1] > 12 - 0.5 - lengths[0] - 0.5


def test_a_client_may_end_a_turn_itself_and_clear_forgets_it(client: Client, student: Generator, speech: np.ndarray):
    detect(client)
    say(client, speech[:30_000])
    client.hear("input_audio_buffer.speech_started")
    client.say("input_audio_buffer.commit")
    assert client.hear("input_audio_buffer.committed")["seconds"] > 0.5
    client.say("response.create")
    assert client.answer()[2]["status"] == "completed"
    # The next turn is the server's again, and whole.
    say(client, np.concatenate([SILENCE, speech, SILENCE]))
    kinds = ("speech_started", "speech_stopped", "committed")
    started, stopped, committed = (client.hear(f"input_audio_buffer.{kind}") for kind in kinds)
    said = np.concatenate([speech[:30_000], SILENCE, speech])[
        started["audio_start_ms"] * 16 : stopped["audio_end_ms"] * 16
    ]
    assert committed["tokens"] == len(student.unit_ids(from_pcm16(to_pcm16(said))))
    client.answer()
    say(client, speech[:30_000])
    client.hear("input_audio_buffer.speech_started")
    client.say("input_audio_buffer.clear")
    client.hear("input_audio_buffer.cleared")
    client.say("input_audio_buffer.commit")
    assert client.fault()["code"] == "input_audio_buffer_commit_empty"


def test_halves_of_samples_are_put_together(client: Client, speech: np.ndarray):
    detect(client, create_response=False)
    data = to_pcm16(np.append(speech, SILENCE))
    for start in range(0, len(data), 6_001):
        client.append_bytes(data[start : start + 6_001])
    assert client.hear("input_audio_buffer.committed")["seconds"] == pytest.approx(len(speech) / 16_000, abs=0.7)


def test_a_turn_begins_with_its_padding_and_never_in_the_turn_before():
    turns = TurnTaking(TurnDetection(type="server_vad", prefix_padding_ms=300), 8_000)
    assert turns._edge(Began(16_000)) == Edge(True, 5_600, 700)  # a second, less 300 ms
    turns = TurnTaking(TurnDetection(type="server_vad"), 48_000)
    assert turns._edge(Began(100)) == Edge(True, 0, 0)
    assert turns._edge(Ended(16_000)) == Edge(False, 48_000, 1000)
    turns.keep(bytes(range(20)))
    assert turns.begin(4) == bytes(range(8, 20))
    assert turns._edge(Began(0)).sample == 10  # these ten samples are a turn's
    turns.keep(bytes(range(10)))
    assert turns.begin(3) == bytes(range(10))  # from before what is kept: all of it
    assert turns._edge(Began(0)).sample == 15


def test_the_silence_that_ends_a_turn_is_counted_in_windows_of_32_ms():
    assert TurnTaking(TurnDetection(type="server_vad", silence_duration_ms=496), 8_000)._detector._silence == 16  # 15.5
    assert TurnTaking(TurnDetection(type="server_vad", silence_duration_ms=100), 8_000)._detector._silence == 3  # 3.1


def test_what_lies_between_turns_is_not_kept():
    turns = TurnTaking(TurnDetection(type="server_vad"), 8_000)
    for _ in range(50):
        silence = bytes(16_000)
        assert turns.look(silence) == []
        turns.keep(silence)
        turns.forget()
    assert 2 * (50 * 8_000 - turns._first) == len(turns._kept) <= 2 * 8_000 * (0.3 + 0.15)
