"""Whom a signing certificate names: its subject alternative name and its OIDC issuer.

Extensions: fulcio's ``docs/oid-info.md``, 1.3.6.1.4.1.57264.1.
"""

from __future__ import annotations

from cryptography import x509

from longseal.errors import UnsupportedError

_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_ISSUER_V1 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_OTHER_NAME = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7")


def identity_of(certificate: x509.Certificate) -> str:
    """The one name that a certificate gives its holder.

    :raises UnsupportedError: it has none, or several
    """
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found = [
        *names.get_values_for_type(x509.RFC822Name),
        *names.get_values_for_type(x509.UniformResourceIdentifier),
        *(
            _der_text(name.value)
            for name in names.get_values_for_type(x509.OtherName)
            if name.type_id == _OTHER_NAME
        ),
    ]
    if len(found) != 1:
        raise UnsupportedError(f"expected one name in the certificate, found {len(found)}")
    return str(found[0])


def issuer_of(certificate: x509.Certificate) -> str:
    """The OIDC issuer that vouched for the name.

    Certificates of GitHub's releases name none: then the authority that issued them (RFC 4514).
    """
    for oid, read in ((_ISSUER_V2, _der_text), (_ISSUER_V1, bytes.decode)):
        try:
            extension = certificate.extensions.get_extension_for_oid(oid).value
        except x509.ExtensionNotFound:
            continue
        assert isinstance(extension, x509.UnrecognizedExtension)
        return read(extension.value)
    return certificate.issuer.rfc4514_string()


def _der_text(value: bytes) -> str:
    from cryptography.hazmat import asn1

    return asn1.decode_der(str, value)
