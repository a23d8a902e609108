from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.doubles.registry import RegistryDouble, Start

from longseal.registry.distribution import DistributionRegistry

LAYOUTS = Path(__file__).parents[5] / "shared" / "data" / "lab-layouts"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Start]:
    """Start a registry with some quirks, and a client of it that does not wait long."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    with ExitStack() as stack:

        def started(**quirks: Any) -> tuple[RegistryDouble, DistributionRegistry]:
            options = quirks.pop("client", {})
            server = stack.enter_context(RegistryDouble(**quirks))
            settings = {"retries": 2, "timeout": 5.0, "backoff": 0.001, **options}
            return server, DistributionRegistry("main", server.url, **settings)

        yield started


@pytest.fixture
def layouts() -> Path:
    """The laboratory's layouts: twenty images with five attestations each."""
    if not LAYOUTS.is_dir():
        pytest.skip("the laboratory's layouts are not beside this repository")
    return LAYOUTS
