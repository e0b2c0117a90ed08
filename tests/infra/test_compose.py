"""docker-compose.yml is valid, names only what exists, gives no secret away, and is what the native stack runs."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from flows.cli import _parser, _settings
from infra.native import stack as native
from tinywave_core.config.load import load_config

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).parent / "compose_spec" / "compose_spec.json"
FILE = ROOT / "docker-compose.yml"
ONE_SHOTS = {"bucket", "migrate", "deploy"}
SECRET = re.compile(r"PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY|CONNECTION_URL|REDIS_MESSAGING_URL|DOCKET_URL")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"]


def words(service: dict[str, Any]) -> list[str]:
    """What the container runs."""
    return [*service.get("entrypoint", []), *service.get("command", [])]


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


def test_images_are_pinned(services: dict[str, Any]):
    images = {service["image"] for service in services.values()}
    assert not [image for image in images - {"tinywave"} if not re.search(r":\d+\.\d+", image)]


def test_secrets_come_from_the_environment_and_have_no_default(services: dict[str, Any]):
    for name, service in services.items():
        for key, value in service.get("environment", {}).items():
            if SECRET.search(key):
                given = re.findall(r"\$\{(\w+)(:\?[^}]+)?\}", value)
                assert given and all(message for _, message in given), f"{name}: {key}"
    values = [value for service in services.values() for value in service.get("environment", {}).values()]
    assert not [value for value in values if re.search(r"://\w*:[^$@/]*@", value)]


def test_the_example_names_every_variable_and_holds_no_secret():
    wanted = set(re.findall(r"(?<!\$)\$\{(\w+)", FILE.read_text()))
    offered = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(offered) == wanted | {"COMPOSE_PROFILES"}
    assert not [name for name, value in offered.items() if value and (SECRET.search(name) or "KEY" in name)]


def test_the_file_with_the_secrets_is_kept_out_of_git_and_of_the_image():
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert ".*" in (ROOT / ".dockerignore").read_text().splitlines()


def test_nothing_of_ours_runs_as_root(services: dict[str, Any]):
    assert "\nUSER tinywave\n" in (ROOT / "infra" / "Dockerfile").read_text()
    assert {name: s["user"] for name, s in services.items() if "user" in s} == {
        "postgres": "postgres",
        "redis": "redis",
    }
    for name, service in services.items():
        assert "no-new-privileges:true" in service["security_opt"], name
        assert name == "s3" or service["cap_drop"] == ["ALL"], name


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
    options, unknown = _parser().parse_known_args(arguments)
    assert load_config(options.preset, _settings(options, unknown)).root == native.ROOT
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
    assert set(stack.client) == set(services["worker"]["environment"]) - {"DO_NOT_TRACK"}
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
