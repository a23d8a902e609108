"""The laboratory as pytest fixtures; each starts on first use and lasts for the session.

Where something is not installed they skip with the reason, or fail with `LONGSEAL_LAB=required`.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pytest

from tests.lab import registries, tools
from tests.lab.lab import Lab, open_lab
from tests.lab.postgres import Postgres, postgres
from tests.lab.processes import LabError
from tests.lab.registries import Kind, Registry
from tests.lab.s3 import S3, s3
from tests.lab.softhsm import Token, create_token


@dataclass(frozen=True)
class Bucket:
    """A bucket with Object Lock, on a server with its credentials."""

    server: S3
    name: str

    def archive(self, lock: str) -> dict[str, str]:
        """``archive`` of the settings, where the environment has :attr:`login`."""
        return {
            "kind": "s3",
            "bucket": self.name,
            "prefix": "longseal/",
            "endpoint": self.server.endpoint,
            "region": self.server.region,
            "lock": lock,
            "access_key_env": "LONGSEAL_LAB_ACCESS_KEY",
            "secret_key_env": "LONGSEAL_LAB_SECRET_KEY",
        }

    @property
    def login(self) -> dict[str, str]:
        """The credentials, by the names that the settings give them."""
        return {
            "LONGSEAL_LAB_ACCESS_KEY": self.server.access_key,
            "LONGSEAL_LAB_SECRET_KEY": self.server.secret_key,
        }

    @contextmanager
    def logged_in(self) -> Iterator[None]:
        """Have this process's environment tell them."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.login.items():
                patch.setenv(name, value)
            yield


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The whole private Sigstore."""
    yield from _lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="session")
def lab_of_last_month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A private Sigstore in which it is the 15th of the month that ended last (UTC)."""
    now = datetime.now(UTC)
    clock = (now.replace(day=1) - timedelta(days=1)).replace(day=15) - now
    yield from _lab(tmp_path_factory.mktemp("lab-of-last-month"), clock)


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Debian's docker-registry 2.8.2: no referrers API. Needs no Go."""
    yield from _registry("docker_registry", tmp_path_factory)


@pytest.fixture(scope="session")
def distribution_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """distribution v3: no referrers API."""
    yield from _registry("distribution", tmp_path_factory)


@pytest.fixture(scope="session")
def referrers_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """go-containerregistry's registry, with the referrers API."""
    yield from _registry("referrers", tmp_path_factory)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """versitygw."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(s3(tmp_path_factory.mktemp("s3")))
        except LabError as error:
            go_without(str(error))
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3) -> Bucket:
    """A fresh bucket with Object Lock."""
    name = f"evidence-{secrets.token_hex(4)}"
    s3_server.create_bucket(name)
    return Bucket(s3_server, name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """Debian's PostgreSQL. Needs no Go."""
    with ExitStack() as stack:
        try:
            server = stack.enter_context(postgres())
        except LabError as error:
            go_without(str(error))
        yield server


@pytest.fixture
def postgresql_url(postgres_server: Postgres) -> str:
    """A fresh database, as the settings name one."""
    return postgres_server.create_database()


@pytest.fixture(scope="session")
def softhsm_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Token]:
    """A SoftHSM token with a P-256 pair, its configuration in this process's environment."""
    try:
        token = create_token(tmp_path_factory.mktemp("softhsm"))
    except LabError as error:
        go_without(str(error))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in token.environment.items():
            patch.setenv(name, value)
        yield token


def _lab(folder: Path, clock: timedelta = timedelta()) -> Iterator[Lab]:
    if absent := tools.missing():
        go_without(f"not built: {', '.join(absent)}; run `python -m tests.lab tools`")
    with open_lab(folder, clock) as running:
        yield running


def _registry(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with ExitStack() as stack:
        try:
            folder = tmp_path_factory.mktemp(kind)
            running = stack.enter_context(registries.registry(kind, folder))
        except LabError as error:
            go_without(str(error))
        yield running


def go_without(reason: str) -> NoReturn:
    if os.environ.get("LONGSEAL_LAB") == "required":
        pytest.fail(f"LONGSEAL_LAB=required, but {reason}", pytrace=False)
    pytest.skip(reason)
