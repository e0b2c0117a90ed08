"""A Prefect server with a database, results and a password of its own, once for all flow tests."""

from collections.abc import Iterator

import pytest

from flows import environment


@pytest.fixture(scope="package")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server that is up; two busy cores can need more than Prefect's default 30 s to start it."""
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_LOCAL_STORAGE_PATH,
        PREFECT_SERVER_API_AUTH_STRING,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    login = dict.fromkeys((PREFECT_SERVER_API_AUTH_STRING, PREFECT_API_AUTH_STRING), environment.new_login())
    results = {PREFECT_LOCAL_STORAGE_PATH: str(tmp_path_factory.mktemp("results"))}
    with pytest.MonkeyPatch.context() as patch:
        for setting, value in login.items():  # where workers and child processes find it
            patch.setenv(setting.name, value)
        with temporary_settings(results | login), prefect_test_harness(server_startup_timeout=120):
            yield
