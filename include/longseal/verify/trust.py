"""The trusted root, with the windows that sigstore-python leaves unchecked.

A root may lack what its instance does without: GitHub's has no logs, and then none is asked for.

sigstore-python accepts a certificate authority, certificate log or Rekor v2 log whose validity
ended before the signing, and tries every key when an entry names a log that it does not know
(docs/decisions/0002-windows.md). Here each log is found by the id that the trusted root gives it,
and nothing outside an instance's window counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography import x509

from longseal.canonical import digest_of, parse_object
from longseal.errors import MalformedError, UnsupportedError, brief

if TYPE_CHECKING:
    from sigstore._internal.trust import CertificateAuthority
    from sigstore.models import TrustedRoot

_MEDIA_TYPE = "application/vnd.dev.sigstore.trustedroot"
_INSTANCES = ("certificateAuthorities", "ctlogs", "tlogs", "timestampAuthorities")


@dataclass(frozen=True, slots=True)
class Window:
    """When an instance may be believed: from ``start``, up to and including ``end``."""

    start: datetime | None
    end: datetime | None

    def covers(self, moment: datetime) -> bool:
        """Whether ``moment`` lies inside."""
        return (self.start is None or self.start <= moment) and (
            self.end is None or moment <= self.end
        )

    def __str__(self) -> str:
        start, end = (f" {at}" if at else "" for at in (self.start, self.end))
        return f"{start and f'from{start}'}{end and f' to{end}'}".strip() or "at any time"


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority: its certificates in DER, and when it may be believed."""

    certificates: frozenset[bytes]
    window: Window


class TrustMaterial:
    """A trusted root as archived: its digest, its instances, and sigstore-python's view of it."""

    def __init__(self, digest: str, root: TrustedRoot) -> None:
        from longseal.verify.timestamps import TokenVerifier

        self.digest = digest
        self.root = _StrictRoot(root)
        inner = root._inner
        self.authorities = tuple(
            Authority(
                frozenset(item.raw_bytes for item in authority.cert_chain.certificates),
                _window(authority.valid_for),
            )
            for authority in inner.certificate_authorities or ()
        )
        self.rekor_windows = _logs(inner.tlogs)
        self.certificate_log_windows = _logs(inner.ctlogs)
        self.timestamp_authorities = tuple(
            (TokenVerifier(chain), _window(authority._inner.valid_for))
            for authority in self.root.get_timestamp_authorities()
            # sigstore-python takes one certificate alone for a chain that is not complete.
            if len(chain := authority.certificates(allow_expired=True)) > 1
        )

    @classmethod
    def parse(cls, data: bytes) -> TrustMaterial:
        """Read a ``trusted_root.json`` (Sigstore protobuf-specs, trust root v0.1).

        :raises MalformedError: not a trusted root
        :raises UnsupportedError: a trusted root without any instance
        """
        from sigstore.errors import Error
        from sigstore.models import TrustedRoot
        from sigstore_models.trustroot.v1 import TrustedRoot as Inner

        document = parse_object(data, "the trusted root")
        if not str(document.get("mediaType", "")).startswith(_MEDIA_TYPE):
            raise MalformedError("expected a Sigstore trusted root, found another mediaType")
        given = {name: document.get(name) or [] for name in _INSTANCES}
        if not any(given.values()):
            raise UnsupportedError(f"the trusted root trusts nobody: no {', no '.join(_INSTANCES)}")
        for instance in (
            one for found in given.values() if isinstance(found, list) for one in found
        ):
            _restore_defaults(instance)
        try:
            return cls(digest_of(data), TrustedRoot(Inner.from_json(json.dumps(document | given))))
        except (Error, ValueError, TypeError) as err:
            raise MalformedError(f"expected a Sigstore trusted root: {brief(err)}") from err

    def authority_of(self, chain: Sequence[x509.Certificate]) -> list[Authority]:
        """The authorities that hold a certificate of ``chain`` (issuers, without the leaf)."""
        from cryptography.hazmat.primitives.serialization import Encoding

        issuers = {certificate.public_bytes(Encoding.DER) for certificate in chain}
        return [one for one in self.authorities if issuers <= one.certificates]


class _StrictRoot:
    """sigstore-python's trusted root with its keys parsed once and each log found only by its id.

    Stands in for :class:`sigstore.models.TrustedRoot` inside a ``Verifier``.
    """

    def __init__(self, root: TrustedRoot) -> None:
        self._inner = root._inner
        self._fulcio = root.get_fulcio_certs() if root._inner.certificate_authorities else []
        self._timestamp_authorities = root.get_timestamp_authorities()
        self._rekor = _keyring(root._inner.tlogs)
        self._ct = _keyring(root._inner.ctlogs)

    def get_fulcio_certs(self) -> list[x509.Certificate]:
        return self._fulcio

    def get_timestamp_authorities(self) -> list[CertificateAuthority]:
        return self._timestamp_authorities

    def rekor_keyring(self, purpose: object) -> Any:
        return self._rekor

    def ct_keyring(self, purpose: object) -> Any:
        return self._ct


def _keyring(instances: Any) -> Any:
    from cryptography.exceptions import InvalidSignature
    from sigstore._internal.trust import Key, Keyring
    from sigstore.errors import VerificationError

    class StrictKeyring(Keyring):
        """Verifies with the key of the log that is named, and with no other."""

        def verify(self, *, key_id: bytes, signature: bytes, data: bytes) -> None:
            if key_id not in keys:
                raise VerificationError(
                    f"log {key_id.hex()} is not in the trusted root; update it if the log is new"
                )
            key = keys[key_id]
            if key is None:
                raise UnsupportedError(f"the key of log {key_id.hex()} is of an unsupported kind")
            try:
                key.verify(signature, data)
            except InvalidSignature:
                raise VerificationError("keyring: invalid signature") from None

    keys: dict[bytes, Key | None] = {}
    for instance in instances:
        try:
            key = Key(instance.public_key)
        except VerificationError:
            # Entries of that log cannot be judged; those of the others can.
            key = None
        keys.update(dict.fromkeys(_log_ids(instance), key))
    return StrictKeyring()


def _restore_defaults(instance: Any) -> None:
    """Protobuf's JSON leaves empty text out, which sigstore-python takes for missing."""
    if not isinstance(instance, dict):
        return
    if "publicKey" in instance:
        instance.setdefault("baseUrl", "")
    elif isinstance(subject := instance.setdefault("subject", {}), dict):
        subject.setdefault("organization", "")
        subject.setdefault("commonName", "")


def _logs(instances: Any) -> dict[bytes, Window]:
    return {
        log_id: _window(item.public_key.valid_for)
        for item in instances or ()
        for log_id in _log_ids(item)
    }


def _log_ids(instance: Any) -> set[bytes]:
    ids = (instance.log_id, instance.checkpoint_key_id)
    return {bytes(one.key_id) for one in ids if one is not None}


def _window(valid_for: Any) -> Window:
    if valid_for is None:
        return Window(None, None)
    return Window(_utc(valid_for.start), _utc(valid_for.end))


def _utc(moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
