"""The period's seal: freeze, recheck, sign, check, timestamp, log, publish.

Every step finds its place from the archive alone and may be killed and run again. A sealed period
is left as it is, and says so.

Layout of the archive, below ``seals/<sequence, 6 digits>/``:

``<attempt>/``                 the ceremony of one attempt; ``void.json`` where recheck refused it
``seal.sigstore.json``         the published seal
``seal-trusted-root.json``     what its timestamps and log entry are verified against
``revocation/``                what was told of its authorities' certificates
``renewal.sha512``             the key-free list of all seals, ``renewal.tokens.json`` its times
``images/<number>/``           the ceremony of each image statement

The files that a seal speaks of are its statement's subjects; each is archived under its digest.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from longseal import __version__, judgement
from longseal.archive.holds import Holds
from longseal.archive.leaf import Leaf
from longseal.archive.pack import Evidence, load_pack
from longseal.archive.records import Place, Record, newest_records, not_archived
from longseal.canonical import canonical_json, digest_of, parse_timestamp, sha256_hex, timestamp
from longseal.catalog.models import Seal
from longseal.errors import RefusedError, RetryableError, VerificationError
from longseal.seal.ceremony import (
    BUNDLE,
    RECEIPTS,
    SIGNED,
    Ceremony,
    check_bundle,
    read_tokens,
    require_quorum,
    seal_trusted_root,
    timestamp_file,
)
from longseal.seal.checkpoint import (
    Checkpoint,
    sign_note,
    verifier_key,
)
from longseal.seal.contents import Contents
from longseal.seal.organisation import keys_in_force, signed_as, start_of_day
from longseal.seal.period import Period
from longseal.seal.published import (
    SEAL,
    TRUSTED_ROOT,
    Published,
    check_files,
    predicate_type,
    published,
    read_lines,
    seal_folder,
)
from longseal.seal.recheck import Recheck
from longseal.seal.revocation import REVOCATION, keep_revocation
from longseal.seal.statement import Statement, Subject
from longseal.seal.tree import Tree, leaf_hash
from longseal.workspace import Workspace

_ATTEMPT = re.compile(r"seals/(\d{6})/(\d{1,4})/statement\.json")


class Reseal:
    """The sealing of one period.

    :param period: ``YYYY-MM``, ``YYYY-MM.N`` or ``r-NAME``
    :raises RefusedError: no such period, or a month that is not over
    """

    def __init__(self, workspace: Workspace, period: str) -> None:
        self._workspace = workspace
        self.period = Period.parse(period, workspace.now())

    @cached_property
    def sealed(self) -> Published | None:
        """The period's published seal; None while there is none."""
        return next((one for one in self._published if one.period == self.period.name), None)

    @cached_property
    def _published(self) -> list[Published]:
        return published(self._workspace)

    @cached_property
    def ceremony(self) -> Ceremony:
        """The period's claimed attempt.

        :raises RefusedError: nothing is claimed
        :raises RetryableError: another period is claimed, and not published yet
        """
        found = self._claimed()
        if found is None:
            raise RefusedError(f"{self.period.name} is not frozen: freeze comes first")
        return found

    # -- freeze ------------------------------------------------------------------------------

    def freeze(self) -> dict[str, Any]:
        """Decide what the seal covers, archive it, and claim the next sequence for it.

        What was last judged under another policy or trusted root is judged again before.
        """
        if self.sealed is not None:
            self._note_sealed(self.sealed)
            return self._summary()
        if self._claimed() is None:
            # Which place is free is found out before what to put there: where another run claims it
            # meanwhile, or even publishes it, that claim stands.
            folder = self._next_folder()
            judgement.apply(self._workspace)
            statement = self._compose()
            if Ceremony(self._workspace, folder).claim(statement) == statement:
                self._workspace.note(
                    "seal.claimed",
                    {
                        "folder": folder,
                        "period": self.period.name,
                        "statement": digest_of(statement),
                    },
                )
        self._look_anew()
        if self.sealed is None and self._claimed() is None:
            raise RetryableError("another run came first with another period: try again")
        return self._summary()

    def _look_anew(self) -> None:
        """What was found in the archive is found again: this step or another run changed it."""
        for found in ("ceremony", "sealed", "_published"):
            self.__dict__.pop(found, None)

    def _claimed(self) -> Ceremony | None:
        folder = self._open_folder()
        if folder is None:
            return None
        ceremony = Ceremony(self._workspace, folder)
        claimed = Statement.parse(ceremony.statement()).predicate["period"]
        if claimed != self.period.name:
            raise RetryableError(
                f"{folder} is claimed by the period {claimed} and not published yet:"
                f" finish that first (longseal reseal --period {claimed})"
            )
        return ceremony

    def _attempts(self) -> list[str]:
        sequence = len(self._published) + 1
        keys = self._workspace.archive.keys(f"{seal_folder(sequence)}/")
        return sorted(
            (key.removesuffix("/statement.json") for key in keys if _ATTEMPT.fullmatch(key)),
            key=lambda folder: int(folder.rpartition("/")[2]),
        )

    def _open_folder(self) -> str | None:
        """The newest attempt at the next sequence, unless it is void."""
        attempts = self._attempts()
        if not attempts or self._workspace.archive.stat(f"{attempts[-1]}/void.json") is not None:
            return None
        return attempts[-1]

    def _next_folder(self) -> str:
        sequence = len(self._published) + 1
        return f"{seal_folder(sequence)}/{len(self._attempts()) + 1}"

    def _compose(self) -> bytes:
        """Archive all files of the seal.

        :returns: the statement about them
        """
        workspace = self._workspace
        keys = keys_in_force(workspace)  # before anything is written for a seal without one
        covered = Contents(workspace, self.period.end)
        records = {
            place: record
            for place, record in newest_records(
                workspace.archive, covered.images | self._alarming()
            ).items()
            # An image whose evidence could not be looked for may have none here: that is said too.
            if place in covered.images or record.alarming
        }
        self._require_known(covered.unknown, records.values())
        self._require_archived(covered.images, records)
        before = self._published
        sequence = len(before) + 1

        tree = covered.tree
        origin = f"{workspace.settings.organisation}/seal/{sequence}"
        note_key = ed25519.Ed25519PrivateKey.generate()
        head = Checkpoint(origin, tree.size, tree.root)
        subjects: list[Subject] = []

        def keep(name: str, data: bytes) -> None:
            workspace.keep(data)
            subjects.append(Subject.of(data, name))

        keep("checkpoint", sign_note(head.format(), origin, note_key))
        subjects += covered.subjects
        keep("records.jsonl", _lines(sorted(record.line for record in records.values())))
        keep("seals.sha256", _sums("sha256", _seal_files(before)))
        keep("statements.sha256", _sums("sha256", self._other_bundles()))
        for digest in sorted(covered.policies):
            keep(f"policies/{digest[7:]}.json", workspace.kept(digest))
        for digest in sorted(covered.trusts):
            keep(f"trusted-roots/{digest[7:]}.json", workspace.kept(digest))
        keep("key-set.json", keys.data)
        ledger_head = workspace.ledger.head()
        if ledger_head is not None:
            keep("ledger-head.json", ledger_head.data)
        if holds := Holds(workspace).entries():
            keep("holds.jsonl", _lines(entry.data for entry in holds))

        states = Counter(record.state for record in records.values())
        states["none"] = len(covered.images - records.keys())
        return Statement(
            tuple(subjects),
            predicate_type(workspace, "seal"),
            {
                "period": self.period.name,
                "end": None if self.period.end is None else timestamp(self.period.end),
                "sequence": sequence,
                "sealedAt": timestamp(workspace.now()),
                "tree": {
                    "algorithm": "rfc6962-sha256",
                    "origin": origin,
                    "size": tree.size,
                    "root": tree.root.hex(),
                    "checkpointKey": verifier_key(origin, note_key.public_key()),
                },
                "tree512": {"algorithm": "rfc6962-sha512", "root": covered.tree512.root.hex()},
                "counts": {
                    **covered.counts,
                    "images": len(covered.images),
                    "records": {state: many for state, many in states.items() if many},
                    "rejects": covered.rejects,
                    "registries": covered.registries,
                },
                "previous": None if not before else before[-1].digest,
                "renews": [{"sequence": one.sequence, "digest": one.digest} for one in before],
                **signed_as(workspace, keys.entry.keyid),
                "software": f"longseal {__version__}",
            },
        ).format()

    def _alarming(self) -> set[Place]:
        return set() if self.period.renewal else self._workspace.catalog.alarming_images()

    def _other_bundles(self) -> Iterator[tuple[str, bytes]]:
        """What else the organisation's key has signed, and what sites answered to it: the seal
        renews all of it."""
        archive = self._workspace.archive
        return (
            (key, archive.get(key))
            for prefix in (*SIGNED, RECEIPTS)
            for key in archive.keys(prefix)
            if key.endswith(f"/{BUNDLE}") and not _ATTEMPT.fullmatch(_claim_of(key))
        )

    def _require_known(self, unknown: set[str], records: Iterable[Record]) -> None:
        """Where the settings want it so, a period with something unknown is not sealed."""
        if self._workspace.settings.seal.unknown == "seal":
            return
        images = sorted(
            unknown | {record.place[2] for record in records if record.state == "unknown"}
        )
        if images:
            raise RefusedError(
                f"seal.unknown: of {len(images)} images it is not known what attestations they"
                f" have, the first {images[0]}: harvest again, or let the seal say so"
                " (seal.unknown: seal)"
            )

    def _require_archived(self, images: Iterable[Place], records: Mapping[Place, Record]) -> None:
        """A record that was only written into the catalog speaks for nobody's search."""
        other = {
            line
            for place, text in self._workspace.catalog.records_of(images)
            if (line := text.encode()) != (place in records and records[place].line)
        }
        if missing := not_archived(self._workspace.archive, other):
            image = Record.parse(min(missing)).place[2]
            raise VerificationError(
                f"the catalog has {len(missing)} completeness records that no harvest archived, the"
                f" first for {image}: somebody wrote into it; rebuild it"
            )

    # -- recheck -----------------------------------------------------------------------------

    def recheck(self) -> dict[str, Any]:
        """Verify again, from the packs, everything that is about to be sealed.

        The receipt that :meth:`sign` asks for is written only when all of it holds. Otherwise the
        attempt is void, and the evidence that failed is left out of the next.

        :raises VerificationError: naming what failed
        """
        if self.sealed is not None:
            return self._summary()
        key = self._receipt_key()
        if self._workspace.archive.stat(key) is None:
            statement = Statement.parse(self.ceremony.statement())
            seal = Published(int(statement.predicate["sequence"]), b"", statement)
            failed = self._judge_again(seal, check_files(self._workspace, seal))
            records = read_lines(self._workspace, [seal.files()["records.jsonl"]])
            forged = not_archived(self._workspace.archive, set(records))
            if failed or forged:
                self._void(failed, forged)
            receipt = {
                "leaves": seal.size,
                "root": seal.root,
                "statement": digest_of(self.ceremony.statement()),
            }
            self._workspace.store(key, canonical_json(receipt))
        return self._summary()

    def _receipt_key(self) -> str:
        return f"rechecks/{sha256_hex(self.ceremony.statement())}.json"

    def _judge_again(self, seal: Published, tree: Tree) -> dict[bytes, str]:
        """Lines that do not hold, with why."""
        workspace = self._workspace
        missing = set(tree.leaf_hashes())
        failed: dict[bytes, str] = {}
        with Recheck(workspace) as recheck:
            for digest in workspace.catalog.packs_of([hashed.hex() for hashed in missing]):
                cases: list[Evidence] = []
                for item in load_pack(workspace.archive, digest):
                    hashed = leaf_hash(item.leaf.line())
                    if hashed in missing:
                        missing.discard(hashed)
                        cases.append(item)
                failed |= recheck.failed(digest, cases)
        if missing:
            for line in read_lines(workspace, seal.files("leaves/").values()):
                if leaf_hash(line) in missing:
                    failed[line] = "it is in no pack of the archive"
        return failed

    def _void(self, failed: dict[bytes, str], forged: Collection[bytes]) -> None:
        report = canonical_json(
            {
                "failed": [
                    {"leaf": leaf_hash(line).hex(), "reason": reason}
                    for line, reason in sorted(failed.items())
                ],
                "records": sorted(map(sha256_hex, forged)),
            }
        )
        self._workspace.store(f"{self.ceremony.folder}/void.json", report)
        self._workspace.catalog.set_aside([leaf_hash(line).hex() for line in failed])
        self._workspace.note(
            "seal.voided", {"folder": self.ceremony.folder, "report": digest_of(report)}
        )
        if not failed:
            raise VerificationError(
                f"{len(forged)} completeness records to seal are not in the archive. The attempt is"
                " void; look at who froze it, then seal the period again"
            )
        line, reason = min(failed.items())
        raise VerificationError(
            f"{len(failed)} of the attestations to seal did not hold when verified again, the first"
            f" on {Leaf.parse(line).image}: {reason}. They are set aside and the attempt is void;"
            " look at them, then seal the period again"
        )

    # -- sign, check, timestamp, log, publish ------------------------------------------------

    def sign(self) -> dict[str, Any]:
        """Sign the claimed statement: one key operation, or none where it is signed already.

        :raises RefusedError: it was not rechecked
        """
        if self.sealed is not None:
            return {**self._summary(), "key_operations": 0}
        if self._workspace.archive.stat(self._receipt_key()) is None:
            raise RefusedError("the statement was not rechecked: recheck comes before sign")
        return {**self._summary(), "key_operations": self.ceremony.sign()}

    def timestamp(self) -> dict[str, Any]:
        """Have the signature timestamped by the quorum, and ask about its authorities.

        :raises TimestampError: too few authorities answered well, or the seal was frozen by a clock
            that was ahead: its time must come first
        """
        if self.sealed is not None:
            return {**self._summary(), "silent_authorities": {}, "revocation": {}}
        made = parse_timestamp(Statement.parse(self.ceremony.statement()).predicate["sealedAt"])
        silent = self.ceremony.timestamp(start_of_day(made))
        told = keep_revocation(self._workspace, self.ceremony.folder.rpartition("/")[0])
        return {**self._summary(), "silent_authorities": silent, "revocation": told}

    def log(self) -> dict[str, Any]:
        """Enter the signature in the transparency log, where the settings name one."""
        if self.sealed is None:
            self.ceremony.log()
        return self._summary()

    def check(self) -> dict[str, Any]:
        """Put the bundle together and check all of it as a stranger would."""
        if self.sealed is None:
            self.ceremony.finish()
        return self._summary()

    def publish(self) -> dict[str, Any]:
        """Publish the checked bundle as the period's seal, and renew all seals before it."""
        if self.sealed is None:
            workspace, ceremony = self._workspace, self.ceremony
            bundle = ceremony.bundle()
            sequence = int(check_bundle(workspace, bundle, "seal").predicate["sequence"])
            folder = seal_folder(sequence)
            workspace.store(f"{folder}/{TRUSTED_ROOT}", seal_trusted_root(workspace))
            workspace.store(f"{folder}/{SEAL}", bundle)
            self._look_anew()
            workspace.note(
                "seal.published",
                {"period": self.period.name, "sequence": sequence, "seal": digest_of(bundle)},
            )
        assert self.sealed is not None
        renew(self._workspace, self.sealed)
        self._note_sealed(self.sealed)
        return self._summary()

    def _note_sealed(self, seal: Published) -> None:
        catalog = self._workspace.catalog
        if any(one.sequence == seal.sequence for one in catalog.seals()):
            return
        lists = [seal.files()[f"{name}.jsonl"] for name in ("rejected", "ignored", "unknown")]
        lines = read_lines(self._workspace, [*seal.files("leaves/").values(), *lists])
        catalog.add_seal(
            Seal(
                sequence=seal.sequence,
                period=seal.period,
                digest=seal.digest,
                root=seal.root,
                size=seal.size,
                sealed_at=seal.sealed_at,
            ),
            [leaf_hash(line).hex() for line in lines],
        )

    def _summary(self) -> dict[str, Any]:
        seal = self.sealed
        if seal is None:
            statement = Statement.parse(self.ceremony.statement())
            seal = Published(int(statement.predicate["sequence"]), b"", statement)
        return {
            "period": self.period.name,
            "sequence": seal.sequence,
            "root": seal.root,
            "size": seal.size,
            "counts": seal.statement.predicate["counts"],
            "seal": seal.digest if self.sealed else None,
            "path": f"{seal_folder(seal.sequence)}/{SEAL}" if self.sealed else None,
            "sealed": self.sealed is not None,
        }


def renew(workspace: Workspace, seal: Published) -> None:
    """Timestamp the key-free list of all seals: it outlives the key that signed them."""
    key, tokens = _renewal(seal)
    if workspace.archive.stat(key) is None:
        upto = [one for one in published(workspace) if one.sequence <= seal.sequence]
        workspace.store(key, _sums("sha512", _renewed(workspace, upto)))
    timestamp_file(workspace, key, tokens, seal.statement.predicate)


def check_renewals(workspace: Workspace, seals: Iterable[Published]) -> None:
    """Check the key-free list that came with each seal, and its timestamps.

    :param seals: all of them, oldest first
    :raises VerificationError: naming the list that is missing, is of other files, or was stamped by
        too few authorities
    """
    expected = b""
    for seal in seals:
        key, tokens = _renewal(seal)
        if any(workspace.archive.stat(one) is None for one in (key, tokens)):
            raise VerificationError(
                f"{key} is not there, or not timestamped: longseal reseal --period {seal.period}"
                " finishes it"
            )
        expected += _sums("sha512", _renewed(workspace, [seal]))
        if workspace.archive.get(key) != expected:
            raise VerificationError(f"{key} is not of the seals and authorities in the archive")
        stamps = read_tokens(workspace, tokens)
        require_quorum(workspace, stamps, expected, seal.statement.predicate)


def _renewed(workspace: Workspace, seals: Iterable[Published]) -> Iterator[tuple[str, bytes]]:
    """What the key-free list has: each seal, its authorities, and what was told of these."""
    for seal in seals:
        folder = seal_folder(seal.sequence)
        told = sorted(workspace.archive.keys(f"{folder}/{REVOCATION}/"))
        for name in (f"{folder}/{TRUSTED_ROOT}", *told):
            yield name, workspace.archive.get(name)
        yield f"{folder}/{SEAL}", seal.bundle


def _renewal(seal: Published) -> tuple[str, str]:
    folder = seal_folder(seal.sequence)
    return f"{folder}/renewal.sha512", f"{folder}/renewal.tokens.json"


def _claim_of(key: str) -> str:
    return key.removesuffix(BUNDLE) + "statement.json"


def _lines(lines: Iterable[bytes]) -> bytes:
    return b"".join(part for line in lines for part in (line, b"\n"))


def _seal_files(seals: Iterable[Published]) -> Iterator[tuple[str, bytes]]:
    return ((f"{seal_folder(one.sequence)}/{SEAL}", one.bundle) for one in seals)


def _sums(algorithm: str, files: Iterable[tuple[str, bytes]]) -> bytes:
    """A list that ``sha256sum --check`` and its kin read."""
    return "".join(
        f"{hashlib.new(algorithm, data).hexdigest()}  {name}\n" for name, data in files
    ).encode()
