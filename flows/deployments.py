"""`tinywave serve`: a local Prefect server, if none is configured, and a deployment of every flow, run by this process.
`tinywave deploy`: the same deployments registered in a work pool, for workers on any machine that has TinyWave."""

import asyncio
import importlib.metadata
import os
import shlex
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import environment, surroundings
from flows.schedules import When, crash_zombies
from flows.server import local_server
from tasks import terminal
from tinywave_core.config.load import load_config
from tinywave_core.errors import ConfigError
from tinywave_core.run.stages import STAGE

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment


def serve(preset: str, settings: dict[str, Any], when: When) -> None:
    """Serve the pipeline and every stage until Ctrl-C; the preset and settings are the form's defaults."""
    environment.prepare(quiet=False)
    surroundings.find_prefect_home(lasting=not os.environ.get("PREFECT_API_URL"))
    from prefect.context import refresh_global_settings_context
    from prefect.exceptions import TerminationSignal
    from prefect.runner import Runner

    with ExitStack() as stack:
        server = surroundings.prefect_server()
        page = server.removesuffix("/api") if server else stack.enter_context(local_server())
        refresh_global_settings_context()  # the address and password of a server of ours are news to Prefect

        deployments = deployments_of(preset, settings, when)
        crash_zombies()
        # What prefect.serve does, but for what it says: its address does not sign in.
        runner = Runner(pause_on_shutdown=False)
        for deployment in deployments:
            runner.add_deployment(deployment)
        terminal.say(
            f"Prefect UI: {page}  (deployments: {deployments[0].name}, one per stage, and one that looks for new audio; Ctrl-C stops)"
        )
        if not server:
            client = (
                f"{name}={shlex.quote(os.environ[name])}" for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
            )
            terminal.say("The address holds the password of this start. Prefect's clients in another shell need:")
            terminal.say(f"  export {' '.join(client)}")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt, TerminationSignal):
            asyncio.run(runner.start())


def deploy(preset: str, settings: dict[str, Any], pool: str, image: str | None, when: When) -> None:
    """Register the pipeline and every stage in a work pool: made for processes if it is not there yet.

    A worker imports the flows from the TinyWave that it has installed; nothing is uploaded. `image` is for pools that
    start containers.
    """
    environment.prepare(quiet=False)
    surroundings.find_prefect_home(lasting=False)
    if not surroundings.prefect_server():
        raise ConfigError("no Prefect server is named: set PREFECT_API_URL to the address of its API")
    from prefect.client.schemas.objects import VersionInfo

    _ensure_pool(pool, image)
    deployments = deployments_of(preset, settings, when)
    # A worker does not pass through `prepare`: its runs get their threads from here.
    threads = {name: os.environ[name] for name in environment.THREADS}
    # Prefect would call git for each deployment; what counts is the TinyWave that the worker has.
    version = VersionInfo(type="prefect:simple", version=importlib.metadata.version("tinywave"))
    crash_zombies()
    for deployment in deployments:
        deployment.work_queue_name = queue_of(deployment.flow_name or "")
        deployment.job_variables = {"env": threads}
        deployment.apply(work_pool_name=pool, image=image, version_info=version)
    terminal.say(
        f"work pool {pool}: "
        + ", ".join(f"{deployment.full_name} ({deployment.work_queue_name})" for deployment in deployments)
    )


def queue_of(flow_name: str) -> str:
    """The work queue of a flow: `gpu` or `cpu` for a stage, `default` for the whole pipeline.

    infra/decisions/0013-work-pools.md says how runs get to their workers.
    """
    if flow_name == "pipeline":
        return "default"
    return "gpu" if flow_name in STAGE and STAGE[flow_name].needs_gpu else "cpu"


def deployments_of(preset: str, settings: dict[str, Any], when: When) -> "list[RunnerDeployment]":
    """A deployment of every flow; the preset and settings are the form's defaults."""
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    from flows import forms

    config = load_config(preset, settings)
    whole = {name: value for name in forms.OWN if (value := _whole(getattr(config, name))) is not None}
    settings = settings | whole
    config = config.model_copy(update=whole)
    when.check(config.source)
    return [
        RunnerDeployment.from_flow(
            form,
            name=forms.deployment_name(form.name, config, preset),
            description=forms.about(form.name, config, preset, settings),
            parameters=forms.values_of(preset, settings),
            tags=["tinywave", form.name],
            concurrency_limit=1,
            entrypoint_type=EntrypointType.MODULE_PATH,
            **when.of(form.name, config),
        )
        for form in forms.FORMS
    ]


def _ensure_pool(pool: str, image: str | None) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        try:
            kind = client.read_work_pool(pool).type
        except ObjectNotFound:
            kind = None
        if kind is None and image is None:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=template))
            kind = "process"
    if kind is None or (kind == "process") != (image is None):
        state = f"has the type {kind}" if kind else "is not there"
        raise ConfigError(
            f"the work pool {pool} {state}: --image is for pools that start containers, which "
            f"`prefect work-pool create --type docker NAME` makes, and a pool of processes takes none"
        )


def _whole(path: str | None) -> str | None:
    """A local path in full, since the form may be read in another folder; URLs and None stay as they are."""
    return path if path is None or "://" in path else str(Path(path).resolve())
