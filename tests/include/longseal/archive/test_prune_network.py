"""Prune over a network that is lost in the middle of a deletion."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from tests.doubles.registry import Failure, RegistryDouble
from tests.doubles.timestamp_authority import TimestampAuthorityDouble
from tests.installation import Installation, seal
from tests.retired import REPOSITORY, SIGNED_AT, harvest_all, trust_double

from longseal.archive import prune
from longseal.archive.tombstones import tombstones
from longseal.errors import RefusedError, RegistryError
from longseal.registry.attach import attach
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Descriptor
from longseal.registry.model import OCI_MANIFEST
from longseal.seal.bundle import MEDIA_TYPE


class Served:
    """One attestation of 2023, sealed and planned, on an image in a registry that is served."""

    def __init__(self, installation: Installation, double: RegistryDouble) -> None:
        self.installation, self.double = installation, double
        sigstore = trust_double(installation, SIGNED_AT)
        settings = yaml.safe_load(installation.config.read_text())
        main = {"name": "main", "url": double.url, "repositories": [REPOSITORY]}
        installation.config.write_text(yaml.safe_dump({**settings, "registries": [main]}))
        self.image = double.add_image(REPOSITORY, "v1")
        size = len(double.repository(REPOSITORY).manifests[self.image][1])
        self.manifest = attach(
            DistributionRegistry("main", double.url),
            REPOSITORY,
            Descriptor(OCI_MANIFEST, self.image, size),
            MEDIA_TYPE,
            sigstore.attest(self.image, at=SIGNED_AT),
            {},
        )
        harvest_all(installation.workspace())
        seal(installation.workspace(), "r-old")
        planned = prune.plan(installation.workspace())
        assert planned is not None
        self.plan = planned.digest

    @property
    def there(self) -> bool:
        return self.manifest in self.double.repository(REPOSITORY).manifests

    def prune(self) -> dict[str, Any]:
        return prune.execute(self.installation.workspace(), self.plan, "grace")


@pytest.fixture
def served(
    tmp_path: Path, authority: TimestampAuthorityDouble, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    monkeypatch.setattr("longseal.registry.transport.time.sleep", lambda _: None)
    with RegistryDouble(referrers_api=False) as double:
        yield Served(Installation(tmp_path / "installation", authority), double)


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_deletion_whose_answer_is_lost_once_is_asked_for_again(
    served: Served, lost: Literal["before", "after"]
) -> None:
    served.double.fail(f"^DELETE .*{served.manifest}", Failure(hang_up=lost), times=1)
    assert served.prune()["deleted"] == 1
    assert not served.there


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_network_that_is_lost_in_a_deletion_leaves_it_to_the_next_run(
    served: Served, lost: Literal["before", "after"]
) -> None:
    served.double.fail("^DELETE ", Failure(hang_up=lost))
    with pytest.raises(RegistryError):
        served.prune()
    assert served.there == (lost == "before")
    assert not tombstones(served.installation.workspace())
    served.double.heal()
    # Nobody takes it for vanished meanwhile, and no other plan comes between.
    harvest_all(served.installation.workspace())
    assert served.installation.workspace().catalog.alarming_images() == set()
    with pytest.raises(RefusedError, match=f"finish it first .*{served.plan}"):
        prune.plan(served.installation.workspace())
    done = served.prune()
    assert (done["deleted"], done["kept"]) == (1, 0)
    assert not served.there
    (tombstone,) = tombstones(served.installation.workspace())
    assert tombstone.place[3] == served.manifest
    (row,) = served.installation.workspace().catalog.evidence()
    assert row.tombstone == done["deletion"]
