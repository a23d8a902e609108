"""One statement on its way to a published bundle: claim, sign, timestamp, log, finish.

Each step leaves its result in the archive by a conditional write and takes up what is there, so any
of them can be killed and run again: only the bytes claimed first are ever signed, one signature is
published, and every key operation, also one that a crash lost, is in the ledger.
"""

from __future__ import annotations

import base64
import logging
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from longseal.canonical import canonical_json, digest_of, parse_object, sha256_hex, timestamp
from longseal.errors import (
    ConflictError,
    MalformedError,
    RefusedError,
    SettingsError,
    TimestampError,
    VerificationError,
)
from longseal.seal.bundle import format_key_bundle, parse_key_bundle, verify_key_bundle
from longseal.seal.keys import KeySet, fingerprint, verify_signature
from longseal.seal.organisation import anchors_of, signer_of
from longseal.seal.signers.checked import sign_checked
from longseal.seal.signers.interface import PublicKey, Signer
from longseal.seal.statement import PAYLOAD_TYPE, Statement, pae, required
from longseal.seal.timestamps import (
    Authority,
    Gathered,
    Token,
    gather,
    parse_tokens,
    verify_quorum,
)
from longseal.workspace import Workspace

_log = logging.getLogger(__name__)

MAX_STATEMENT_BYTES: Final = 8 * 1024 * 1024

STATEMENT: Final = "statement.json"
BUNDLE: Final = "bundle.sigstore.json"
SIGNED: Final = {
    "seals/": "seal",
    "deliveries/": "inventory",
    "prunes/": "prune-plan",
    "deletions/": "deletion",
    "approvals/": "approval-policy",
    "keys/": "key-set",
}
"""Below what the archive keeps all that the organisation's keys sign, and what kind that is."""

RECEIPTS: Final = "receipts/"
"""Below what it keeps the delivery receipts, which sites sign."""

_SIGNATURE: Final = "signature.json"
_TIMESTAMPS: Final = "timestamps.json"
_ENTRY: Final = "log-entry.json"


class Ceremony:
    """The making of one bundle, in a folder of the archive.

    The claimed statement names the key that signs it.

    :param folder: where its parts are kept, as ``seals/000001/1``
    :param keys: the key set that has the key; None for the newest
    :param signer: holds the key; None for that of the settings which does
    """

    def __init__(
        self,
        workspace: Workspace,
        folder: str,
        keys: KeySet | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._workspace = workspace
        self.folder = folder
        self._keys = keys
        self._signer = signer

    def claim(self, statement: bytes) -> bytes:
        """Claim the folder for ``statement``; a claim made earlier stands.

        :returns: the bytes claimed, the only ones that may ever be signed here
        """
        # Storing the same bytes again would lengthen their retention: a rerun writes nothing.
        if not self.claimed:
            with suppress(ConflictError):
                self._workspace.store(self._key(STATEMENT), statement)
        return self.statement()

    def statement(self) -> bytes:
        """The bytes claimed.

        :raises RefusedError: nothing is claimed yet
        """
        if not self.claimed:
            raise RefusedError(f"nothing is claimed in {self.folder}: freeze comes first")
        return self._workspace.archive.get(self._key(STATEMENT), MAX_STATEMENT_BYTES)

    def document(self) -> bytes:
        """The document that the claimed statement is about."""
        return self._workspace.kept(Statement.parse(self.statement()).subjects[0].sha256)

    @property
    def claimed(self) -> bool:
        """Whether a statement is claimed here."""
        return self._has(STATEMENT)

    @property
    def signed(self) -> bool:
        """Whether a signature is kept here."""
        return self._has(_SIGNATURE)

    @property
    def finished(self) -> bool:
        """Whether the bundle is made."""
        return self._has(BUNDLE)

    def sign(self) -> int:
        """Sign the claimed bytes, unless a signature is kept already.

        :returns: how many key operations it took: one, or none
        :raises SignerError: the key is not the pinned one, or its signature does not hold
        :raises RefusedError: the run has spent its key operations
        :raises VerificationError: what is claimed is of another kind than belongs there
        """
        # Whoever writes into the archive may claim a folder before us, and no more than that.
        Statement.parse(self.statement()).require_kind(self._kind)
        message = pae(PAYLOAD_TYPE, self.statement())
        if self.signed:
            verify_signature(self._public_key(), self.signature(), message)
            return 0
        pinned = fingerprint(self._public_key())
        signer = self._workspace.counted(self._signer or signer_of(self._workspace, pinned))
        if signer.warning:
            _log.warning(signer.warning)
        subject = {
            "folder": self.folder,
            "key": pinned,
            "operation": uuid.uuid4().hex,
            "statement": digest_of(self.statement()),
        }
        self._workspace.note("key.operation.begun", subject)
        try:
            signature = sign_checked(signer, message, pinned)
        finally:
            self._workspace.note(
                "key.operation.ended", {**subject, "operations": signer.operations}
            )
        document = canonical_json({"keyid": pinned, "sig": base64.b64encode(signature).decode()})
        try:
            self._workspace.store(self._key(_SIGNATURE), document)
        except ConflictError:
            # Another run was faster: its signature, over the same bytes, is the published one.
            verify_signature(self._public_key(), self.signature(), message)
        return signer.operations

    def signature(self) -> bytes:
        """The signature kept."""
        if not self.signed:
            raise RefusedError(f"nothing is signed in {self.folder}: sign comes first")
        found = self._read(_SIGNATURE)
        return base64.b64decode(found["sig"], validate=True)

    def timestamp(self, not_before: datetime | None = None) -> dict[str, str]:
        """Have the signature timestamped by a quorum of authorities, unless it is.

        :param not_before: an earlier time would contradict the statement, and is not kept
        :returns: the authorities that did not answer well, with why
        :raises TimestampError: the quorum was not reached, or ``not_before`` is still to come
        """
        if self._has(_TIMESTAMPS):
            return {}
        gathered = _gather(self._workspace, self.signature())
        stamped = min(token.gen_time for token in gathered.tokens)
        if not_before is not None and stamped < not_before:
            raise TimestampError(
                f"the authorities say that it is {timestamp(stamped)}, and {self.folder} was frozen"
                f" by a clock that was ahead: correct the clock, and try again after"
                f" {timestamp(not_before)}; it stays signed"
            )
        try:
            self._workspace.store(self._key(_TIMESTAMPS), _tokens_document(gathered))
        except ConflictError:
            self._tokens()
        return dict(gathered.failures)

    def log(self) -> bool:
        """Enter the signature in the transparency log, where the settings name one.

        :returns: whether there is an entry
        :raises LogError: the log did not answer well
        :raises VerificationError: its answer does not hold, and is not kept
        """
        rekor = self._workspace.settings.rekor
        if rekor is None:
            return False
        if not self._has(_ENTRY):
            from longseal.seal.rekor import log_entry, verify_entry

            digest = bytes.fromhex(sha256_hex(pae(PAYLOAD_TYPE, self.statement())))
            proven = (digest, self.signature(), self._public_key())
            entry = log_entry(rekor.url, *proven)
            # What is kept is never asked for again: a proof that does not hold must not be.
            verify_entry(entry, *proven, log_key(self._workspace), rekor.origin)
            try:
                self._workspace.store(self._key(_ENTRY), canonical_json(entry))
            except ConflictError:
                self._entry()
        return True

    def finish(self) -> bytes:
        """Put the bundle together, check all of it as a stranger would, and keep it.

        :raises VerificationError: a part does not hold; nothing is kept then
        """
        if self.finished:
            return self.bundle()
        bundle = format_key_bundle(
            self.statement(),
            self.signature(),
            self._public_key(),
            self._tokens(),
            self._entry() if self._has(_ENTRY) else None,
        )
        check_bundle(self._workspace, bundle, self._kind, self._keys)
        self._workspace.store(self._key(BUNDLE), bundle)
        return bundle

    def run(self, statement: bytes) -> Finished:
        """All steps at once, for what has no tasks of its own."""
        self.claim(statement)
        operations = self.sign()
        self.timestamp()
        self.log()
        bundle = self.finish()
        return Finished(self.folder, digest_of(bundle), bundle, operations)

    def bundle(self) -> bytes:
        """The finished bundle."""
        return self._workspace.archive.get(self._key(BUNDLE))

    @property
    def _kind(self) -> str:
        """What is signed here; a seal's image statements are kept below it."""
        top, _, rest = self.folder.partition("/")
        return "image" if "/images/" in rest else SIGNED[f"{top}/"]

    def _public_key(self) -> PublicKey:
        named = Statement.parse(self.statement()).predicate.get("keyid")
        return anchors_of(self._workspace, self._keys).named(named)

    def _tokens(self) -> list[bytes]:
        return read_tokens(self._workspace, self._key(_TIMESTAMPS))

    def _entry(self) -> dict[str, Any]:
        return self._read(_ENTRY)

    def _read(self, name: str) -> dict[str, Any]:
        key = self._key(name)
        return parse_object(self._workspace.archive.get(key, MAX_STATEMENT_BYTES), key)

    def _has(self, name: str) -> bool:
        return self._workspace.archive.stat(self._key(name)) is not None

    def _key(self, name: str) -> str:
        return f"{self.folder}/{name}"


@dataclass(frozen=True, slots=True)
class Finished:
    """A bundle that holds.

    :param operations: key operations that this run took for it
    """

    folder: str
    digest: str
    bundle: bytes
    operations: int


def check_bundle(
    workspace: Workspace, bundle: bytes, kind: str | None = None, keys: KeySet | None = None
) -> Statement:
    """Check a bundle of the organisation's: signature, timestamp quorum, log entry.

    :param kind: what it must be: ``seal``, ``deletion``, …; None where any will do
    :param keys: the key set that has its key; None for the newest
    :returns: the statement that it holds
    :raises VerificationError: naming what does not hold
    """
    parts = parse_key_bundle(bundle)
    anchors = anchors_of(workspace, keys)
    statement = Statement.parse(parts.payload)
    key = anchors.named(statement.predicate.get("keyid"))
    verify_key_bundle(parts, key)
    if kind is not None:
        statement.require_kind(kind)
    tokens = require_quorum(workspace, parts.timestamps, parts.signature, statement.predicate)
    anchors.require_window(key, min(token.gen_time for token in tokens))
    rekor = workspace.settings.rekor
    if rekor is None:
        return statement
    if parts.tlog_entry is None:
        raise VerificationError("the settings name a transparency log, the bundle has no entry")
    from longseal.seal.rekor import verify_entry

    verify_entry(
        dict(parts.tlog_entry),
        bytes.fromhex(sha256_hex(parts.message)),
        parts.signature,
        key,
        log_key(workspace),
        rekor.origin,
    )
    return statement


def authorities(workspace: Workspace, retired: bool = False) -> tuple[Authority, ...]:
    """The timestamp authorities of the settings, with their certificates.

    :param retired: also those that are asked no more, and whose timestamps still count
    :raises SettingsError: a certificate file cannot be read or parsed
    """
    found = []
    for index, chosen in enumerate(workspace.settings.timestamps):
        if chosen.retired and not retired:
            continue
        setting = f"timestamps[{index}].certificates"
        data = workspace.read_setting(setting, chosen.certificates)
        try:
            found.append(Authority.load(chosen.url, data, str(chosen.certificates)))
        except MalformedError as err:
            raise SettingsError(setting, str(err)) from err
    return tuple(found)


def require_quorum(
    workspace: Workspace, tokens: Sequence[bytes], message: bytes, predicate: Mapping[str, Any]
) -> tuple[Token, ...]:
    """Check that enough authorities of the settings stamped ``message``.

    :param predicate: of the statement that was stamped, or of the seal that the file came with
    :returns: a good token of each authority that has one
    :raises VerificationError: when too few did, with why
    """
    known = authorities(workspace, retired=True)
    quorum = required(predicate, workspace.settings.timestamp_quorum)
    return verify_quorum(tokens, message, known, quorum)


def timestamp_file(
    workspace: Workspace, key: str, tokens_key: str, predicate: Mapping[str, Any]
) -> None:
    """Have an archived file timestamped by the quorum, unless it is.

    :param predicate: of the seal that it comes with
    :raises TimestampError: the quorum was not reached
    """
    message = workspace.archive.get(key)
    if workspace.archive.stat(tokens_key) is None:
        gathered = _gather(workspace, message)
        with suppress(ConflictError):
            workspace.store(tokens_key, _tokens_document(gathered))
    require_quorum(workspace, read_tokens(workspace, tokens_key), message, predicate)


def read_tokens(workspace: Workspace, key: str) -> list[bytes]:
    """The RFC 3161 responses in an archived list of them."""
    return parse_tokens(workspace.archive.get(key, MAX_STATEMENT_BYTES), key)


def _gather(workspace: Workspace, message: bytes) -> Gathered:
    quorum = workspace.settings.timestamp_quorum
    return gather(authorities(workspace), message, quorum, workspace.now())


def _tokens_document(gathered: Gathered) -> bytes:
    return canonical_json(
        {"tokens": [base64.b64encode(token.data).decode() for token in gathered.tokens]}
    )


def log_key(workspace: Workspace) -> PublicKey:
    """The transparency log's public key, where the settings name a log."""
    from longseal.seal.keys import load_public_pem

    rekor = workspace.settings.rekor
    assert rekor is not None
    data = workspace.read_setting("rekor.public_key", rekor.public_key)
    return load_public_pem(data, "rekor.public_key")


def seal_trusted_root(workspace: Workspace, retired: bool = False) -> bytes:
    """``seal-trusted-root.json``: the seal's own authorities and log, and nothing else.

    :param retired: with the authorities of older seals
    """
    from longseal.seal.trusted_root import Log, format_trusted_root

    rekor = workspace.settings.rekor
    return format_trusted_root(
        authorities(workspace, retired),
        None if rekor is None else Log(rekor.url, log_key(workspace), rekor.origin),
    )
