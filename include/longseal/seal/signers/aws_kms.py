"""A key in AWS KMS, or in what speaks its protocol."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from longseal.errors import RetryableError, SettingsError, SignerError, UnsupportedError
from longseal.seal.keys import load_spki
from longseal.seal.signers.interface import PublicKey

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

_Algorithm = Literal["ECDSA_SHA_256", "RSASSA_PKCS1_V1_5_SHA_256"]

_PAUSES: Final = (0.5, 2.0, 5.0)
"""Seconds between tries while KMS throttles."""

_READ_SECONDS: Final = 20

_THROTTLED: Final = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException"})
_UNAVAILABLE: Final = frozenset(
    {"DependencyTimeoutException", "KMSInternalException", "KeyUnavailableException"}
)
_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_KEY: Final = "signer.key_id"
_LOGIN: Final = "signer.conn_id"
_ROLE: Final = "signer.role_arn"


@dataclass(frozen=True, slots=True)
class Role:
    """A role to assume before the key is asked for."""

    arn: str
    external_id: str | None = None
    session_name: str = "longseal"


def kms_client(
    region: str | None = None,
    endpoint: str | None = None,
    access_key: str | None = None,
    secret_key: str | None = None,
    session_token: str | None = None,
    role: Role | None = None,
) -> KMSClient:
    """A boto3 client with bounded waiting that never repeats a request by itself: a signature
    whose answer was lost is made, and a second one would be a key operation nobody counted.

    Without keys boto3 finds its credentials itself (environment, profile, instance role).

    :raises SettingsError: region or endpoint will not do, or the role may not be assumed
    :raises RetryableError: the token service did not answer
    """
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=_READ_SECONDS
    )
    with _errors("make a client", _KEY):
        session = boto3.session.Session(
            access_key, secret_key, session_token, region_name=region or None
        )
    if role:
        with _errors("assume the role", _ROLE):
            optional: Any = {"ExternalId": role.external_id} if role.external_id else {}
            answer = session.client("sts", config=config).assume_role(
                RoleArn=role.arn, RoleSessionName=role.session_name, **optional
            )
        given = answer["Credentials"]
        session = boto3.session.Session(
            given["AccessKeyId"],
            given["SecretAccessKey"],
            given["SessionToken"],
            region_name=session.region_name,
        )
    with _errors("make a client", "signer.endpoint"):
        return session.client("kms", endpoint_url=endpoint, config=config)


def region_of(key_id: str) -> str | None:
    """The region in a key's or an alias's ARN."""
    parts = key_id.split(":")
    return parts[3] if parts[0] == "arn" and len(parts) == 6 else None


@dataclass(frozen=True, slots=True)
class _Key:
    arn: str
    public: PublicKey
    algorithm: _Algorithm


class AwsKmsSigner:
    """Signs with one KMS key. Nothing is asked before first use.

    An alias is resolved once, with the public key; the key behind it signs, whatever the alias
    points to by then. Needed are ``kms:GetPublicKey`` and ``kms:Sign``.

    :param key_id: key id, ARN, ``alias/…`` or an alias's ARN
    :param connect: makes a client; once a process, for connections do not outlive a fork
    :param pauses: seconds between tries while KMS throttles
    """

    def __init__(
        self, key_id: str, connect: Callable[[], KMSClient], pauses: Sequence[float] = _PAUSES
    ) -> None:
        self.key_id = key_id
        self._connect = connect
        self._pauses = pauses
        self._connected: tuple[int, KMSClient] | None = None
        self._found: _Key | None = None

    @property
    def warning(self) -> str | None:
        return None

    @property
    def public_key(self) -> PublicKey:
        return self._key().public

    def sign(self, message: bytes) -> bytes:
        key = self._key()
        answer = self._ask(
            "kms:Sign",
            lambda client: client.sign(
                KeyId=key.arn,
                Message=hashlib.sha256(message).digest(),
                MessageType="DIGEST",
                SigningAlgorithm=key.algorithm,
            ),
        )
        if answer["KeyId"] != key.arn:
            raise SignerError(
                f"expected a signature by {key.arn}, KMS answered with one by "
                f"{str(answer['KeyId'])[:200]}; it is not used"
            )
        signature: bytes = answer.get("Signature", b"")
        return signature

    def _key(self) -> _Key:
        if self._found is None:
            answer = self._ask(
                "kms:GetPublicKey", lambda client: client.get_public_key(KeyId=self.key_id)
            )
            self._found = _read_key(answer, self.key_id)
        return self._found

    def _ask(self, action: str, ask: Callable[[KMSClient], Any]) -> Any:
        for pause in self._pauses:
            try:
                return self._ask_once(action, ask)
            except _ThrottledError:
                # Throttled is refused, not done: to ask again is not a second key operation.
                time.sleep(pause)
        return self._ask_once(action, ask)

    def _ask_once(self, action: str, ask: Callable[[KMSClient], Any]) -> Any:
        if self._connected is None or self._connected[0] != os.getpid():
            self._connected = os.getpid(), self._connect()
        with _errors(action, _KEY):
            answer = ask(self._connected[1])
        if "KeyId" not in answer:
            # botocore takes a page by a proxy for an empty answer.
            raise RetryableError(f"{action}: what answered does not speak as KMS does")
        return answer


def _read_key(answer: Any, key_id: str) -> _Key:
    spec, usage = answer.get("KeySpec"), answer.get("KeyUsage")
    if usage != "SIGN_VERIFY":
        raise SettingsError(_KEY, f"{key_id} is for {usage}: expected a key for SIGN_VERIFY")
    public = load_spki(answer.get("PublicKey", b""), f"the public key of {key_id}")
    match public:
        case ec.EllipticCurvePublicKey() if spec == "ECC_NIST_P256":
            return _Key(answer["KeyId"], public, "ECDSA_SHA_256")
        case rsa.RSAPublicKey() if str(spec).startswith("RSA_"):
            return _Key(answer["KeyId"], public, "RSASSA_PKCS1_V1_5_SHA_256")
    raise UnsupportedError(
        f"{_KEY}: {key_id} is of the spec {spec}, whose signatures by KMS cosign cannot verify: "
        "use ECC_NIST_P256, or RSA_2048 and longer"
    )


class _ThrottledError(RetryableError):
    pass


@contextmanager
def _errors(action: str, setting: str) -> Iterator[None]:
    """What boto3 raises, as what a task is to do about it.

    :param action: what was tried, as IAM calls it
    :param setting: what names the key or role
    """
    from botocore import exceptions as boto
    from botocore.parsers import ResponseParserError

    try:
        yield
    except boto.ClientError as err:
        raise _judged(err, action, setting) from err
    except boto.NoRegionError as err:
        raise SettingsError("signer.region", "no AWS region is set: name one") from err
    except (boto.NoCredentialsError, boto.PartialCredentialsError) as err:
        raise SettingsError(_LOGIN, f"could not {action}: no complete credentials found") from err
    except (boto.ParamValidationError, boto.ProfileNotFound, ValueError) as err:
        raise SettingsError(setting, f"could not {action}: {str(err)[:200]}") from err
    except (boto.BotoCoreError, ResponseParserError) as err:
        raise RetryableError(f"{action}: KMS did not answer well: {str(err)[:200]}") from err


def _judged(err: Any, action: str, setting: str) -> RetryableError | SettingsError:
    code = str(err.response.get("Error", {}).get("Code", ""))[:80]
    status = int(err.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _THROTTLED or status == 429:
        return _ThrottledError(f"{action}: KMS throttles ({code})")
    if code in _UNAVAILABLE or status >= 500:
        return RetryableError(f"{action}: KMS failed ({code}, status {status})")
    if code in _CREDENTIALS:
        return SettingsError(_LOGIN, f"{action}: AWS does not take the credentials ({code})")
    say = {
        "AccessDenied": f"these credentials may not do it: allow {action}",
        "AccessDeniedException": f"these credentials may not do it: allow {action}",
        "DisabledException": "the key is disabled: enable it",
        "KMSInvalidStateException": "the key is pending deletion, import or creation, or its store "
        "is not connected",
        "NotFoundException": "there is no such key or alias in this account and region",
        "InvalidKeyUsageException": "the key does not sign with this algorithm",
    }.get(code, f"AWS refused (status {status})")
    return SettingsError(setting, f"{action}: {say} ({code})")
