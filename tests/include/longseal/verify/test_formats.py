import json

import pytest

from longseal.canonical import digest_of
from longseal.errors import MalformedError, UnsupportedError
from longseal.registry.attachment import DSSE, IN_TOTO, SIMPLE_SIGNING
from longseal.registry.model import OCI_INDEX, OCI_MANIFEST
from longseal.verify.formats import Reading, readings

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def manifest(*layers: tuple[str, bytes, dict[str, str]], media_type: str = OCI_MANIFEST) -> bytes:
    described = [
        {"mediaType": kind, "digest": digest_of(data), "size": len(data), "annotations": notes}
        for kind, data, notes in layers
    ]
    return json.dumps({"mediaType": media_type, "layers": described}).encode()


def test_a_bundle_is_read_as_it_is() -> None:
    assert readings(b"x", manifest((BUNDLE, b"x", {}))) == (Reading(b"x"),)
    both = manifest((DSSE, b"x", {}), (BUNDLE, b"x", {}))
    assert readings(b"x", both) == (Reading(b"x"),)


@pytest.mark.parametrize("kind", [DSSE, IN_TOTO])
def test_an_envelope_is_read_with_its_layers_annotations(kind: str) -> None:
    envelope = b'{"payload": "", "signatures": [{}]}'
    (found,) = readings(envelope, manifest((kind, envelope, {})))
    assert json.loads(found.bundle)["dsseEnvelope"] == json.loads(envelope)
    assert found.artifact == envelope


def test_bytes_that_were_signed_many_times_are_read_once_a_signature() -> None:
    notes = [{"dev.cosignproject.cosign/signature": text} for text in ("YQ==", "Yg==", "YQ==")]
    signed = manifest(*((SIMPLE_SIGNING, b"{}", note) for note in notes))
    found = readings(b"{}", signed)
    assert [json.loads(one.bundle)["messageSignature"]["signature"] for one in found] == [
        "YQ==",
        "Yg==",
    ]
    assert {one.artifact for one in found} == {b"{}"}


def test_bytes_that_the_manifest_does_not_carry_say_nothing() -> None:
    with pytest.raises(MalformedError, match="has no layer"):
        readings(b"y", manifest((BUNDLE, b"x", {})))
    with pytest.raises(UnsupportedError):
        readings(b"x", manifest((BUNDLE, b"x", {}), media_type=OCI_INDEX))
    with pytest.raises(MalformedError):
        readings(b"{}", manifest((SIMPLE_SIGNING, b"{}", {})))
