"""Airflow for tests, in a home of its own: the environment is set before anything imports it."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import EXAMPLES, Installation

ROOT = Path(__file__).parents[1]
DATABASE = "airflow-without-runs.db"
HOME = Path(tempfile.mkdtemp(prefix="longseal-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
os.environ.update(
    {
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME}/airflow.db",
    }
)


@dataclass(frozen=True)
class Airflow:
    """The ``airflow`` command, in ``home``.

    :param environment: besides this process's
    """

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """The environment of an interpreter that finds all packages."""
        paths = (ROOT / "include", ROOT / "plugins", ROOT)
        return {**os.environ, "PYTHONPATH": ":".join(map(str, paths)), **self.environment}

    def __call__(self, *arguments: str) -> str:
        """What the command prints; a failure fails the test."""
        done = self.python(str(Path(sys.executable).with_name("airflow")), *arguments)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    def python(
        self, *arguments: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a script or module in an interpreter that finds all packages."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.home,
            env={**self.variables, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )


@pytest.fixture(scope="session")
def airflow() -> Airflow:
    """Airflow with a database, and the DAGs in it; beside it a copy that stays without runs."""
    run = Airflow(HOME)
    run("db", "migrate")
    run("dags", "reserialize")
    shutil.copy(HOME / "airflow.db", HOME / DATABASE)
    return run


@pytest.fixture(scope="session")
def honest_authority(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TimestampAuthorityDouble]:
    """A timestamp authority that answers while tests run."""
    with TimestampAuthorityDouble(tmp_path_factory.mktemp("authority") / "tsa") as running:
        yield running


@pytest.fixture
def install(
    tmp_path: Path, honest_authority: TimestampAuthorityDouble
) -> Callable[..., Installation]:
    """Install Longseal with these settings; its registry has four images of the examples."""

    def make(**changes: Any) -> Installation:
        made = Installation(tmp_path / "longseal", honest_authority, changes)
        copied = made.folder / "registry" / "corp" / "a-svc0"
        shutil.copytree(EXAMPLES / "registry" / "corp" / "a-svc0", copied)
        return made

    return make


@pytest.fixture
def installation(install: Callable[..., Installation]) -> Installation:
    """Longseal with the usual settings."""
    return install()
