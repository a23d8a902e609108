"""Real material beside the repository; tests over it skip where it is not at hand."""

from pathlib import Path

import pytest

DATA = Path(__file__).parents[4] / "shared" / "data"


@pytest.fixture(scope="session")
def lab_layouts() -> Path:
    """Twenty images with five attestations each, and the trusted root that verifies them."""
    return _data("lab-layouts")


@pytest.fixture(scope="session")
def sigstore_bundles() -> Path:
    """Bundles of public projects, real and mutated, and how they are to be judged."""
    return _data("bundles")


def _data(name: str) -> Path:
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"no ../shared/data/{name} beside the repository")
    return folder
