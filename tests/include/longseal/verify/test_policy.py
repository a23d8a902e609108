import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.attestations import policy, rule

from longseal.canonical import canonical_json, digest_of
from longseal.errors import MalformedError
from longseal.seal.keys import public_pem
from longseal.verify.keys import load_key
from longseal.verify.policy import MAX_IDENTITY, MAX_REASON, Claim, Policy, Reason

SBOM = "https://stella-ops.example/sbom-delta/v1"
CI = {"identity": "ci@stella.example", "issuer": "https://issuer.example"}


def claim(**changed: Any) -> Claim:
    fields = {
        "repository": "corp/app",
        "predicate_type": SBOM,
        "identity": "ci@stella.example",
        "issuer": "https://issuer.example",
        "lifetime": timedelta(minutes=10),
    }
    return Claim(**(fields | changed))


def slug(found: Reason | None) -> str | None:
    return found and found.slug


def test_who_is_named_may_attest_what_the_rule_speaks_of() -> None:
    narrow = rule(repositories=["corp/*"], predicates=[SBOM], identities=[CI])
    assert policy(narrow).refusal(claim()) is None


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"repository": "corp/team/app"}, "no-rule"),
        ({"repository": "other/app"}, "no-rule"),
        ({"predicate_type": f"{SBOM}/more"}, "no-rule"),
        ({"predicate_type": ""}, "no-rule"),
        ({"identity": "ci@stella.examplex"}, "identity"),
        ({"identity": "xci@stella.example"}, "identity"),
        ({"identity": "CI@stella.example"}, "identity"),
        ({"identity": "ci@stella.example\n"}, "identity"),
        ({"identity": ""}, "identity"),
        ({"issuer": "https://issuer.example/"}, "identity"),
        ({"issuer": "https://other.example"}, "identity"),
        ({"lifetime": timedelta(minutes=10, seconds=1)}, "certificate-lifetime"),
    ],
)
def test_anything_else_is_refused_with_its_reason(changed: dict[str, Any], expected: str) -> None:
    narrow = rule(repositories=["corp/*"], predicates=[SBOM], identities=[CI])
    assert slug(policy(narrow).refusal(claim(**changed))) == expected


def test_rules_are_alternatives_and_one_has_to_accept_all_of_it() -> None:
    stranger = {"identity": "somebody@else.example", "issuer": CI["issuer"]}
    rules = policy(
        rule(identities=[CI], maxCertificateMinutes=5),
        rule(identities=[stranger], maxCertificateMinutes=60),
        rule(identities=[CI], repositories=["other/*"], maxCertificateMinutes=60),
    )
    # Each rule lacks something else: none may lend its part to another.
    assert slug(rules.refusal(claim())) == "certificate-lifetime"
    assert rules.refusal(claim(identity="somebody@else.example")) is None
    assert rules.refusal(claim(repository="other/app")) is None


def test_identity_and_issuer_belong_together() -> None:
    mail = {"identity": "ci@stella.example", "issuer": "https://mail.example"}
    forge = {"identity": "https://forge.example/ci", "issuer": "https://forge.example"}
    rules = policy(rule(identities=[mail, forge]))
    crossed = claim(identity="ci@stella.example", issuer="https://forge.example")
    assert slug(rules.refusal(crossed)) == "identity"


PATTERN = {"pattern": r"https://forge\.example/corp/[a-z]+", "issuerPattern": r"https://f.*"}


@pytest.mark.parametrize(
    ("identity", "accepted"),
    [
        ("https://forge.example/corp/app", True),
        ("https://forge.example/corp/app/../evil", False),
        ("https://evil.example/https://forge.example/corp/app", False),
        ("https://forge.example/corp/app\n", False),
        ("https://forge.example/corp/" + "a" * (MAX_IDENTITY - 27), True),
        ("https://forge.example/corp/" + "a" * (MAX_IDENTITY - 26), False),
    ],
)
def test_a_pattern_describes_the_whole_of_a_bounded_name(identity: str, accepted: bool) -> None:
    found = policy(rule(identities=[PATTERN])).refusal(
        claim(identity=identity, issuer="https://forge.example")
    )
    assert (found is None) is accepted


def test_a_policy_is_named_by_the_digest_of_its_document() -> None:
    document = canonical_json({"rules": [rule()]})
    assert Policy.parse(document).digest == digest_of(document)


@pytest.mark.parametrize("known", [{}, {"identity": "a"}, {"issuer": "a"}, {"pattern": ".*"}])
def test_an_identity_without_both_halves_is_malformed(known: dict[str, str]) -> None:
    with pytest.raises(MalformedError):
        policy(rule(identities=[known]))


@pytest.mark.parametrize(
    "changed",
    [
        {"identities": [CI | {"pattern": ".*"}]},
        {"identities": [CI | {"issuerPattern": ".*"}]},
        {"identities": [{"pattern": "(", "issuer": "a"}]},
        {"identities": [{"pattern": 1, "issuer": "a"}]},
        {"identities": ["anybody"]},
        {"identities": {}},
        {"repositories": "**"},
        {"repositories": [1]},
        {"predicates": "**"},
        {"predicates": None},
        {"maxCertificateMinutes": "10"},
        {"maxCertificateMinutes": 10**18},
    ],
)
def test_a_rule_of_another_shape_is_malformed(changed: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        policy(rule(**changed))


@pytest.mark.parametrize("left_out", sorted(rule()))
def test_a_rule_that_lacks_a_part_is_malformed(left_out: str) -> None:
    part = {key: value for key, value in rule().items() if key != left_out}
    with pytest.raises(MalformedError):
        policy(part)


@pytest.mark.parametrize(
    "document",
    [{}, {"rules": []}, {"rules": [rule(), rule(identities=[])]}, {"rules": 1}, {"rules": [[]]}],
)
def test_a_policy_that_trusts_nobody_is_malformed(document: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        Policy.parse(json.dumps(document).encode())


def test_a_reason_is_one_bounded_line_that_steers_no_terminal() -> None:
    reason = Reason("identity", "found \x1b[2J\0 é \ud800 \n\t a\\b" + "x" * MAX_REASON)
    assert str(reason).startswith(r"identity: found \x1b[2J\x00 \xe9 \ud800 a\b")
    assert len(reason.text) == MAX_REASON


def test_a_reason_names_what_was_found_what_was_expected_and_the_rule() -> None:
    rules = policy(
        rule(repositories=["corp/app"], predicates=["https://a/*"]),
        rule(repositories=["corp/*"], predicates=["https://a/**"], maxCertificateMinutes=5),
        rule(repositories=["other"], predicates=["**"]),
    )
    asked = claim(repository="corp/app", predicate_type="https://a/b")
    found = str(rules.refusal(replace(asked, identity="me@stella.example")))
    assert found.startswith("identity: found me@stella.example of ")
    assert (
        f"expected {CI['identity']} of {CI['issuer']}, by the rule for https://a/* in corp/app; or "
        in found
    )
    assert found.endswith("by the rule for https://a/** in corp/*")
    late = str(rules.refusal(replace(asked, lifetime=timedelta(minutes=11))))
    assert late == (
        "certificate-lifetime: expected a certificate of at most 0:10:00, found one of 0:11:00,"
        " by the rule for https://a/* in corp/app"
    )


def test_a_reason_has_room_for_what_was_found_however_many_rules_there_are() -> None:
    many = policy(*(rule(repositories=[f"corp/{'x' * 300}{at}", "**"]) for at in range(50)))
    found = str(many.refusal(claim(identity="me@stella.example")))
    assert "me@stella.example" in found


def key() -> tuple[dict[str, str], str]:
    """A key as the document has it, and its digest."""
    pem = public_pem(ec.generate_private_key(ec.SECP521R1()).public_key())
    digest = digest_of(load_key(pem.encode(), "key"))
    return {"pem": pem, "sha256": digest}, digest


def by_key(digest: str) -> Claim:
    return claim(identity=None, issuer=None, lifetime=None, key=digest)


def test_a_key_is_trusted_only_where_a_rule_names_it() -> None:
    (ours, digest), (_, other) = key(), key()
    rules = policy(
        rule(identities=[], keys=[ours], repositories=["corp/*"]),
        rule(identities=[CI], repositories=["**"]),
    )
    assert rules.refusal(by_key(digest)) is None
    assert slug(rules.refusal(by_key(other))) == "identity"
    elsewhere = claim(identity=None, issuer=None, lifetime=None, key=digest, repository="other/app")
    assert slug(rules.refusal(elsewhere)) == "identity"
    assert len(rules.keys) == 1


def test_a_key_that_the_document_does_not_hold_whole_is_malformed() -> None:
    ours, _ = key()
    for broken in (
        ours | {"sha256": f"sha256:{'0' * 64}"},
        ours | {"pem": ours["pem"][:40]},
        {"pem": ours["pem"]},
        {"sha256": ours["sha256"]},
        "key",
    ):
        with pytest.raises(MalformedError):
            policy(rule(identities=[], keys=[broken]))
    with pytest.raises(MalformedError, match="trusts nobody"):
        policy(rule(identities=[], keys=[]))
    with pytest.raises(MalformedError, match="more than"):
        policy(rule(keys=[key()[0] for _ in range(65)]))
