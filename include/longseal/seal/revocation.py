"""What can be learnt today of whether an authority's certificates are revoked, kept for later.

A certificate names where its issuer's list (CRL) and its issuer's responder (OCSP) are. Years on
neither may answer, so their answers of the sealing's own day are archived beside the seal. Nothing
of this stops a seal: what cannot be had is noted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from longseal.errors import (
    ConflictError,
    LongsealError,
    MalformedError,
    TimestampError,
    VerificationError,
)
from longseal.seal.ceremony import authorities
from longseal.seal.http import get, post
from longseal.seal.timestamps import Authority
from longseal.workspace import Workspace

REVOCATION: Final = "revocation"
TIMEOUT: Final = 5.0
MAX_BYTES: Final = 4 * 1024 * 1024
MAX_PLACES: Final = 4
"""Addresses that are asked of one certificate."""


@dataclass(slots=True)
class Revocation:
    """What was learnt of some authorities.

    :param files: answers, by ``<SHA-256 of the certificate>.crl`` or ``.ocsp``, in DER
    :param failed: by address, why there is no answer
    :param revoked: certificates that are revoked, in words
    """

    files: dict[str, bytes] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    revoked: list[str] = field(default_factory=list)

    def ask(self, authority: Authority) -> None:
        """Ask about each certificate of the chain but the root."""
        for certificate, issuer in pairwise(authority.certificates):
            name = certificate.fingerprint(SHA256()).hex()
            for kind, url in places(certificate):
                if f"{name}.{kind}" in self.files:
                    continue
                try:
                    data, since = (_crl if kind == "crl" else _ocsp)(url, certificate, issuer)
                except LongsealError as err:
                    self.failed[url] = str(err)
                    continue
                self.files[f"{name}.{kind}"] = data
                if since is not None:
                    self.revoked.append(
                        f"{certificate.subject.rfc4514_string()} of {authority.url} is revoked"
                        f" since {since:%Y-%m-%d %H:%M:%S}: {url}"
                    )


def keep_revocation(workspace: Workspace, folder: str) -> dict[str, Any]:
    """Ask about the authorities of the settings, and archive the answers below ``folder``.

    :returns: how many files are kept, and by address what ``failed``; what is ``revoked``
    """
    prefix = f"{folder}/{REVOCATION}/"
    kept = {key.removeprefix(prefix): b"" for key in workspace.archive.keys(prefix)}
    asked = [one for one in workspace.settings.timestamps if not one.retired]
    found = Revocation(dict(kept))
    for chosen, authority in zip(asked, authorities(workspace), strict=True):
        if chosen.revocation:
            found.ask(authority)
    for name in found.files.keys() - kept.keys():
        with suppress(ConflictError):
            workspace.store(f"{prefix}{name}", found.files[name])
    if found.revoked:
        workspace.note("timestamp.revoked", {"folder": folder, "revoked": found.revoked})
    return {"kept": len(found.files), "failed": found.failed, "revoked": found.revoked}


def places(certificate: x509.Certificate) -> Iterator[tuple[str, str]]:
    """Where a certificate says that its revocation is told: ``crl`` or ``ocsp``, and the address.

    Only http and https, and only the first few.
    """
    found = [("crl", url) for url in _crl_urls(certificate)]
    found += [("ocsp", url) for url in _ocsp_urls(certificate)]
    web = (one for one in found if one[1].startswith(("http://", "https://")))
    yield from (one for _, one in zip(range(MAX_PLACES), web, strict=False))


def _crl_urls(certificate: x509.Certificate) -> list[str]:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    names = (name for point in points for name in point.full_name or ())
    return [one.value for one in names if isinstance(one, x509.UniformResourceIdentifier)]


def _ocsp_urls(certificate: x509.Certificate) -> list[str]:
    kind = x509.AuthorityInformationAccess
    try:
        described = certificate.extensions.get_extension_for_class(kind).value
    except (x509.ExtensionNotFound, ValueError):
        return []
    return [
        one.access_location.value
        for one in described
        if one.access_method == AuthorityInformationAccessOID.OCSP
        and isinstance(one.access_location, x509.UniformResourceIdentifier)
    ]


def _crl(
    url: str, certificate: x509.Certificate, issuer: x509.Certificate
) -> tuple[bytes, datetime | None]:
    """The issuer's list, and since when the certificate is on it.

    :raises VerificationError: the issuer did not sign it
    """
    answer = get(url, timeout=TIMEOUT, limit=MAX_BYTES, error=TimestampError)
    if answer is None:
        raise TimestampError(f"{url} answered 404")
    try:
        read = x509.load_pem_x509_crl if answer[:5] == b"-----" else x509.load_der_x509_crl
        listed = read(answer)
        # Mismatched kinds of key raise in there, as a broken encoding does.
        signed = listed.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
        entry = listed.get_revoked_certificate_by_serial_number(certificate.serial_number)
    except Exception as err:
        raise MalformedError(f"{url}: expected a list of revoked certificates") from err
    if not signed or listed.issuer != issuer.subject:
        raise VerificationError(f"{url}: the list is not signed by the certificate's issuer")
    return listed.public_bytes(Encoding.DER), entry.revocation_date_utc if entry else None


def _ocsp(
    url: str, certificate: x509.Certificate, issuer: x509.Certificate
) -> tuple[bytes, datetime | None]:
    """The responder's answer, kept as it came, and since when the certificate is revoked by it."""
    # RFC 5019 has every responder know SHA-1 here; it names the issuer and proves nothing.
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, SHA1())  # noqa: S303
    answer = post(
        url,
        builder.build().public_bytes(Encoding.DER),
        "application/ocsp-request",
        timeout=TIMEOUT,
        limit=MAX_BYTES,
        error=TimestampError,
    )
    try:
        response = ocsp.load_der_ocsp_response(answer)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise VerificationError(f"{url} answered {response.response_status.name}")
        serial, since = response.serial_number, response.revocation_time_utc
    except ValueError as err:
        raise MalformedError(f"{url}: expected an OCSP response") from err
    if serial != certificate.serial_number:
        raise VerificationError(f"{url} answered about another certificate")
    return answer, since
