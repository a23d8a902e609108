"""Only attachments are taken off, whole or by layer, and nothing that something else refers to."""

import json
from collections.abc import Collection
from typing import Any

import pytest
from tests.doubles.registry import RegistryDouble, Start, image

from longseal.canonical import digest_of
from longseal.errors import MalformedError, RefusedError, RegistryError
from longseal.registry import attach as attaching
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.model import OCI_INDEX, fallback_tag
from longseal.registry.removal import Removal

NAME = "corp/app"
DSSE = "application/vnd.dsse.envelope.v1+json"
OLD, NEW = b'{"payload":"old"}', b'{"payload":"new"}'


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attaching, "_PAUSE", 0.0)


def older(server: RegistryDouble, subject: str, *layers: bytes, kind: str = ".att") -> str:
    """An attachment under one of cosign's older tags, with cosign's config."""
    config = json.dumps(
        {
            "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
            "history": [{"created": f"{number}"} for number in range(len(layers))],
        }
    ).encode()
    document = image(server, NAME, list(layers), DSSE)
    document["config"] = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": server.add_blob(NAME, config),
        "size": len(config),
    }
    return server.add_manifest(NAME, document, fallback_tag(subject) + kind)


def read(registry: DistributionRegistry, reference: str) -> Any:
    found = registry.manifest(NAME, reference)
    assert found is not None
    return json.loads(found.data)


def remove(removal: Removal, subject: str, digest: str, layers: Collection[str] = ()) -> None:
    """As a prune does it, for one attachment."""
    found = removal.registry.manifest(NAME, digest)
    if found is not None:
        removal.remove(NAME, subject, found, layers)
    if not layers:
        removal.mend(NAME, subject, {digest: found})


@pytest.mark.parametrize("api", [True, False])
def test_a_referrer_goes_and_its_image_stays(start: Start, api: bool) -> None:
    server, registry = start(referrers_api=api)
    subject = server.add_image(NAME, "v1")
    digest = server.add_referrer(NAME, subject)
    if not api:
        server.add_index(NAME, [digest], fallback_tag(subject))
    removal = Removal(registry)
    removal.check(NAME)
    for _ in range(2):
        remove(removal, subject, digest)
    assert registry.manifest(NAME, digest) is None
    assert registry.tags(NAME) == ("v1",)
    assert registry.manifest(NAME, subject) is not None


def test_a_registry_that_does_not_delete_is_found_out_before(start: Start) -> None:
    server, registry = start(deletes=False)
    server.add_image(NAME, "v1")
    with pytest.raises(RefusedError, match="405"):
        Removal(registry).check(NAME)


def test_an_image_is_never_removed(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    other = server.add_image(NAME, None, b"untagged")
    index = server.add_index(NAME, [subject], "all")
    removal = Removal(registry)
    older(server, subject, OLD)
    for digest in (subject, other, index):
        for layers in ((), (digest_of(b"untagged"),), (digest_of(b"something"),)):
            with pytest.raises(RefusedError, match="no attachment"):
                remove(removal, subject, digest, layers)
    assert all(registry.manifest(NAME, digest) for digest in (subject, other, index))


def test_another_images_attachment_is_not_removed(start: Start) -> None:
    server, registry = start()
    subject, other = server.add_image(NAME, "v1"), server.add_image(NAME, "v2", b"other")
    digest = server.add_referrer(NAME, other)
    with pytest.raises(RefusedError, match="no attachment"):
        remove(Removal(registry), subject, digest)
    assert registry.manifest(NAME, digest) is not None


@pytest.mark.parametrize("by", ["tag", "index", "referrer", "its own tag", "another older tag"])
def test_what_something_else_refers_to_stays(start: Start, by: str) -> None:
    server, registry = start(referrers_api=by != "its own tag")
    subject = server.add_image(NAME, "v1")
    digest = server.add_referrer(NAME, subject)
    if by == "tag":
        server.repository(NAME).tags["keep"] = digest
    elif by == "index":
        server.add_index(NAME, [digest], "list")
    elif by == "referrer":
        server.add_referrer(NAME, digest)
    elif by == "its own tag":
        server.add_index(NAME, [server.add_referrer(NAME, digest)], fallback_tag(digest))
    else:
        digest = older(server, subject, OLD)
        server.repository(NAME).tags[fallback_tag("sha256:" + "9" * 64) + ".att"] = digest
    with pytest.raises(RefusedError, match="stays"):
        remove(Removal(registry), subject, digest)
    assert registry.manifest(NAME, digest) is not None


def test_where_it_cannot_be_seen_what_refers_to_it_nothing_goes(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    digest = server.add_referrer(NAME, subject)
    server.add_manifest(
        NAME, {"schemaVersion": 2, "mediaType": OCI_INDEX, "layers": [], "manifests": 1}, "bad"
    )
    with pytest.raises((MalformedError, RegistryError)):
        remove(Removal(registry), subject, digest)
    assert registry.manifest(NAME, digest) is not None


def test_an_older_tag_goes_with_all_that_it_has(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    digest = older(server, subject, OLD, NEW)
    remove(Removal(registry), subject, digest)
    assert registry.manifest(NAME, digest) is None
    assert registry.tags(NAME) == ("v1",)


def test_of_an_older_tag_only_the_layers_named_go(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    digest = older(server, subject, OLD, NEW)
    tag = fallback_tag(subject) + ".att"
    before = read(registry, tag)
    remove(Removal(registry), subject, digest, {digest_of(OLD)})
    after = read(registry, tag)
    assert after["layers"] == before["layers"][1:]
    config = json.loads(registry.blob(NAME, after["config"]["digest"], 10_000))
    assert config["rootfs"]["diff_ids"] == [digest_of(NEW)]
    assert config["history"] == [{"created": "1"}]
    assert registry.manifest(NAME, digest) is None
    # Killed in between, and run again.
    remove(Removal(registry), subject, digest, {digest_of(OLD)})
    assert read(registry, tag) == after


def test_a_run_killed_between_tag_and_deletion_is_taken_up(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    digest = older(server, subject, OLD, NEW)
    tag = fallback_tag(subject) + ".att"
    old = server.repository(NAME).manifests[digest]
    remove(Removal(registry), subject, digest, {digest_of(OLD)})
    after = read(registry, tag)
    server.repository(NAME).manifests[digest] = old
    remove(Removal(registry), subject, digest, {digest_of(OLD)})
    assert registry.manifest(NAME, digest) is None
    assert read(registry, tag) == after


def test_an_index_is_written_once_for_all_that_go(start: Start) -> None:
    server, registry = start(referrers_api=False)
    subject = server.add_image(NAME, "v1")
    going = [server.add_referrer(NAME, subject, b"%d" % number) for number in range(3)]
    stays = server.add_referrer(NAME, subject, b"stays")
    server.add_index(NAME, [*going, stays], fallback_tag(subject))
    removal = Removal(registry)
    found = {digest: registry.manifest(NAME, digest) for digest in going}
    for manifest in found.values():
        assert manifest is not None
        removal.remove(NAME, subject, manifest)
    removal.mend(NAME, subject, found)
    listed = [one["digest"] for one in read(registry, fallback_tag(subject))["manifests"]]
    assert (listed, server.count("PUT")) == ([stays], 1)


def test_what_another_writer_adds_to_an_older_tag_stays(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    digest = older(server, subject, OLD, NEW)
    tag = fallback_tag(subject) + ".att"
    removal = Removal(registry)
    removal._names(NAME)
    older(server, subject, OLD, NEW, b'{"payload":"newer"}')
    remove(removal, subject, digest, {digest_of(OLD)})
    layers = [layer["digest"] for layer in read(registry, tag)["layers"]]
    assert layers == [digest_of(NEW), digest_of(b'{"payload":"newer"}')]


def test_a_writer_that_takes_the_tag_back_is_run_again(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    digest = older(server, subject, OLD, NEW)
    tag = fallback_tag(subject) + ".att"
    left = [2]

    def rival(name: str, reference: str) -> None:
        if reference == tag and left[0]:
            left[0] -= 1
            tags = server.repository(NAME).tags

            class TakenBack(dict[str, str]):
                def __setitem__(self, key: str, value: str) -> None:
                    super().__setitem__(key, digest if key == tag else value)
                    server.repository(NAME).tags = dict(self)

            server.repository(NAME).tags = TakenBack(tags)

    server.before_put = rival
    remove(Removal(registry), subject, digest, {digest_of(OLD)})
    assert left == [0]
    assert [one["digest"] for one in read(registry, tag)["layers"]] == [digest_of(NEW)]


def test_tags_that_cannot_be_changed_leave_everything_as_it_was(start: Start) -> None:
    server, registry = start(referrers_api=False, immutable=True)
    subject = server.add_image(NAME, "v1")
    one, two, stays = (server.add_referrer(NAME, subject, data) for data in (b"1", b"2", b"3"))
    server.add_index(NAME, [one, two, stays], fallback_tag(subject))
    removal = Removal(registry)
    for digest in (one, two):
        with pytest.raises(RefusedError):
            remove(removal, subject, digest)
        assert registry.manifest(NAME, digest) is not None
    assert server.count("DELETE") == 1
    removal = Removal(registry)
    found = {digest: registry.manifest(NAME, digest) for digest in (one, two)}
    for manifest in found.values():
        assert manifest is not None
        removal.remove(NAME, subject, manifest)
    with pytest.raises(RefusedError):
        removal.mend(NAME, subject, {**found, digest_of(b"gone"): None})
    assert all(registry.manifest(NAME, digest) for digest in (one, two))
    att = older(server, subject, OLD, NEW)
    with pytest.raises(RefusedError):
        remove(Removal(registry), subject, att, {digest_of(OLD)})
    assert registry.manifest(NAME, att) is not None


def test_an_older_tag_is_not_left_empty_by_layers(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    digest = older(server, subject, OLD)
    with pytest.raises(RefusedError, match="plan again"):
        remove(Removal(registry), subject, digest, {digest_of(OLD)})
    referrer = server.add_referrer(NAME, subject)
    with pytest.raises(RefusedError, match="whole or not at all"):
        remove(Removal(registry), subject, referrer, {digest_of(OLD)})
