import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.doubles.kms import ACCOUNT, REGION, KmsDouble

from longseal.errors import (
    LongsealError,
    PermanentError,
    RetryableError,
    SettingsError,
    SignerError,
    UnsupportedError,
)
from longseal.seal.keys import fingerprint
from longseal.seal.signers import aws_kms
from longseal.seal.signers.aws_kms import AwsKmsSigner, Role, kms_client, region_of
from longseal.seal.signers.checked import sign_checked

ROLE = Role(f"arn:aws:iam::{ACCOUNT}:role/sealer", "longseal-7", "october")


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[KmsDouble]:
    with KmsDouble() as kms:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", kms.url)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield kms


def signer(kms: KmsDouble, key_id: str = "alias/org", **changes: Any) -> AwsKmsSigner:
    usual = {
        "region": REGION,
        "endpoint": kms.url,
        "access_key": "AKIATEST",
        "secret_key": "5ecre7",
        **changes,
    }
    return AwsKmsSigner(key_id, partial(kms_client, **usual), pauses=(0, 0))


def calls(kms: KmsDouble) -> list[str]:
    return [action for action, _, _ in kms.asked]


@pytest.mark.parametrize("spec", ["ECC_NIST_P256", "RSA_2048", "RSA_3072"])
def test_only_the_digest_leaves(kms: KmsDouble, spec: str) -> None:
    key = kms.create("org", spec)
    sign_checked(signer(kms), b"m" * 5000, fingerprint(key.public))
    (_, request, _) = kms.asked[-1]
    assert request["MessageType"] == "DIGEST"
    assert len(request["Message"]) == 44
    assert calls(kms) == ["GetPublicKey", "Sign"]


def test_nothing_is_asked_before_first_use(kms: KmsDouble) -> None:
    assert signer(kms).warning is None
    assert kms.asked == []


def test_a_key_goes_by_id_arn_alias_and_the_alias_s_arn(kms: KmsDouble) -> None:
    key = kms.create("org")
    alias = f"arn:aws:kms:{REGION}:{ACCOUNT}:alias/org"
    for name in ("org", key.arn, "alias/org", alias):
        sign_checked(signer(kms, name), b"m", fingerprint(key.public))
    assert (region_of(alias), region_of(key.arn)) == (REGION, REGION)
    assert region_of("alias/org") is None


@pytest.mark.parametrize("spec", ["ECC_NIST_P384"])
def test_a_key_whose_signatures_cosign_cannot_verify_is_refused(kms: KmsDouble, spec: str) -> None:
    kms.create("org", spec)
    with pytest.raises(UnsupportedError, match=rf"signer\.key_id: alias/org is of the spec {spec}"):
        _ = signer(kms).public_key
    assert kms.signatures == 0


def test_a_key_for_encryption_is_refused(kms: KmsDouble) -> None:
    kms.create("org", "RSA_2048").usage = "ENCRYPT_DECRYPT"
    with pytest.raises(SettingsError, match="is for ENCRYPT_DECRYPT"):
        _ = signer(kms).public_key


def test_throttling_is_waited_out(kms: KmsDouble) -> None:
    key = kms.create("org")
    kms.planned.extend(["ThrottlingException", "ThrottlingException"])
    pinned = fingerprint(key.public)
    tried = signer(kms)
    assert fingerprint(tried.public_key) == pinned
    kms.planned.extend(["ThrottlingException", "ThrottlingException"])
    sign_checked(tried, b"m", pinned)
    assert kms.signatures == 1


def test_throttling_without_end_is_worth_a_later_try(kms: KmsDouble) -> None:
    kms.create("org")
    tried = signer(kms)
    _ = tried.public_key
    kms.planned.extend(["ThrottlingException"] * 9)
    with pytest.raises(RetryableError, match="kms:Sign: KMS throttles"):
        tried.sign(b"m")
    assert calls(kms) == ["GetPublicKey", "Sign", "Sign", "Sign"]
    assert kms.signatures == 0


@pytest.mark.parametrize(
    "plan",
    ["500", "KMSInternalException", "DependencyTimeoutException", "hang up", "garbage"],
)
def test_a_service_that_fails_is_asked_once_and_worth_a_later_try(
    kms: KmsDouble, plan: str
) -> None:
    kms.create("org")
    tried = signer(kms)
    _ = tried.public_key
    kms.planned.append(plan)
    with pytest.raises(RetryableError):
        tried.sign(b"m")
    assert (kms.signatures, len(kms.planned)) == (0, 0)


def test_a_signature_that_came_too_late_is_not_asked_for_again(
    kms: KmsDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    kms.create("org")
    monkeypatch.setattr(aws_kms, "_READ_SECONDS", 0.2)
    tried = signer(kms)
    _ = tried.public_key
    kms.delay = 1
    with pytest.raises(RetryableError, match="kms:Sign: KMS did not answer well"):
        tried.sign(b"m")
    kms.__exit__()
    assert calls(kms) in (["GetPublicKey"], ["GetPublicKey", "Sign"])


def test_a_fork_has_connections_of_its_own(kms: KmsDouble) -> None:
    key = kms.create("org")
    connected: list[int] = []

    def connect() -> Any:
        connected.append(os.getpid())
        return kms_client(REGION, kms.url, "AKIATEST", "5ecre7")

    tried = AwsKmsSigner("org", connect)
    for _ in range(2):
        sign_checked(tried, b"m", fingerprint(key.public))
    child = os.fork()
    if child == 0:
        tried.sign(b"m")
        os._exit(0 if connected == [os.getppid(), os.getpid()] else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert connected == [os.getpid()]


def test_a_service_that_is_down_is_worth_a_later_try(kms: KmsDouble) -> None:
    kms.create("org")
    tried = signer(kms)
    kms.server.server_close()
    with pytest.raises(RetryableError, match="kms:GetPublicKey: KMS did not answer well"):
        tried.sign(b"m")


@pytest.mark.parametrize("action", ["GetPublicKey", "Sign"])
def test_what_is_denied_is_named(kms: KmsDouble, action: str) -> None:
    kms.create("org")
    kms.denied.add(action)
    with pytest.raises(SettingsError, match=rf"^signer\.key_id: kms:{action}: .* allow kms:"):
        signer(kms).sign(b"m")
    assert kms.signatures == 0


@pytest.mark.parametrize(
    ("state", "says"), [("Disabled", "is disabled"), ("PendingDeletion", "is pending deletion")]
)
def test_a_key_that_may_not_be_used_is_never_tried_again(
    kms: KmsDouble, state: str, says: str
) -> None:
    key = kms.create("org")
    tried = signer(kms)
    _ = tried.public_key
    key.state = state
    with pytest.raises(SettingsError, match=rf"^signer\.key_id: kms:Sign: the key {says}"):
        tried.sign(b"m")
    assert calls(kms) == ["GetPublicKey", "Sign"]


def test_a_key_that_is_not_there_is_a_setting_to_correct(kms: KmsDouble) -> None:
    with pytest.raises(SettingsError, match=r"^signer\.key_id: .*no such key or alias"):
        signer(kms, "alias/absent").sign(b"m")


@pytest.mark.parametrize("code", ["UnrecognizedClientException", "ExpiredTokenException"])
def test_credentials_that_are_not_taken_name_their_setting(kms: KmsDouble, code: str) -> None:
    kms.create("org")
    kms.planned.append(code)
    with pytest.raises(SettingsError, match=r"^signer\.conn_id: ") as caught:
        signer(kms).sign(b"m")
    assert "5ecre7" not in str(caught.value)


def test_no_credentials_at_all_name_their_setting(
    kms: KmsDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match=r"^signer\.conn_id: .*no complete credentials"):
        signer(kms, access_key=None, secret_key=None).sign(b"m")


def test_no_region_is_a_setting_to_correct(
    kms: KmsDouble, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    with pytest.raises(SettingsError, match=r"^signer\.region: no AWS region"):
        signer(kms, region=None).sign(b"m")


def test_a_moved_alias_changes_nothing_for_who_resolved_it_before(kms: KmsDouble) -> None:
    key = kms.create("org")
    tried = signer(kms)
    _ = tried.public_key
    kms.aliases["alias/org"] = kms.create("other")
    sign_checked(tried, b"m", fingerprint(key.public))


def test_a_moved_alias_signs_nothing_under_the_old_pin(kms: KmsDouble) -> None:
    pinned = fingerprint(kms.create("org").public)
    kms.aliases["alias/org"] = kms.create("other")
    with pytest.raises(SignerError, match="the signer holds"):
        sign_checked(signer(kms), b"m", pinned)
    assert kms.signatures == 0


@pytest.mark.parametrize(
    ("confesses", "says"),
    [(True, "KMS answered with one by .*key/other"), (False, "its own public key")],
)
def test_another_key_s_signature_is_never_used(kms: KmsDouble, confesses: bool, says: str) -> None:
    key = kms.create("org")
    kms.impostor, kms.confesses = kms.create("other"), confesses
    with pytest.raises(SignerError, match=says):
        sign_checked(signer(kms), b"m", fingerprint(key.public))


def test_a_role_is_assumed_and_its_credentials_sign(kms: KmsDouble) -> None:
    key = kms.create("org")
    sign_checked(signer(kms, role=ROLE), b"m", fingerprint(key.public))
    (request,) = kms.roles
    assert request["RoleArn"] == ROLE.arn
    assert (request["ExternalId"], request["RoleSessionName"]) == ("longseal-7", "october")
    assert {who for _, _, who in kms.asked} == {"ASIAROLE"}


def test_a_role_that_may_not_be_assumed_names_its_setting(kms: KmsDouble) -> None:
    kms.create("org")
    kms.denied.add("AssumeRole")
    with pytest.raises(SettingsError, match=r"^signer\.role_arn: assume the role: "):
        signer(kms, role=ROLE).sign(b"m")
    assert kms.asked == []


@pytest.mark.parametrize(
    "changes", [{"endpoint": "no URL"}, {"region": "not a region"}, {"secret_key": None}]
)
def test_what_makes_no_client_is_a_setting_to_correct(
    kms: KmsDouble, changes: dict[str, Any]
) -> None:
    with pytest.raises(PermanentError, match=r"^signer\."):
        signer(kms, **changes).sign(b"m")


def test_no_message_holds_a_secret(kms: KmsDouble) -> None:
    for code in ("ThrottlingException", "AccessDeniedException", "WhateverException"):
        kms.planned.extend([code] * 3)
        with pytest.raises(LongsealError) as caught:
            signer(kms, session_token="70ken").sign(b"m")
        assert not {"5ecre7", "70ken"} & {*str(caught.value).split()}
        kms.planned.clear()


def test_the_policy_in_deploy_allows_what_is_asked_and_no_more(kms: KmsDouble) -> None:
    kms.create("org")
    signer(kms).sign(b"m")
    policy = json.loads((Path(__file__).parents[5] / "deploy" / "aws-kms-policy.json").read_text())
    allowed = {
        action.removeprefix("kms:")
        for statement in policy["Statement"]
        if statement["Effect"] == "Allow"
        for action in statement["Action"]
    }
    assert allowed == {*calls(kms)}
