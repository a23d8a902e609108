"""What sigstore-python does not support, made genuine by the double and then spoilt."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.attestations import policy, rule
from tests.doubles.sigstore import PREDICATE, Key, SigstoreDouble
from tests.doubles.sigstore_v2 import SigstoreV2Double, Statement

from longseal.canonical import digest_of
from longseal.verify.engine import Engine, Judgement, Outcome
from longseal.verify.keys import load_key
from longseal.verify.statement import IMAGE_SIGNATURE
from longseal.verify.trust import TrustMaterial

IMAGE = digest_of(b"an image")
SIGNED = datetime(2026, 11, 24, 10, tzinfo=UTC)
P256 = ec.generate_private_key(ec.SECP256R1())
KEYS: dict[str, Key] = {
    "P-256": P256,
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "RSA": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}

Judge = Callable[..., Judgement]


def slug(found: Judgement) -> str | None:
    return found.reason and found.reason.slug


def extended(found: Judgement) -> Outcome:
    assert found.engine.startswith("longseal"), found
    return found.outcome


@pytest.mark.parametrize("version", ["0.1", "0.2", "0.3"])
@pytest.mark.parametrize("kind", ["intoto 0.0.1", "intoto 0.0.2"])
def test_entries_of_older_kinds_are_verified(
    kind: str, version: str, sigstore: SigstoreDouble, judge: Judge
) -> None:
    found = judge(sigstore.attest(IMAGE, at=SIGNED, kind=kind, version=version), IMAGE)
    assert extended(found) is Outcome.VERIFIED
    assert [(time.moment, time.source) for time in found.times] == [(SIGNED, "rekor")]


def test_a_promise_is_enough_for_version_0_1_alone(sigstore: SigstoreDouble, judge: Judge) -> None:
    bundle = sigstore.attest(IMAGE, version="0.1")
    assert extended(judge(bundle, IMAGE)) is Outcome.VERIFIED
    found = judge(bundle.replace(b"version=0.1", b"version=0.2"), IMAGE)
    assert (extended(found), slug(found)) == (Outcome.REJECTED, "log-entry")


def test_version_0_1_needs_a_promise_whatever_proof_it_has(
    sigstore: SigstoreDouble, judge: Judge
) -> None:
    bundle = json.loads(sigstore.attest(IMAGE, version="0.2"))
    bundle["mediaType"] = bundle["mediaType"].replace("0.2", "0.1")
    assert judge(json.dumps(bundle).encode(), IMAGE).outcome is Outcome.VERIFIED
    del entry(bundle)["inclusionPromise"]
    found = judge(json.dumps(bundle).encode(), IMAGE)
    assert (extended(found), slug(found)) == (Outcome.REJECTED, "log-entry")


@pytest.mark.parametrize("name", ["P-384", "P-521", "RSA"])
def test_certificates_of_other_keys_are_verified(
    name: str, sigstore: SigstoreDouble, judge: Judge
) -> None:
    found = judge(sigstore.attest(IMAGE, key=KEYS[name]), IMAGE)
    assert extended(found) is Outcome.VERIFIED


@pytest.mark.parametrize("name", KEYS)
def test_a_managed_key_is_trusted_where_the_policy_names_it(
    name: str, sigstore: SigstoreDouble, judge: Judge
) -> None:
    key = KEYS[name]
    bundle = sigstore.attest(IMAGE, key=key, managed=True)
    found = judge(bundle, IMAGE, rule_of(key))
    assert extended(found) is Outcome.VERIFIED
    assert (found.identity, found.issuer) == (None, None)
    assert found.key is not None
    assert slug(judge(bundle, IMAGE)) == "unsupported"
    other = judge(bundle, IMAGE, rule_of(ec.generate_private_key(ec.SECP256R1())))
    assert (other.outcome, slug(other)) == (Outcome.REJECTED, "signature")


def rule_of(key: Key) -> dict[str, Any]:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    known = {"pem": pem.decode(), "sha256": digest_of(load_key(pem, "key"))}
    return rule(identities=[], keys=[known], predicates=["**"])


def test_a_signature_of_a_blob_is_genuine_for_that_blob_alone(
    sigstore: SigstoreDouble, collected: datetime
) -> None:
    engine = Engine(
        TrustMaterial.parse(sigstore.trusted_root()), policy(rule(predicates=[IMAGE_SIGNATURE]))
    )
    bundle = sigstore.sign(b"a blob", kind="hashedrekord 0.0.1")
    digest = digest_of(b"a blob")
    for artifact in (b"a blob", None):
        found = engine.judge(bundle, digest, "app", collected, artifact)
        assert (found.outcome, slug(found)) == (Outcome.IGNORED, "image-signature")
        assert found.subjects == (digest,)
    other = digest_of(b"another")
    assert slug(engine.judge(bundle, other, "app", collected)) == "subject"
    assert slug(engine.judge(bundle, other, "app", collected, b"another")) == "artifact"
    promised = sigstore.sign(b"a blob", kind="hashedrekord 0.0.1", version="0.1")
    for artifact in (b"a blob", None):
        found = engine.judge(promised, digest, "app", collected, artifact)
        assert (found.outcome, slug(found)) == (Outcome.REJECTED, "log-entry")


def test_a_signature_of_an_image_speaks_of_the_image_that_it_names(
    sigstore: SigstoreDouble, collected: datetime
) -> None:
    engine = Engine(
        TrustMaterial.parse(sigstore.trusted_root()), policy(rule(predicates=[IMAGE_SIGNATURE]))
    )
    image = {"docker-manifest-digest": IMAGE}
    critical = {"type": "cosign container image signature", "image": image}
    payload = json.dumps({"critical": critical}).encode()
    bundle = sigstore.sign(payload, kind="hashedrekord 0.0.1", version="0.1")
    found = engine.judge(bundle, IMAGE, "app", collected, payload)
    assert (found.outcome, found.subjects) == (Outcome.IGNORED, (IMAGE,))
    other = engine.judge(bundle, digest_of(b"other"), "app", collected, payload)
    assert (other.outcome, slug(other)) == (Outcome.REJECTED, "subject")


# -- an instance without logs --------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_logs() -> tuple[bytes, dict[str, Any]]:
    """A bundle that only a timestamp dates, and the root of its instance, which has no logs."""
    double = SigstoreV2Double(SIGNED - timedelta(days=1))
    (data,) = double.attest_all([Statement(IMAGE, PREDICATE, {})], SIGNED)
    bundle = json.loads(data)
    bundle["verificationMaterial"]["tlogEntries"] = []
    root = json.loads(double.trusted_root())
    return json.dumps(bundle).encode(), root


def test_where_the_root_has_no_log_a_timestamp_is_enough_and_needed(
    without_logs: tuple[bytes, dict[str, Any]], collected: datetime
) -> None:
    data, root = without_logs
    bare = TrustMaterial.parse(json.dumps(root | {"tlogs": [], "ctlogs": []}).encode())
    engine = Engine(bare, policy())
    found = engine.judge(data, IMAGE, "app", collected)
    assert extended(found) is Outcome.VERIFIED
    assert (found.signed_at, found.time_source) == (SIGNED, "rfc3161")
    undated = json.loads(data)
    del undated["verificationMaterial"]["timestampVerificationData"]
    assert slug(engine.judge(json.dumps(undated).encode(), IMAGE, "app", collected)) == "time"
    # The same bundle under a root that has a log.
    whole = Engine(TrustMaterial.parse(json.dumps(root).encode()), policy())
    assert slug(whole.judge(data, IMAGE, "app", collected)) == "log-entry"


@pytest.mark.parametrize(
    ("section", "reason"),
    [("certificateAuthorities", "ca-window"), ("timestampAuthorities", "time")],
)
def test_windows_hold_without_logs_too(
    section: str,
    reason: str,
    without_logs: tuple[bytes, dict[str, Any]],
    collected: datetime,
) -> None:
    data, root = without_logs
    ended = json.loads(json.dumps(root | {"tlogs": [], "ctlogs": []}))
    ended[section][0]["validFor"] = {
        "start": "2024-01-01T00:00:00Z",
        "end": "2026-11-24T09:59:59Z",
    }
    engine = Engine(TrustMaterial.parse(json.dumps(ended).encode()), policy())
    assert slug(engine.judge(data, IMAGE, "app", collected)) == reason


# -- what an attacker changes --------------------------------------------------------------------


def entry(bundle: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = bundle["verificationMaterial"]["tlogEntries"][0]
    return found


def rewrite(bundle: dict[str, Any]) -> None:
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b"{}", b'{"a": 1}')
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()


def later(bundle: dict[str, Any]) -> None:
    entry(bundle)["integratedTime"] = str(int(entry(bundle)["integratedTime"]) + 1)


CHANGES: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("payload rewritten", rewrite, "signature"),
    (
        "log entry removed",
        lambda b: b["verificationMaterial"].update(tlogEntries=[]),
        "log-entry",
    ),
    ("promise removed", lambda b: entry(b).pop("inclusionPromise"), "log-entry"),
    ("time moved", later, "log-entry"),
    ("index moved", lambda b: entry(b).update(logIndex="1"), "log-entry"),
    ("another log", lambda b: entry(b)["logId"].update(keyId="AAAA"), "log-entry"),
    ("another body", lambda b: entry(b).update(canonicalizedBody="e30="), "log-entry"),
]


@pytest.mark.parametrize(
    ("change", "reason"), [one[1:] for one in CHANGES], ids=[one[0] for one in CHANGES]
)
@pytest.mark.parametrize("kind", ["intoto 0.0.1", "intoto 0.0.2", "dsse 0.0.1"])
def test_a_bundle_that_was_changed_is_rejected(
    kind: str,
    change: Callable[[dict[str, Any]], object],
    reason: str,
    sigstore: SigstoreDouble,
    judge: Judge,
) -> None:
    bundle = json.loads(sigstore.attest(IMAGE, kind=kind, version="0.1"))
    change(bundle)
    found = judge(json.dumps(bundle).encode(), IMAGE)
    assert (extended(found), slug(found)) == (Outcome.REJECTED, reason)


@pytest.mark.parametrize("kind", ["intoto 0.0.1", "intoto 0.0.2", "dsse 0.0.1"])
def test_the_log_entry_of_another_signature_proves_nothing(
    kind: str, sigstore: SigstoreDouble, judge: Judge
) -> None:
    """Each is genuine, and logged; only what the entry says tells them apart."""
    one = json.loads(sigstore.attest(IMAGE, kind=kind, version="0.1"))
    for other in (
        sigstore.attest(IMAGE, kind=kind, version="0.1"),
        sigstore.attest(digest_of(b"other"), kind=kind, version="0.1"),
    ):
        entries = json.loads(other)["verificationMaterial"]["tlogEntries"]
        one["verificationMaterial"]["tlogEntries"] = entries
        found = judge(json.dumps(one).encode(), IMAGE)
        assert (extended(found), slug(found)) == (Outcome.REJECTED, "log-entry")


def test_an_entry_of_another_signature_by_the_same_key_proves_nothing(
    sigstore: SigstoreDouble, judge: Judge
) -> None:
    bundles = [
        json.loads(sigstore.attest(IMAGE, key=P256, managed=True, kind="intoto 0.0.2"))
        for _ in range(2)
    ]
    bundles[0]["verificationMaterial"]["tlogEntries"] = bundles[1]["verificationMaterial"][
        "tlogEntries"
    ]
    found = judge(json.dumps(bundles[0]).encode(), IMAGE, rule_of(P256))
    assert (extended(found), slug(found)) == (Outcome.REJECTED, "log-entry")


def test_strangers_and_other_images_are_rejected(sigstore: SigstoreDouble, judge: Judge) -> None:
    stranger = sigstore.attest(IMAGE, identity="x@else.example", version="0.1")
    assert slug(judge(stranger, IMAGE)) == "identity"
    ours = sigstore.attest(IMAGE, version="0.1")
    assert slug(judge(ours, digest_of(b"other"))) == "subject"


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ("certificateAuthorities", "ca-window"),
        ("ctlogs", "ct-log-window"),
        ("tlogs", "log-window"),
    ],
)
def test_an_instance_is_not_believed_outside_its_window(
    section: str, reason: str, sigstore: SigstoreDouble, collected: datetime
) -> None:
    root = json.loads(sigstore.trusted_root())
    instance = root[section][0]
    instance.get("publicKey", instance)["validFor"] = {
        "start": "2024-01-01T00:00:00Z",
        "end": "2026-11-24T09:59:59Z",
    }
    engine = Engine(TrustMaterial.parse(json.dumps(root).encode()), policy())
    found = engine.judge(sigstore.attest(IMAGE, at=SIGNED, version="0.1"), IMAGE, "a", collected)
    assert (extended(found), slug(found)) == (Outcome.REJECTED, reason)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        # It begins five seconds before the signature.
        ({"lifetime": timedelta(seconds=1)}, "certificate-expired"),
        ({"purpose": ExtendedKeyUsageOID.CLIENT_AUTH}, "certificate-usage"),
    ],
)
def test_a_certificate_is_taken_for_what_it_was_issued_for_and_while_it_lived(
    how: dict[str, Any], reason: str, sigstore: SigstoreDouble, judge: Judge
) -> None:
    found = judge(sigstore.attest(IMAGE, version="0.1", **how), IMAGE)
    assert (extended(found), slug(found)) == (Outcome.REJECTED, reason)


def test_a_certificate_that_the_certificate_log_did_not_sign_for_is_rejected(
    sigstore: SigstoreDouble, collected: datetime
) -> None:
    root = json.loads(sigstore.trusted_root())
    (other,) = json.loads(SigstoreDouble().trusted_root())["ctlogs"]
    # It says that it is the same log.
    root["ctlogs"][0]["publicKey"] = other["publicKey"]
    engine = Engine(TrustMaterial.parse(json.dumps(root).encode()), policy())
    found = engine.judge(sigstore.attest(IMAGE, version="0.1"), IMAGE, "app", collected)
    assert (extended(found), slug(found)) == (Outcome.REJECTED, "certificate-log")


def test_a_log_entry_counts_once(sigstore: SigstoreDouble, judge: Judge) -> None:
    bundle = json.loads(sigstore.attest(IMAGE, version="0.1"))
    bundle["verificationMaterial"]["tlogEntries"] *= 2
    found = judge(json.dumps(bundle).encode(), IMAGE)
    assert (extended(found), slug(found)) == (Outcome.REJECTED, "log-entry")


def test_a_key_signs_nothing_undated_even_where_the_root_has_no_log(
    sigstore: SigstoreDouble, collected: datetime
) -> None:
    root = json.loads(sigstore.trusted_root()) | {"tlogs": []}
    engine = Engine(TrustMaterial.parse(json.dumps(root).encode()), policy(rule_of(P256)))
    bundle = json.loads(sigstore.attest(IMAGE, key=P256, managed=True))
    bundle["verificationMaterial"]["tlogEntries"] = []
    found = engine.judge(json.dumps(bundle).encode(), IMAGE, "app", collected)
    assert (extended(found), slug(found)) == (Outcome.REJECTED, "time")


def test_a_field_that_nobody_here_knows_is_not_passed_over(
    sigstore: SigstoreDouble, judge: Judge
) -> None:
    bundle = json.loads(sigstore.attest(IMAGE, version="0.1"))
    entry(bundle)["witnesses"] = []
    found = judge(json.dumps(bundle).encode(), IMAGE)
    assert (found.outcome, slug(found)) == (Outcome.UNKNOWN, "unsupported")


def test_a_token_that_is_none_does_not_spoil_a_promise(
    sigstore: SigstoreDouble, judge: Judge
) -> None:
    for version in ("0.1", "0.3"):
        bundle = json.loads(sigstore.attest(IMAGE, version=version))
        tokens = {"rfc3161Timestamps": [{"signedTimestamp": "AAAA"}]}
        bundle["verificationMaterial"]["timestampVerificationData"] = tokens
        found = judge(json.dumps(bundle).encode(), IMAGE)
        assert (found.outcome, found.time_source) == (Outcome.VERIFIED, "rekor")


@pytest.mark.parametrize("part", ["rootHash", "treeSize", "checkpoint"])
def test_a_proof_that_does_not_hold_is_not_made_good_by_a_promise(
    part: str, sigstore: SigstoreDouble, judge: Judge
) -> None:
    bundle = json.loads(sigstore.attest(IMAGE, kind="intoto 0.0.2"))
    proof = entry(bundle)["inclusionProof"]
    if part == "checkpoint":
        note, _, _ = proof["checkpoint"]["envelope"].partition("\n\n")
        line = base64.b64encode(base64.b64decode(entry(bundle)["logId"]["keyId"])[:4] + bytes(70))
        proof["checkpoint"]["envelope"] = f"{note}\n\n\u2014 log.example {line.decode()}\n"
    else:
        proof[part] = {"rootHash": base64.b64encode(bytes(32)).decode(), "treeSize": "2"}[part]
    found = judge(json.dumps(bundle).encode(), IMAGE)
    assert (extended(found), slug(found)) == (Outcome.REJECTED, "log-entry")


def test_a_line_of_a_witness_that_is_none_spoils_nothing(
    sigstore: SigstoreDouble, judge: Judge
) -> None:
    for kind in ("intoto 0.0.2", "dsse 0.0.1"):
        for line in ("\u2014 witness.example AAAA", "\u2014 witness.example !", "nonsense"):
            bundle = json.loads(sigstore.attest(IMAGE, kind=kind))
            entry(bundle)["inclusionProof"]["checkpoint"]["envelope"] += f"{line}\n"
            assert judge(json.dumps(bundle).encode(), IMAGE).outcome is Outcome.VERIFIED
