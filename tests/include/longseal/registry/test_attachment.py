import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from tests.doubles.registry import RegistryDouble, Start, image

from longseal.errors import MalformedError, RegistryError, UnsupportedError
from longseal.registry.attachment import (
    BUNDLE,
    DSSE,
    IN_TOTO,
    MAX_LAYERS,
    SIMPLE_SIGNING,
    classify,
    fetch,
    kind_of,
)
from longseal.registry.discovery import Candidate, discover
from longseal.registry.distribution import DistributionRegistry
from longseal.registry.interface import Descriptor
from longseal.registry.layout import LayoutRegistry
from longseal.registry.model import OCI_INDEX, OCI_MANIFEST

NAME = "corp/app"


def candidate(digest: str, subject: str, *places: str) -> Candidate:
    return Candidate(NAME, subject, Descriptor(OCI_MANIFEST, digest, 1), places or ("referrers",))


def attached(server: RegistryDouble, subject: str, layers: list[dict[str, Any]]) -> str:
    document = image(server, NAME, [])
    document |= {"layers": layers, "subject": server.descriptor(NAME, subject)}
    return server.add_manifest(NAME, document)


def layer(server: RegistryDouble, data: bytes, media_type: str) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": server.add_blob(NAME, data), "size": len(data)}


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [
        (f"{BUNDLE}.v0.3+json", "bundle"),
        (f"{BUNDLE}+json;version=0.1", "bundle"),
        (f"{BUNDLE}+json; version=0.2", "bundle"),
        (DSSE, "dsse"),
        (SIMPLE_SIGNING, "simplesigning"),
        (f"{BUNDLE}x+json", "other"),
        (IN_TOTO, "other"),
        ("application/vnd.oci.image.layer.v1.tar+gzip", "other"),
        ("application/jose+json", "other"),
        ("", "other"),
    ],
)
def test_a_layer_is_what_its_media_type_says(media_type: str, kind: str) -> None:
    assert classify(media_type) == kind


def test_the_layers_that_may_be_attestations_are_read_and_no_others(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    envelope = json.dumps({"payload": "", "payloadType": "", "signatures": []}).encode()
    layers = [
        layer(server, b"bundle", f"{BUNDLE}.v0.3+json"),
        layer(server, b"huge", "application/vnd.oci.image.layer.v1.tar"),
        layer(server, envelope, IN_TOTO),
        layer(server, b'{"_type":"unsigned"}', IN_TOTO),
    ]
    layers[0]["annotations"] = {"dev.sigstore.cosign/certificate": "kept"}
    found = fetch(registry, candidate(attached(server, subject, layers), subject))
    assert [item.kind for item in found.layers] == ["bundle", "dsse", "other"]
    assert found.layers[0].data == b"bundle"
    assert found.layers[0].descriptor.annotations == layers[0]["annotations"]
    assert [item.digest for item in found.ignored] == [layers[1]["digest"]]
    assert server.count("GET", layers[1]["digest"]) == 0


def test_an_older_attachment_has_no_subject_and_a_referrer_must(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    legacy = server.add_manifest(NAME, image(server, NAME, [b"{}"], DSSE))
    assert len(fetch(registry, candidate(legacy, subject, ".att")).layers) == 1
    for places in (("referrers",), ("fallback-tag",), ("fallback-tag", ".att")):
        with pytest.raises(MalformedError, match="no subject"):
            fetch(registry, candidate(legacy, subject, *places))


@pytest.mark.parametrize("place", ["referrers", "fallback-tag", ".att"])
def test_an_attachment_of_another_image_is_malformed(start: Start, place: str) -> None:
    server, registry = start()
    subject, other = server.add_image(NAME, "v1"), server.add_image(NAME, "v2", b"other")
    with pytest.raises(MalformedError, match="is named for"):
        fetch(registry, candidate(server.add_referrer(NAME, other), subject, place))


def test_a_candidate_that_is_not_there_is_no_proof_of_absence(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    with pytest.raises(RegistryError, match="not there"):
        fetch(registry, candidate("sha256:" + "0" * 64, subject))
    attachment = server.add_referrer(NAME, subject, b"data")
    server.repository(NAME).blobs.clear()
    with pytest.raises(RegistryError):
        fetch(registry, candidate(attachment, subject))


def test_too_many_or_too_large_layers_are_refused_before_they_are_read(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    one = layer(server, b"x", DSSE)
    for layers in (
        [one] * (MAX_LAYERS + 1),
        [{**one, "size": 16 * 1024 * 1024 + 1}],
        [{**one, "size": 16 * 1024 * 1024}] * 5,
    ):
        attachment = attached(server, subject, layers)
        with pytest.raises(MalformedError):
            fetch(registry, candidate(attachment, subject))
    assert server.count("GET", "/blobs/") == 0


@pytest.mark.parametrize("lie", [-1, 1])
def test_a_layer_of_another_size_than_described_is_malformed(start: Start, lie: int) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    wrong = layer(server, b"data", DSSE)
    wrong["size"] += lie
    with pytest.raises(MalformedError):
        fetch(registry, candidate(attached(server, subject, [wrong]), subject))


def test_an_index_that_refers_to_the_image_has_no_layers(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    document = {"mediaType": OCI_INDEX, "manifests": []}
    document["subject"] = server.descriptor(NAME, subject)
    found = fetch(registry, candidate(server.add_manifest(NAME, document), subject))
    assert found.layers == ()


def test_a_manifest_of_an_unknown_kind_is_unsupported(start: Start) -> None:
    server, registry = start()
    subject = server.add_image(NAME, "v1")
    document = {"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": []}
    document["subject"] = server.descriptor(NAME, subject)
    with pytest.raises(UnsupportedError):
        fetch(registry, candidate(server.add_manifest(NAME, document), subject))


def test_the_laboratorys_attestations_are_bundles(lab_layouts: Path) -> None:
    registry = LayoutRegistry("exported", lab_layouts)
    kinds = []
    for repository in registry.repositories():
        tags = registry.tags(repository)
        for tag in filter(lambda tag: tag.startswith("v"), tags):
            subject = registry.resolve(repository, tag)
            assert subject is not None
            for found in discover(registry, repository, subject, set(tags)).candidates:
                kinds += [item.kind for item in fetch(registry, found).layers]
    assert kinds == ["bundle"] * 100


def test_the_protocol_is_kept() -> None:
    from longseal.registry.interface import Registry

    places: list[Registry] = [
        DistributionRegistry("a", "http://localhost"),
        LayoutRegistry("b", Path()),
    ]
    assert [place.name for place in places] == ["a", "b"]


def test_what_is_called_a_statement_is_not_parsed_when_it_is_no_envelope() -> None:
    """Thirty-two threads do this at once: each would take some hundred megabytes."""
    data = b'{"payload": "", "signatures": [' + b"[]," * 300_000 + b"[]]}"
    tracemalloc.start()
    try:
        assert kind_of(IN_TOTO, data) == "other"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * len(data)
