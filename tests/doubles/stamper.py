"""RFC 3161 tokens made in process, for whatever time a test asks: nothing here reads a clock."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

from asn1crypto import core, tsp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_SHA256 = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True)
class Stamper:
    """The key of a timestamp authority.

    :param root_key: the root's
    :param chain: its certificate, and the root that issued it
    """

    key: ec.EllipticCurvePrivateKey
    root_key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, x509.Certificate]

    @classmethod
    def new(
        cls,
        name: str,
        born: datetime,
        life: timedelta,
        root_life: timedelta | None = None,
        extensions: Sequence[x509.ExtensionType] = (),
    ) -> Self:
        """A new key with a new root.

        :param extensions: of the timestamping certificate, beside what it needs
        """
        root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        issuer, subject = (
            x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "double"),
                    x509.NameAttribute(NameOID.COMMON_NAME, text),
                ]
            )
            for text in (f"{name} root", name)
        )

        def certificate(
            named: x509.Name, public: ec.EllipticCurvePrivateKey, valid: timedelta
        ) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder(issuer, named, public.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(born)
                .not_valid_after(born + valid)
            )

        root = certificate(issuer, root_key, root_life or life).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        leaf = certificate(subject, key, life).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True
        )
        for extension in extensions:
            leaf = leaf.add_extension(extension, critical=False)
        return cls(
            key,
            root_key,
            (leaf.sign(root_key, hashes.SHA256()), root.sign(root_key, hashes.SHA256())),
        )

    def crl(self, at: datetime, revoked: datetime | None = None) -> bytes:
        """The root's list of revoked certificates, with the stamping one where that is revoked."""
        leaf, root = self.chain
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(root.subject)
            .last_update(at)
            .next_update(at + timedelta(days=7))
        )
        if revoked is not None:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(leaf.serial_number)
                .revocation_date(revoked)
                .build()
            )
        return builder.sign(self.root_key, hashes.SHA256()).public_bytes(Encoding.DER)

    def ocsp(self, at: datetime, revoked: datetime | None = None) -> bytes:
        """The root's OCSP answer for the stamping certificate."""
        leaf, root = self.chain
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=leaf,
            issuer=root,
            algorithm=hashes.SHA256(),
            cert_status=ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD,
            this_update=at,
            next_update=None,
            revocation_time=revoked,
            revocation_reason=None,
        )
        builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, root)
        return builder.sign(self.root_key, hashes.SHA256()).public_bytes(Encoding.DER)

    def stamp(self, data: bytes, at: datetime) -> bytes:
        """A TimeStampResp for ``data``, without certificates."""
        return self._response(hashlib.sha256(data).digest(), at, None, ())

    def answer(
        self, query: bytes, at: datetime, certificates: Sequence[x509.Certificate] = ()
    ) -> bytes:
        """The TimeStampResp for a TimeStampReq over SHA-256.

        :param certificates: that go into it, in this order, which DER may want otherwise
        """
        request = tsp.TimeStampReq.load(query)
        imprint = request["message_imprint"]["hashed_message"].native
        return self._response(imprint, at, request["nonce"].native, certificates)

    def _response(
        self,
        imprint: bytes,
        at: datetime,
        nonce: int | None,
        certificates: Sequence[x509.Certificate],
    ) -> bytes:
        """RFC 3161 section 2.4.2, RFC 5652 section 5."""
        content = _sequence(
            _integer(1),
            _oid("1.3.6.1.4.1.57264.2"),
            _sequence(_HASHED, _octets(imprint)),
            _integer(x509.random_serial_number()),
            _der(0x18, at.strftime("%Y%m%d%H%M%SZ").encode()),
            *([] if nonce is None else [_integer(nonce)]),
        )
        leaf, root = self.chain
        named = hashlib.sha256(leaf.public_bytes(Encoding.DER)).digest()
        attributes = b"".join(
            sorted(
                [
                    _attribute("1.2.840.113549.1.9.3", _TST_INFO),
                    _attribute("1.2.840.113549.1.9.4", _octets(hashlib.sha256(content).digest())),
                    _attribute(
                        "1.2.840.113549.1.9.5", _der(0x17, at.strftime("%y%m%d%H%M%SZ").encode())
                    ),
                    # ESSCertIDv2 of RFC 5035, whose hash is SHA-256 by default
                    _attribute(
                        "1.2.840.113549.1.9.16.2.47",
                        _sequence(_sequence(_sequence(_octets(named)))),
                    ),
                ]
            )
        )
        signer = _sequence(
            _integer(1),
            _sequence(root.subject.public_bytes(), _integer(leaf.serial_number)),
            _HASHED,
            _der(0xA0, attributes),
            _sequence(_ECDSA),
            _octets(self.key.sign(_der(0x31, attributes), _SHA256)),
        )
        sent = [each.public_bytes(Encoding.DER) for each in certificates]
        signed_data = _sequence(
            _integer(3),
            _der(0x31, _HASHED),
            _sequence(_TST_INFO, _der(0xA0, _octets(content))),
            *([_der(0xA0, *sent)] if sent else []),
            _der(0x31, signer),
        )
        token = _sequence(_oid("1.2.840.113549.1.7.2"), _der(0xA0, signed_data))
        return _sequence(_sequence(_integer(0)), token)


def _der(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return bytes([tag]) + _length(content) + content


def _length(data: bytes) -> bytes:
    if len(data) < 128:
        return bytes([len(data)])
    size = len(data).to_bytes(4, "big").lstrip(b"\0")
    return bytes([0x80 | len(size)]) + size


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, *parts)


def _octets(data: bytes) -> bytes:
    return _der(0x04, data)


def _integer(number: int) -> bytes:
    return bytes(core.Integer(number).dump())


def _oid(dotted: str) -> bytes:
    return bytes(core.ObjectIdentifier(dotted).dump())


def _attribute(dotted: str, value: bytes) -> bytes:
    return _sequence(_oid(dotted), _der(0x31, value))


_TST_INFO = _oid("1.2.840.113549.1.9.16.1.4")
_HASHED = _sequence(_oid("2.16.840.1.101.3.4.2.1"))
_ECDSA = _oid("1.2.840.10045.4.3.2")
