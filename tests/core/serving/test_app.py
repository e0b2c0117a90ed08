"""HTTP: wav or JSON in, speech as it is made or JSON out; a clear error for what cannot be, and the next one is served."""

import base64
import io
import json
import socket
import threading
import wave
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from tests.fixtures.serving import Serving, until
from tinywave_core.audio.pcm import from_pcm16, to_pcm16
from tinywave_core.runtimes.base import Sampling
from tinywave_core.serving import asking
from tinywave_core.synthesis.generator import Generator, Sound, Text

FEW = {"max_new_tokens": 30, "min_new_tokens": 30, "seed": 3}
LONG = {"max_new_tokens": 1500, "min_new_tokens": 1500}


def wav_of(samples: np.ndarray, rate: int = 16_000, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16", **options)
    return file.getvalue()


def float_wav_of(value: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full((16_000, 2), value, np.float32), 16_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


def adpcm_wav() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.ones(16_000) / 2, 16_000, format="WAV", subtype="IMA_ADPCM")
    return file.getvalue()


def post(serving: Serving, body: Any, query: dict[str, Any] | None = None, **headers: str) -> httpx.Response:
    where = f"{serving.url}/v1/audio/generate"
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(body, dict):
        return httpx.post(where, json=body, headers=headers, timeout=60)
    return httpx.post(where, content=body, params=query, headers=headers, timeout=60)


def refused(answer: httpx.Response, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    return str(answer.json()["error"]["message"])


def test_health_and_models_say_what_there_is(serving: Serving):
    assert httpx.get(f"{serving.url}/health").json() == {
        "status": "ok",
        "models": ["student", "another"],
        "sessions": 0,
    }
    models = httpx.get(f"{serving.url}/v1/models").json()
    assert [each["id"] for each in models["data"]] == ["student", "another"]
    assert models["data"][0]["outputs"] == ["speech", "text", "mixed"] and models["data"][0]["prompt_s"] == 10


def test_the_page_needs_nothing_else(serving: Serving):
    page = httpx.get(serving.url)
    assert page.status_code == 200 and "default-src 'none'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "") and "https://" not in page.text


def test_a_wav_goes_on_as_the_generator_goes_on(serving: Serving, student: Generator, speech: np.ndarray):
    answer = post(serving, wav_of(speech), FEW)
    assert answer.status_code == 200 and answer.headers["content-type"] == "audio/wav"
    heard = from_pcm16(to_pcm16(speech))
    made = student([Sound(heard)], "speech", Sampling(max_new_tokens=30, min_new_tokens=30, seed=3))
    assert answer.content[:4] == b"RIFF" and answer.content[44:] == to_pcm16(made.audio) != b""
    pcm = post(serving, to_pcm16(speech), FEW | {"response_format": "pcm"}, content_type="audio/pcm;rate=16000")
    assert pcm.content == answer.content[44:]


def test_a_wav_of_another_rate_with_two_channels_is_heard(serving: Serving, speech: np.ndarray):
    twice = np.repeat(np.repeat(speech, 2)[:, None], 2, axis=1)
    answer = post(serving, wav_of(twice, 32_000), FEW | {"response_format": "json"})
    assert answer.status_code == 200
    alone = post(serving, wav_of(speech), FEW | {"response_format": "json"}).json()
    assert answer.json()["usage"]["input_tokens"] == pytest.approx(alone["usage"]["input_tokens"], rel=0.15)


def test_text_goes_on_as_speech_and_as_text(serving: Serving, student: Generator):
    spoken = post(serving, {"input": "once upon", "response_format": "json", **FEW}).json()
    with wave.open(io.BytesIO(base64.b64decode(spoken["audio"]))) as file:
        assert file.getnframes() / 16_000 == pytest.approx(spoken["timings"]["audio_s"], abs=1e-3)
    written = post(serving, {"input": "once upon", "output": "text", **FEW}).json()
    made = student([Text("once upon")], "text", Sampling(max_new_tokens=30, min_new_tokens=30, seed=3))
    assert written["audio"] is None and written["text"].strip() == made.text


def test_text_and_audio_are_one_prompt(serving: Serving, speech: np.ndarray):
    audio = base64.b64encode(wav_of(speech)).decode()
    both, one = (
        post(serving, body | {"response_format": "json", **FEW}).json()["usage"]["input_tokens"]
        for body in ({"input": "it said ", "audio": audio}, {"audio": audio})
    )
    assert both == one + len("it said ") + 1


def test_speech_comes_while_it_is_made(serving: Serving, speech: np.ndarray):
    where = f"{serving.url}/v1/audio/generate"
    with httpx.stream(
        "POST", where, content=wav_of(speech), params=LONG | {"response_format": "pcm"}, timeout=60
    ) as answer:
        next(answer.iter_raw())
        assert not serving.idle()  # the first of it is here, and the rest is being made


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 415, "unsupported_audio"),
        (b"ID3 this is something else", 415, "unsupported_audio"),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", 400, "invalid_audio"),
        (wav_of(np.zeros(16_000)), 400, "audio_silent"),
        (wav_of(np.ones(100) / 2), 400, "audio_too_short"),
        (wav_of(np.ones(16_000 * 11) / 2), 413, "audio_too_long"),
        (wav_of(np.ones((16_000, 3)) / 2), 400, "invalid_audio"),
        ({"input": ""}, 400, "invalid_text"),
        ({"input": 3}, 400, "invalid_text"),
        ({"input": "a" * 201}, 413, "text_too_long"),
        ({"input": "[Speech][Hu3]"}, 400, "invalid_request"),
        ({"audio": "not base64!"}, 400, "invalid_audio"),
        ({"audio": ["AAAA"]}, 400, "invalid_audio"),
        ({}, 400, "prompt_empty"),
        ({"input": "a", "temperature": 0}, 400, "invalid_settings"),
        ({"input": "a", "top_p": "much"}, 400, "invalid_settings"),
        ({"input": "a", "max_new_tokens": 1501}, 400, "invalid_settings"),
        ({"input": "a", "colour": "red"}, 400, "invalid_settings"),
        ({"input": "a", "voice": "nobody"}, 400, "invalid_request"),
        ({"input": "a", "response_format": "mp3"}, 400, "invalid_settings"),
        ({"input": "a", "model": "../../etc/passwd"}, 404, "unknown_model"),
        ({"input": "a", "model": ["x"]}, 400, "invalid_settings"),
        ({"input": "a", "temperature": True}, 400, "invalid_settings"),
        ({"input": "a", "seed": 10**400}, 400, "invalid_settings"),
        ({"input": "a", "voice": [[]] * 10_001}, 400, "invalid_json"),
        (wav_of(np.ones(16_000) / 2, 3_999), 400, "invalid_audio"),
        (wav_of(np.ones(16_000) / 2, 2**31 - 1), 400, "invalid_audio"),
        (float_wav_of(1e30), 400, "invalid_audio"),
        (float_wav_of(np.nan), 400, "invalid_request"),
        (adpcm_wav(), 415, "unsupported_audio"),
    ],
)
def test_what_cannot_be_is_refused_and_the_next_one_is_served(serving: Serving, body: Any, status: int, code: str):
    refused(post(serving, body), status, code)
    assert post(serving, {"input": "a", **FEW}).status_code == 200


def test_a_body_that_is_no_json_or_has_no_rate_is_refused(serving: Serving):
    assert "not JSON" in refused(post(serving, b"{", content_type="application/json"), 400, "invalid_json")
    refused(post(serving, b"[" * 100_000, content_type="application/json"), 400, "invalid_json")
    refused(post(serving, b"\0" * 100, content_type="audio/pcm;rate=fast"), 400, "invalid_audio")
    refused(post(serving, b"\0" * 101, content_type="audio/pcm"), 400, "invalid_audio")


@pytest.mark.parametrize("field", ["input", "model", "voice", "colour\ud800"])
def test_half_a_character_is_refused_by_its_field(serving: Serving, field: str):
    body = json.dumps({"input": "a", field: "\ud800"}).encode()
    said = refused(post(serving, body, content_type="application/json"), 400, "invalid_text")
    assert ascii(field)[1:-1] in said and "surrogate" in said


def test_a_body_that_is_too_long_is_told_the_limit(serving: Serving):
    most = serving.server.limits.body_bytes
    with socket.create_connection(("127.0.0.1", int(serving.url.rpartition(":")[2]))) as raw:
        raw.sendall(
            f"POST /v1/audio/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: {3 * most}\r\n\r\n".encode()
        )
        raw.sendall(bytes(3 * most))  # a client that reads no answer before it has said everything
        answer = b""
        while part := raw.recv(1 << 16):
            answer += part
    assert b" 413 " in answer and f"{most:,} bytes".encode() in answer
    assert serving.server.bodies.held_bytes == 0


def test_who_asks_before_it_sends_too_much_is_told_before_it_sends(serving: Serving):
    head = f"POST /v1/audio/generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: {10**12}\r\nexpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(serving.url.rpartition(":")[2]))) as raw:
        raw.sendall(head.encode())
        answer = b""
        while part := raw.recv(1 << 16):
            answer += part
    assert answer.startswith(b"HTTP/1.1 413 ") and b"body_too_long" in answer


def test_the_coldest_temperature_is_the_likeliest_token(serving: Serving):
    body = {"input": "once upon", "response_format": "json", "max_new_tokens": 12, "output": "text"}
    cold, colder = (
        post(serving, body | {"temperature": t, "seed": s}).json()["text"] for t, s in ((1e-300, 1), (1e-6, 2))
    )
    assert cold == colder != ""


@pytest.mark.parametrize("rate", [4_001, 44_101, 191_999])
def test_an_odd_rate_is_heard_and_not_by_the_loop(
    serving: Serving, speech: np.ndarray, rate: int, monkeypatch: pytest.MonkeyPatch
):
    threads, resampled = [], asking.resampled

    def noted(samples: np.ndarray, rate: int) -> np.ndarray:
        threads.append(threading.current_thread().name)
        return resampled(samples, rate)

    monkeypatch.setattr(asking, "resampled", noted)
    assert post(serving, wav_of(np.tile(speech, 8)[20_000 : 20_000 + 2 * rate], rate), FEW).status_code == 200
    with serving.talk() as client:
        client.say("session.update", session={"audio": {"input": {"format": {"rate": 44_101}}}})
        client.speak(speech, **{"max_output_tokens": 2})
        assert client.answer()[2]["status"] == "completed"
    assert len(threads) >= 2 and {name.partition("_")[0] for name in threads} == {"ear"}


def test_a_body_without_an_end_is_cut_off(serving: Serving):
    most = serving.server.limits.body_bytes

    def endless() -> Any:
        while True:
            yield b"\0" * (1 << 20)

    try:
        answer = httpx.post(f"{serving.url}/v1/audio/generate", content=endless(), timeout=60)
    except httpx.TransportError:  # the server answered and closed while we still wrote
        pass
    else:
        assert f"{most:,}" in refused(answer, 413, "body_too_long")
    assert httpx.get(f"{serving.url}/health").status_code == 200


def test_a_prompt_that_leaves_no_room_is_refused(serving: Serving, speech: np.ndarray):
    long = wav_of(np.concatenate([speech, speech, speech])[: 16_000 * 9])
    context = serving.host.generator.runtime.context
    body = {"audio": base64.b64encode(long).decode(), "input": "a" * 200, "max_new_tokens": 1500}
    answer = post(serving, body)
    assert answer.status_code == (400 if context < 1500 + 200 + 300 else 200)


def test_one_who_goes_away_in_the_middle_is_no_longer_worked_for(serving: Serving, speech: np.ndarray):
    where, query = f"{serving.url}/v1/audio/generate", LONG | {"response_format": "pcm"}
    with httpx.stream("POST", where, content=wav_of(speech), params=query, timeout=60) as answer:
        next(answer.iter_raw())
    until(serving.idle)
    assert post(serving, wav_of(speech), FEW).status_code == 200


def test_one_who_goes_away_before_the_answer_is_no_longer_worked_for(serving: Serving, speech: np.ndarray):
    where, query = f"{serving.url}/v1/audio/generate", LONG | {"response_format": "json"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(where, content=wav_of(speech), params=query, timeout=httpx.Timeout(60, read=0.3))
    until(serving.idle)
    assert post(serving, wav_of(speech), FEW).status_code == 200


def test_one_answer_at_a_time_a_short_queue_and_no_more(serving: Serving, speech: np.ndarray):
    statuses: list[int] = []

    def ask() -> None:
        query = {"max_new_tokens": 300, "min_new_tokens": 300}
        statuses.append(post(serving, wav_of(speech), query).status_code)

    askers = [threading.Thread(target=ask) for _ in range(6)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert set(statuses) == {200, 429} and statuses.count(200) >= 2
    assert post(serving, {"input": "a", **FEW}).status_code == 200


def test_pages_of_others_and_foreign_names_are_refused(serving: Serving):
    assert "may not use" in refused(post(serving, {"input": "a"}, origin="https://evil.example"), 403, "forbidden")
    refused(post(serving, {"input": "a"}, origin="null"), 403, "forbidden")
    refused(httpx.get(f"{serving.url}/health", headers={"host": "evil.example"}), 403, "forbidden")
    for name in ("localhost:1", "127.0.0.1", "[::1]:80", "box.example"):
        assert httpx.get(f"{serving.url}/health", headers={"host": name}).status_code == 200
    assert post(serving, {"input": "a", **FEW}, origin=serving.url).status_code == 200


def test_images_scripts_and_frames_of_others_are_refused_and_links_are_not(serving: Serving):
    def status(site: str, mode: str, dest: str) -> int:
        asks = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
        return httpx.get(f"{serving.url}/health", headers=asks).status_code

    foreign = [
        ("cross-site", "no-cors", "image"),
        ("same-site", "no-cors", "script"),
        ("cross-site", "navigate", "iframe"),
    ]
    assert {status(*each) for each in foreign} == {403}
    assert status("cross-site", "navigate", "document") == status("same-origin", "cors", "empty") == 200


def test_who_asks_for_what_is_not_there_is_told_what_is(serving: Serving):
    for path in ("/etc/passwd", "/docs", "/v1/audio/speech"):
        told = refused(httpx.get(f"{serving.url}{path}"), 404, "not_found")
        assert "POST /v1/audio/generate" in told and path in told
    wrong = httpx.get(f"{serving.url}/v1/audio/generate")
    assert wrong.headers["allow"] == "POST"
    assert refused(wrong, 405, "method_not_allowed") == "/v1/audio/generate takes POST, not GET"
    assert "takes GET, HEAD, not POST" in refused(
        httpx.post(f"{serving.url}/v1/models", json={}), 405, "method_not_allowed"
    )
    assert "ws://" in refused(httpx.get(f"{serving.url}/v1/realtime"), 404, "upgrade_required")


def test_a_body_in_another_form_is_told_the_right_one(serving: Serving):
    told = post(serving, {"text": "hello"})
    assert (
        "text: there is no such field" in refused(told, 400, "prompt_empty") and told.json()["error"]["param"] == "text"
    )
    assert "give input (text)" in told.json()["error"]["message"]
    form = post(serving, b'{"input": "hello"}', content_type="application/x-www-form-urlencoded")  # as curl -d sends it
    assert "say application/json" in refused(form, 415, "unsupported_audio")
    assert "there is no content type" in refused(post(serving, b' {"input": 3}'), 415, "unsupported_audio")
    unknown = post(serving, {"input": "a", "colour": "red"})
    assert "there are output, temperature" in refused(unknown, 400, "invalid_settings")


def test_bytes_that_are_no_http_harm_nobody(serving: Serving):
    with socket.create_connection(("127.0.0.1", int(serving.url.rpartition(":")[2]))) as raw:
        raw.sendall(bytes(range(256)))
        raw.recv(1000)
    assert httpx.get(f"{serving.url}/health").status_code == 200
