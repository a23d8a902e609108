"""RFC 3161 timestamps: asked for, checked on arrival, and checked again by whoever verifies.

What is called a token here, and what a Sigstore bundle calls ``signedTimestamp``, is the whole
TimeStampResp, as ``openssl ts -verify -in`` takes it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID

from longseal.canonical import parse_object, timestamp
from longseal.errors import (
    LongsealError,
    MalformedError,
    SettingsError,
    TimestampError,
    VerificationError,
)
from longseal.seal.http import post

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

MAX_TOKEN_BYTES: Final = 64 * 1024
MAX_TOKENS: Final = 32
MAX_CHAIN: Final = 10
TIMEOUT: Final = 30.0
TOLERANCE: Final = timedelta(minutes=10)
"""How far an authority's clock may be from this one when it answers."""

_MAX_CHAIN_BYTES: Final = 256 * 1024

HttpPost = Callable[[str, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Authority:
    """A timestamp authority that is trusted as far as its certificates go.

    :param url: where it answers
    :param certificates: the whole chain, from the timestamping certificate up to the root
    """

    url: str
    certificates: tuple[x509.Certificate, ...]

    @classmethod
    def load(cls, url: str, data: bytes, what: str) -> Authority:
        """Read a PEM chain, in whatever order it is.

        :param what: the file or setting it came from, for the message
        :raises MalformedError: no chain from one timestamping certificate to one root
        """
        if len(data) > _MAX_CHAIN_BYTES:
            raise MalformedError(f"{what} has {len(data)} bytes, too many for a chain")
        try:
            certificates = x509.load_pem_x509_certificates(data)
        except ValueError as err:
            raise MalformedError(
                f"{what}: expected PEM certificates of a timestamp authority"
            ) from err
        return cls(url, order_chain(certificates, what))

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate whose key signs timestamps."""
        return self.certificates[0]

    @property
    def root_fingerprint(self) -> str:
        """SHA-256 of the root certificate, for people to compare: ``sha256:`` and hex."""
        return f"sha256:{self.certificates[-1].fingerprint(SHA256()).hex()}"

    @property
    def valid_from(self) -> datetime:
        """When the whole chain began to be valid."""
        return max(each.not_valid_before_utc for each in self.certificates)

    @property
    def valid_until(self) -> datetime:
        """When the first certificate of the chain ends: before this the seal must be renewed."""
        return min(each.not_valid_after_utc for each in self.certificates)


def order_chain(
    certificates: Sequence[x509.Certificate], what: str
) -> tuple[x509.Certificate, ...]:
    """The chain that these certificates make, from the timestamping certificate to the root.

    :raises MalformedError: they make none, or some do not belong to it
    """
    if not 1 <= len(certificates) <= MAX_CHAIN:
        raise MalformedError(f"{what}: expected 1 to {MAX_CHAIN} certificates")
    leaves = [each for each in certificates if _is_timestamping(each)]
    if len(leaves) != 1:
        raise MalformedError(
            f"{what}: expected exactly one certificate for timestamping (a critical extended key "
            f"usage of timeStamping, not a CA), found {len(leaves)}; include the authority's own "
            "certificate, its intermediates and its root"
        )
    chain, rest = [leaves[0]], [each for each in certificates if each != leaves[0]]
    while chain[-1].issuer != chain[-1].subject:
        issuers = [each for each in rest if _issued(each, chain[-1])]
        if not issuers:
            raise MalformedError(
                f"{what}: the certificate of {chain[-1].issuer.rfc4514_string()} is missing"
            )
        chain.append(issuers[0])
        rest.remove(issuers[0])
    if rest:
        raise MalformedError(f"{what}: {len(rest)} certificates do not belong to the chain")
    return tuple(chain)


def _is_timestamping(certificate: x509.Certificate) -> bool:
    """Whether it is an authority's own certificate (RFC 3161 section 2.3), not one of its CAs."""
    try:
        extensions = certificate.extensions
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except (x509.ExtensionNotFound, ValueError):
        return False
    try:
        is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    return usage.critical and ExtendedKeyUsageOID.TIME_STAMPING in usage.value and not is_ca


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Token:
    """A timestamp that was checked.

    :param data: the response's bytes, in DER
    :param gen_time: the time that the authority attests
    :param serial: the authority's number of the token
    """

    authority: Authority
    data: bytes
    gen_time: datetime
    serial: int


class Failure(NamedTuple):
    """An authority that gave no good token, and why."""

    url: str
    reason: str


@dataclass(frozen=True, slots=True)
class Gathered:
    """What the authorities said: at least a quorum of good tokens, in the authorities' order."""

    tokens: tuple[Token, ...]
    failures: tuple[Failure, ...]


def verify_token(
    data: bytes, message: bytes, authority: Authority, nonce: int | None = None
) -> Token:
    """Check one token against one authority.

    The whole chain is checked at the time that the token gives, as stock verifiers do; whether that
    authority is still to be believed today is the policy's question.

    :param message: what was stamped, unhashed; of a seal, the signature's bytes
    :param nonce: of the request, where this is its answer
    :raises MalformedError: not a DER TimeStampResp
    :raises VerificationError: not granted, not this authority's, or over other bytes
    """
    from rfc3161_client import VerifierBuilder

    response = _decode(data)
    verifier = VerifierBuilder(
        tsa_certificate=authority.leaf,
        intermediates=list(authority.certificates[1:-1]),
        roots=[authority.certificates[-1]],
        nonce=nonce,
    ).build()
    try:
        verifier.verify_message(response, message)
        gen_time, serial = response.tst_info.gen_time, response.tst_info.serial_number
    # Whatever a parser of hostile bytes raises: a certificate that came along has its own errors.
    except Exception as err:
        raise VerificationError(f"the timestamp by {authority.url} does not hold: {err}") from err
    return Token(authority, data, gen_time, serial)


def _decode(data: bytes) -> TimeStampResponse:
    from rfc3161_client import decode_timestamp_response

    if len(data) > MAX_TOKEN_BYTES:
        raise MalformedError(f"a timestamp has {MAX_TOKEN_BYTES} bytes at most, not {len(data)}")
    try:
        return decode_timestamp_response(data)
    except Exception as err:
        raise MalformedError(f"expected an RFC 3161 response in DER: {err}") from err


def parse_tokens(data: bytes, what: str) -> list[bytes]:
    """The responses in an archived list of them (``renewal.tokens.json``), unverified.

    :raises MalformedError: not such a list
    """
    tokens = parse_object(data, what, MAX_TOKEN_BYTES * MAX_TOKENS).get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(one, str) for one in tokens):
        raise MalformedError(f"{what}: expected a list of tokens")
    try:
        return [base64.b64decode(one, validate=True) for one in tokens[:MAX_TOKENS]]
    except ValueError as err:
        raise MalformedError(f"{what}: a token is not base64") from err


def verify_quorum(
    timestamps: Sequence[bytes], message: bytes, authorities: Sequence[Authority], quorum: int
) -> tuple[Token, ...]:
    """Check that enough of the trusted authorities stamped ``message``.

    :returns: the earliest good token of each authority that has one, in the authorities' order
    :raises VerificationError: fewer than the quorum; the message says what is wrong with each
    """
    tokens, reasons = [], []
    for authority in {each.leaf: each for each in authorities}.values():
        good = []
        for data in timestamps:
            try:
                good.append(verify_token(data, message, authority))
            except (MalformedError, VerificationError) as err:
                reasons.append(str(err))
        if good:
            tokens.append(min(good, key=lambda token: token.gen_time))
    if len(tokens) < quorum:
        raise VerificationError(
            f"{len(tokens)} of {quorum} timestamps that are needed: "
            + ("; ".join(reasons) or "the bundle has none by a trusted authority")
        )
    return tuple(tokens)


def http_post(url: str, body: bytes) -> bytes:
    """Send one timestamp query, as RFC 3161 section 3.4 has it."""
    return post(
        url,
        body,
        "application/timestamp-query",
        timeout=TIMEOUT,
        limit=MAX_TOKEN_BYTES,
        error=TimestampError,
    )


def request_token(
    authority: Authority, message: bytes, now: datetime, post: HttpPost = http_post
) -> Token:
    """Have ``message`` stamped and check the answer.

    :param now: this machine's time; an authority that is further from it than ``TOLERANCE`` lies,
        or this machine's clock is wrong
    :raises TimestampError: no answer
    :raises MalformedError: an answer that is no timestamp
    :raises VerificationError: a timestamp that does not hold
    """
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    builder = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256)
    request = builder.nonce(nonce=True).cert_request(cert_request=True).build()
    token = verify_token(post(authority.url, request.as_bytes()), message, authority, request.nonce)
    if abs(token.gen_time - now) > TOLERANCE:
        raise VerificationError(
            f"{authority.url} says that it is {timestamp(token.gen_time)}; here it is "
            f"{timestamp(now)}: correct whichever clock is wrong"
        )
    return token


def gather(
    authorities: Sequence[Authority],
    message: bytes,
    quorum: int,
    now: datetime,
    post: HttpPost = http_post,
) -> Gathered:
    """Ask all authorities at once; one that fails does not stop the others.

    :param quorum: how many must answer well
    :raises SettingsError: the quorum cannot be met by these authorities
    :raises TimestampError: fewer than the quorum answered well; the message names each
    """
    distinct = {authority.leaf for authority in authorities}
    if len(distinct) != len(authorities):
        raise SettingsError("timestamps", "the same authority is listed twice: it counts once")
    if not 1 <= quorum <= len(authorities):
        raise SettingsError(
            "timestamps", f"a quorum of {quorum} cannot be met by {len(authorities)} authorities"
        )
    ask = partial(_ask, message=message, now=now, post=post)
    with ThreadPoolExecutor(max_workers=min(len(authorities), 8)) as pool:
        answers = list(pool.map(ask, authorities))
    tokens = tuple(each for each in answers if isinstance(each, Token))
    failures = tuple(each for each in answers if isinstance(each, Failure))
    if len(tokens) < quorum:
        reasons = "; ".join(f"{each.url}: {each.reason}" for each in failures)
        raise TimestampError(f"{len(tokens)} of {quorum} timestamps that are needed: {reasons}")
    return Gathered(tokens, failures)


def _ask(authority: Authority, message: bytes, now: datetime, post: HttpPost) -> Token | Failure:
    try:
        return request_token(authority, message, now, post)
    except LongsealError as err:
        return Failure(authority.url, str(err))
