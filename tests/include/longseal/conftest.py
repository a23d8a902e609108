"""Real material beside the repository; tests over it skip where it is not at hand."""

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import EXAMPLES, Installation, harvest_all

from longseal.seal.ceremony import Ceremony
from longseal.seal.statement import Statement
from longseal.workspace import Workspace

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


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimestampAuthorityDouble]:
    """One timestamp authority for all tests; a test that changes its mode changes it back."""
    with TimestampAuthorityDouble(tmp_path_factory.mktemp("tsa")) as double:
        yield double


@pytest.fixture(scope="session")
def harvested_once(
    tmp_path_factory: pytest.TempPathFactory, authority: TimestampAuthorityDouble
) -> Installation:
    folder = tmp_path_factory.mktemp("harvested")
    installation = Installation(folder, authority)
    shutil.copytree(EXAMPLES / "registry", folder / "registry", dirs_exist_ok=True)
    harvest_all(installation.workspace())
    return installation


@pytest.fixture
def harvested(harvested_once: Installation, tmp_path: Path) -> Installation:
    """The examples' 20 images, harvested: 100 verified attestations, nothing sealed yet."""
    return harvested_once.copy(tmp_path / "installation")


@pytest.fixture
def under(harvested: Installation) -> Callable[..., Workspace]:
    """The harvested installation under other rules."""

    def write(*rules: dict[str, Any]) -> Workspace:
        harvested.write(policy=list(rules))
        return harvested.workspace()

    return write


@cache
def schema_of(kind: str) -> Any:
    """The published schema of a kind of statement's predicate."""
    return json.loads((files("longseal") / "schemas" / f"{kind}.schema.json").read_text())


@pytest.fixture(scope="session", autouse=True)
def every_statement_keeps_to_its_schema() -> Iterator[None]:
    """Whatever is about to be signed, in any test here."""
    claim = Ceremony.claim

    def checked(self: Ceremony, data: bytes) -> bytes:
        statement = Statement.parse(data)
        kind = statement.predicate_type.split("/")[-2]
        jsonschema.validate(
            dict(statement.predicate), schema_of(kind), jsonschema.Draft202012Validator
        )
        return claim(self, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ceremony, "claim", checked)
        yield
