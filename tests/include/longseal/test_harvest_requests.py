"""What a harvest asks a registry for: real requests to a real server, counted."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.doubles.registry import Failure, RegistryDouble, image
from tests.doubles.sigstore import SIGNER, SigstoreDouble
from tests.installation import harvest_all, opened, settings

from longseal.canonical import parse_object
from longseal.harvest import Harvested, Tally
from longseal.mirror.plan import plan as plan_mirror
from longseal.registry.model import OCI_INDEX, fallback_tag
from longseal.workspace import Workspace

START = datetime(2026, 11, 25, tzinfo=UTC)
SIGNED = datetime(2026, 11, 20, tzinfo=UTC)
APP = "corp/app"
APART = "corp/signatures"


@dataclass
class Shop:
    """A registry, and what is harvested from it."""

    folder: Path
    server: RegistryDouble
    sigstore: SigstoreDouble
    apart: tuple[str, ...] = ()
    """Repositories of attachments alone."""

    def workspace(self, hours: float = 0) -> Workspace:
        main = {
            "name": "main",
            "url": self.server.url,
            "repositories": [APP],
            "attachment_repositories": list(self.apart),
        }
        ship = {"name": "ship", "kind": "volume", "path": "ship", "repositories": ["corp/*"]}
        now = START + timedelta(hours=hours)
        return opened(self.folder, settings(SIGNER, registries=[main], sites=[ship]), lambda: now)

    def harvest(self, hours: float = 0) -> tuple[Harvested, Counter[tuple[str, str]]]:
        """Harvest; the requests by method and kind."""
        self.server.requests.clear()
        total = harvest_all(self.workspace(hours))
        asked = [(one.method, one.path) for one in self.server.requests]
        return total, Counter((method, path.split("/")[4]) for method, path in asked)

    def attested(self, tag: str | None, attestations: int = 1) -> str:
        subject = self.server.add_image(APP, tag, f"layer of {tag}".encode())
        self.attest(subject, attestations)
        return subject

    def attest(self, subject: str, attestations: int = 1) -> None:
        """Attach, and list in the fallback tag where there is no referrers API."""
        attached = [
            self.server.add_referrer(APP, subject, self.sigstore.attest(subject, at=SIGNED))
            for _ in range(attestations)
        ]
        if not self.server.quirks.referrers_api:
            self.server.add_index(APP, attached, fallback_tag(subject))

    def record(self, digest: str, hours: float = 0) -> dict[str, Any]:
        (row,) = [one for one in self.workspace(hours).catalog.images() if one.digest == digest]
        return parse_object(row.record.encode(), "record")


@pytest.fixture(scope="module")
def sigstore() -> SigstoreDouble:
    return SigstoreDouble()


@pytest.fixture
def shop(tmp_path: Path, sigstore: SigstoreDouble) -> Iterator[Shop]:
    (tmp_path / "trusted_root.json").write_bytes(sigstore.trusted_root())
    with RegistryDouble() as server:
        yield Shop(tmp_path, server, sigstore)


def test_something_new_is_asked_for_once_and_nothing_new_costs_two_requests_an_image(
    shop: Shop,
) -> None:
    for number in range(4):
        shop.attested(f"v{number}", attestations=2)
    found, asked = shop.harvest()
    assert found.total == Tally(found=8, verified=8)
    assert asked == {
        ("GET", "tags"): 1,
        ("GET", "manifests"): 4 + 8,
        ("GET", "referrers"): 4,
        ("GET", "blobs"): 8,
    }
    found, asked = shop.harvest(hours=1)
    assert found.total == Tally(found=8, known=8)
    assert asked == {("GET", "tags"): 1, ("HEAD", "manifests"): 4, ("GET", "referrers"): 4}


def test_a_missing_referrers_api_is_asked_for_once_a_day(shop: Shop) -> None:
    shop.server.quirks.referrers_api = False
    subjects = [shop.attested(f"v{number}") for number in range(4)]
    found, asked = shop.harvest()
    assert found.total == Tally(found=4, verified=4)
    assert asked == {
        ("GET", "tags"): 1,
        ("GET", "manifests"): 4 + 4 + 4,
        ("GET", "referrers"): 1,
        ("GET", "blobs"): 4,
    }
    before = shop.record(subjects[0])
    answer = {"place": "referrers", "outcome": "absent", "count": 0}
    assert before["answers"][0] == {**answer, "detail": "no referrers API; asked for once a day"}
    nothing_new = {("GET", "tags"): 1, ("HEAD", "manifests"): 4, ("GET", "manifests"): 4}
    for hours in (1, 23):
        assert shop.harvest(hours)[1] == nothing_new
    assert shop.harvest(hours=25)[1] == {**nothing_new, ("GET", "referrers"): 1}
    assert shop.harvest(hours=26)[1] == nothing_new
    assert shop.record(subjects[0]) == before


def test_a_referrers_api_that_comes_to_be_is_found_a_day_later(shop: Shop) -> None:
    shop.server.quirks.referrers_api = False
    subject = shop.server.add_image(APP, "v1")
    shop.harvest()
    shop.server.quirks.referrers_api = True
    shop.attest(subject)
    assert shop.harvest(hours=23)[0].total == Tally()
    assert shop.harvest(hours=24)[0].total == Tally(found=1, verified=1)
    assert shop.record(subject)["answers"][0]["outcome"] == "found"


def test_an_index_and_its_images_are_not_read_again(shop: Shop) -> None:
    children = [shop.attested(None), shop.server.add_image(APP)]
    index = shop.server.add_index(APP, children, "v1")
    shop.server.add_manifest(APP, shop.server.repository(APP).manifests[index][1], "latest")
    shop.attest(index)
    found, _ = shop.harvest()
    assert set(found.images) == {index, *children}
    again, asked = shop.harvest(hours=1)
    assert set(again.images) == {index, *children}
    assert asked == {("GET", "tags"): 1, ("HEAD", "manifests"): 2, ("GET", "referrers"): 3}


def test_a_digest_that_was_never_read_is_not_taken_from_a_header(shop: Shop) -> None:
    first = shop.attested("v1")
    shop.harvest()
    second = shop.attested("v2")
    child = shop.attested(None)
    index = shop.server.add_index(APP, [child], "v3")
    lie = Failure(200, {"Docker-Content-Digest": "sha256:" + "1" * 64})
    shop.server.fail("HEAD .*v2$", lie)
    found, asked = shop.harvest(hours=1)
    assert set(found.images) == {first, second, index, child}
    assert asked["HEAD", "manifests"] == 3


def test_a_tag_that_moves_is_read_again(shop: Shop) -> None:
    first = shop.attested("v1")
    shop.harvest()
    second = shop.attested(None, attestations=2)
    shop.server.repository(APP).tags["v1"] = second
    found, _ = shop.harvest(hours=1)
    assert found.images == {first: Tally(found=1, known=1), second: Tally(found=2, verified=2)}


@pytest.mark.parametrize("referrers_api", [True, False])
def test_what_lies_in_a_repository_of_attachments_is_found_for_every_image(
    shop: Shop, referrers_api: bool
) -> None:
    """[cosign 3 with ``COSIGN_REPOSITORY``]: no tag there has to say whose it is."""
    shop.server.quirks.referrers_api = referrers_api
    subject = shop.server.add_image(APP, "v1")
    shop.server.add_image(APP, "v2", b"without any")
    bundle = shop.sigstore.attest(subject, at=SIGNED)
    attached = shop.server.add_referrer(APART, subject, bundle, of=APP)
    if not referrers_api:
        shop.server.add_index(APART, [attached], fallback_tag(subject))
    assert shop.harvest()[0].total == Tally()
    shop.apart = (APART,)
    found, _ = shop.harvest(hours=1)
    assert found.images[subject] == found.total == Tally(found=1, verified=1)
    (row,) = shop.workspace().catalog.evidence()
    assert (row.repository, row.image, row.manifest) == (APART, subject, attached)
    found, asked = shop.harvest(hours=2)
    assert found.total == Tally(found=1, known=1)
    assert asked["GET", "blobs"] == 0
    del shop.server.repository(APART).manifests[attached]
    shop.server.repository(APART).tags.clear()
    assert shop.harvest(hours=3)[0].total == Tally(vanished=1)


def test_a_repository_of_attachments_that_cannot_be_asked_is_unknown(shop: Shop) -> None:
    shop.server.add_image(APP, "v1")
    shop.apart = (APART,)
    shop.server.fail(f"{APART}/.*", Failure(403))
    found, _ = shop.harvest()
    assert found.total == Tally(unknown=1)
    assert list(found.unreachable) == [f"main/{APART}"]


def test_an_untagged_index_that_an_older_tag_reveals_is_looked_at_with_its_images(
    shop: Shop,
) -> None:
    child = shop.attested(None)
    index = shop.server.add_index(APP, [child])
    other = shop.server.add_manifest(APP, image(shop.server, APP, [b"x"]))
    shop.server.repository(APP).tags[fallback_tag(index) + ".att"] = other
    gone = "sha256:" + "2" * 64
    shop.server.repository(APP).tags[fallback_tag(gone) + ".att"] = other
    found, _ = shop.harvest()
    assert set(found.images) == {index, child, gone}
    assert found.images[child].verified == 1
    assert not found.unreachable
    assert shop.harvest(hours=1)[1] == {
        ("GET", "tags"): 1,
        ("GET", "referrers"): 3,
        ("GET", "manifests"): 2,
    }


def test_a_tag_that_is_listed_and_not_there_is_reported(shop: Shop) -> None:
    shop.attested("v1")
    shop.server.fail("manifests/v2$", Failure(404))
    shop.server.repository(APP).tags["v2"] = shop.server.add_image(APP)
    found, _ = shop.harvest()
    assert found.total.verified == 1
    assert list(found.unreachable) == [f"main/{APP}:v2"]


# -- BuildKit ------------------------------------------------------------------------------------


def buildkit(shop: Shop, subject: bool = False) -> tuple[str, str, str]:
    """An index as BuildKit pushes it: an image, and its attestation beside it.

    :param subject: as ``oci-artifact=true`` writes it
    """
    server = shop.server
    child = server.add_image(APP)
    document = image(server, APP, [b'{"_type":"x"}'], "application/vnd.in-toto+json")
    if subject:
        document["artifactType"] = "application/vnd.docker.attestation.manifest.v1+json"
        document["subject"] = server.descriptor(APP, child)
    attestation = server.add_manifest(APP, document)
    beside = {
        **server.descriptor(APP, attestation),
        "platform": {"architecture": "unknown", "os": "unknown"},
        "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": child,
        },
    }
    listed = [server.descriptor(APP, child), beside]
    index = server.add_manifest(
        APP, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}, "v1"
    )
    return index, child, attestation


def test_what_buildkit_puts_into_an_index_is_kept_as_unsigned_and_through_the_index_only(
    shop: Shop,
) -> None:
    index, child, attestation = buildkit(shop)
    shop.attest(index)
    found, asked = shop.harvest()
    assert found.images == {index: Tally(found=2, verified=1, ignored=1), child: Tally()}
    assert asked["GET", "blobs"] == 1
    (row,) = shop.workspace().catalog.evidence(manifest=attestation)
    assert (row.image, row.verdict, row.in_index) == (index, "ignored", True)
    assert row.reason is not None and "application/vnd.in-toto+json" in row.reason
    answer = {"place": "index", "outcome": "found", "count": 1, "detail": ""}
    assert shop.record(index)["answers"][-1] == answer
    assert all(answer["place"] != "index" for answer in shop.record(child)["answers"])
    again, _ = shop.harvest(hours=1)
    assert again.images == {index: Tally(found=2, known=2), child: Tally()}


@pytest.mark.parametrize("subject", [False, True])
def test_what_an_index_lists_goes_with_it_and_is_not_sent_as_an_attachment(
    shop: Shop, subject: bool
) -> None:
    index, child, attestation = buildkit(shop, subject)
    shop.attest(index)
    shop.attest(child)
    shop.harvest()
    workspace = shop.workspace()
    rows = workspace.catalog.evidence(manifest=attestation)
    assert {row.image for row in rows} == ({index, child} if subject else {index})
    assert all(row.in_index and row.verdict == "ignored" for row in rows)
    shipments = plan_mirror(workspace, workspace.settings.sites[0]).shipments
    assert {one.image for one in shipments} == {index, child}
    assert all(attestation not in one.referrers for one in shipments)
