"""The seal in a registry: pulled by anybody, written once, and no image without attestations."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.doubles.registry import RegistryDouble
from tests.installation import Installation, seal
from tests.lab import Lab

from longseal import cli, harvest
from longseal.errors import ConflictError, RegistryError
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Manifest
from longseal.seal.artifact import ARTIFACT_TYPE, push_seal
from longseal.seal.published import SEAL, Published
from longseal.workspace import Workspace

REPOSITORY = "longseal/seals"


@pytest.fixture
def server(harvested: Installation) -> Iterator[RegistryDouble]:
    """A registry beside the one with the images; seals go there."""
    with RegistryDouble() as running:
        harvested.write(
            registries=[
                {"name": "exported", "layout": "registry"},
                {"name": "main", "url": running.url},
            ],
            seal={"artifact": {"registry": "main", "repository": REPOSITORY}},
        )
        yield running


@pytest.fixture
def sealed(harvested: Installation, server: RegistryDouble) -> tuple[Workspace, Published]:
    workspace = harvested.workspace()
    found = seal(workspace, "r-one").sealed
    assert found is not None
    return workspace, found


def test_what_was_pushed_is_a_folder_that_verifies(
    harvested: Installation,
    server: RegistryDouble,
    sealed: tuple[Workspace, Published],
    tmp_path: Path,
) -> None:
    pushed = push_seal(*sealed)
    assert pushed["pushed"]
    registry = DistributionRegistry("main", server.url)
    manifest = registry.manifest(REPOSITORY, "r-one")
    assert manifest is not None
    assert manifest.digest == pushed["artifact"]
    document = json.loads(manifest.data)
    assert document["artifactType"] == ARTIFACT_TYPE
    for layer in document["layers"]:
        path = tmp_path / layer["annotations"]["org.opencontainers.image.title"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(registry.blob(REPOSITORY, layer["digest"], layer["size"]))
    assert cli.main(["verify", str(tmp_path), "--config", str(harvested.config)]) == 0


def test_pushing_again_writes_nothing(
    harvested: Installation, server: RegistryDouble, sealed: tuple[Workspace, Published]
) -> None:
    first = push_seal(*sealed)
    server.requests.clear()
    before = harvested.files()
    again = push_seal(harvested.workspace(), sealed[1])
    assert again == {"artifact": first["artifact"], "pushed": False}
    assert set(server.methods()) <= {"GET", "HEAD"}
    assert harvested.files() == before


def test_a_tag_that_somebody_else_has_is_not_overwritten(
    server: RegistryDouble, sealed: tuple[Workspace, Published]
) -> None:
    theirs = server.add_image(REPOSITORY, "r-one")
    with pytest.raises(ConflictError, match=theirs):
        push_seal(*sealed)
    found = DistributionRegistry("main", server.url).manifest(REPOSITORY, "r-one")
    assert found is not None and found.digest == theirs


def test_a_push_that_was_cut_off_is_finished_by_the_next(
    server: RegistryDouble,
    sealed: tuple[Workspace, Published],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def cut_off(self: DistributionRegistry, name: str, manifest: Manifest, tag: str) -> None:
        raise RegistryError("the connection broke")

    with monkeypatch.context() as patch:
        patch.setattr(DistributionRegistry, "put_manifest", cut_off)
        with pytest.raises(RegistryError):
            push_seal(*sealed)
    assert DistributionRegistry("main", server.url).tags(REPOSITORY) == ()
    assert push_seal(*sealed)["pushed"]


def test_where_no_place_is_named_nothing_is_pushed(harvested: Installation) -> None:
    workspace = harvested.workspace()
    found = seal(workspace, "r-one").sealed
    assert found is not None
    before = harvested.files()
    assert push_seal(workspace, found) == {"artifact": None, "pushed": False}
    assert harvested.files() == before


def test_no_harvest_takes_a_seal_for_an_image_without_attestations(
    harvested: Installation, server: RegistryDouble, sealed: tuple[Workspace, Published]
) -> None:
    push_seal(*sealed)
    server.add_image("corp/app", "v1")
    workspace = harvested.workspace()
    batches = [one for one in harvest.plan(workspace)[0] if one.registry == "main"]
    assert [one.repositories for one in batches] == [("corp/app",)]


@pytest.mark.lab
def test_oras_pulls_the_folder(
    harvested: Installation,
    server: RegistryDouble,
    sealed: tuple[Workspace, Published],
    lab: Lab,
    tmp_path: Path,
) -> None:
    push_seal(*sealed)
    folder = tmp_path / "pulled"
    reference = f"{server.host}/{REPOSITORY}:r-one"
    lab.run("oras", "pull", "--plain-http", "--output", str(folder), reference)
    assert cli.main(["verify", str(folder), "--config", str(harvested.config)]) == 0
    assert (folder / SEAL).read_bytes() == sealed[1].bundle
    shutil.rmtree(folder)
