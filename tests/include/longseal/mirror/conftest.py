"""A volume that was made once, in copies of its own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, seal_with_images

from longseal.mirror.mirror import mirror
from longseal.mirror.site import Site
from longseal.seal.keys import fingerprint
from longseal.seal.organisation import organisation_key
from longseal.verify.report import Report, State

SMALL = [{"name": "ship", "kind": "volume", "path": "ship", "repositories": ["corp/a-svc0"]}]
"""Sites of the settings: four images of the twenty."""


def failed(report: Report) -> dict[str, str]:
    return {one.name: one.detail for one in report.checks if one.state is not State.PASSED}


def tree(root: Path) -> dict[str, bytes]:
    found = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in found}


def blobs(installation: Installation, wanted: bytes) -> Iterator[Path]:
    """Those on the volume that have these bytes in them."""
    for path in sorted((installation.folder / "ship/images").rglob("blobs/sha256/*")):
        if wanted in path.read_bytes():
            yield path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="session")
def sealed_once(
    tmp_path_factory: pytest.TempPathFactory,
    authority: TimestampAuthorityDouble,
    harvested_once: Installation,
) -> Installation:
    installation = harvested_once.copy(tmp_path_factory.mktemp("sealed") / "installation")
    seal_with_images(installation.workspace(), "r-one")
    return installation


@pytest.fixture(scope="session")
def shipped_once(
    tmp_path_factory: pytest.TempPathFactory, sealed_once: Installation
) -> Installation:
    installation = sealed_once.copy(tmp_path_factory.mktemp("shipped") / "installation")
    workspace = installation.workspace()
    done = mirror(workspace, workspace.settings.site("ship"))
    assert (done["images"], done["key_operations"], done["failed"]) == (20, 1, {})
    return installation


@pytest.fixture
def shipped(shipped_once: Installation, tmp_path: Path) -> Installation:
    """Sealed, and mirrored to the volume."""
    return shipped_once.copy(tmp_path / "installation")


@pytest.fixture(scope="session")
def small_once(tmp_path_factory: pytest.TempPathFactory, sealed_once: Installation) -> Installation:
    installation = sealed_once.copy(tmp_path_factory.mktemp("small") / "installation")
    installation.write(sites=SMALL)
    workspace = installation.workspace()
    done = mirror(workspace, workspace.settings.site("ship"))
    assert (done["images"], done["failed"]) == (4, {})
    return installation


@pytest.fixture
def small(small_once: Installation, tmp_path: Path) -> Installation:
    """Four images of the sealed twenty are mirrored to the volume."""
    return small_once.copy(tmp_path / "installation")


@pytest.fixture
def site(small: Installation, tmp_path: Path) -> Site:
    """A site that was told the organisation's key, and has nothing yet."""
    known = fingerprint(organisation_key(small.workspace()).key)
    return Site.create(tmp_path / "at-sea", "ship", known)
