"""docker-compose.yml is valid, names only what exists, gives no secret away, and is what the native stack runs."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from flows.cli import build_parser, settings_of
from infra.native import stack as native
from infra.with_secrets import filled
from tinywave_core.config.load import load_config

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).parent / "compose_spec" / "compose_spec.json"
FILE = ROOT / "docker-compose.yml"
ONE_SHOTS = {"bucket", "migrate", "deploy"}
SECRET = re.compile(r"PASSWORD|SECRET|AUTH_STRING|CREDENTIALS|CONNECTION_URL|REDIS_MESSAGING_URL|DOCKET_URL")
IN_A_FILE = re.compile(r"/run/secrets/([a-z0-9_]+)|<([a-z0-9_]+)>")
PINNED = re.compile(r"[a-z/]+:\d+\.\d+(\.\d+)?(-[a-z-]+)?(@sha256:[0-9a-f]{64})?")
USERS = {"postgres": "postgres", "redis": "redis", "s3": "seaweed"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]


def words(service: dict[str, Any]) -> list[str]:
    """What the container runs, once its passwords are filled in."""
    found = [*service.get("entrypoint", []), *service.get("command", [])]
    return found[1:] if found[:1] == ["with-secrets"] else found


def stack_of(tmp_path: Path) -> native.Stack:
    """A stack that is not started: only its settings are looked at."""
    return native.Stack(tmp_path)


# The file as such -------------------------------------------------------------------------------------------------


def test_the_schema_is_the_published_one():
    digest = hashlib.sha256(SCHEMA.read_bytes()).hexdigest()
    assert digest in (SCHEMA.parent / "README.md").read_text()


def test_compose_file_fits_the_schema(compose: dict[str, Any]):
    schema = json.loads(SCHEMA.read_text())
    Draft7Validator.check_schema(schema)
    assert not [f"{list(e.absolute_path)}: {e.message}" for e in Draft7Validator(schema).iter_errors(compose)]


def test_the_schema_sees_a_mistake(compose: dict[str, Any]):
    wrong = compose | {"services": compose["services"] | {"redis": {"image": "redis", "helthcheck": {}}}}
    (error,) = Draft7Validator(json.loads(SCHEMA.read_text())).iter_errors(wrong)
    assert "helthcheck" in error.message


def test_services_wait_for_services_that_exist(services: dict[str, Any]):
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other in ONE_SHOTS else "service_healthy"
            assert how["condition"] == expected, f"{name} waits for {other}"
            assert expected != "service_healthy" or "healthcheck" in services[other]


def test_what_stays_up_is_checked_and_restarted(services: dict[str, Any]):
    for name, service in services.items():
        if name in ONE_SHOTS:
            assert service["restart"] == "on-failure:5", name
        else:
            assert {"test", "interval", "timeout", "retries"} <= set(service["healthcheck"]), name
            assert service["restart"] == "unless-stopped", name


def test_volumes_are_declared_and_folders_exist(compose: dict[str, Any], services: dict[str, Any]):
    mounts = [mount for service in services.values() for mount in service.get("volumes", [])]
    sources = {re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", mount).partition(":")[0] for mount in mounts}
    assert {source for source in sources if not source.startswith(".")} == set(compose["volumes"])
    assert not [source for source in sources if source.startswith(".") and not (ROOT / source).is_dir()]


def test_profiles_are_those_that_the_example_offers(services: dict[str, Any]):
    profiles = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert profiles == {"worker": ["cpu"], "worker-gpu": ["gpu"], "worker-light": ["gpu"]}
    assert "COMPOSE_PROFILES=cpu" in (ROOT / ".env.example").read_text()


def test_with_a_gpu_each_queue_has_one_worker_and_only_one_gets_the_gpu(services: dict[str, Any]):
    from flows.deployments import queue_of
    from tinywave_core.config.pipeline import STAGES

    polled = {
        name: [word for before, word in zip(words(s), words(s)[1:], strict=False) if before == "--work-queue"]
        for name, s in services.items()
        if "worker" in words(s)
    }
    assert polled == {"worker": [], "worker-gpu": ["gpu", "default"], "worker-light": ["cpu"]}
    assert {queue_of(flow) for flow in ("pipeline", *STAGES)} == {"gpu", "default", "cpu"}
    assert [name for name, service in services.items() if "deploy" in service] == ["worker-gpu"]


# Safety -----------------------------------------------------------------------------------------------------------


def test_ports_are_published_on_this_machine_only(services: dict[str, Any]):
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8333:8333", "127.0.0.1:4200:4200"]


def test_images_are_pinned_to_a_release_and_by_the_script_to_a_digest(services: dict[str, Any]):
    (base,) = re.findall(r"^FROM (\S+)$", (ROOT / "infra" / "Dockerfile").read_text(), re.MULTILINE)
    images = {service["image"] for service in services.values()} - {"tinywave"}
    assert not [image for image in {base, *images} if not PINNED.fullmatch(image)]


def test_passwords_are_files_and_nothing_else(compose: dict[str, Any], services: dict[str, Any]):
    for name, service in services.items():
        values = service.get("environment", {})
        given = [value for key, value in values.items() if SECRET.search(key)]
        assert all(IN_A_FILE.search(value) for value in given), name
        # Written with a password in it, an address names no other than one of a file.
        assert not [value for value in values.values() if re.search(r"://\w*:(?!<\w+>@)[^/@]*@", value)], name
        text = " ".join([*values.values(), *words(service), *service.get("healthcheck", {}).get("test", [])])
        named = {a or b for a, b in IN_A_FILE.findall(text)}
        assert named == set(service.get("secrets", [])), name
        if any(re.search("<[a-z0-9_]+>", value) for value in values.values()):
            assert service["entrypoint"][0] == "with-secrets", name
    assert compose["secrets"] == {name: {"file": f".secrets/{name}"} for name in compose["secrets"]}
    assert set(compose["secrets"]) == {each for service in services.values() for each in service.get("secrets", [])}


def test_the_example_names_every_variable_and_holds_no_secret():
    wanted = set(re.findall(r"(?<!\$)\$\{(\w+)", FILE.read_text()))
    offered = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(offered) == wanted | {"COMPOSE_PROFILES"}
    assert not [name for name in offered if SECRET.search(name) or "KEY" in name]


def test_the_files_with_the_secrets_are_kept_out_of_git_and_of_the_image():
    assert {".env", ".secrets/"} <= set((ROOT / ".gitignore").read_text().splitlines())
    assert ".*" in (ROOT / ".dockerignore").read_text().splitlines()


def test_passwords_are_drawn_once_and_closed_to_others(compose: dict[str, Any], tmp_path: Path):
    (tmp_path / "infra").mkdir()
    script = shutil.copy(ROOT / "infra" / "make_secrets.sh", tmp_path / "infra")
    drawn = []
    for _ in range(2):
        subprocess.run([script], check=True, capture_output=True)
        drawn.append({path.name: path.read_text() for path in (tmp_path / ".secrets").iterdir()})
    assert drawn[0] == drawn[1] and set(drawn[0]) == set(compose["secrets"])
    assert drawn[0].pop("s3_credentials").splitlines()[2] == f"aws_secret_access_key = {drawn[0]['s3_secret_key']}"
    assert len(set(drawn[0].values())) == 4 and all(re.fullmatch("[0-9a-f]{48}", each) for each in drawn[0].values())
    assert stat.S_IMODE((tmp_path / ".secrets").stat().st_mode) == 0o700


def test_a_program_gets_its_passwords_from_files_or_does_not_start(tmp_path: Path):
    (tmp_path / "prefect_password").write_text("s3cret\n")
    assert filled("tinywave:<prefect_password>", tmp_path) == "tinywave:s3cret"
    script = [sys.executable, str(ROOT / "infra" / "with_secrets.py"), sys.executable, "-c", "print('started')"]
    ran = [
        subprocess.run(script, env={"A": value}, capture_output=True, text=True, check=False)
        for value in ("plain", "<not_there>")
    ]
    assert [(done.returncode, done.stdout) for done in ran] == [(0, "started\n"), (1, "")]
    assert ran[1].stderr.startswith("the password /run/secrets/not_there cannot be read: run infra/make_secrets.sh")


def test_no_container_runs_as_root(services: dict[str, Any]):
    assert "\nUSER tinywave\n" in (ROOT / "infra" / "Dockerfile").read_text()
    assert {name: service["user"] for name, service in services.items()} == dict.fromkeys(services, "tinywave") | USERS
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["cap_drop"] == ["ALL"] and "cap_add" not in service and "privileged" not in service, name


def test_what_needs_only_scratch_can_write_nothing_else(services: dict[str, Any]):
    fixed = {name for name, service in services.items() if service.get("read_only")}
    assert fixed == set(services) - {"s3", "worker", "worker-gpu", "worker-light"}
    assert all("/tmp" in services[name]["tmpfs"] for name in fixed)


def test_the_script_pins_each_image_once(tmp_path: Path):
    """docker is a stand-in here, which answers as the real one does: a digest for each image."""
    for name in ("docker-compose.yml", "infra/Dockerfile", "infra/pin_images.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    digest = "sha256:" + hashlib.sha256(b"an image").hexdigest()
    (tmp_path / "docker").write_text(f"#!/bin/sh\n[ $1 = pull ] || echo example/it@{digest}\n")
    (tmp_path / "docker").chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for _ in range(2):
        subprocess.run([tmp_path / "infra" / "pin_images.sh"], env=path, check=True, capture_output=True)
    images = {
        each["image"] for each in yaml.safe_load((tmp_path / "docker-compose.yml").read_text())["services"].values()
    }
    (base,) = re.findall(r"^FROM (\S+)$", (tmp_path / "infra/Dockerfile").read_text(), re.MULTILINE)
    pinned = {base, *images} - {"tinywave"}
    assert len(pinned) == 4 and all(PINNED.fullmatch(each) and each.count(f"@{digest}") == 1 for each in pinned)


# What it names exists ----------------------------------------------------------------------------------------------


def test_prefect_knows_every_setting(services: dict[str, Any]):
    from prefect.settings import Settings
    from prefect.settings.legacy import _get_settings_fields
    from prefect_redis.client import RedisMessagingSettings

    prefix = RedisMessagingSettings.model_config["env_prefix"]
    known = set(_get_settings_fields(Settings)) | {prefix + f.upper() for f in RedisMessagingSettings.model_fields}
    named = {key for service in services.values() for key in service.get("environment", {})}
    assert {key for key in named if key.startswith("PREFECT_")} <= known


@pytest.mark.parametrize("name", ["migrate", "server", "services", "worker", "worker-gpu", "worker-light"])
def test_prefect_knows_the_command(services: dict[str, Any], name: str):
    from prefect.cli._app import _app

    program, *arguments = words(services[name])
    assert program == "prefect"
    command, bound, _ = _app.parse_args(arguments, exit_on_error=False, print_error=False)
    assert command.__module__.startswith("prefect.cli.")
    assert bound is not None


def test_tinywave_knows_the_command(services: dict[str, Any]):
    program, *arguments = words(services["deploy"])
    assert program == "tinywave"
    options, unknown = build_parser(arguments).parse_known_args(arguments)
    assert load_config(options.preset, settings_of(options, unknown)).root == native.ROOT
    assert f"--pool {options.pool}" in " ".join(words(services["worker"]))


def test_modules_behind_settings_are_installed(services: dict[str, Any]):
    import importlib

    environment = services["server"]["environment"]
    modules = {value for value in environment.values() if value.startswith("prefect_redis.")}
    assert len(modules) == 3
    for module in modules:
        importlib.import_module(module)


# The native stack is the same set ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(native.COMMANDS))
def test_the_native_stack_runs_the_same_command(services: dict[str, Any], name: str):
    assert words(services[name]) == native.COMMANDS[name]


def test_the_native_stack_sets_the_same_settings(services: dict[str, Any], tmp_path: Path):
    stack = stack_of(tmp_path)
    assert set(stack.server) == set(services["server"]["environment"])
    in_containers = set(services["worker"]["environment"]) - {"DO_NOT_TRACK", "AWS_SHARED_CREDENTIALS_FILE"}
    assert set(stack.client) == in_containers | {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    same = {key for key, value in stack.server.items() if value == services["server"]["environment"][key]}
    assert len(same) >= 7  # all that name neither an address nor a password


# The image ---------------------------------------------------------------------------------------------------------


def test_the_image_is_built_once_from_what_exists_and_never_pulled(services: dict[str, Any]):
    (build,) = [service["build"] for service in services.values() if "build" in service]
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    ours = [service for service in services.values() if service["image"] == "tinywave"]
    assert {service["pull_policy"] for service in ours} == {"never"}


def test_dockerfile_copies_what_exists():
    text = (ROOT / "infra" / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    paths = [word for word in copied if not word.startswith("--")]
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]
    assert 'ENTRYPOINT ["tinywave"]' in text
