import json
import re
from pathlib import Path

import pytest

from longseal.canonical import digest_of
from longseal.errors import MalformedError, UnsupportedError
from longseal.registry.attachment import DSSE, IN_TOTO, SIMPLE_SIGNING
from longseal.registry.model import OCI_INDEX, OCI_MANIFEST
from longseal.verify.documents import Format
from longseal.verify.formats import INTAKE, Reading, intake_manifest, is_intake, readings

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


def test_the_vector_of_the_page_is_what_the_code_makes() -> None:
    page = (Path(__file__).parents[4] / "docs/formats/evidence.md").read_text()
    (vector,) = re.findall(r"```json\n(.+)\n```", page)
    payload = b'{"verificationMaterial":{}}'
    assert intake_manifest(payload, "sigstore-bundle") == vector.encode()
    assert readings(payload, vector.encode()) == (Reading(payload),)


@pytest.mark.parametrize(
    ("payload", "form", "error"),
    [
        (b'{"version":2}', "pep-740", UnsupportedError),
        (b'{"version":1}', "pep-740", MalformedError),
        (b'{"version":1,"verification_material":{},"envelope":[]}', "pep-740", MalformedError),
        (b"[]", "pep-740", MalformedError),
        (b"[]", "dsse-envelope", MalformedError),
        (b"{}", "unreadable", MalformedError),
    ],
)
def test_what_was_taken_in_and_cannot_be_read_says_nothing(
    payload: bytes, form: Format, error: type[Exception]
) -> None:
    with pytest.raises(error):
        readings(payload, intake_manifest(payload, form))


def test_what_was_taken_in_is_read_with_its_own_record_only() -> None:
    with pytest.raises(MalformedError, match="what was taken in"):
        readings(b"{}", intake_manifest(b"[]", "sigstore-bundle"))
    assert is_intake(intake_manifest(b"", "pep-740"))
    assert not is_intake(manifest((BUNDLE, b"x", {"mediaType": INTAKE})))
    polyglot = {"format": "x", "layers": [{"mediaType": INTAKE}], "mediaType": OCI_MANIFEST}
    assert not is_intake(json.dumps(polyglot, separators=(",", ":")).encode())
