"""Settings of Prefect and of the thread pools for a run on one machine: set before either is imported, unless the
user has set them."""

import os
import secrets

THREADS = {
    # Threads that wait must soon sleep: endless spinning made a training step up to ten times slower as soon as
    # anything else (Prefect's server, another run) wanted one of two cores. See infra/LAB_LOG.md.
    "GOMP_SPINCOUNT": "1000",
    # numpy's matrices are small here: threads of its own would only take cores from the shards beside.
    "OPENBLAS_NUM_THREADS": "1",
}
DEFAULTS = {
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    # A busy machine with two cores can take longer than the default 20 s to start the embedded server.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Apple's GPU: what torch cannot do on it yet runs on the CPU.
    "PYTORCH_ENABLE_MPS_FALLBACK": "1",
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime would keep an id of the machine in ~/.cache and report to its makers
    **THREADS,
}
# A server's own pages need no permission to ask it, and no other page is to get one; Prefect's default is everybody.
OWN_PAGES_ONLY = {"PREFECT_SERVER_CORS_ALLOWED_ORIGINS": "none"}
# In the terminal TinyWave says what happens itself; the same goes to the flow run's log in the UI.
QUIET = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
}


def prepare(*, quiet: bool) -> None:
    """Set what the environment does not set already."""
    for name, value in (DEFAULTS | (QUIET if quiet else {})).items():
        os.environ.setdefault(name, value)


def new_login() -> str:
    """User and password for a server that is about to start."""
    return f"tinywave:{secrets.token_urlsafe(24)}"


def protect_embedded_server() -> None:
    """A password for the server that Prefect starts for this process alone, known to it and its children only: whoever may use
    Prefect's API may run commands here. A server that is named (in the environment or in Prefect's settings) is left as it is."""
    from prefect.context import refresh_global_settings_context
    from prefect.settings import get_current_settings

    if get_current_settings().api.url is None:
        login = new_login()
        os.environ |= OWN_PAGES_ONLY | {"PREFECT_SERVER_API_AUTH_STRING": login, "PREFECT_API_AUTH_STRING": login}
        refresh_global_settings_context()
