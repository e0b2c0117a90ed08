"""How long anybody can keep `tinywave talk` from answering: `make bench-talk-attacks`; and what it keeps of them: `make soak-talk`.

A server is started on a tiny model (or on --model), attacked in each of the ways below, and asked GET /health all the while, from a
process of its own and over a new connection each time. The longest wait counts; the goal is half a second. The first line is
the server alone: what a busy machine costs by itself.

With --soak thousands of requests of all kinds come instead, hundreds of which break off. Then memory and open files must be what
they were after the first tenth: exit status 1 where they grew beyond the bounds.
"""

import argparse
import base64
import collections
import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

GOAL_S = 0.5
GROWTH_MIB, GROWTH_FILES = 64, 4
ASK = "/v1/audio/generate"
FEW = "?max_new_tokens=20&min_new_tokens=20"


@dataclass
class Target:
    """A server under attack."""

    port: int
    pid: int
    hold_s: float
    """How long what is slow is kept up."""
    said: collections.Counter[str] = field(default_factory=collections.Counter)
    """Answers by what they were."""

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def post(self, body: bytes, kind: str = "audio/wav", query: str = FEW) -> None:
        """Ask, read everything, count the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("POST", ASK + query, body, {"content-type": kind})
            answer = connection.getresponse()
            answer.read()
            self.said[str(answer.status)] += 1
        except (OSError, http.client.HTTPException) as error:
            self.said[type(error).__name__] += 1
        finally:
            connection.close()

    def websocket(self) -> Any:
        from websockets.sync.client import connect

        return connect(f"ws://127.0.0.1:{self.port}/v1/realtime", max_size=None, ping_interval=None)

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory_mib(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def wav(seconds: float, rate: int, channels: int = 1) -> bytes:
    """Noise, as a file."""
    import io

    import numpy as np
    import soundfile

    noise = np.random.default_rng(0).normal(0, 0.1, (int(seconds * rate), channels))
    soundfile.write(file := io.BytesIO(), noise, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def together(count: int, work: Callable[[int], object]) -> None:
    """Do it `count` times at once."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def head(more: str, path: str = ASK) -> bytes:
    return f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{more}".encode()


def slow(target: Target, count: int, begin: bytes, drop: bytes) -> None:
    """Connections that say `begin`, and then `drop` twice a second."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(target.connect()) for _ in range(count)]
        for each in sockets:
            each.sendall(begin)
        end = time.monotonic() + target.hold_s
        while time.monotonic() < end:
            for each in sockets:
                with contextlib.suppress(OSError):
                    each.send(drop)
            time.sleep(0.5)


# The attacks ---------------------------------------------------------------------------------------------------------


def nothing(target: Target) -> None:
    time.sleep(target.hold_s)


def odd_rate(target: Target) -> None:
    body = wav(2, 44_101)
    together(4, lambda _: target.post(body))


def hardest_rate(target: Target) -> None:
    body = wav(50, 191_975)
    together(4, lambda _: target.post(body))


def half_open(target: Target) -> None:
    slow(target, 200, b"GET /health HTTP/1.1\r\nhost: 127", b"0")


def slow_bodies(target: Target) -> None:
    slow(target, 200, head("content-length: 100000\r\n\r\n"), b"0")


def half_handshakes(target: Target) -> None:
    begin = b"GET /v1/realtime HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: "
    slow(target, 200, begin, b"A")


def silent_sockets(target: Target) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            with contextlib.suppress(Exception):
                stack.enter_context(target.websocket())
        time.sleep(target.hold_s)


def _flood(target: Target, clients: int, message: bytes, times: int) -> None:
    """Frames as fast as they go, nothing of the answers read until they are written."""

    def one(_: int) -> None:
        with target.connect() as raw:
            key = base64.b64encode(os.urandom(16)).decode()
            raw.sendall(
                f"GET /v1/realtime HTTP/1.1\r\nhost: 127.0.0.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
                f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n".encode()
            )
            raw.settimeout(target.hold_s)
            with contextlib.suppress(OSError):
                target.said[raw.recv(12).decode()] += 1
                threading.Thread(target=_drain, args=(raw,), daemon=True).start()
                raw.sendall(message * times)
                time.sleep(target.hold_s)

    together(clients, one)


def _drain(raw: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while raw.recv(1 << 16):
            pass


def _frame(opcode: int, payload: bytes) -> bytes:
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + bytes(4) + payload


def clear_flood(target: Target) -> None:
    _flood(target, 1, _frame(1, b'{"type":"input_audio_buffer.clear"}'), 20_000)


def clear_floods(target: Target) -> None:
    _flood(target, 16, _frame(1, b'{"type":"input_audio_buffer.clear"}'), 20_000)


def ping_floods(target: Target) -> None:
    _flood(target, 16, _frame(9, b""), 200_000)


def big_bodies(target: Target) -> None:
    together(4, lambda _: target.post(b"RIFF" + bytes(40 << 20)))


def deep_json(target: Target) -> None:
    bodies = [
        b"[" * (20 << 20),
        b'{"a":' * (5 << 20),
        b"[" + b"[]," * (9 << 20),
        b'{"input":"' + rb"\u0041" * (4 << 20) + b'"}',
    ]
    together(4, lambda i: target.post(bodies[i], "application/json"))


def long_base64(target: Target) -> None:
    body = json.dumps({"audio": base64.b64encode(wav(59, 48_000, 2)).decode(), "max_new_tokens": 5}).encode()
    together(8, lambda _: target.post(body, "application/json"))


def parallel_uploads(target: Target) -> None:
    body = wav(55, 48_000, 2)
    together(48, lambda _: target.post(body))


def small_chunks(target: Target) -> None:
    def one(_: int) -> None:
        with target.connect() as raw, contextlib.suppress(OSError):
            raw.settimeout(target.hold_s)
            raw.sendall(head("transfer-encoding: chunked\r\n\r\n") + b"1\r\nx\r\n" * 300_000)
            raw.recv(1)

    together(32, one)


def pipelined(target: Target) -> None:
    def one(_: int) -> None:
        with target.connect() as raw, contextlib.suppress(OSError):
            threading.Thread(target=_drain, args=(raw,), daemon=True).start()
            raw.settimeout(target.hold_s)
            raw.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 20_000)
            time.sleep(target.hold_s)

    together(8, one)


def never_reads(target: Target) -> None:
    """Answers of a minute that nobody reads."""
    body = wav(2, 16_000)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            raw = stack.enter_context(target.connect())
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with contextlib.suppress(OSError):
                raw.sendall(
                    f"POST {ASK}?max_new_tokens=1000 HTTP/1.1\r\nhost: 127.0.0.1\r\n"
                    f"content-length: {len(body)}\r\n\r\n".encode()
                    + body
                )
        time.sleep(target.hold_s)


def hang_ups(target: Target) -> None:
    body, chance = wav(3, 16_000), random.Random(0)

    def one(_: int) -> None:
        with target.connect() as raw, contextlib.suppress(OSError):
            whole = head(f"content-length: {len(body)}\r\n\r\n") + body
            raw.sendall(whole[: chance.choice([10, 60, 1000, len(whole)])])
            time.sleep(chance.choice([0, 0.02, 0.3]))

    for _ in range(10):
        together(30, one)


ATTACKS: list[Callable[[Target], None]] = [
    *(
        nothing,
        odd_rate,
        hardest_rate,
        half_open,
        slow_bodies,
        half_handshakes,
        silent_sockets,
        clear_flood,
        clear_floods,
    ),
    *(
        ping_floods,
        big_bodies,
        deep_json,
        long_base64,
        parallel_uploads,
        small_chunks,
        pipelined,
        never_reads,
        hang_ups,
    ),
]


# The measurement -----------------------------------------------------------------------------------------------------


def probe(port: int) -> None:
    """Ask /health again and again; one JSON list of waits in seconds, None where there was no answer, when stdin closes."""
    waits: list[float | None] = []
    print("ready", flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), print(json.dumps(waits), flush=True), os._exit(0))).start()
    while True:
        started, connection = time.perf_counter(), http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", "/health")
            is_fine = connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            is_fine = False
        finally:
            connection.close()
        waits.append(time.perf_counter() - started if is_fine else None)
        time.sleep(0.02)


@contextlib.contextmanager
def served(model: Path, hold_s: float) -> Iterator[Target]:
    """`tinywave talk` as a person starts it."""
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "talk",
        str(model),
        "--port",
        "0",
        "--device",
        "cpu",
        "--threads",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout
        try:
            address = next(found for line in server.stdout if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)))
            yield Target(int(address[1]), server.pid, hold_s)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)


def attack(target: Target, attack: Callable[[Target], None]) -> list[float | None]:
    """How long /health took during an attack."""
    command = [sys.executable, __file__, "--probe", str(target.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as prober:
        assert prober.stdout
        prober.stdout.readline()
        attack(target)
        time.sleep(0.3)
        waits: list[float | None] = json.loads(prober.communicate("")[0])
    return waits


def bench(target: Target, names: list[str]) -> int:
    """A line per attack; status 1 where the goal is missed."""
    print(
        f"{'attack':18}{'seconds':>9}{'asked':>7}{'median':>9}{'longest':>9}{'failed':>8}{'MiB':>7}  answers",
        flush=True,
    )
    missed = 0
    for each in ATTACKS:
        if names and each.__name__ not in names:
            continue
        target.said.clear()
        started = time.perf_counter()
        waits = attack(target, each)
        known = [wait for wait in waits if wait is not None]
        failed = len(waits) - len(known)
        missed += failed > 0 or max(known, default=60.0) > GOAL_S
        print(
            f"{each.__name__:18}{time.perf_counter() - started:9.1f}{len(waits):7}{statistics.median(known or [60]):9.3f}"
            f"{max(known, default=60.0):9.3f}{failed:8}{target.memory_mib():7.0f}  {dict(target.said)}",
            flush=True,
        )
    return int(missed > 0)


def soak(target: Target, requests: int) -> int:
    """Requests of all kinds, a tenth of which break off; status 1 where memory or files grew."""
    short, chance = wav(1, 22_050), random.Random(0)
    text = json.dumps({"input": "and then", "max_new_tokens": 5, "response_format": "json"}).encode()

    def one(i: int) -> None:
        if i % 10 == 0:
            with target.connect() as raw, contextlib.suppress(OSError):
                whole = head(f"content-length: {len(short)}\r\n\r\n") + short
                raw.sendall(whole[: chance.randrange(len(whole) + 1)])
                time.sleep(chance.choice([0, 0.05]))
            target.said["hung up"] += 1
        elif i % 10 < 3:
            with contextlib.suppress(Exception), target.websocket() as client:
                client.send('{"type": "session.update", "session": {"temperature": NaN}}')
                client.send(
                    '{"type": "input_audio_buffer.append", "audio": "' + base64.b64encode(short[44:]).decode() + '"}'
                )
                client.recv(60), client.recv(60)
                target.said["WebSocket"] += 1
        elif i % 10 < 6:
            target.post(short, query="?max_new_tokens=5")
        elif i % 10 < 8:
            target.post(text, "application/json", "")
        else:
            target.post(b"{" * i, "application/json", "")

    def batch(first: int, last: int) -> tuple[float, int]:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(one, range(first, last)))
        time.sleep(2)
        return target.memory_mib(), target.files()

    before = batch(0, requests // 10)
    print(f"after {requests // 10:,} requests: {before[0]:.0f} MiB, {before[1]} files", flush=True)
    after = batch(requests // 10, requests)
    print(f"after {requests:,} requests: {after[0]:.0f} MiB, {after[1]} files; {dict(target.said)}", flush=True)
    grown = after[0] - before[0] > GROWTH_MIB or after[1] - before[1] > GROWTH_FILES
    print(f"grown beyond {GROWTH_MIB} MiB or {GROWTH_FILES} files: {'yes' if grown else 'no'}")
    return int(grown)


def tiny_model(folder: Path) -> Path:
    """The export of a pipeline that takes seconds."""
    from flows import environment

    environment.prepare(quiet=True)
    from tests.fixtures.serving import reads_text, with_room
    from tests.fixtures.tiny import copy_clips, run_tiny, tiny_config

    outputs, _ = run_tiny(tiny_config(copy_clips(folder / "speech"), folder / "store"))
    return with_room(reads_text(outputs["model"].path("model"), folder / "reads"), folder / "model", 4096)


def main() -> int:
    """Parse the command line; the child that asks /health is this file again with --probe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="model/ directory of an export (default: a tiny one is made)")
    parser.add_argument("--attacks", default="", help="names, with commas (default: all)")
    parser.add_argument("--hold", type=float, default=8, metavar="SECONDS", help="of what is slow (default: 8)")
    parser.add_argument(
        "--soak", type=int, metavar="REQUESTS", help="ask so often instead, and compare memory and files"
    )
    parser.add_argument("--probe", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(options.probe)
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or tiny_model(Path(folder))
        with served(model, options.hold) as target:
            if options.soak:
                return soak(target, options.soak)
            return bench(target, [name for name in options.attacks.split(",") if name])


if __name__ == "__main__":
    sys.exit(main())
