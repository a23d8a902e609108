"""RFC 3161 tokens under the timestamp authorities of a trusted root.

``rfc3161-client`` verifies every token. Most of what that costs is the signature in the
authority's own certificate, which is the same for each of its tokens: it is checked with the first
one, and then counts for all others that were made while every certificate of the chain was valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from rfc3161_client import TimeStampResponse, decode_timestamp_response
from rfc3161_client import VerificationError as TokenRefusal
from rfc3161_client.verify import _Verifier

_SIGNED_DATA: Final = x509.ObjectIdentifier("1.2.840.113549.1.7.2")
_TST_INFO: Final = x509.ObjectIdentifier("1.2.840.113549.1.9.16.1.4")
_CONTENT_TYPE: Final = x509.ObjectIdentifier("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST: Final = x509.ObjectIdentifier("1.2.840.113549.1.9.4")
_HASHES: Final = {
    x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1"): hashes.SHA256(),
    x509.ObjectIdentifier("2.16.840.1.101.3.4.2.2"): hashes.SHA384(),
    x509.ObjectIdentifier("2.16.840.1.101.3.4.2.3"): hashes.SHA512(),
}


def decoded(token: bytes) -> TimeStampResponse | None:
    """An RFC 3161 response; None where it is none."""
    try:
        return decode_timestamp_response(token)
    # Whatever a parser of hostile bytes raises.
    except Exception:
        return None


class TokenVerifier(_Verifier):
    """Verifies the tokens of one authority; keep it as long as the authority is trusted.

    :param chain: the authority's certificates, from its own to the root
    """

    def __init__(self, chain: Sequence[x509.Certificate]) -> None:
        super().__init__(
            policy_id=None,
            tsa_certificate=chain[0],
            intermediates=list(chain[1:-1]),
            roots=[chain[-1]],
            nonce=None,
        )
        self._own = chain[0]
        self._start = max(one.not_valid_before_utc for one in chain)
        self._end = min(one.not_valid_after_utc for one in chain)
        self._proven = False

    def accepts(self, response: TimeStampResponse, message: bytes) -> bool:
        """Whether the authority stamped ``message``, unhashed."""
        try:
            return self.verify_message(response, message)
        except (TokenRefusal, ValueError):
            return False

    def _verify_signed_data(
        self, sig: bytes, verification_time: datetime, certificates: set[bytes]
    ) -> None:
        short = self._start <= verification_time <= self._end and _signed_by(self._own, sig)
        if not (short and self._proven):
            super()._verify_signed_data(sig, verification_time, certificates)
            self._proven = self._proven or short


def _signed_by(certificate: x509.Certificate, token: bytes) -> bool:
    """Whether a token (RFC 5652 SignedData) is signed by the key of ``certificate``.

    No is not a verdict: what has another shape than nearly all tokens is left to OpenSSL.
    """
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        outer = asn1.decode_der(_Token, token)
        signed = outer.signed
        listed = signed.digest_algorithms.as_list()
        (signer,) = signed.signers.as_list()
        algorithm = _HASHES[signer.digest_algorithm.kind]
        digest = hashes.Hash(algorithm)
        digest.update(signed.content.content)
        expected = {
            _CONTENT_TYPE: asn1.encode_der(_TST_INFO),
            _MESSAGE_DIGEST: asn1.encode_der(digest.finalize()),
        }
        attributes = [(one.kind, one.values.as_list()) for one in signer.attributes.as_list()]
        found = {kind: asn1.encode_der(value) for kind, (value,) in attributes}
        if (
            (outer.kind, signed.version, signer.version) != (_SIGNED_DATA, 3, 1)
            or signed.content.kind != _TST_INFO
            or signer.digest_algorithm.kind not in {one.kind for one in listed}
            or (signed.certificates is not None and signed.certificates.as_list())
            or asn1.encode_der(signer.signer.issuer) != certificate.issuer.public_bytes()
            or signer.signer.serial_number != certificate.serial_number
            or len(found) != len(attributes)
            or any(found.get(kind) != value for kind, value in expected.items())
        ):
            return False
        key.verify(signer.signature, _as_set(signer.attributes), ec.ECDSA(algorithm))
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return False
    return True


def _as_set(attributes: asn1.SetOf[_Attribute]) -> bytes:
    """What is signed: a SET, although the field has the tag [0] (RFC 5652 section 5.4)."""
    whole = asn1.decode_der(_Any, asn1.encode_der(_Attributes(attributes=attributes)))
    return asn1.encode_der(whole.element)


@asn1.sequence
class _Algorithm:
    kind: x509.ObjectIdentifier
    parameters: asn1.Null | None


@asn1.sequence
class _Attribute:
    kind: x509.ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _Attributes:
    attributes: asn1.SetOf[_Attribute]


@asn1.sequence
class _Any:
    element: asn1.TLV


@asn1.sequence
class _IssuerAndSerialNumber:
    issuer: asn1.TLV
    serial_number: int


@asn1.sequence
class _SignerInfo:
    version: int
    signer: _IssuerAndSerialNumber
    digest_algorithm: _Algorithm
    attributes: Annotated[asn1.SetOf[_Attribute], asn1.Implicit(0)]
    signature_algorithm: asn1.TLV
    signature: bytes


@asn1.sequence
class _Content:
    kind: x509.ObjectIdentifier
    content: Annotated[bytes, asn1.Explicit(0)]


@asn1.sequence
class _SignedData:
    version: int
    digest_algorithms: asn1.SetOf[_Algorithm]
    content: _Content
    certificates: Annotated[asn1.SetOf[asn1.TLV] | None, asn1.Implicit(0)]
    signers: asn1.SetOf[_SignerInfo]


@asn1.sequence
class _Token:
    kind: x509.ObjectIdentifier
    signed: Annotated[_SignedData, asn1.Explicit(0)]
