import gzip
import json
import multiprocessing
import os
import signal
import time
from datetime import datetime
from pathlib import Path

import pytest
from tests.attestations import LAB_SIGNER, Attestation, rule

from longseal.canonical import canonical_json, digest_of
from longseal.errors import MalformedError, RetryableError, UnsupportedError
from longseal.verify.engine import Engine, Outcome
from longseal.verify.pool import Case, VerifierPool

POLICY = canonical_json({"rules": [rule(identities=[LAB_SIGNER])]})


def test_judgements_come_in_order_and_are_the_engines(
    attestations: list[Attestation], lab_root: bytes, lab_engine: Engine, collected: datetime
) -> None:
    cases = [
        Case(one.data, attestations[at % 7].image, one.repository, collected)
        for at, one in enumerate(attestations[:20])
    ]
    expected = [
        lab_engine.judge(case.data, case.image, case.repository, case.collected_at)
        for case in cases
    ]
    assert {each.outcome for each in expected} == {Outcome.VERIFIED, Outcome.REJECTED}
    with VerifierPool(lab_root, POLICY, 2) as pool:
        assert (pool.trust_digest, pool.policy_digest) == (digest_of(lab_root), digest_of(POLICY))
        judging = [pool.submit(cases[at : at + 3]) for at in range(0, 20, 3)]
        assert [each for one in judging for each in one.result()] == expected


def test_every_source_attestation_of_the_corpus_is_verified(
    sigstore_bundles: Path, collected: datetime
) -> None:
    """818 attestations of git commits, by four projects."""
    with gzip.open(sigstore_bundles / "corpus/slsa-source-notes.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    signers = sorted({(row["cert_identity"], row["cert_issuer"]) for row in rows})
    known = [{"identity": identity, "issuer": issuer} for identity, issuer in signers]
    rules = canonical_json({"rules": [rule(predicates=["**"], identities=known)]})
    root = (sigstore_bundles / "trusted_roots/public-good.json").read_bytes()
    cases = [Case(row["raw"].encode(), row["digest"], "corp/app", collected) for row in rows]
    with VerifierPool(root, rules) as pool:
        judging = [pool.submit(cases[at : at + 32]) for at in range(0, len(cases), 32)]
        found = [each for one in judging for each in one.result()]
    assert len(found) == 818
    assert {(each.outcome, each.reason) for each in found} == {(Outcome.VERIFIED, None)}


@pytest.mark.parametrize(
    ("root", "rules", "error"),
    [
        (b"{}", POLICY, MalformedError),
        (b'{"mediaType":"application/vnd.dev.sigstore.trustedroot"}', POLICY, UnsupportedError),
        (None, b"{}", MalformedError),
    ],
)
def test_settings_that_do_not_hold_fail_before_any_process_starts(
    root: bytes | None, rules: bytes, error: type[Exception], lab_root: bytes
) -> None:
    before = multiprocessing.active_children()
    with pytest.raises(error):
        VerifierPool(lab_root if root is None else root, rules, 1)
    assert multiprocessing.active_children() == before


def test_a_worker_that_is_killed_gives_an_error_and_no_answer(
    attestation: Attestation, lab_root: bytes, collected: datetime
) -> None:
    case = Case(attestation.data, attestation.image, attestation.repository, collected)
    before = set(multiprocessing.active_children())
    with VerifierPool(lab_root, POLICY, 2) as pool:
        workers = set(multiprocessing.active_children()) - before
        judging = [pool.submit([case] * 100) for _ in range(4)]
        os.kill(next(iter(workers)).pid or 0, signal.SIGKILL)
        for one in judging:
            with pytest.raises(RetryableError, match="died"):
                one.result()
        with pytest.raises(RetryableError, match="died"):
            pool.submit([case]).result()


def test_workers_end_with_a_parent_that_is_killed(lab_root: bytes) -> None:
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def parent() -> None:
        with VerifierPool(lab_root, POLICY, 2):
            sender.send([child.pid for child in multiprocessing.active_children()])
            time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=parent)
    process.start()
    workers = receiver.recv()
    assert len(workers) == 2
    process.kill()
    process.join()
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
