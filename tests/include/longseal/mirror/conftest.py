"""A volume that was made once, in copies of its own for each test."""

import shutil
from pathlib import Path

import pytest
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, seal

from longseal.mirror.mirror import mirror
from longseal.mirror.site import Site
from longseal.seal.images import attach_images, sign_images
from longseal.seal.keys import fingerprint
from longseal.seal.organisation import organisation_key


def copied(installation: Installation, folder: Path) -> Installation:
    shutil.copytree(installation.folder, folder)
    copy = object.__new__(Installation)
    copy.folder, copy.authority, copy.changes = folder, installation.authority, {}
    return copy


SMALL = [{"name": "ship", "kind": "volume", "path": "ship", "repositories": ["corp/a-svc0"]}]
"""Sites of the settings: four images of the twenty."""


@pytest.fixture(scope="session")
def sealed_once(
    tmp_path_factory: pytest.TempPathFactory,
    authority: TimestampAuthorityDouble,
    harvested_once: Installation,
) -> Installation:
    installation = copied(harvested_once, tmp_path_factory.mktemp("sealed") / "installation")
    workspace = installation.workspace()
    sealed = seal(workspace, "r-one").sealed
    assert sealed is not None
    sign_images(workspace, sealed)
    attach_images(workspace, sealed)
    return installation


@pytest.fixture(scope="session")
def shipped_once(
    tmp_path_factory: pytest.TempPathFactory, sealed_once: Installation
) -> Installation:
    installation = copied(sealed_once, tmp_path_factory.mktemp("shipped") / "installation")
    workspace = installation.workspace()
    done = mirror(workspace, workspace.settings.site("ship"))
    assert (done["images"], done["key_operations"], done["failed"]) == (20, 1, {})
    return installation


@pytest.fixture
def shipped(shipped_once: Installation, tmp_path: Path) -> Installation:
    """Sealed, and mirrored to the volume."""
    return copied(shipped_once, tmp_path / "installation")


@pytest.fixture(scope="session")
def small_once(tmp_path_factory: pytest.TempPathFactory, sealed_once: Installation) -> Installation:
    installation = copied(sealed_once, tmp_path_factory.mktemp("small") / "installation")
    installation.write(sites=SMALL)
    workspace = installation.workspace()
    done = mirror(workspace, workspace.settings.site("ship"))
    assert (done["images"], done["failed"]) == (4, {})
    return installation


@pytest.fixture
def small(small_once: Installation, tmp_path: Path) -> Installation:
    """Four images of the sealed twenty are mirrored to the volume."""
    return copied(small_once, tmp_path / "installation")


@pytest.fixture
def site(small: Installation, tmp_path: Path) -> Site:
    """A site that was told the organisation's key, and has nothing yet."""
    known = fingerprint(organisation_key(small.workspace()).key)
    return Site.create(tmp_path / "at-sea", "ship", known)
