import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from longseal.errors import MalformedError, VerificationError
from longseal.seal.bundle import (
    MEDIA_TYPE,
    format_key_bundle,
    key_hint,
    parse_key_bundle,
    verify_key_bundle,
)
from longseal.seal.keys import keyid
from longseal.seal.signers.file import FileSigner
from longseal.seal.statement import PAYLOAD_TYPE, Statement, Subject, pae

PAYLOAD = Statement((Subject.of(b"checkpoint"),), "https://example/t/v1", {}).format()
ENTRY = {"logIndex": "7", "canonicalizedBody": "e30="}


@pytest.fixture
def signature(signer: FileSigner) -> bytes:
    return signer.sign(pae(PAYLOAD_TYPE, PAYLOAD))


@pytest.fixture
def data(signer: FileSigner, signature: bytes) -> bytes:
    return format_key_bundle(PAYLOAD, signature, signer.public_key, [b"one", b"two"], ENTRY)


def test_a_bundle_is_taken_apart_into_what_it_was_made_of(
    data: bytes, signer: FileSigner, signature: bytes
) -> None:
    bundle = parse_key_bundle(data)
    assert bundle.payload == PAYLOAD
    assert bundle.signature == signature
    assert bundle.timestamps == (b"one", b"two")
    assert bundle.tlog_entry == ENTRY
    assert base64.b64decode(bundle.hint).hex() == keyid(signer.public_key)
    assert verify_key_bundle(bundle, signer.public_key) == PAYLOAD


def test_the_same_parts_give_the_same_bytes(
    data: bytes, signer: FileSigner, signature: bytes
) -> None:
    again = format_key_bundle(PAYLOAD, signature, signer.public_key, [b"one", b"two"], ENTRY)
    assert again == data
    assert b"\n" not in data and b" " not in data


def test_what_is_not_there_is_left_out(signer: FileSigner, signature: bytes) -> None:
    data = format_key_bundle(PAYLOAD, signature, signer.public_key)
    assert json.loads(data) == {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_hint(signer.public_key)}},
        "dsseEnvelope": {
            "payload": base64.b64encode(PAYLOAD).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        },
    }
    bundle = parse_key_bundle(data)
    assert bundle.timestamps == ()
    assert bundle.tlog_entry is None


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate(),
    ],
    ids=["p384", "rsa", "ed25519"],
)
def test_every_kind_of_key_verifies(key, tmp_path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    signer = FileSigner(path)
    signature = signer.sign(pae(PAYLOAD_TYPE, PAYLOAD))
    bundle = parse_key_bundle(format_key_bundle(PAYLOAD, signature, signer.public_key))
    assert verify_key_bundle(bundle, signer.public_key) == PAYLOAD


def test_another_key_is_refused_by_name(data: bytes) -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(VerificationError, match="the bundle names key"):
        verify_key_bundle(parse_key_bundle(data), other)


def test_the_right_hint_does_not_make_a_signature(data: bytes, tmp_path) -> None:
    forger = FileSigner.create(tmp_path / "forger.pem")
    bundle = parse_key_bundle(
        _changed(data, ("verificationMaterial", "publicKey", "hint"), key_hint(forger.public_key))
    )
    with pytest.raises(VerificationError, match="was not made by"):
        verify_key_bundle(bundle, forger.public_key)


def test_a_changed_payload_does_not_verify(data: bytes, signer: FileSigner) -> None:
    other = base64.b64encode(PAYLOAD.replace(b"v1", b"v2")).decode()
    bundle = parse_key_bundle(_changed(data, ("dsseEnvelope", "payload"), other))
    with pytest.raises(VerificationError, match="was not made by"):
        verify_key_bundle(bundle, signer.public_key)


def test_another_payload_type_does_not_verify(signer: FileSigner) -> None:
    signature = signer.sign(pae("text/plain", PAYLOAD))
    data = format_key_bundle(PAYLOAD, signature, signer.public_key)
    bundle = parse_key_bundle(_changed(data, ("dsseEnvelope", "payloadType"), "text/plain"))
    with pytest.raises(VerificationError, match="expected payloadType"):
        verify_key_bundle(bundle, signer.public_key)


def test_more_timestamps_than_cosign_reads_are_refused(
    signer: FileSigner, signature: bytes
) -> None:
    with pytest.raises(MalformedError, match="32 timestamps at most"):
        format_key_bundle(PAYLOAD, signature, signer.public_key, [b"t"] * 33)


ENVELOPE = ("dsseEnvelope",)
MATERIAL = ("verificationMaterial",)
TOKENS = (*MATERIAL, "timestampVerificationData", "rfc3161Timestamps")
SIGNATURE = {"sig": "AAAA"}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("mediaType",), "application/vnd.dev.sigstore.bundle+json;version=0.2"),
        (("messageSignature",), {}),
        (MATERIAL, []),
        ((*MATERIAL, "certificate"), {"rawBytes": "AAAA"}),
        ((*MATERIAL, "x509CertificateChain"), {}),
        ((*MATERIAL, "publicKey"), "AAAA"),
        ((*MATERIAL, "publicKey", "hint"), None),
        ((*MATERIAL, "publicKey", "rawBytes"), "AAAA"),
        ((*MATERIAL, "tlogEntries"), [ENTRY, ENTRY]),
        ((*MATERIAL, "tlogEntries"), {}),
        ((*MATERIAL, "tlogEntries"), ["x"]),
        (TOKENS, [{"signedTimestamp": "AAAA"}] * 33),
        (TOKENS, [{"signedTimestamp": "A-_A"}]),
        (TOKENS, [{"signedTimestamp": ""}]),
        (TOKENS, [{"token": "AAAA"}]),
        (TOKENS, ["AAAA"]),
        ((*ENVELOPE, "payload"), "AAB="),
        ((*ENVELOPE, "payload"), "AA AA"),
        ((*ENVELOPE, "payload"), "AAA\n="),
        ((*ENVELOPE, "payload"), "AAé="),
        ((*ENVELOPE, "payload"), 5),
        ((*ENVELOPE, "signatures"), []),
        ((*ENVELOPE, "signatures"), [SIGNATURE, SIGNATURE]),
        ((*ENVELOPE, "signatures"), [{"sig": "AAAA", "keyid": "x"}]),
        ((*ENVELOPE, "signatures"), [{"sig": ""}]),
        ((*ENVELOPE, "extra"), 1),
    ],
)
def test_a_bundle_of_another_form_is_refused(data: bytes, path, value) -> None:
    with pytest.raises(MalformedError, match=r"^bundle: "):
        parse_key_bundle(_changed(data, path, value))


def test_a_keyless_bundle_is_told_apart(data: bytes) -> None:
    document = json.loads(data)
    document["verificationMaterial"] = {"certificate": {"rawBytes": "AAAA"}}
    with pytest.raises(MalformedError, match="was not signed by the organisation's key"):
        parse_key_bundle(json.dumps(document).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b"\xff", b'{"mediaType":1,"mediaType":1}', b"[" * 100_000]
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_key_bundle(data)


def _changed(data: bytes, path: tuple[str, ...], value: object) -> bytes:
    document = json.loads(data)
    target = document
    for name in path[:-1]:
        target = target[name]
    target[path[-1]] = value
    return json.dumps(document).encode()
