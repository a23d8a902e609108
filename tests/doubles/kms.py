"""A double of AWS KMS: its JSON protocol for the calls that signing needs, by keys of its own.

Other than in moto, a digest is signed as it is (``MessageType=DIGEST``), as AWS documents it;
``test_kms.py`` beside this holds its signatures against openssl. It also gives temporary
credentials, as AWS's token service does.
"""

import base64
import hashlib
import json
import time
import urllib.parse
from collections import deque
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.doubles.server import LoopbackServer, QuietHandler

REGION = "eu-central-1"
ACCOUNT = "111122223333"

_ALGORITHMS = {
    "ECC_NIST_P256": ["ECDSA_SHA_256"],
    "ECC_NIST_P384": ["ECDSA_SHA_384"],
    "RSA_2048": ["RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PSS_SHA_256"],
    "RSA_3072": ["RSASSA_PKCS1_V1_5_SHA_256", "RSASSA_PSS_SHA_256"],
}


def private_key(spec: str) -> Any:
    """A key of one of KMS's key specs."""
    if spec.startswith("RSA_"):
        return rsa.generate_private_key(65537, int(spec.removeprefix("RSA_")))
    return ec.generate_private_key({"256": ec.SECP256R1(), "384": ec.SECP384R1()}[spec[-3:]])


@dataclass
class KmsKey:
    name: str
    spec: str
    private: Any
    state: str = "Enabled"
    usage: str = "SIGN_VERIFY"

    @property
    def arn(self) -> str:
        return f"arn:aws:kms:{REGION}:{ACCOUNT}:key/{self.name}"

    @property
    def public(self) -> Any:
        return self.private.public_key()


class _Refusal(Exception):
    def __init__(self, code: str, status: int = 400) -> None:
        self.code, self.status = code, status


class KmsDouble(LoopbackServer):
    """KMS on loopback; what it shall answer next stands in :attr:`planned`.

    :param planned: codes of errors to answer with before anything is done, each once: an error's
        code (five hundreds as ``500``), ``hang up``, or ``garbage``
    :param denied: actions that the credentials may not do
    :param impostor: the key that signs whatever key is named
    :param confesses: whether the impostor's answer names it
    :param delay: seconds before each answer
    """

    def __init__(self) -> None:
        self.keys: dict[str, KmsKey] = {}
        self.aliases: dict[str, KmsKey] = {}
        self.planned: deque[str] = deque()
        self.denied: set[str] = set()
        self.impostor: KmsKey | None = None
        self.confesses = True
        self.delay = 0.0
        self.signatures = 0
        self.asked: list[tuple[str, dict[str, Any], str]] = []
        self.roles: list[dict[str, str]] = []
        double = self

        class Handler(QuietHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(double.delay)
                if not self.headers.get("Authorization", "").startswith("AWS4-HMAC-SHA256"):
                    return self._answer(403, {"__type": "MissingAuthenticationTokenException"})
                plan = double.planned.popleft() if double.planned else None
                if plan == "hang up":
                    return self.connection.close()
                if plan == "garbage":
                    return self.respond(200, b"<html>captive portal</html>", "text/html")
                if "X-Amz-Target" not in self.headers:
                    return self.respond(*double._token_service(body, plan), "text/xml")
                who = self.headers["Authorization"].split("Credential=")[1].split("/")[0]
                action = self.headers["X-Amz-Target"].rpartition(".")[2]
                request = json.loads(body)
                double.asked.append((action, request, who))
                try:
                    self._answer(200, double._perform(action, request, plan))
                except _Refusal as refusal:
                    self._answer(refusal.status, {"__type": refusal.code, "message": "no"})

            def _answer(self, status: int, document: dict[str, Any]) -> None:
                body = json.dumps(document).encode()
                self.respond(status, body, "application/x-amz-json-1.1")

        super().__init__(Handler)

    def create(self, name: str, spec: str = "ECC_NIST_P256", private: Any = None) -> KmsKey:
        """Make a key, with an alias of the same name."""
        key = KmsKey(name, spec, private or private_key(spec))
        self.keys[name] = self.keys[key.arn] = key
        self.aliases[f"alias/{name}"] = key
        return key

    def _perform(self, action: str, request: dict[str, Any], plan: str | None) -> dict[str, Any]:
        if plan:
            raise _Refusal(plan, 500) if plan == "500" else _Refusal(plan)
        if action in self.denied:
            raise _Refusal("AccessDeniedException")
        named = str(request.get("KeyId")).removeprefix(f"arn:aws:kms:{REGION}:{ACCOUNT}:alias")
        key = self.aliases.get(named if named.startswith("alias/") else f"alias{named}")
        key = key or self.keys.get(request.get("KeyId", ""))
        if key is None:
            raise _Refusal("NotFoundException")
        match action:
            case "DescribeKey":
                return {"KeyMetadata": {"KeyId": key.name, "Arn": key.arn, "KeyState": key.state}}
            case "GetPublicKey":
                _require_enabled(key)
                der = key.public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
                return {
                    "KeyId": key.arn,
                    "KeySpec": key.spec,
                    "KeyUsage": key.usage,
                    "PublicKey": base64.b64encode(der).decode(),
                    "SigningAlgorithms": _ALGORITHMS[key.spec],
                }
            case "Sign":
                _require_enabled(key)
                signer = self.impostor or key
                signature = _sign(signer, request)
                self.signatures += 1
                return {
                    "KeyId": (signer if self.confesses else key).arn,
                    "Signature": base64.b64encode(signature).decode(),
                    "SigningAlgorithm": request["SigningAlgorithm"],
                }
        raise _Refusal("UnknownOperationException")

    def _token_service(self, body: bytes, plan: str | None) -> tuple[int, bytes]:
        request = dict(urllib.parse.parse_qsl(body.decode()))
        if plan or "AssumeRole" in self.denied or request["Action"] != "AssumeRole":
            code = plan or "AccessDenied"
            text = f"<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>"
            return 403, text.encode()
        self.roles.append(request)
        text = (
            '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            "<AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId>"
            "<SecretAccessKey>temporary</SecretAccessKey><SessionToken>token</SessionToken>"
            "<Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult>"
            "</AssumeRoleResponse>"
        )
        return 200, text.encode()


def _require_enabled(key: KmsKey) -> None:
    if key.state == "Disabled":
        raise _Refusal("DisabledException")
    if key.state != "Enabled":
        raise _Refusal("KMSInvalidStateException")


def _sign(key: KmsKey, request: dict[str, Any]) -> bytes:
    algorithm = request["SigningAlgorithm"]
    if algorithm not in _ALGORITHMS[key.spec]:
        raise _Refusal("InvalidKeyUsageException")
    hash_name = f"sha{algorithm[-3:]}"
    message = base64.b64decode(request["Message"], validate=True)
    if len(message) > 4096:
        raise _Refusal("ValidationException")
    match request.get("MessageType", "RAW"):
        case "DIGEST":
            digest = message
        case "RAW":
            digest = hashlib.new(hash_name, message).digest()
        case _:
            raise _Refusal("ValidationException")
    algorithm_of = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384()}[hash_name]
    if len(digest) != algorithm_of.digest_size:
        raise _Refusal("ValidationException")
    hashed = Prehashed(algorithm_of)
    if key.spec.startswith("ECC_"):
        return key.private.sign(digest, ec.ECDSA(hashed))
    if "PSS" in algorithm:
        pss = padding.PSS(padding.MGF1(algorithm_of), padding.PSS.DIGEST_LENGTH)
        return key.private.sign(digest, pss, hashed)
    return key.private.sign(digest, padding.PKCS1v15(), hashed)
