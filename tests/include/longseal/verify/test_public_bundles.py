"""The engine over 268 bundles of public projects, real and mutated.

Each is judged under the trusted root that its row names, for the digest and by the signer or key
that the row names, so that only the bundle is at stake.
"""

import base64
import csv
import gzip
import json
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tests.attestations import policy, rule
from tests.lab.tools import missing, tool

from longseal.canonical import digest_of
from longseal.errors import MalformedError, UnsupportedError
from longseal.verify.engine import Engine, Judgement, Outcome
from longseal.verify.keys import load_key
from longseal.verify.policy import Reason
from longseal.verify.trust import TrustMaterial

GENUINE = {Outcome.VERIFIED, Outcome.IGNORED}

ACCEPTED = {
    "npm-263": "DSSE's keyid, which is not the certificate's, is a hint that nothing authenticates",
}
"""What nobody asserts, both reference verifiers refuse, and is accepted here."""


MUTATIONS = {
    "-cert-byte-flipped": {"certificate-chain"},
    "-checkpoint-removed": {"log-entry"},
    "-checkpoint-signature-flipped": {"log-entry"},
    "-dsse-no-signatures": {"signature"},
    "-dsse-payload-changed": {"signature"},
    "-dsse-payload-of-another-bundle": {"signature"},
    "-dsse-payloadtype-changed": {"signature"},
    "-inclusion-hash-flipped": {"log-entry"},
    "-inclusion-proof-removed": {"log-entry"},
    "-integrated-time-plus-1h": {"certificate-chain"},
    "-logid-flipped": {"log-entry"},
    "-mediatype-missing": {"malformed"},
    "-mediatype-v0.9": {"malformed"},
    "-message-digest-changed": {"signature"},
    "-no-tlog-entries": {"log-entry"},
    "-policy-identity-case": {"identity"},
    "-policy-issuer-other": {"identity"},
    "-policy-wrong-digest": {"subject"},
    "-raw-truncated": {"malformed"},
    "-set-removed": {"time"},
    # Where a token dates it, that is over the signature, and is looked at first.
    "-sig-byte-flipped": {"signature", "time"},
    "-signature-of-another-bundle": {"signature", "time"},
    "-tlog-entry-duplicated": {"log-entry"},
    "-tsa-removed": {"time"},
    "-tsa-token-flipped": {"time"},
}
"""What was done to a bundle that verifies, and the reason that says so."""


@dataclass(frozen=True)
class Judged:
    row: dict[str, str]
    found: Judgement

    def __repr__(self) -> str:
        return f"{self.row['id']}: {self.found.outcome}, {self.found.reason}"


def signers(row: dict[str, str], folder: Path) -> dict[str, Any]:
    """What the row trusts, as a rule."""
    identity = row["identity"].removeprefix("othername:")
    known = {
        "identity" if identity else "pattern": identity or ".+",
        "issuer" if row["issuer"] else "issuerPattern": row["issuer"] or ".+",
    }
    keys = []
    if row["key"]:
        pem = (folder / row["key"]).read_bytes()
        keys = [{"pem": pem.decode(), "sha256": digest_of(load_key(pem, row["key"]))}]
    year = 366 * 24 * 60
    return rule(predicates=["**"], identities=[known], keys=keys, maxCertificateMinutes=year)


@pytest.fixture(scope="module")
def judged(sigstore_bundles: Path, collected: datetime) -> list[Judged]:
    roots: dict[str, TrustMaterial] = {}
    results = []
    with (sigstore_bundles / "MANIFEST.tsv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["type"] == "case"]
    for row in rows:
        name = row["trusted_root"]
        try:
            if name not in roots:
                roots[name] = TrustMaterial.parse((sigstore_bundles / name).read_bytes())
            engine = Engine(roots[name], policy(signers(row, sigstore_bundles)))
        except (MalformedError, UnsupportedError) as err:
            # Root or key is not what it claims to be: nothing is judged by it.
            results.append(Judged(row, Judgement(Outcome.REJECTED, Reason("trust", str(err)))))
            continue
        data = (sigstore_bundles / row["path"]).read_bytes()
        results.append(Judged(row, engine.judge(data, row["digest"] or None, "app", collected)))
    return results


def of(judged: list[Judged], **columns: str) -> list[Judged]:
    found = [
        one for one in judged if all(one.row[name] == value for name, value in columns.items())
    ]
    assert found, "the manifest has no such row"
    return found


def test_all_that_must_pass_is_genuine(judged: list[Judged]) -> None:
    rows = of(judged, expectation="pass")
    assert len(rows) == 76
    for one in rows:
        attested = one.row["content"] == "dsseEnvelope"
        assert one.found.outcome is (Outcome.VERIFIED if attested else Outcome.IGNORED), one


def test_all_that_must_fail_is_rejected(judged: list[Judged]) -> None:
    rows = of(judged, expectation="fail")
    assert len(rows) == 145
    for one in rows:
        assert one.found.outcome is Outcome.REJECTED, one


def test_where_nobody_says_what_both_verifiers_agree_on_holds(judged: list[Judged]) -> None:
    rows = of(judged, expectation="unknown")
    for one in rows:
        if one.row["oracle"].startswith("pass"):
            assert one.found.outcome in GENUINE, one
        elif one.row["oracle"] == "fail" and one.row["id"] not in ACCEPTED:
            # Fields that are not known are not supported; what is wrong is rejected.
            assert one.found.outcome in {Outcome.REJECTED, Outcome.UNKNOWN}, one
            unknown = one.found.outcome is Outcome.UNKNOWN
            assert unknown is ("unknown field" in str(one.found.reason)), one


def test_what_sigstore_python_can_judge_it_judges(judged: list[Judged]) -> None:
    for one in of(judged, sigpy_class="pass", oracle="pass"):
        # Which hash goes with a larger curve it takes for granted, so those are left to the other.
        left = "secp384r1" in one.row["needs"]
        assert one.found.engine.startswith("longseal" if left else "sigstore-python"), one
    extended = [one for one in of(judged, oracle="pass") if one.found.engine.startswith("longseal")]
    assert len(extended) > 30


@pytest.mark.parametrize("mutation", sorted(MUTATIONS))
def test_what_was_done_to_a_bundle_is_told_by_the_reason(
    mutation: str, judged: list[Judged]
) -> None:
    found = [one.found.reason for one in judged if one.row["id"].endswith(mutation)]
    assert found
    assert {reason and reason.slug for reason in found} <= MUTATIONS[mutation]


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


def test_payloads_are_read_as_they_were_signed(
    sigstore_bundles: Path, judged: list[Judged]
) -> None:
    for one in of(judged, content="dsseEnvelope"):
        if one.found.outcome is Outcome.VERIFIED:
            document = json.loads((sigstore_bundles / one.row["path"]).read_bytes())
            payload = document["dsseEnvelope"]["payload"]
            statement = json.loads(base64.b64decode(payload))
            assert one.found.predicate_type == (statement["predicateType"] or None)
            assert one.found.subjects == tuple(
                sorted(
                    {
                        f"{algorithm}:{value}"
                        for subject in statement["subject"]
                        for algorithm, value in subject["digest"].items()
                    }
                )
            )


@pytest.mark.parametrize(
    ("corpus", "outcome"), [("cpython", Outcome.IGNORED), ("slsa-source-notes", Outcome.VERIFIED)]
)
def test_a_sample_of_each_corpus_verifies(
    corpus: str, outcome: Outcome, sigstore_bundles: Path, collected: datetime
) -> None:
    root = (sigstore_bundles / "trusted_roots/public-good.json").read_bytes()
    anybody = rule(predicates=["**"], identities=[{"pattern": ".+", "issuerPattern": ".+"}])
    engine = Engine(TrustMaterial.parse(root), policy(anybody))
    with gzip.open(sigstore_bundles / f"corpus/{corpus}.jsonl.gz", "rt") as file:
        lines = [json.loads(line) for at, line in enumerate(file) if at % 20 == 0]
    assert len(lines) > 15
    for line in lines:
        data = line["raw"].encode() if "raw" in line else json.dumps(line["bundle"]).encode()
        found = engine.judge(data, line["digest"] if corpus == "cpython" else None, "a", collected)
        assert found.outcome is outcome, (line["id"], found)


@pytest.mark.lab
def test_cosign_itself_says_the_same_of_what_the_second_verifier_judged(
    judged: list[Judged], sigstore_bundles: Path, tmp_path: Path
) -> None:
    if "cosign" in missing():
        pytest.skip("cosign is not installed: run `python -m tests.lab tools`")
    sample = [
        one
        for one in judged
        if one.found.engine.startswith("longseal")
        and one.row["content"] == "dsseEnvelope"
        and one.row["identity"]
        and one.row["issuer"]
        and "root:github" not in one.row["needs"]
        and one.row["id"] not in ACCEPTED
        and one.found.outcome in {Outcome.VERIFIED, Outcome.REJECTED}
        and (one.found.reason is None or one.found.reason.slug != "subject")
    ][::3]
    assert len(sample) > 8
    assert {one.found.outcome for one in sample} == {Outcome.VERIFIED, Outcome.REJECTED}
    for one in sample:
        done = subprocess.run(
            [
                tool("cosign"),
                "verify-blob-attestation",
                f"--bundle={sigstore_bundles / one.row['path']}",
                f"--trusted-root={sigstore_bundles / one.row['trusted_root']}",
                f"--certificate-identity={one.row['identity']}",
                f"--certificate-oidc-issuer={one.row['issuer']}",
                "--check-claims=false",
                f"--type={one.found.predicate_type or one.row['predicate_type'] or 'custom'}",
            ],
            env={"HOME": str(tmp_path)},
            capture_output=True,
            check=False,
        )
        accepted = done.returncode == 0
        assert accepted is (one.found.outcome is Outcome.VERIFIED), (one, done.stderr[-300:])
