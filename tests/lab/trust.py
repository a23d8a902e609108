"""What a Sigstore client is told about the laboratory: trusted root and signing configuration."""

import base64
from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from tests.lab import keys
from tests.lab.authorities import Fulcio, Rekor, Tsa
from tests.lab.standins import CtLogStandIn

VALID = {"start": keys.BORN.strftime("%Y-%m-%dT%H:%M:%SZ")}
Document = dict[str, Any]


def trusted_root(
    fulcio: Fulcio, ct_log: CtLogStandIn, rekor: Rekor, tsas: Sequence[Tsa]
) -> Document:
    return {
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        # Verifiers take the origin of the checkpoints from the log's address.
        "tlogs": [_log(f"https://{rekor.origin}", rekor.key, "PKIX_ED25519", rekor.log_id)],
        "certificateAuthorities": [_authority(fulcio.ca, fulcio.url)],
        "ctlogs": [_log(ct_log.url, ct_log.key, "PKIX_ECDSA_P256_SHA_256", ct_log.log_id)],
        "timestampAuthorities": [_authority(each.ca, each.url) for each in tsas],
    }


def signing_config(issuer: str, fulcio: Fulcio, rekor: Rekor, tsa: Tsa) -> Document:
    def service(url: str, version: int) -> list[Document]:
        return [{"url": url, "majorApiVersion": version, "validFor": VALID, "operator": "lab"}]

    return {
        "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
        "caUrls": service(fulcio.url, 1),
        "oidcUrls": service(issuer, 1),
        "rekorTlogUrls": service(rekor.url, 2),
        "tsaUrls": service(tsa.url, 1),
        "rekorTlogConfig": {"selector": "ANY"},
        "tsaConfig": {"selector": "ANY"},
    }


def _log(url: str, key: keys.PrivateKey, details: str, log_id: bytes) -> Document:
    public = {"rawBytes": _base64(keys.spki(key)), "keyDetails": details, "validFor": VALID}
    log = {"baseUrl": url, "hashAlgorithm": "SHA2_256", "publicKey": public}
    return log | {"logId": {"keyId": _base64(log_id)}}


def _authority(ca: keys.CertifiedKey, url: str) -> Document:
    chain = [{"rawBytes": _base64(each.public_bytes(Encoding.DER))} for each in ca.chain]
    subject = {"organization": "lab", "commonName": ca.name}
    return {"subject": subject, "uri": url, "certChain": {"certificates": chain}, "validFor": VALID}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
