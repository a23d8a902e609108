"""A volume on its way: what it brings verifies offline, and any changed byte is found."""

import pytest
from tests.doubles.registry import RegistryDouble
from tests.include.longseal.mirror.conftest import blobs, flip
from tests.installation import Installation, harvest_all, seal

from longseal.canonical import parse_object
from longseal.mirror.mirror import mirror
from longseal.mirror.plan import plan
from longseal.mirror.volume import Volume
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import fallback_tag, parse_index
from longseal.seal.keys import fingerprint
from longseal.seal.organisation import organisation_key
from longseal.verify.report import Report, State
from longseal.verify.target import Given, verify
from longseal.workspace import Workspace, utc_now


def verified(installation: Installation, key: str | None = None) -> Report:
    report = Report("ship")
    known = key or fingerprint(organisation_key(installation.workspace()).key)
    Volume(installation.folder / "ship", known).verify(report, utc_now())
    return report


def failed(report: Report) -> list[str]:
    return [check.name for check in report.checks if check.state is State.FAILED]


def test_everything_on_a_volume_verifies_with_nothing_but_the_key(shipped: Installation) -> None:
    report = verified(shipped)
    assert report.state is State.PASSED, failed(report)
    assert sum(check.detail.endswith(", sealed") for check in report.checks) == 100


def test_a_second_run_sends_writes_and_signs_nothing(shipped: Installation) -> None:
    before, operations = shipped.files(), shipped.key_operations()
    workspace = shipped.workspace()
    done = mirror(workspace, workspace.settings.site("ship"))
    assert (done["blobs_sent"], done["kit_files"], done["key_operations"]) == (0, 0, 0)
    assert shipped.files() == before
    assert shipped.key_operations() == operations


def test_another_key_than_the_known_one_ends_the_verification_at_once(
    shipped: Installation,
) -> None:
    report = verified(shipped, "sha256:" + "0" * 64)
    assert [check.name for check in report.checks] == ["key"]
    assert report.exit_code == 1


@pytest.mark.parametrize(
    "what",
    [
        "org.pub",
        "inventory.json",
        "inventory.sigstore.json",
        "trusted_root.json",
        "policy.json",
        "key-set.json",
        "seal-trusted-root.json",
        "seals/000001/seal.sigstore.json",
        "seals/000001/checkpoint",
        "seals/000001/leaves/0000.jsonl",
        "seals/000001/records.jsonl",
        "seals/000001/renewal.sha512",
    ],
)
def test_a_changed_byte_in_a_file_of_the_kit_is_found(shipped: Installation, what: str) -> None:
    flip(shipped.folder / "ship/site" / what)
    report = verified(shipped)
    assert report.exit_code == 1
    assert len(report.checks) <= 4


@pytest.mark.parametrize(
    ("wanted", "check"),
    [
        (b'"diff_ids"', "blobs"),
        (b'vnd.docker.container.image.v1+json","size"', " manifest"),
        (b'"certificate":{"rawBytes"', " sha256:"),
        (b'"publicKey":{"hint"', " sha256:"),
    ],
    ids=["image config", "image manifest", "attestation", "image statement"],
)
def test_a_changed_byte_in_an_image_fails_the_check_that_covers_it(
    shipped: Installation, wanted: bytes, check: str
) -> None:
    flip(next(blobs(shipped, wanted)))
    report = verified(shipped)
    assert report.state is not State.PASSED
    assert any(check in one.name for one in report.checks if one.state is not State.PASSED)


def test_an_attachment_that_was_left_out_on_the_way_is_missed(shipped: Installation) -> None:
    next(blobs(shipped, b'"certificate":{"rawBytes"')).unlink()
    assert verified(shipped).state is not State.PASSED


def test_a_link_in_place_of_a_file_is_not_followed(shipped: Installation) -> None:
    path = shipped.folder / "ship/site/policy.json"
    elsewhere = shipped.folder / "policy-elsewhere.json"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert verified(shipped).exit_code == 1


def test_a_link_in_place_of_a_blob_is_not_followed(shipped: Installation) -> None:
    path = next(blobs(shipped, b'"diff_ids"'))
    path.rename(shipped.folder / "blob-elsewhere")
    path.symlink_to(shipped.folder / "blob-elsewhere")
    assert failed(verified(shipped)) == ["blobs"]


def test_an_inventory_that_names_files_outside_is_refused(shipped: Installation) -> None:
    inventory = shipped.folder / "ship/site/inventory.json"
    document = parse_object(inventory.read_bytes(), "inventory")
    assert all(".." not in name for name in document["files"])
    inventory.write_bytes(inventory.read_bytes().replace(b"policy.json", b"../olicy.json"))
    assert verified(shipped).exit_code == 1


def test_images_that_were_not_fully_looked_for_stay_at_home(harvested: Installation) -> None:
    workspace = harvested.workspace()
    image = workspace.catalog.images()[0]
    workspace.catalog.record_images(
        [
            {
                "source": image.source,
                "repository": image.repository,
                "digest": image.digest,
                "state": "unknown",
                "record": image.record,
                "checked_at": image.checked_at,
            }
        ]
    )
    planned = plan(workspace, workspace.settings.site("ship"))
    assert list(planned.withheld) == [f"{image.repository}@{image.digest}"]
    assert len(planned.shipments) == 19


def test_a_new_seal_brings_a_new_inventory_that_names_the_one_before(
    shipped: Installation,
) -> None:
    workspace = shipped.workspace()
    seal(workspace, "r-two")
    done = mirror(workspace, workspace.settings.site("ship"))
    assert (done["sequence"], done["key_operations"]) == (2, 1)
    assert done["blobs_sent"] == 0
    report = verified(shipped)
    assert report.state is State.PASSED, failed(report)


def test_a_harvest_after_a_mirror_finds_nothing_new(shipped: Installation) -> None:
    before = shipped.files()
    workspace = shipped.workspace()
    assert harvest_all(workspace).total.known == 100
    assert shipped.files() == before


def test_at_a_site_registry_the_fingerprint_alone_is_enough(shipped: Installation) -> None:
    with RegistryDouble() as double:
        site = {"name": "plant", "kind": "registry", "url": double.url, "repositories": ["corp/*"]}
        shipped.write(sites=[site])
        workspace = shipped.workspace()
        done = mirror(workspace, workspace.settings.site("plant"))
        assert (done["images"], done["failed"]) == (20, {})
        key = fingerprint(organisation_key(workspace).key)
        image = workspace.catalog.images()[0]
        host = double.url.removeprefix("http://")
        target = f"{host}/{image.repository}@{image.digest}"
        report = verify(Given(target, key=key), _no_settings)
        assert report.state is State.PASSED, report.to_json()
        other = verify(Given(target, key="sha256:" + "0" * 64), _no_settings)
        assert (other.exit_code, len(other.checks)) == (1, 1)


def test_a_layout_lists_referrers_under_the_fallback_tag_too(shipped: Installation) -> None:
    # regctl reads nothing else in a layout.
    registry = LayoutRegistry("ship", shipped.folder / "ship/images")
    for image in shipped.workspace().catalog.images():
        index = registry.manifest(image.repository, fallback_tag(image.digest))
        assert index is not None
        assert len(parse_index(index.data)) == 6


def _no_settings() -> Workspace:
    raise AssertionError("no settings are needed here")
