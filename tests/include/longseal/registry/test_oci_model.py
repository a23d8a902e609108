import json
from typing import Any

import pytest

from longseal.errors import MalformedError, UnsupportedError
from longseal.registry.model import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MAX_DESCRIPTORS,
    MAX_MANIFEST_BYTES,
    OCI_INDEX,
    OCI_MANIFEST,
    check_reference,
    check_repository,
    fallback_tag,
    media_type_of,
    parse_index,
    parse_manifest,
    parse_subject,
)

DIGEST = "sha256:" + "a" * 64
LAYER = {"mediaType": "application/x", "digest": DIGEST, "size": 3}


def encoded(**parts: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, **parts}).encode()


def test_a_manifest_is_read_with_its_subject_and_annotations() -> None:
    data = encoded(config=LAYER, layers=[LAYER], subject=LAYER, annotations={"a": "b"})
    manifest = parse_manifest(data)
    assert manifest.media_type == OCI_MANIFEST
    assert manifest.subject is not None and manifest.subject.digest == DIGEST
    assert [layer.size for layer in manifest.layers] == [3]
    assert manifest.annotations == {"a": "b"}
    assert parse_subject(data) == manifest.subject


def test_the_artifact_type_is_the_configs_where_none_is_given() -> None:
    assert parse_manifest(encoded(config=LAYER, layers=[])).artifact_type == "application/x"
    given = encoded(config=LAYER, layers=[], artifactType="application/y")
    assert parse_manifest(given).artifact_type == "application/y"


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
def test_an_index_or_list_keeps_its_order(media_type: str) -> None:
    other = {**LAYER, "digest": "sha256:" + "b" * 64, "platform": {"os": "linux"}}
    found = parse_index(encoded(mediaType=media_type, manifests=[other, LAYER]))
    assert [item.digest for item in found] == [other["digest"], DIGEST]


def test_dockers_manifest_is_a_manifest() -> None:
    assert parse_manifest(encoded(mediaType=DOCKER_MANIFEST, config=LAYER, layers=[])).layers == ()


def test_a_list_written_as_null_is_empty() -> None:
    assert parse_index(encoded(mediaType=OCI_INDEX, manifests=None)) == ()


def test_a_document_without_a_type_is_what_it_is_declared_or_shaped() -> None:
    bare = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
    assert media_type_of(bare) == OCI_INDEX
    assert media_type_of(bare, DOCKER_LIST) == DOCKER_LIST
    assert media_type_of(json.dumps({"config": LAYER}).encode(), "text/plain") == OCI_MANIFEST


def test_a_document_that_is_two_things_at_once_is_refused() -> None:
    both = encoded(layers=[LAYER], manifests=[LAYER])
    for read in (parse_manifest, parse_index, media_type_of):
        with pytest.raises(MalformedError, match="both"):
            read(both)


@pytest.mark.parametrize(
    "broken",
    [
        {"digest": "sha256:" + "A" * 64},
        {"digest": "sha256:../../etc/passwd"},
        {"digest": 5},
        {"digest": DIGEST + "\n"},
        {"size": -1},
        {"size": 2**64},
        {"size": True},
        {"size": 1.0},
        {"size": "3"},
        {"mediaType": None},
        {"mediaType": "a\nb"},
        {"mediaType": 7},
        {"annotations": {"a": 1}},
        {"annotations": []},
        {"annotations": {str(n): "" for n in range(1001)}},
        {"artifactType": ["x"]},
    ],
)
def test_a_broken_descriptor_is_malformed(broken: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        parse_index(encoded(mediaType=OCI_INDEX, manifests=[{**LAYER, **broken}]))


def test_a_descriptor_must_be_an_object() -> None:
    with pytest.raises(MalformedError):
        parse_index(encoded(mediaType=OCI_INDEX, manifests=["x"]))
    with pytest.raises(MalformedError):
        parse_manifest(encoded(layers={}))


def test_another_digest_algorithm_is_unsupported_rather_than_bad() -> None:
    other = {**LAYER, "digest": "sha512:" + "a" * 128}
    with pytest.raises(UnsupportedError, match="sha512"):
        parse_manifest(encoded(layers=[other]))


def test_another_kind_of_document_is_unsupported_rather_than_bad() -> None:
    old = encoded(mediaType="application/vnd.docker.distribution.manifest.v1+json")
    with pytest.raises(UnsupportedError):
        parse_manifest(old)
    with pytest.raises(UnsupportedError):
        parse_index(encoded(layers=[]))


def test_limits_hold() -> None:
    with pytest.raises(MalformedError, match="entries"):
        parse_index(encoded(mediaType=OCI_INDEX, manifests=[LAYER] * (MAX_DESCRIPTORS + 1)))
    with pytest.raises(MalformedError, match="bytes"):
        parse_manifest(b" " * (MAX_MANIFEST_BYTES + 1))
    with pytest.raises(MalformedError, match="deeper"):
        parse_manifest(encoded(x=json.loads("[" * 100 + "]" * 100)))
    for data in (b"", b"[]", b"<html>", b"\xff", b'{"a":1,"a":2}', b"{}"):
        with pytest.raises(MalformedError):
            parse_manifest(data)


@pytest.mark.parametrize("name", ["a", "corp/app", "a/b-c/d__e/f.g", "0/1", "a--b"])
def test_a_repository_name_of_the_specification_is_taken(name: str) -> None:
    assert check_repository(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "/a", "a/", "a//b", "..", "a/../b", "A", "a_-b", "a\n", "a%2fb", "a?b", "a" * 256, "-a"],
)
def test_any_other_repository_name_is_refused(name: str) -> None:
    with pytest.raises(MalformedError):
        check_repository(name)


@pytest.mark.parametrize("reference", ["v1", "_x", "A.b-c", DIGEST, "t" * 128])
def test_a_tag_or_digest_is_a_reference(reference: str) -> None:
    assert check_reference(reference) == reference


@pytest.mark.parametrize("reference", ["", ".a", "a/b", "t" * 129, "a:b", "v1\n", "../x"])
def test_nothing_else_is_a_reference(reference: str) -> None:
    with pytest.raises(MalformedError):
        check_reference(reference)


def test_the_fallback_tag_is_the_digest_with_a_dash() -> None:
    assert fallback_tag(DIGEST) == "sha256-" + "a" * 64
    with pytest.raises(MalformedError):
        fallback_tag("sha512:" + "a" * 128)
