"""A site that is a registry: what leaves, in what order, and what becomes of it on a bad link."""

import json
import random
from collections.abc import Callable, Iterator

import pytest
from tests.doubles.registry import Failure, RegistryDouble
from tests.installation import Installation, rule, seal
from tests.link import Fault, Link
from tests.retired import REPOSITORY, retire

from longseal import harvest
from longseal.archive import prune
from longseal.errors import RefusedError, RegistryError
from longseal.mirror import delivery
from longseal.mirror.delivery import Delivered, deliver
from longseal.mirror.mirror import mirror
from longseal.mirror.plan import Shipment, plan
from longseal.registry import upload
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Registry
from longseal.registry.model import fallback_tag

PLANT = {"name": "plant", "kind": "registry", "repositories": ["corp/*"]}
Push = Callable[..., Delivered]


@pytest.fixture
def far() -> Iterator[RegistryDouble]:
    with RegistryDouble() as double:
        yield double


@pytest.fixture
def push(harvested: Installation, far: RegistryDouble, monkeypatch: pytest.MonkeyPatch) -> Push:
    """Deliver some of the images to ``far``, or by way of a link to it."""
    harvested.write(sites=[{**PLANT, "url": far.url}])
    workspace = harvested.workspace()
    site = workspace.settings.site("plant")
    planned = plan(workspace, site)

    def pushed(count: int = 2, url: str = far.url) -> Delivered:
        def target(*_: object) -> Registry:
            return DistributionRegistry("plant", url, retries=1, timeout=1.0, backoff=0.001)

        monkeypatch.setattr(delivery, "target_of", target)
        return deliver(workspace, site, planned.shipments[:count])

    return pushed


def content(double: RegistryDouble) -> dict[str, object]:
    """All of it that has a name."""
    return {
        name: (found.manifests, found.tags, found.blobs)
        for name, found in double.repositories.items()
        if found.manifests or found.blobs
    }


def missing(double: RegistryDouble) -> list[str]:
    """What a tag leads to and is not there."""
    lacking = []
    for name, found in double.repositories.items():
        for tag, digest in found.tags.items():
            if digest not in found.manifests:
                lacking.append(f"{name}:{tag}")
                continue
            document = json.loads(found.manifests[digest][1])
            lacking += [
                f"{name}:{tag} {item['digest']}"
                for item in (*document.get("layers", []), document.get("config"))
                if item and item["digest"] not in found.blobs
            ]
            lacking += [
                f"{name}:{tag} {item['digest']}"
                for item in document.get("manifests", [])
                if item["digest"] not in found.manifests
            ]
    return lacking


def test_an_image_goes_with_its_attestations_and_is_named_last(
    push: Push, far: RegistryDouble
) -> None:
    far.quirks.referrers_api = False
    done = push(1)
    assert (done.images, done.failed, done.refused) == (1, {}, {})
    puts = [r.path.rpartition("/")[2] for r in far.requests if r.method == "PUT"]
    named = [one for one in puts if ":" not in one and "?" not in one]
    tags = [one for one in named if not one.startswith("sha256-")]
    assert tags and puts[-len(tags) :] == tags
    assert puts.index(named[0]) == len(puts) - len(tags) - 1
    (image,) = set(far.repositories[next(iter(far.repositories))].tags.values()) - {
        digest
        for found in far.repositories.values()
        for tag, digest in found.tags.items()
        if tag.startswith("sha256-")
    }
    index = far.repositories[next(iter(far.repositories))]
    listed = json.loads(index.manifests[index.tags[fallback_tag(image)]][1])["manifests"]
    assert len(listed) == 5


def test_what_the_site_has_costs_four_questions_an_image(push: Push, far: RegistryDouble) -> None:
    push(4)
    far.requests.clear()
    done = push(4)
    assert (done.images, done.copied.blobs_sent, done.failed) == (4, 0, {})
    assert set(far.methods()) <= {"GET", "HEAD"}
    # One image is asked for twice: the first, before any thread starts.
    assert len(far.requests) <= 4 * 5


def test_nothing_leaves_of_an_image_whose_attestations_no_longer_verify(
    harvested: Installation, far: RegistryDouble
) -> None:
    # The policy has changed since the harvest, and trusts somebody else.
    other = {"issuer": "https://issuer.example", "identity": "somebody@else.example"}
    seal(harvested.workspace(), "r-one")
    harvested.write(sites=[{**PLANT, "url": far.url}], policy=[rule(other, "**")])
    workspace = harvested.workspace()
    done = mirror(workspace, workspace.settings.site("plant"))
    assert (done["images"], len(done["refused"]), done["failed"]) == (0, 20, {})
    assert "does not verify under the policy in force" in next(iter(done["withheld"].values()))
    # Only the kit came, and its inventory promises nothing.
    assert set(content(far)) == {"longseal-site"}
    kit = far.repository("longseal-site").blobs.values()
    (inventory,) = (json.loads(one) for one in kit if b'"refreshBy"' in one)
    assert inventory["images"] == []


def test_what_could_not_be_checked_does_not_leave_either(
    push: Push, far: RegistryDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(*_: object) -> str:
        raise RegistryError("the source is down")

    monkeypatch.setattr(delivery, "objection", unable)
    done = push(2)
    assert (done.images, len(done.failed)) == (0, 2)
    assert content(far) == {}


def test_what_was_pruned_travels_from_the_archive(
    installation_of_old: Installation, far: RegistryDouble
) -> None:
    workspace = installation_of_old.workspace()
    (row,) = workspace.catalog.evidence()
    before = installation_of_old.registry().manifest(REPOSITORY, row.manifest)
    assert before is not None
    planned = prune.plan(workspace)
    assert planned is not None
    prune.execute(workspace, planned.digest, "grace")
    assert installation_of_old.registry().manifest(REPOSITORY, row.manifest) is None
    workspace = installation_of_old.workspace()
    done = mirror(workspace, workspace.settings.site("plant"))
    assert (done["images"], done["failed"], done["refused"]) == (1, {}, {})
    there = DistributionRegistry("plant", far.url)
    assert there.manifest(REPOSITORY, row.manifest) == before
    assert there.has_blob(REPOSITORY, row.bundle)
    listed = there.referrers(REPOSITORY, row.image)
    assert [item.digest for item in listed or ()] == [row.manifest]


@pytest.fixture
def installation_of_old(
    tmp_path_factory: pytest.TempPathFactory, authority: object, far: RegistryDouble
) -> Installation:
    """One attestation of 2023, sealed, and a site that is to have it."""
    installation = Installation(tmp_path_factory.mktemp("old"), authority)  # type: ignore[arg-type]
    write = installation.write
    installation.write = lambda **changes: write(  # type: ignore[method-assign]
        **{**changes, "sites": [{**PLANT, "url": far.url}]}
    )
    retire(installation)
    return installation


def test_a_tag_that_the_site_will_not_move_fails_that_image_alone(
    push: Push, far: RegistryDouble
) -> None:
    far.quirks.immutable = True
    push(1)
    (name,) = (one for one, found in far.repositories.items() if found.tags)
    tag = next(one for one in far.repositories[name].tags if not one.startswith("sha256-"))
    far.add_image(name, tag)
    done = push(2)
    assert (done.images, len(done.failed)) == (1, 1)
    assert "TAG_INVALID" in next(iter(done.failed.values()))


@pytest.mark.parametrize("code", ["413 SIZE_TOO_LARGE", "405 UNSUPPORTED", "400 DENIED"])
def test_a_site_that_takes_nothing_shows_nothing(
    push: Push, far: RegistryDouble, code: str
) -> None:
    status, _, word = code.partition(" ")
    far.fail("P(OS|U|ATC)[TH] ", Failure(int(status), body=_error(word)))
    done = push(2)
    assert (done.images, len(done.failed)) == (0, 2)
    assert all(code in reason for reason in done.failed.values())
    assert content(far) == {}
    far.heal()
    assert push(2).images == 2


def test_a_site_that_refuses_midway_is_left_to_the_next_run(
    push: Push, far: RegistryDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "MAX_LOST", 2)
    monkeypatch.setattr(delivery, "WORKERS", 1)
    far.fail("POST ", Failure(507))
    done = push(8)
    assert done.images == 0
    assert sum("not tried" in reason for reason in done.failed.values()) >= 4


def test_a_dead_site_is_given_up_at_once(push: Push) -> None:
    with pytest.raises(RegistryError):
        push(20, url="http://127.0.0.1:9")


@pytest.mark.parametrize("fault", ["drop", "stall", "corrupt"])
def test_a_link_that_fails_once_is_gone_through(
    push: Push, far: RegistryDouble, fault: Fault
) -> None:
    with Link(far.host) as link:
        link.fail_after(20_000, fault)
        push(2, url=link.url)
        assert link.struck == 1
        assert push(2, url=link.url).failed == {}
    assert missing(far) == []


def test_fifty_random_cuts_end_in_the_same_bytes(
    push: Push, far: RegistryDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "PIECE", 4_096)
    monkeypatch.setattr(delivery, "WORKERS", 4)
    with Link(far.host) as link:
        push(2, url=link.url)
        whole, total = content(far), link.passed
        cuts = 0
        for seed in range(50):
            far.repositories.clear()
            far.uploads.clear()
            link.fail_after(random.Random(seed).randrange(total), stays_down=True)
            try:
                cut = push(2, url=link.url)
                cuts += bool(cut.failed)
            except RegistryError:
                cuts += 1
            # Whatever a tag leads to is there, however the push ended.
            assert missing(far) == [], seed
            link.mend()
            again = push(2, url=link.url)
            assert (again.images, again.failed) == (2, {}), seed
            assert content(far) == whole, seed
    assert cuts >= 45


def test_a_site_gets_the_tags_and_platforms_that_it_asks_for(
    harvested: Installation, far: RegistryDouble
) -> None:
    with RegistryDouble() as near:
        kept, left = (near.add_image("corp/app", layer=name) for name in (b"amd", b"arm"))
        index = near.add_index("corp/app", [kept, left])
        document = json.loads(near.repository("corp/app").manifests.pop(index)[1])
        for item, architecture in zip(document["manifests"], ("amd64", "arm64"), strict=True):
            item["platform"] = {"os": "linux", "architecture": architecture, "variant": "v8"}
        index = near.add_manifest("corp/app", document, "v1")
        near.add_image("corp/app", "edge", layer=b"other")
        harvested.write(
            registries=[{"name": "main", "url": near.url, "repositories": ["corp/app"]}],
            sites=[
                {**PLANT, "url": far.url, "tags": {"include": ["v*"]}, "platforms": ["linux/amd64"]}
            ],
        )
        workspace = harvested.workspace()
        for batch in harvest.plan(workspace)[0]:
            harvest.harvest(workspace, batch)
        planned = plan(workspace, workspace.settings.site("plant"))
        # None of them is attested, and only what is asked for is missed.
        assert set(planned.withheld) == {f"corp/app@{one}" for one in (index, kept)}
        site = workspace.settings.site("plant")
        shipment = Shipment("main", "corp/app", index, ("v1",), (), ("linux/amd64",))
        target = delivery.target_of(workspace, site)
        delivery.ship(workspace.registry("main"), target, shipment)
        assert set(far.repository("corp/app").manifests) == {index, kept}
        assert delivery.complete(target, shipment, deep=True)
        # The other way round: a registry that wants all of an index says so.
        far.repositories.clear()
        far.fail(f"PUT .*{index}", Failure(400, body=_error("MANIFEST_BLOB_UNKNOWN")))
        with pytest.raises(RefusedError, match="wants every image of an index"):
            delivery.ship(workspace.registry("main"), target, shipment)


def test_a_part_of_the_plan_and_a_dry_run_bring_no_inventory(
    harvested: Installation, far: RegistryDouble
) -> None:
    seal(harvested.workspace(), "r-one")
    harvested.write(sites=[{**PLANT, "url": far.url}])
    workspace = harvested.workspace()
    site = workspace.settings.site("plant")
    done = mirror(workspace, site, dry_run=True)
    assert (len(done["wanting"]), done["images"], done["inventory"]) == (20, 0, None)
    assert content(far) == {}
    image = workspace.catalog.images()[0]
    done = mirror(workspace, site, image.repository, image.digest)
    assert (done["images"], done["inventory"]) == (1, None)
    assert set(content(far)) == {image.repository}


def _error(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code}]}).encode()
