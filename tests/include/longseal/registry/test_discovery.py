from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.doubles.registry import Failure, RegistryDouble, Start, image

from longseal.canonical import canonical_json
from longseal.errors import MalformedError
from longseal.registry.discovery import (
    MAX_CHILDREN,
    MAX_DEPTH,
    Discovery,
    Structure,
    children,
    descendants,
    discover,
)
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import OCI_INDEX, OCI_MANIFEST, fallback_tag

NAME = "corp/app"
PLACES = ["referrers", "fallback-tag", ".att", ".sig", ".sbom"]


def look(registry: DistributionRegistry, subject: str, **options: Any) -> Discovery:
    return discover(registry, NAME, subject, set(registry.tags(NAME)), **options)


def outcomes(found: Discovery) -> dict[str, str]:
    return {answer.place: answer.outcome for answer in found.record.answers}


def test_every_place_is_asked_and_their_union_is_found(start: Start) -> None:
    server, registry = start(page=1)
    subject = server.add_image(NAME, "v1")
    api = [server.add_referrer(NAME, subject, b"%d" % n) for n in range(2)]
    hidden = server.add_manifest(NAME, image(server, NAME, [b"only in the fallback tag"]))
    server.add_index(NAME, [hidden, api[0]], fallback_tag(subject))
    legacy = {
        place: server.add_manifest(
            NAME, image(server, NAME, [place.encode()]), fallback_tag(subject) + place
        )
        for place in (".att", ".sig", ".sbom")
    }
    found = look(registry, subject)
    assert found.record.state == "whole"
    assert found.record.found == tuple(sorted([*api, hidden, *legacy.values()]))
    assert outcomes(found) == dict.fromkeys(PLACES, "found")
    assert [answer.count for answer in found.record.answers] == [2, 2, 1, 1, 1]
    places = {candidate.manifest.digest: candidate.places for candidate in found.candidates}
    assert places[api[0]] == ("referrers", "fallback-tag")
    assert places[hidden] == ("fallback-tag",)
    assert places[legacy[".att"]] == (".att",)


def test_nothing_anywhere_is_whole_and_empty(start: Start) -> None:
    server, registry = start(referrers_api=False)
    subject = server.add_image(NAME, "v1")
    found = look(registry, subject)
    assert found.record.state == "empty" and found.record.whole
    assert found.record.answers[0].detail == "no referrers API; asked for once a day"
    assert found.candidates == ()


def test_tags_that_are_not_listed_are_not_asked_for(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    look(registry, subject)
    assert server.count("GET", "manifests") == 0


def test_every_tag_is_asked_for_where_the_listing_failed(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    attached = server.add_manifest(
        NAME, image(server, NAME, [b"x"]), fallback_tag(subject) + ".att"
    )
    found = discover(registry, NAME, subject, None)
    assert found.record.found == (attached,) and found.record.state == "whole"
    assert server.count("GET", "manifests") == 4


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("GET .*/referrers/", "referrers"),
        (r"GET .*/manifests/sha256-\w+$", "fallback-tag"),
        (r"GET .*/manifests/sha256-\w+\.att$", ".att"),
        (r"GET .*/manifests/sha256-\w+\.sig$", ".sig"),
        (r"GET .*/manifests/sha256-\w+\.sbom$", ".sbom"),
    ],
)
def test_a_place_that_cannot_be_asked_is_unknown_and_the_others_still_are(
    start: Start, status: int, pattern: str, place: str
) -> None:
    server, registry = full(start)
    subject = server.repository(NAME).tags["v1"]
    before = look(registry, subject)
    server.fail(pattern, Failure(status))
    found = look(registry, subject)
    assert outcomes(found) == {**outcomes(before), place: "unknown"}
    assert found.record.state == "unknown" and not found.record.whole
    assert len(found.record.found) == len(before.record.found) - 1


@pytest.mark.parametrize(
    "failure",
    [
        Failure(truncate=True),
        Failure(200, {"Content-Type": OCI_INDEX}, b"{"),
        Failure(200, {"Content-Type": OCI_INDEX}, b'{"manifests":[{"digest":"x"}]}'),
        Failure(200, {"Content-Type": OCI_INDEX}, b'{"errors":[]}'),
        Failure(200, {"Content-Type": OCI_INDEX, "Content-Encoding": "gzip"}, b"x"),
        Failure(302, {"Location": "ftp://x/"}),
    ],
)
def test_an_unreadable_answer_is_unknown(start: Start, failure: Failure) -> None:
    server, registry = full(start)
    subject = server.repository(NAME).tags["v1"]
    for pattern in ("/referrers/", r"/manifests/sha256-\w+$"):
        server.heal()
        server.fail(pattern, failure)
        assert look(registry, subject).record.state == "unknown"


def test_a_page_that_never_ends_is_unknown(start: Start) -> None:
    server, registry = start(page=1)
    subject = server.add_image(NAME, "v1")
    server.quirks.looping = True
    found = discover(registry, NAME, subject, {"v1"})
    assert outcomes(found)["referrers"] == "unknown"


def test_a_listed_tag_that_is_not_there_is_unknown(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    found = discover(registry, NAME, subject, {"v1", fallback_tag(subject) + ".att"})
    assert outcomes(found)[".att"] == "unknown"


def test_a_fallback_tag_that_is_an_image_is_unknown(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    server.add_image(NAME, fallback_tag(subject), b"another")
    assert outcomes(look(registry, subject))["fallback-tag"] == "unknown"


def test_a_fallback_tag_that_leads_to_the_subject_itself_is_absent(start: Start) -> None:
    server, registry = start()
    child = server.add_image(NAME)
    subject = server.add_index(NAME, [child], "v1")
    server.repository(NAME).tags[fallback_tag(subject)] = subject
    found = look(registry, subject)
    assert found.record.state == "empty"
    assert found.record.answers[1].detail == "the tag leads to the subject itself"


def test_the_subject_is_never_its_own_attachment(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    other = server.add_manifest(NAME, image(server, NAME, [b"x"]))
    server.add_index(NAME, [subject, other], fallback_tag(subject))
    assert look(registry, subject).record.found == (other,)


def test_the_artifact_type_of_a_descriptor_decides_nothing(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    attached = server.add_referrer(NAME, subject, media_type="application/vnd.oci.empty.v1+json")
    assert look(registry, subject).record.found == (attached,)


def test_what_is_known_is_recorded_and_is_no_candidate(start: Start) -> None:
    server, registry = full(start)
    subject = server.repository(NAME).tags["v1"]
    known = look(registry, subject).record.found[:2]
    found = look(registry, subject, known=known)
    assert set(known) <= set(found.record.found)
    assert {candidate.manifest.digest for candidate in found.candidates} == set(
        found.record.found
    ) - set(known)


def test_the_same_answers_give_the_same_record(start: Start) -> None:
    server, registry = full(start)
    subject = server.repository(NAME).tags["v1"]
    first, second = (canonical_json(look(registry, subject).record.to_json()) for _ in range(2))
    assert first == second
    assert b'"state":"whole"' in first


def test_the_laboratorys_layouts_have_five_attestations_an_image(lab_layouts: Path) -> None:
    registry = LayoutRegistry("exported", lab_layouts)
    images = 0
    for repository in registry.repositories():
        tags = registry.tags(repository)
        for tag in tags:
            if tag.startswith("v"):
                subject = registry.resolve(repository, tag)
                assert subject is not None
                found = discover(registry, repository, subject, set(tags))
                assert found.record.state == "whole" and len(found.candidates) == 5
                images += 1
    assert images == 20


# Indexes


def test_the_children_of_an_index_are_its_images(start: Start) -> None:
    server, registry = start()
    digests = [server.add_image(NAME, layer=b"%d" % n) for n in range(2)]
    buildkit = {
        **server.descriptor(NAME, server.add_image(NAME, layer=b"sbom")),
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    blob = {"mediaType": "application/octet-stream", "digest": digests[0], "size": 1}
    listed = [*(server.descriptor(NAME, digest) for digest in digests * 2), buildkit, blob]
    index = server.add_manifest(
        NAME, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
    )
    found = registry.manifest(NAME, index)
    assert found is not None
    assert sorted(child.digest for child in children(found)) == sorted(digests)
    single = registry.manifest(NAME, digests[0])
    assert single is not None and children(single) == ()


def below(registry: DistributionRegistry, digest: str) -> dict[str, Structure]:
    def look(index: str) -> Structure:
        manifest = registry.manifest(NAME, index)
        assert manifest is not None
        return Structure.of(manifest)

    return descendants(digest, look)


def nested(server: RegistryDouble, depth: int) -> str:
    digest = server.add_image(NAME)
    for _ in range(depth):
        digest = server.add_index(NAME, [digest])
    return digest


def test_indexes_in_an_index_are_followed_to_a_depth(start: Start) -> None:
    server, registry = start()
    assert len(below(registry, nested(server, MAX_DEPTH))) == MAX_DEPTH + 1
    with pytest.raises(MalformedError, match="deeper"):
        below(registry, nested(server, MAX_DEPTH + 1))


def test_an_index_of_too_many_images_is_malformed(start: Start) -> None:
    server, registry = start()
    listed = [
        {"mediaType": OCI_INDEX, "digest": f"sha256:{number:064x}", "size": 1}
        for number in range(MAX_CHILDREN + 1)
    ]
    index = server.add_manifest(NAME, {"mediaType": OCI_INDEX, "manifests": listed})
    with pytest.raises(MalformedError):
        below(registry, index)
    assert len(server.requests) == 1
    manifest = registry.manifest(NAME, index)
    assert manifest is not None
    with pytest.raises(MalformedError, match=f"over {MAX_CHILDREN}"):
        children(manifest)


def test_indexes_of_too_many_images_together_are_malformed(start: Start) -> None:
    server, registry = start()
    half = MAX_CHILDREN // 2 + 1
    indexes = [
        server.add_manifest(
            NAME,
            {
                "mediaType": OCI_INDEX,
                "manifests": [
                    {"mediaType": OCI_MANIFEST, "digest": f"sha256:{n:064x}", "size": 1}
                    for n in numbers
                ],
            },
        )
        for numbers in (range(half), range(half, 2 * half))
    ]
    with pytest.raises(MalformedError, match="more than"):
        below(registry, server.add_index(NAME, indexes))


def full(start: Callable[..., tuple[RegistryDouble, DistributionRegistry]]) -> Any:
    """A registry with one attachment in each place."""
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    server.add_referrer(NAME, subject, b"api")
    hidden = server.add_manifest(NAME, image(server, NAME, [b"hidden"]))
    server.add_index(NAME, [hidden], fallback_tag(subject))
    for place in (".att", ".sig", ".sbom"):
        server.add_manifest(
            NAME, image(server, NAME, [place.encode()]), fallback_tag(subject) + place
        )
    return server, registry
