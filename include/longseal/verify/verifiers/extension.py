"""The second verifier: what sigstore-python does not support, built from its own parts.

Inclusion proofs, checkpoints, promises, certificate chains and certificate timestamps are
sigstore-python's (docs/decisions/0009-extension.md), tokens ``rfc3161-client``'s, and signatures
``cryptography``'s. What is here is which of them has to hold, and how each kind of log entry is
bound to the signature.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_der_public_key,
    load_pem_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from longseal import __version__
from longseal.canonical import parse_object
from longseal.errors import MalformedError, UnsupportedError
from longseal.seal.statement import pae
from longseal.verify.bundle import Bundle, Entry, Envelope
from longseal.verify.keys import hashes_of, signed_digest, signed_message, spki
from longseal.verify.timestamps import decoded
from longseal.verify.trust import TrustMaterial
from longseal.verify.verifiers.interface import Facts, Refused, Time

_ALGORITHMS: Final = {"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}


class Extension:
    """Verifies by certificate or by key, with whatever logs and authorities the root has.

    :param keys: the keys that the policy names, in DER (SubjectPublicKeyInfo)
    """

    def __init__(self, trust: TrustMaterial, keys: Sequence[bytes] = ()) -> None:
        self.name = f"longseal {__version__}"
        self._trust = trust
        self._keys = tuple(load_der_public_key(one) for one in keys)
        self._chains = _chain_verifier(trust)

    def supports(self, bundle: Bundle, digest: str | None) -> bool:
        """It says itself, step by step, what it does not support."""
        return True

    def verify(self, bundle: Bundle, digest: str | None, artifact: bytes | None) -> Facts:
        """See :class:`~longseal.verify.verifiers.interface.Verifier`."""
        signed = _Signed(bundle, digest, artifact)
        signer = self._signer(bundle, signed)
        times = self._timestamps(signed, bundle.timestamps)
        if not bundle.entries and self._trust.rekor_windows:
            raise Refused("log-entry", "the bundle has no entry of a transparency log")
        if len({(one.log_id, one.index) for one in bundle.entries}) != len(bundle.entries):
            raise Refused("log-entry", "the bundle has a log entry twice")
        for entry in bundle.entries:
            times += self._log_entry(bundle.version, entry)
            _bind(entry, signed, signer)
        if not bundle.entries and not times:
            raise Refused("time", "no timestamp of a known authority, and no log entry, dates it")
        issuers: tuple[x509.Certificate, ...] = ()
        if isinstance(signer, x509.Certificate):
            if not times:
                text = "neither a timestamp of a known authority nor a log's promise dates it"
                raise Refused("time", text)
            issuers = self._check_certificate(signer, times)
        return Facts(
            certificate=signer if isinstance(signer, x509.Certificate) else None,
            issuers=issuers,
            key=None
            if isinstance(signer, x509.Certificate)
            else f"sha256:{hashlib.sha256(spki(signer)).hexdigest()}",
            times=tuple(times),
            logs=tuple(entry.log_id for entry in bundle.entries),
            digest=digest,
        )

    def _signer(self, bundle: Bundle, signed: _Signed) -> Any:
        """The certificate or key that made the signature."""
        if bundle.certificate is not None:
            if not signed.by(bundle.certificate.public_key()):
                raise Refused("signature", "the certificate's key did not make the signature")
            return bundle.certificate
        if not self._keys:
            raise UnsupportedError("signed with a managed key, which no rule of the policy names")
        for key in self._keys:
            if signed.by(key):
                return key
        raise Refused("signature", "no key that the policy names made the signature")

    def _timestamps(self, signed: _Signed, tokens: Sequence[bytes]) -> list[Time]:
        """The times of all tokens by a known authority; others prove nothing, and spoil nothing."""
        found = []
        messages = [signed.signature]
        if signed.envelope is not None and signed.artifact is not None:
            # Cosign had its older envelopes stamped as a whole, signature and all.
            messages.append(signed.artifact)
        for token in tokens:
            response = decoded(token)
            if response is None:
                continue
            moment = response.tst_info.gen_time
            if any(
                window.covers(moment) and authority.accepts(response, message)
                for authority, window in self._trust.timestamp_authorities
                for message in messages
            ):
                found.append(Time(moment.astimezone(UTC), "rfc3161"))
        return found

    def _log_entry(self, version: str, entry: Entry) -> list[Time]:
        """Verify an entry's proof and promise; the promise's time, where it has one."""
        from sigstore._internal.merkle import verify_merkle_inclusion
        from sigstore._internal.rekor.checkpoint import verify_checkpoint
        from sigstore.errors import VerificationError as SigstoreRefusal

        keyring = self._trust.root.rekor_keyring(None)
        proven = entry.proof is not None and entry.proof.checkpoint is not None
        if version != "0.1" and not proven:
            raise Refused("log-entry", "the log entry has no inclusion proof with a checkpoint")
        if entry.promise is None and (version == "0.1" or not proven):
            raise Refused("log-entry", "the log entry has no promise to include it")
        parsed = _sigstores_entry(entry)
        try:
            if proven:
                verify_merkle_inclusion(parsed)
                verify_checkpoint(keyring, parsed)
            if entry.promise is not None and entry.integrated:
                parsed._verify_set(keyring)
                return [Time(datetime.fromtimestamp(entry.integrated, UTC), "rekor")]
        except SigstoreRefusal as err:
            raise Refused("log-entry", f"invalid log entry: {err}") from err
        if not proven:
            raise Refused("log-entry", "the log's promise gives no time")
        return []

    def _check_certificate(
        self, certificate: x509.Certificate, times: Sequence[Time]
    ) -> tuple[x509.Certificate, ...]:
        """Chain and validity at each time, certificate log, and usage."""
        from sigstore._internal.sct import verify_sct
        from sigstore._internal.timestamp import TimestampSource, TimestampVerificationResult
        from sigstore.errors import CertValidationError
        from sigstore.errors import VerificationError as SigstoreRefusal

        chain: list[x509.Certificate] = []
        for time in times:
            start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if not start <= time.moment <= end:
                text = f"signed at {time.moment} ({time.source}), valid from {start} to {end}"
                raise Refused("certificate-expired", text)
            result = TimestampVerificationResult(TimestampSource.TIMESTAMP_AUTHORITY, time.moment)
            try:
                chain = self._chains._verify_chain_at_time(certificate, result)
            except CertValidationError as err:
                raise Refused("certificate-chain", str(err)) from err
        if self._trust.certificate_log_windows:
            try:
                verify_sct(certificate, chain, self._trust.root.ct_keyring(None))
            except SigstoreRefusal as err:
                raise Refused("certificate-log", f"failed to verify SCT: {err}") from err
        try:
            extensions = certificate.extensions
            usage = extensions.get_extension_for_class(x509.KeyUsage).value
            purposes = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound as err:
            raise Refused("certificate-usage", f"the certificate says not what for: {err}") from err
        if not usage.digital_signature or (ExtendedKeyUsageOID.CODE_SIGNING not in purposes):
            raise Refused("certificate-usage", "the certificate is not for signing code")
        return tuple(chain)


class _Signed:
    """What the signature is over, hashed as often as needed."""

    def __init__(self, bundle: Bundle, digest: str | None, artifact: bytes | None) -> None:
        self.signature = bundle.signature
        self.envelope = bundle.content if isinstance(bundle.content, Envelope) else None
        self.artifact = artifact
        if self.envelope is not None:
            self._message: bytes | None = pae(self.envelope.payload_type, self.envelope.payload)
            self._digest = None
        else:
            self._message, self._digest = artifact, digest

    def digest(self, algorithm: str) -> bytes | None:
        """Digest of what is signed; None where it is not known by this algorithm."""
        if self._digest is not None:
            known, _, value = self._digest.partition(":")
            if known == algorithm:
                return bytes.fromhex(value)
        if self._message is None:
            return None
        return hashlib.new(algorithm, self._message).digest()

    def by(self, key: object) -> bool:
        """Whether ``key`` made the signature.

        :raises UnsupportedError: nothing here verifies signatures of such a key
        """
        algorithms = hashes_of(key)
        if isinstance(key, ed25519.Ed25519PublicKey):
            if self._message is None:
                raise UnsupportedError("an Ed25519 signature is checked over the artifact itself")
            return signed_message(key, self.signature, self._message)
        digests = [(one, self.digest(one)) for one in algorithms]
        if all(digest is None for _, digest in digests):
            raise UnsupportedError("the artifact's digest is not known by the key's algorithm")
        return any(
            digest is not None and signed_digest(key, self.signature, digest, one)
            for one, digest in digests
        )


def _bind(entry: Entry, signed: _Signed, signer: Any) -> None:
    """Check that a log entry is about this signature, by this signer, of this content.

    :raises Refused: it is about something else
    :raises UnsupportedError: of a kind that cannot be compared
    """
    comparison = _KINDS.get((entry.kind, entry.version))
    if comparison is None:
        kind = f"{entry.kind} {entry.version}"[:100]
        raise UnsupportedError(f"log entries of kind {kind} are not supported")
    try:
        body = parse_object(entry.body, "the log entry")
        same_kind = (body["kind"], body["apiVersion"]) == (entry.kind, entry.version)
        differs = None if same_kind else "kind"
        differs = differs or comparison(body["spec"], signed, signer)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, MalformedError) as err:
        raise Refused("log-entry", f"the log entry cannot be read: {err!r}") from err
    if differs is not None:
        raise Refused("log-entry", f"the log entry is about another {differs}")


def _hashedrekord_1(spec: dict[str, Any], signed: _Signed, signer: Any) -> str | None:
    named = spec["data"]["hash"]
    if named["algorithm"] not in _ALGORITHMS.values():
        return "digest"
    if signed.digest(named["algorithm"]) != bytes.fromhex(named["value"]):
        return "digest"
    if _decode(spec["signature"]["content"]) != signed.signature:
        return "signature"
    return _of_pem(spec["signature"]["publicKey"]["content"], signer)


def _hashedrekord_2(spec: dict[str, Any], signed: _Signed, signer: Any) -> str | None:
    (entry,) = spec.values()
    if spec.keys() != {"hashedRekordV002"}:
        return "kind"
    algorithm = _ALGORITHMS[entry["data"]["algorithm"]]
    if signed.digest(algorithm) != _decode(entry["data"]["digest"]):
        return "digest"
    if _decode(entry["signature"]["content"]) != signed.signature:
        return "signature"
    verifier = entry["signature"]["verifier"]
    if isinstance(signer, x509.Certificate):
        same = _decode(verifier["x509Certificate"]["rawBytes"]) == _der(signer)
    else:
        same = _decode(verifier["publicKey"]["rawBytes"]) == spki(signer)
    return None if same else "signer"


def _dsse_1(spec: dict[str, Any], signed: _Signed, signer: Any) -> str | None:
    if _payload_differs(spec["payloadHash"], signed):
        return "payload"
    (one,) = spec["signatures"]
    if _decode(one["signature"]) != signed.signature:
        return "signature"
    return _of_pem(one["verifier"], signer)


def _intoto_2(spec: dict[str, Any], signed: _Signed, signer: Any) -> str | None:
    content = spec["content"]
    envelope = content["envelope"]
    if _payload_differs(content["payloadHash"], signed):
        return "payload"
    if signed.envelope is None or envelope["payloadType"] != signed.envelope.payload_type:
        return "payload type"
    (one,) = envelope["signatures"]
    # Signature and key are in base64 twice over (rekor, pkg/types/intoto/v0.0.2).
    if _decode(_decode(one["sig"]).decode()) != signed.signature:
        return "signature"
    return _of_pem(one["publicKey"], signer)


def _intoto_1(spec: dict[str, Any], signed: _Signed, signer: Any) -> str | None:
    """The entry has no signature, but hashes of the payload or of the envelope's own bytes."""
    content = spec["content"]
    if differs := _of_pem(spec["publicKey"], signer):
        return differs
    if content.get("payloadHash") is not None:
        return "payload" if _payload_differs(content["payloadHash"], signed) else None
    if signed.artifact is None:
        raise UnsupportedError("an intoto 0.0.1 log entry is compared to the envelope as stored")
    named = content["hash"]
    same = named["algorithm"] == "sha256" and (
        hashlib.sha256(signed.artifact).hexdigest() == named["value"]
    )
    return None if same else "envelope"


_KINDS: Final = {
    ("hashedrekord", "0.0.1"): _hashedrekord_1,
    ("hashedrekord", "0.0.2"): _hashedrekord_2,
    ("dsse", "0.0.1"): _dsse_1,
    ("intoto", "0.0.1"): _intoto_1,
    ("intoto", "0.0.2"): _intoto_2,
}


def _payload_differs(named: dict[str, Any], signed: _Signed) -> bool:
    return (
        signed.envelope is None
        or named["algorithm"] != "sha256"
        or named["value"] != hashlib.sha256(signed.envelope.payload).hexdigest()
    )


def _of_pem(text: str, signer: Any) -> str | None:
    pem = _decode(text)
    if isinstance(signer, x509.Certificate):
        same = _der(x509.load_pem_x509_certificate(pem)) == _der(signer)
    else:
        same = spki(load_pem_public_key(pem)) == spki(signer)
    return None if same else "signer"


def _sigstores_entry(entry: Entry) -> Any:
    """The entry as sigstore-python's model, which would refuse one without a proof."""
    from sigstore.models import TransparencyLogEntry
    from sigstore_models.common.v1 import LogId
    from sigstore_models.rekor.v1 import InclusionPromise, InclusionProof
    from sigstore_models.rekor.v1 import TransparencyLogEntry as Inner

    class Unproven(TransparencyLogEntry):
        def _validate(self) -> None:
            return None

    document = entry.document
    proof = None
    if entry.proof is not None and entry.proof.checkpoint is not None:
        proof = InclusionProof.from_dict(document["inclusionProof"])
    inner = Inner.model_construct(
        log_index=entry.index,
        log_id=LogId(key_id=base64.b64encode(entry.log_id)),
        integrated_time=entry.integrated,
        inclusion_promise=None
        if entry.promise is None
        else InclusionPromise.from_dict(document["inclusionPromise"]),
        inclusion_proof=proof,
        canonicalized_body=entry.body,
    )
    return Unproven(inner)


def _chain_verifier(trust: TrustMaterial) -> Any:
    from sigstore.verify.verifier import Verifier

    class ChainVerifier(Verifier):
        """Of sigstore-python's verifier, what needs no log."""

        def __init__(self) -> None:
            self._fulcio_certificate_chain = trust.root.get_fulcio_certs()

    return ChainVerifier()


def _decode(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)
