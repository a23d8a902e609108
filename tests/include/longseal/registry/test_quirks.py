"""How real registries and clients depart from the specification, each played by the double.

The numbers are those of a list of known pain points: what is named in brackets was seen there.
"""

import pytest
from tests.doubles.registry import Failure, RegistryDouble, Start, image

from longseal.errors import RefusedError
from longseal.registry.attach import attach
from longseal.registry.attachment import fetch
from longseal.registry.discovery import Discovery, Structure, descendants, discover
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Descriptor
from longseal.registry.model import fallback_tag

NAME = "corp/app"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def look(registry: DistributionRegistry, subject: str, name: str = NAME) -> Discovery:
    return discover(registry, name, subject, set(registry.tags(name)))


def outcome(found: Discovery, place: str) -> str:
    (answer,) = [answer for answer in found.record.answers if answer.place == place]
    return answer.outcome


def described(server: RegistryDouble, digest: str) -> Descriptor:
    found = server.descriptor(NAME, digest)
    return Descriptor(found["mediaType"], found["digest"], found["size"])


def test_quirk_1_referrers_come_in_pages_and_all_are_read(start: Start) -> None:
    server, registry = start(page=2)
    subject = server.add_image(NAME, "v1")
    attached = {server.add_referrer(NAME, subject, b"%d" % n) for n in range(7)}
    found = look(registry, subject)
    assert set(found.record.found) == attached and found.record.state == "whole"


@pytest.mark.parametrize("status", [404, 500])
def test_quirk_1_a_page_that_fails_is_not_the_end_of_the_list(status: int, start: Start) -> None:
    server, registry = start(page=2)
    subject = server.add_image(NAME, "v1")
    for number in range(7):
        server.add_referrer(NAME, subject, b"%d" % number)
    server.fail("referrers.*at=4", Failure(status))
    assert look(registry, subject).record.state == "unknown"


def test_quirk_2_a_throttled_listing_is_not_unsigned_beside_older_tags(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    older = server.add_manifest(NAME, image(server, NAME, [b"x"]), fallback_tag(subject) + ".att")
    server.fail("referrers", Failure(429))
    found = look(registry, subject)
    assert found.record.state == "unknown" and found.record.found == (older,)
    assert outcome(found, "referrers") == "unknown"


def test_quirk_3_a_fallback_index_with_a_wrong_artifact_type_hides_no_bundle(start: Start) -> None:
    """[GHCR]: 404 for referrers, and ``application/vnd.oci.empty.v1+json`` for real bundles."""
    server, registry = start(referrers_api=False)
    subject = server.add_image(NAME, "v1")
    bundle = server.add_referrer(NAME, subject, b'{"bundle":1}', BUNDLE)
    entry = server.descriptor(NAME, bundle) | {"artifactType": "application/vnd.oci.empty.v1+json"}
    document = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    server.add_manifest(NAME, {**document, "manifests": [entry]}, fallback_tag(subject))
    found = look(registry, subject)
    assert found.record.state == "whole"
    (candidate,) = found.candidates
    assert candidate.manifest.artifact_type == "application/vnd.oci.empty.v1+json"
    assert [layer.kind for layer in fetch(registry, candidate).layers] == ["bundle"]


def test_quirk_4_the_images_of_an_index_are_no_referrers_where_its_fallback_tag_is_itself(
    start: Start,
) -> None:
    """[GitLab]"""
    server, registry = start(subject_for_fallback=True)
    children = [server.add_image(NAME, layer=b"%d" % number) for number in range(2)]
    subject = server.add_index(NAME, children, "v1")
    assert registry.resolve(NAME, fallback_tag(subject)) == subject
    found = discover(registry, NAME, subject, None)
    assert found.record.state == "empty"
    attached = attach(registry, NAME, described(server, subject), BUNDLE, b"{}", {})
    assert look(registry, subject).record.found == (attached,)


@pytest.mark.parametrize("quirk", [{"referrers_api": False}, {"referrers_html": True}])
def test_quirk_5_where_there_is_no_referrers_api_the_fallback_tag_is_asked_and_written(
    start: Start, quirk: dict[str, bool]
) -> None:
    """[Docker Hub, Google]"""
    server, registry = start(**quirk)
    subject = server.add_image(NAME, "v1")
    assert look(registry, subject).record.state == "empty"
    attached = attach(registry, NAME, described(server, subject), BUNDLE, b"{}", {})
    found = look(registry, subject)
    assert found.record.state == "whole" and found.record.found == (attached,)
    assert outcome(found, "referrers") == "absent"


def test_quirk_5_referrers_that_are_taken_and_never_listed_are_in_the_fallback_tag(
    start: Start,
) -> None:
    """[Quay]: writes succeed, reads are empty."""
    server, registry = start(referrers_empty=True, oci_subject=True)
    subject = server.add_image(NAME, "v1")
    attached = attach(registry, NAME, described(server, subject), BUNDLE, b"{}", {})
    found = look(registry, subject)
    assert found.record.found == (attached,)
    assert (outcome(found, "referrers"), outcome(found, "fallback-tag")) == ("absent", "found")


def test_quirk_6_a_promise_in_a_header_is_not_the_referrers_api(start: Start) -> None:
    """[ECR]: ``OCI-Subject`` without support."""
    server, registry = start(referrers_api=False, oci_subject=True)
    subject = server.add_image(NAME, "v1")
    attached = attach(registry, NAME, described(server, subject), BUNDLE, b"{}", {})
    assert fallback_tag(subject) in registry.tags(NAME)
    assert look(registry, subject).record.found == (attached,)


def test_quirk_6_fifty_on_a_page_are_not_all(start: Start) -> None:
    """[ECR]"""
    server, registry = start(page=50)
    subject = server.add_image(NAME, "v1")
    attached = {server.add_referrer(NAME, subject, b"%d" % n) for n in range(120)}
    assert set(look(registry, subject).record.found) == attached


def test_quirk_7_provenance_on_an_index_and_sboms_on_its_images_are_all_found(
    start: Start,
) -> None:
    server, registry = start()
    children = [server.add_image(NAME, layer=b"%d" % number) for number in range(2)]
    index = server.add_index(NAME, children, "v1")
    expected = {digest: server.add_referrer(NAME, digest) for digest in (index, *children)}

    def structure(digest: str) -> Structure:
        manifest = registry.manifest(NAME, digest)
        assert manifest is not None
        return Structure.of(manifest)

    subjects = descendants(index, structure)
    found = {digest: look(registry, digest).record.found for digest in subjects}
    assert found == {digest: (attached,) for digest, attached in expected.items()}


def test_quirk_8_a_fallback_tag_that_another_client_rewrote_has_both_again(start: Start) -> None:
    server, registry = start(referrers_api=False)
    subject = server.add_image(NAME, "v1")
    theirs = server.add_referrer(NAME, subject, b"theirs")
    ours = attach(registry, NAME, described(server, subject), BUNDLE, b"{}", {})
    server.add_index(NAME, [theirs], fallback_tag(subject))
    assert attach(registry, NAME, described(server, subject), BUNDLE, b"{}", {}) == ours
    assert set(look(registry, subject).record.found) == {ours, theirs}


def test_quirk_8_an_immutable_fallback_tag_is_a_refusal_that_says_so(start: Start) -> None:
    """[ECR, Harbor]"""
    server, registry = start(referrers_api=False, immutable=True)
    subject = server.add_image(NAME, "v1")
    attach(registry, NAME, described(server, subject), BUNDLE, b"{}", {})
    with pytest.raises(RefusedError, match="TAG_INVALID"):
        attach(registry, NAME, described(server, subject), BUNDLE, b'{"second":1}', {})


def test_quirk_9_attachments_in_a_repository_of_their_own_are_found_by_the_digest_in_their_tags(
    start: Start,
) -> None:
    """[cosign]: ``COSIGN_REPOSITORY``; the image itself is elsewhere."""
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    elsewhere = "corp/signatures"
    tag = fallback_tag(subject) + ".att"
    attached = server.add_manifest(elsewhere, image(server, elsewhere, [b"x"]), tag)
    assert registry.manifest(elsewhere, subject) is None
    found = look(registry, subject, elsewhere)
    assert found.record.found == (attached,) and found.record.state == "whole"
