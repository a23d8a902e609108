"""The engine over 268 bundles of public projects, real and mutated.

Each is judged under the trusted root that its row names, for the digest and by the signer that the
row names, so that only the bundle is at stake.
"""

import base64
import csv
import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
from tests.attestations import policy, rule

from longseal.errors import MalformedError, UnsupportedError
from longseal.verify.engine import Engine, Judgement, Outcome
from longseal.verify.policy import Reason
from longseal.verify.trust import TrustMaterial


@dataclass(frozen=True)
class Judged:
    row: dict[str, str]
    found: Judgement

    def __repr__(self) -> str:
        return f"{self.row['id']}: {self.found.outcome}, {self.found.reason}"


@pytest.fixture(scope="module")
def judged(sigstore_bundles: Path, collected: datetime) -> list[Judged]:
    roots: dict[str, TrustMaterial | Reason] = {}
    results = []
    with (sigstore_bundles / "MANIFEST.tsv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["type"] == "case"]
    for row in rows:
        name = row["trusted_root"]
        if name not in roots:
            try:
                roots[name] = TrustMaterial.parse((sigstore_bundles / name).read_bytes())
            except (MalformedError, UnsupportedError) as err:
                roots[name] = Reason("trusted-root", str(err))
        root = roots[name]
        if isinstance(root, Reason):
            results.append(Judged(row, Judgement(Outcome.UNKNOWN, root)))
            continue
        signer = {
            "identity" if row["identity"] else "pattern": row["identity"].removeprefix("othername:")
            or ".+",
            "issuer" if row["issuer"] else "issuerPattern": row["issuer"] or ".+",
        }
        data = (sigstore_bundles / row["path"]).read_bytes()
        engine = Engine(root, policy(rule(predicates=["**"], identities=[signer])))
        results.append(Judged(row, engine.judge(data, row["digest"] or None, "app", collected)))
    return results


def of(judged: list[Judged], **columns: str) -> list[Judged]:
    found = [
        one for one in judged if all(one.row[name] == value for name, value in columns.items())
    ]
    assert found, "the manifest has no such row"
    return found


def test_nothing_that_must_fail_is_taken_for_genuine(judged: list[Judged]) -> None:
    genuine = {Outcome.VERIFIED, Outcome.IGNORED}
    assert [one for one in of(judged, expectation="fail") if one.found.outcome in genuine] == []
    assert [one for one in of(judged, oracle="fail") if one.found.outcome in genuine] == []


def test_nothing_that_must_pass_is_rejected(judged: list[Judged]) -> None:
    rejected = [
        one
        for one in (*of(judged, expectation="pass"), *of(judged, oracle="pass"))
        if one.found.outcome is Outcome.REJECTED
    ]
    assert rejected == []


def test_every_attestation_that_sigstore_python_can_judge_is_verified(
    judged: list[Judged],
) -> None:
    able = of(judged, content="dsseEnvelope", oracle="pass", sigpy_class="pass")
    assert [one for one in able if one.found.outcome is not Outcome.VERIFIED] == []


def test_every_signature_of_a_blob_is_unknown_unless_it_is_no_document(
    judged: list[Judged],
) -> None:
    for one in of(judged, content="messageSignature"):
        malformed = one.found.outcome is Outcome.REJECTED
        assert one.found.reason is not None, one
        if malformed:
            assert "-raw-" in one.row["id"], one
            assert one.found.reason.slug == "malformed", one
        else:
            assert one.found.outcome is Outcome.UNKNOWN, one


def test_the_counts_are_those_that_were_looked_through_one_by_one(judged: list[Judged]) -> None:
    counts = Counter(
        (one.row["expectation"], str(one.found.outcome))
        for one in of(judged, content="dsseEnvelope")
    )
    assert counts == {
        ("pass", "verified"): 18,
        ("pass", "unknown"): 42,
        ("fail", "rejected"): 59,
        ("fail", "unknown"): 16,
        ("unknown", "verified"): 7,
        ("unknown", "ignored"): 1,
        ("unknown", "rejected"): 2,
        ("unknown", "unknown"): 18,
    }


@pytest.mark.parametrize(
    "root",
    [
        "trusted_roots/public-good.json",
        "trusted_roots/history/public-good-2025-01-21-36aee789.json",
    ],
)
def test_a_token_of_an_unknown_authority_leaves_the_logs_time(
    root: str, sigstore_bundles: Path, judged: list[Judged], collected: datetime
) -> None:
    """The older root has no timestamp authority at all; the bundles carry GitHub's tokens."""
    trust = TrustMaterial.parse((sigstore_bundles / root).read_bytes())
    anybody = rule(predicates=["**"], identities=[{"pattern": ".+", "issuerPattern": ".+"}])
    engine = Engine(trust, policy(anybody))
    for name in ("misc-334", "misc-337"):
        (one,) = of(judged, id=name)
        data = (sigstore_bundles / one.row["path"]).read_bytes()
        assert "timestampVerificationData" in json.loads(data)["verificationMaterial"]
        found = engine.judge(data, None, "app", collected)
        assert (found.outcome, found.time_source) == (Outcome.VERIFIED, "rekor")


def test_a_subject_that_the_payload_does_not_name_is_rejected(judged: list[Judged]) -> None:
    wrong = [one for one in judged if one.row["id"].endswith("-policy-wrong-digest")]
    attested = [one for one in wrong if one.row["content"] == "dsseEnvelope"]
    assert len(attested) == 2
    for one in attested:
        assert one.found.reason is not None
        assert one.found.reason.slug == "subject"


def test_payloads_are_read_as_they_were_signed(
    sigstore_bundles: Path, judged: list[Judged]
) -> None:
    for one in of(judged, content="dsseEnvelope"):
        if one.found.outcome is Outcome.VERIFIED:
            document = json.loads((sigstore_bundles / one.row["path"]).read_bytes())
            statement = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
            assert one.found.predicate_type == statement["predicateType"]
            assert one.found.subjects == tuple(
                sorted(
                    {
                        f"{algorithm}:{value}"
                        for subject in statement["subject"]
                        for algorithm, value in subject["digest"].items()
                    }
                )
            )
