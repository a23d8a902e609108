"""The two parts of the laboratory that are not the real thing: OIDC issuer and CT log."""

import base64
import hashlib
import json
import struct
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import jwt
from asn1crypto import x509 as asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.lab import keys
from tests.lab.processes import HOST

POISON = "1.3.6.1.4.1.11129.2.4.3"
Answer = dict[str, Any]


class StandIn:
    """A small JSON server in a thread of this process; a context manager."""

    ROUTES: ClassVar[dict[str, str]]

    def __init__(self, clock: timedelta) -> None:
        """:param clock: how far its clock is ahead of the machine's"""
        routes: dict[str, Callable[[bytes], Answer]] = {
            path: getattr(self, method) for path, method in self.ROUTES.items()
        }

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                route = routes.get(self.path)
                answer = json.dumps(route(body) if route else {}).encode()
                self.send_response(200 if route else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        self.now = lambda: time.time() + clock.total_seconds()
        self.key = ec.generate_private_key(ec.SECP256R1())
        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://{HOST}:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class OidcStandIn(StandIn):
    """An OpenID Connect issuer: discovery, keys, and tokens for whoever asks."""

    ROUTES: ClassVar = {"/.well-known/openid-configuration": "discovery", "/keys": "jwks"}

    def discovery(self, _: bytes) -> Answer:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/auth",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }

    def jwks(self, _: bytes) -> Answer:
        key = jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {"keys": [key | {"kid": "lab", "use": "sig", "alg": "ES256"}]}

    def token(self, email: str, *, seconds: int = 600) -> str:
        """An identity token for `email`, with sigstore's audience."""
        now = int(self.now())
        claims = {
            "iss": self.url,
            "sub": email,
            "aud": "sigstore",
            "email": email,
            "email_verified": True,
            "iat": now,
            "exp": now + seconds,
        }
        return jwt.encode(claims, self.key, algorithm="ES256", headers={"kid": "lab"})


class CtLogStandIn(StandIn):
    """The signing endpoints of a certificate transparency log (RFC 6962 3.2, 4.1, 4.2).

    It promises inclusion and keeps no tree: Sigstore's verifiers check nothing but the promise.
    """

    ROUTES: ClassVar = {"/ct/v1/add-chain": "add_chain", "/ct/v1/add-pre-chain": "add_pre_chain"}

    @property
    def log_id(self) -> bytes:
        return hashlib.sha256(keys.spki(self.key)).digest()

    def add_chain(self, body: bytes) -> Answer:
        certificate = base64.b64decode(json.loads(body)["chain"][0])
        return self._promise(struct.pack(">H", 0) + _with_length(certificate))

    def add_pre_chain(self, body: bytes) -> Answer:
        precertificate, issuer = (
            asn1.Certificate.load(base64.b64decode(each)) for each in json.loads(body)["chain"][:2]
        )
        tbs = precertificate["tbs_certificate"]
        kept = [each for each in tbs["extensions"] if each["extn_id"].dotted != POISON]
        tbs["extensions"] = asn1.Extensions(kept)
        issuer_key_hash = hashlib.sha256(issuer.public_key.dump()).digest()
        return self._promise(struct.pack(">H", 1) + issuer_key_hash + _with_length(tbs.dump()))

    def _promise(self, entry: bytes) -> Answer:
        timestamp = int(self.now() * 1000)
        # version v1, certificate_timestamp; the entry; no extensions
        signed = struct.pack(">BBQ", 0, 0, timestamp) + entry + struct.pack(">H", 0)
        signature = self.key.sign(signed, ec.ECDSA(hashes.SHA256()))
        # TLS DigitallySigned: SHA-256 (4), ECDSA (3)
        digitally_signed = struct.pack(">BBH", 4, 3, len(signature)) + signature
        return {
            "sct_version": 0,
            "id": base64.b64encode(self.log_id).decode(),
            "timestamp": timestamp,
            "extensions": "",
            "signature": base64.b64encode(digitally_signed).decode(),
        }


def _with_length(data: bytes) -> bytes:
    return len(data).to_bytes(3, "big") + data
