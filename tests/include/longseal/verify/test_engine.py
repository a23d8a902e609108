import base64
import copy
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.attestations import LAB_SIGNER, Attestation, policy, rule
from tests.doubles.sigstore import IDENTITY, ISSUER, PREDICATE, SigstoreDouble

from longseal.canonical import digest_of
from longseal.verify.engine import Engine, Judgement, Outcome
from longseal.verify.statement import IMAGE_SIGNATURE
from longseal.verify.trust import TrustMaterial
from longseal.verify.verifiers.interface import Time

IMAGE = digest_of(b"an image")
SIGNED = datetime(2026, 11, 24, 10, tzinfo=UTC)

Judge = Callable[..., Judgement]


def slug(found: Judgement) -> str | None:
    return found.reason and found.reason.slug


def lab_judge(
    root: dict[str, Any], attestation: Attestation, collected: datetime, **rule_: Any
) -> Judgement:
    trust = TrustMaterial.parse(json.dumps(root).encode())
    rules = policy(rule(**({"identities": [LAB_SIGNER]} | rule_)))
    return Engine(trust, rules).judge(
        attestation.data, attestation.image, attestation.repository, collected
    )


# -- what is fine --------------------------------------------------------------------------------


def test_every_attestation_of_the_laboratory_is_verified(
    attestations: list[Attestation], lab_engine: Engine, collected: datetime
) -> None:
    assert len(attestations) == 100
    for one in attestations:
        found = lab_engine.judge(one.data, one.image, one.repository, collected)
        assert (found.outcome, found.reason) == (Outcome.VERIFIED, None)
        assert found.identity == "ci@stella.example"
        assert found.issuer == "http://localhost:18100"
        assert found.predicate_type is not None
        assert found.predicate_type.startswith("https://stella-ops.example/")
        assert found.subjects == (one.image,)
        assert found.time_source == "rfc3161"
        assert found.signed_at is not None
        assert datetime(2026, 11, 24, tzinfo=UTC) < found.signed_at < collected


def test_the_first_entry_of_a_log_which_has_no_index_is_verified(
    sigstore: SigstoreDouble, judge: Judge
) -> None:
    bundle = sigstore.attest(IMAGE, at=SIGNED)
    assert b"logIndex" not in bundle
    found = judge(bundle, IMAGE)
    assert found == Judgement(
        Outcome.VERIFIED,
        None,
        predicate_type=PREDICATE,
        subjects=(IMAGE,),
        identity=IDENTITY,
        issuer=ISSUER,
        signed_at=SIGNED,
        time_source="rekor",
        engine=found.engine,
        times=(Time(SIGNED, "rekor"),),
    )
    assert found.engine.startswith("sigstore-python")


def test_an_identity_may_be_an_address_and_a_key_of_384_bits(
    sigstore: SigstoreDouble, judge: Judge
) -> None:
    address = "https://forge.example/corp/app/.ci/release.yml@refs/heads/main"
    known = rule(identities=[{"identity": address, "issuer": ISSUER}])
    key = ec.generate_private_key(ec.SECP384R1())
    found = judge(sigstore.attest(IMAGE, identity=address, key=key), IMAGE, known)
    assert (found.outcome, found.identity) == (Outcome.VERIFIED, address)


def test_an_image_signature_is_genuine_and_no_attestation(
    sigstore: SigstoreDouble, judge: Judge
) -> None:
    found = judge(
        sigstore.attest(IMAGE, predicate_type=IMAGE_SIGNATURE),
        IMAGE,
        rule(predicates=[IMAGE_SIGNATURE]),
    )
    assert (found.outcome, slug(found)) == (Outcome.IGNORED, "image-signature")


def test_a_broken_line_of_a_witness_does_not_break_the_checkpoint(
    attestation: Attestation, lab_engine: Engine, collected: datetime
) -> None:
    def witnessed(bundle: dict[str, Any]) -> None:
        proof = bundle["verificationMaterial"]["tlogEntries"][0]["inclusionProof"]
        line = base64.b64encode(b"a signature that is none").decode()
        proof["checkpoint"]["envelope"] += f"\u2014 witness.example {line}\n"

    data = attestation.changed(witnessed)
    found = lab_engine.judge(data, attestation.image, attestation.repository, collected)
    assert found.outcome is Outcome.VERIFIED


def test_a_token_that_no_authority_here_can_judge_leaves_the_logs_time(
    sigstore: SigstoreDouble, judge: Judge, attestation: Attestation
) -> None:
    """The token is real, and the root of the double has no timestamp authority at all."""
    bundle = json.loads(sigstore.attest(IMAGE))
    token = json.loads(attestation.data)["verificationMaterial"]["timestampVerificationData"]
    bundle["verificationMaterial"]["timestampVerificationData"] = token
    found = judge(json.dumps(bundle).encode(), IMAGE)
    assert (found.outcome, found.time_source) == (Outcome.VERIFIED, "rekor")


def test_without_an_image_the_envelope_alone_is_judged(
    sigstore: SigstoreDouble, judge: Judge
) -> None:
    assert judge(sigstore.attest(IMAGE), None).outcome is Outcome.VERIFIED


# -- windows of the trusted root -----------------------------------------------------------------

WINDOWS = [
    ("certificateAuthorities", "ca-window"),
    ("ctlogs", "ct-log-window"),
    ("tlogs", "log-window"),
    ("timestampAuthorities", "time"),
]
OUTSIDE = [
    {"start": "2024-01-01T00:00:00Z", "end": "2026-11-24T00:00:00Z"},
    {"start": "2026-11-24T03:00:00Z"},
]


@pytest.mark.parametrize("window", OUTSIDE, ids=["ended", "not begun"])
@pytest.mark.parametrize(("section", "reason"), WINDOWS)
def test_an_instance_is_not_believed_outside_its_window(
    section: str,
    reason: str,
    window: dict[str, str],
    lab_root: bytes,
    attestation: Attestation,
    collected: datetime,
) -> None:
    root = json.loads(lab_root)
    instance = root[section][0]
    instance.get("publicKey", instance)["validFor"] = window
    found = lab_judge(root, attestation, collected)
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, reason)


@pytest.mark.parametrize(("section", "reason"), WINDOWS)
def test_an_instance_is_believed_up_to_the_end_of_its_window(
    section: str, reason: str, lab_root: bytes, attestation: Attestation, collected: datetime
) -> None:
    root = json.loads(lab_root)
    instance = root[section][0]
    window = {"start": "2026-11-24T00:00:00Z", "end": "2026-11-24T23:59:59Z"}
    instance.get("publicKey", instance)["validFor"] = window
    assert lab_judge(root, attestation, collected).outcome is Outcome.VERIFIED


def test_an_authority_that_is_open_does_not_stand_in_for_one_that_has_ended(
    lab_root: bytes, sigstore: SigstoreDouble, attestation: Attestation, collected: datetime
) -> None:
    root = json.loads(lab_root)
    root["certificateAuthorities"][0]["validFor"] = OUTSIDE[0]
    root["certificateAuthorities"] += json.loads(sigstore.trusted_root())["certificateAuthorities"]
    assert slug(lab_judge(root, attestation, collected)) == "ca-window"


def test_an_authority_listed_again_with_another_window_is_believed_in_both(
    lab_root: bytes, attestation: Attestation, collected: datetime
) -> None:
    root = json.loads(lab_root)
    renewed = copy.deepcopy(root["certificateAuthorities"][0])
    root["certificateAuthorities"][0]["validFor"] = OUTSIDE[0]
    root["certificateAuthorities"].append(renewed)
    assert lab_judge(root, attestation, collected).outcome is Outcome.VERIFIED


@pytest.mark.parametrize(
    ("section", "reason"), [("tlogs", "log-entry"), ("ctlogs", "certificate-log")]
)
def test_a_log_is_found_by_its_id_and_no_other_key_is_tried(
    section: str, reason: str, lab_root: bytes, attestation: Attestation, collected: datetime
) -> None:
    root = json.loads(lab_root)
    root[section][0]["logId"]["keyId"] = base64.b64encode(bytes(32)).decode()
    found = lab_judge(root, attestation, collected)
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, reason)


@pytest.mark.parametrize("section", ["tlogs", "ctlogs"])
def test_a_log_whose_key_is_of_an_unsupported_kind_is_unknown(
    section: str, lab_root: bytes, attestation: Attestation, collected: datetime
) -> None:
    root = json.loads(lab_root)
    root[section][0]["publicKey"]["keyDetails"] = "ML_DSA_65"
    found = lab_judge(root, attestation, collected)
    assert (found.outcome, slug(found)) == (Outcome.UNKNOWN, "unsupported")


@pytest.mark.parametrize(
    ("section", "reason"),
    [
        ("certificateAuthorities", "certificate-chain"),
        ("ctlogs", "certificate-log"),
        ("tlogs", "log-entry"),
    ],
)
def test_an_instance_that_the_trusted_root_does_not_have_proves_nothing(
    section: str,
    reason: str,
    lab_root: bytes,
    sigstore: SigstoreDouble,
    attestation: Attestation,
    collected: datetime,
) -> None:
    root = json.loads(lab_root)
    root[section] = json.loads(sigstore.trusted_root())[section]
    found = lab_judge(root, attestation, collected)
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, reason)


# -- what an attacker changes --------------------------------------------------------------------


def material(bundle: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = bundle["verificationMaterial"]
    return found


def entry(bundle: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = material(bundle)["tlogEntries"][0]
    return found


def rewrite_payload(bundle: dict[str, Any]) -> None:
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"] = {"allowed": True}
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()


def flip(text: str) -> str:
    data = bytearray(base64.b64decode(text))
    data[len(data) // 2] ^= 1
    return base64.b64encode(data).decode()


CHANGES: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("payload rewritten", rewrite_payload, "signature"),
    (
        "payload type changed",
        lambda b: b["dsseEnvelope"].update(payloadType="application/json"),
        "signature",
    ),
    ("signature removed", lambda b: b["dsseEnvelope"].update(signatures=[]), "signature"),
    ("signatures left out", lambda b: b["dsseEnvelope"].pop("signatures"), "signature"),
    ("log entry removed", lambda b: material(b).update(tlogEntries=[]), "log-entry"),
    ("log entries left out", lambda b: material(b).pop("tlogEntries"), "log-entry"),
    ("log index left out", lambda b: entry(b)["inclusionProof"].pop("logIndex"), "log-entry"),
    (
        "log root changed",
        lambda b: entry(b)["inclusionProof"].update(rootHash=base64.b64encode(bytes(32)).decode()),
        "log-entry",
    ),
    (
        "timestamp removed",
        lambda b: material(b).pop("timestampVerificationData"),
        "time",
    ),
    (
        "timestamps emptied",
        lambda b: material(b).update(timestampVerificationData={"rfc3161Timestamps": []}),
        "time",
    ),
    (
        "timestamp broken",
        lambda b: material(b).update(
            timestampVerificationData={"rfc3161Timestamps": [{"signedTimestamp": "AAAA"}]}
        ),
        "time",
    ),
    ("verification material left out", lambda b: b.pop("verificationMaterial"), "malformed"),
    ("media type left out", lambda b: b.pop("mediaType"), "malformed"),
    (
        "a version that does not exist",
        lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle.v0.9+json"),
        "malformed",
    ),
    ("envelope left out", lambda b: b.pop("dsseEnvelope"), "malformed"),
    ("an envelope that is none", lambda b: b.update(dsseEnvelope=[1]), "malformed"),
    ("an entry that is none", lambda b: material(b).update(tlogEntries=[1]), "malformed"),
    (
        "a certificate that is none",
        lambda b: material(b)["certificate"].update(rawBytes="AAAA"),
        "malformed",
    ),
    ("certificate and key", lambda b: material(b).update(publicKey={"hint": "x"}), "malformed"),
    (
        "a second signature",
        lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]),
        "signature",
    ),
    ("signature emptied", lambda b: b["dsseEnvelope"]["signatures"][0].update(sig=""), "signature"),
    (
        "log entry given twice",
        lambda b: material(b)["tlogEntries"].append(entry(b)),
        "log-entry",
    ),
    ("inclusion proof left out", lambda b: entry(b).pop("inclusionProof"), "log-entry"),
    (
        "checkpoint left out",
        lambda b: entry(b)["inclusionProof"].pop("checkpoint"),
        "log-entry",
    ),
]


@pytest.mark.parametrize(
    ("change", "reason"), [each[1:] for each in CHANGES], ids=[each[0] for each in CHANGES]
)
def test_a_bundle_that_was_changed_is_rejected(
    change: Callable[[dict[str, Any]], object],
    reason: str,
    attestation: Attestation,
    lab_engine: Engine,
    collected: datetime,
) -> None:
    data = attestation.changed(change)
    found = lab_engine.judge(data, attestation.image, attestation.repository, collected)
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, reason)


@pytest.mark.parametrize("part", ["tlogEntries", "timestampVerificationData", "certificate"])
def test_material_of_another_attestation_proves_nothing(
    part: str, attestations: list[Attestation], lab_engine: Engine, collected: datetime
) -> None:
    one, other = attestations[0], json.loads(attestations[1].data)

    def transplant(bundle: dict[str, Any]) -> None:
        material(bundle)[part] = material(other)[part]

    found = lab_engine.judge(one.changed(transplant), one.image, one.repository, collected)
    assert found.outcome is Outcome.REJECTED


def test_an_attestation_of_another_image_is_rejected(
    attestations: list[Attestation], lab_engine: Engine, collected: datetime
) -> None:
    one = attestations[0]
    other = next(each for each in attestations if each.image != one.image)
    found = lab_engine.judge(one.data, other.image, one.repository, collected)
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, "subject")
    assert found.reason is not None
    assert other.image in found.reason.text
    assert one.image in found.reason.text
    assert found.subjects == (one.image,)


def test_a_strangers_attestation_is_rejected(
    lab_root: bytes, attestation: Attestation, collected: datetime
) -> None:
    stranger = LAB_SIGNER | {"identity": "cd@stella.example"}
    found = lab_judge(json.loads(lab_root), attestation, collected, identities=[stranger])
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, "identity")
    assert found.identity == "ci@stella.example"


def test_a_certificate_that_lives_longer_than_the_policy_allows_is_rejected(
    lab_root: bytes,
    attestation: Attestation,
    sigstore: SigstoreDouble,
    judge: Judge,
    collected: datetime,
) -> None:
    found = lab_judge(json.loads(lab_root), attestation, collected, maxCertificateMinutes=9)
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, "certificate-lifetime")
    year = sigstore.attest(IMAGE, lifetime=timedelta(days=365))
    assert slug(judge(year, IMAGE)) == "certificate-lifetime"


def test_a_predicate_that_no_rule_speaks_of_is_rejected(
    sigstore: SigstoreDouble, judge: Judge
) -> None:
    found = judge(sigstore.attest(IMAGE, predicate_type="https://else.example/v1"), IMAGE)
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, "no-rule")
    assert found.predicate_type == "https://else.example/v1"


def test_a_signature_from_the_future_is_rejected_beyond_five_minutes(
    sigstore: SigstoreDouble, judge: Judge, collected: datetime
) -> None:
    near = sigstore.attest(IMAGE, at=collected + timedelta(minutes=5))
    far = sigstore.attest(IMAGE, at=collected + timedelta(minutes=5, seconds=1))
    assert judge(near, IMAGE).outcome is Outcome.VERIFIED
    assert (judge(far, IMAGE).outcome, slug(judge(far, IMAGE))) == (Outcome.REJECTED, "future")


def test_another_kind_of_payload_is_rejected(sigstore: SigstoreDouble, judge: Judge) -> None:
    found = judge(sigstore.sign(b"{}", payload_type="text/plain"), IMAGE)
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, "payload-type")


@pytest.mark.parametrize("payload", [b"", b"{}", b"[" * 200_000, b'{"a":1,"a":2}', b"\xff"])
def test_a_signed_payload_that_is_no_statement_is_rejected(
    payload: bytes, sigstore: SigstoreDouble, judge: Judge
) -> None:
    found = judge(sigstore.sign(payload), IMAGE)
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, "malformed")
    assert found.identity == IDENTITY


# -- hostile and odd input -----------------------------------------------------------------------


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not JSON",
        b"[]",
        b"null",
        b"[" * 200_000,
        b"[" * 200_000 + b"]" * 200_000,
        b'{"mediaType":' * 200_000,
        b'"' + b"x" * 20_000_000 + b'"',
        b'"' + b'\\"' * 5_000_000,
        b'{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","mediaType":1}',
        b"\xef\xbb\xbf{}",
        b"\xff" * 100,
    ],
    ids=lambda data: f"{data[:8]!r} of {len(data)}",
)
def test_bytes_that_are_no_document_are_malformed(
    data: bytes, lab_engine: Engine, collected: datetime
) -> None:
    found = lab_engine.judge(data, IMAGE, "corp/app", collected)
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, "malformed")
    assert (found.signed_at, found.time_source) == (collected, "collection")


def test_a_bundle_that_breaks_off_is_malformed_wherever_it_does(
    attestation: Attestation, lab_engine: Engine, collected: datetime
) -> None:
    for size in range(0, len(attestation.data), 97):
        found = lab_engine.judge(attestation.data[:size], IMAGE, "corp/app", collected)
        assert (found.outcome, slug(found)) == (Outcome.REJECTED, "malformed")


def test_a_key_given_twice_is_malformed_even_when_both_say_the_same(
    attestation: Attestation, lab_engine: Engine, collected: datetime
) -> None:
    envelope = json.dumps(json.loads(attestation.data)["dsseEnvelope"])
    data = attestation.data.rstrip()[:-1] + f',"dsseEnvelope":{envelope}}}'.encode()
    found = lab_engine.judge(data, attestation.image, attestation.repository, collected)
    assert (found.outcome, slug(found)) == (Outcome.REJECTED, "malformed")


UNSUPPORTED: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("another document", lambda b: b.update(mediaType="application/json")),
    ("an unknown field", lambda b: b.update(extra=1)),
    ("an entry of the future", lambda b: entry(b)["kindVersion"].update(version="0.0.9")),
    ("text that is not Unicode", lambda b: b["dsseEnvelope"].update(payloadType="\ud800")),
]


@pytest.mark.parametrize(
    "change", [each[1] for each in UNSUPPORTED], ids=[each[0] for each in UNSUPPORTED]
)
def test_what_cannot_be_judged_is_unknown(
    change: Callable[[dict[str, Any]], object],
    attestation: Attestation,
    lab_engine: Engine,
    collected: datetime,
) -> None:
    data = attestation.changed(change)
    found = lab_engine.judge(data, attestation.image, attestation.repository, collected)
    assert (found.outcome, slug(found)) == (Outcome.UNKNOWN, "unsupported")


@pytest.mark.parametrize(
    "how",
    [
        {"issuer": "https://issuer.example\0"},
        {"identity": "ci@stella.example\0.evil"},
        {"identity": "https://" + "a" * 2048},
        {"names": [x509.RFC822Name(IDENTITY), x509.RFC822Name("other@stella.example")]},
        {"names": [x509.DNSName("stella.example")]},
    ],
    ids=["NUL in issuer", "NUL", "long", "two names", "another kind of name"],
)
def test_a_signer_that_cannot_be_judged_is_unknown(
    how: dict[str, Any], sigstore: SigstoreDouble, judge: Judge
) -> None:
    found = judge(sigstore.attest(IMAGE, **how), IMAGE)
    assert (found.outcome, slug(found)) == (Outcome.UNKNOWN, "unsupported")
    assert found.identity is None


class VerifierDouble:
    """Raises what cryptography does of odd input, from wherever it likes."""

    name = "double 1"

    def __init__(self, error: Exception) -> None:
        self._error = error

    def supports(self, bundle: Any, digest: str | None) -> bool:
        return True

    def verify(self, *_: Any) -> Any:
        raise self._error


@pytest.mark.parametrize(
    "error", [TypeError("RSA"), ValueError("ASN.1"), AssertionError(), RecursionError(), OSError()]
)
def test_whatever_a_verifier_raises_kills_nothing_and_is_no_verdict(
    error: Exception, sigstore: SigstoreDouble, collected: datetime
) -> None:
    engine = Engine(TrustMaterial.parse(sigstore.trusted_root()), policy())
    engine._verifiers = (VerifierDouble(error),)
    found = engine.judge(sigstore.attest(IMAGE), IMAGE, "corp/app", collected)
    assert (found.outcome, slug(found)) == (Outcome.UNKNOWN, "unsupported")
    assert found.engine == "double 1" and type(error).__name__ in str(found.reason)


ODD: list[Any] = [None, "", "AAAA", "_-_-", 0, -1, 2**70, True, [], {}, [None], [{}], {"a": 1}]


def test_no_odd_value_anywhere_raises_or_passes_for_verified(
    attestation: Attestation, lab_engine: Engine, collected: datetime
) -> None:
    """Each part of a bundle in turn is replaced by each odd value, then left out."""

    def replaced(document: Any, at: tuple[Any, ...], value: Any) -> bytes:
        changed = copy.deepcopy(document)
        parent = changed
        for key in at[:-1]:
            parent = parent[key]
        parent[at[-1]] = value
        return json.dumps(changed).encode()

    def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [
            place
            for key, item in items
            for place in (
                (*at, key),
                *(places(item, (*at, key)) if isinstance(item, dict | list) else ()),
            )
        ]

    document = json.loads(attestation.data)
    # No signature covers the log's global index; the inclusion proof has its own.
    harmless = {("verificationMaterial", "tlogEntries", 0, "logIndex")}
    passed = set()
    for place in places(document):
        for value in ODD:
            data = replaced(document, place, value)
            found = lab_engine.judge(data, attestation.image, attestation.repository, collected)
            assert found.outcome in Outcome
            if found.outcome is Outcome.VERIFIED:
                passed.add(place)
    assert passed <= harmless
