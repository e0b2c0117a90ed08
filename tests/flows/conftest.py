"""A Prefect server with a database and results of its own, once for all flow tests."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A server that is up; two busy cores can need more than Prefect's default 30 s to start it."""
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings
    from prefect.testing.utilities import prefect_test_harness

    results = {PREFECT_LOCAL_STORAGE_PATH: str(tmp_path_factory.mktemp("results"))}
    with prefect_test_harness(server_startup_timeout=120), temporary_settings(results):
        yield
