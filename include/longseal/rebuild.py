"""The catalog, made again from the archive alone; and the one in use, compared with that.

Nothing in the catalog is believed by anybody who signs or deletes, and all of it follows from the
archive: packs with their labels and leaves, completeness records, seals, deletions, attached image
statements, and the ledger's deliveries. What does not: what registries said (asked again), under
what evidence was judged last and how often a log was asked for its proof (done again), and when a
pack was claimed. Evidence that a recheck set aside, and that held when judged again, is set aside
once more until it is judged or sealed.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any, Final

from longseal.archive.leaf import Leaf
from longseal.archive.pack import Evidence as Item
from longseal.archive.pack import load_pack, pack_key, pack_label, packs_in, store_index
from longseal.archive.records import newest_records
from longseal.archive.retention import class_of, retain_until
from longseal.archive.tombstones import Place, buried, place_of_leaf
from longseal.canonical import parse_object, sha256_hex
from longseal.catalog import models
from longseal.errors import MalformedError, RestoreInProgress, VerificationError
from longseal.harvest import catalog_row
from longseal.mirror.kit import deliveries
from longseal.seal.images import attached_statements
from longseal.seal.published import published, read_lines
from longseal.seal.tree import leaf_hash
from longseal.verify.formats import may_lack_proof
from longseal.workspace import Workspace

_LISTS: Final = ("rejected", "ignored", "unknown")
_VOID = re.compile(r"seals/\d{6}/\d{1,4}/void\.json")


@dataclass(slots=True)
class Rebuilt:
    """How a rebuild went.

    :param rows: by table
    :param failed: packs that are damaged, with what is wrong: their evidence is in no table
    """

    rows: dict[str, int]
    failed: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """One JSON document."""
        return {"rows": self.rows, "failed": self.failed}


def rebuild(workspace: Workspace) -> Rebuilt:
    """Fill the catalog from the archive alone; killed, it leaves the catalog as it was.

    :raises RestoreInProgress: packs lie in a cold class; a copy of each was asked for
    """
    with contents(workspace) as found:
        if found.waiting:
            raise RestoreInProgress(
                f"{len(found.waiting)} packs lie in a cold class, copies were asked for, and the"
                " catalog is as it was: rebuild it once they are there"
            )
        rows: Counter[str] = Counter()

        def counted(name: str, each: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
            for row in each:
                rows[name] += 1
                yield row

        with workspace.catalog.replaced() as fill:
            fill(models.Seal, counted("seals", found.seals))
            fill(models.Pack, counted("packs", found.packs.values()))
            fill(models.Image, counted("images", found.images))
            fill(models.Evidence, counted("evidence", found.evidence()))
            fill(models.ImageStatement, counted("image_statements", found.statements))
            fill(models.Delivery, counted("deliveries", found.deliveries))
        result = Rebuilt(dict(rows), found.failed)
    workspace.note("catalog.rebuilt", {"rows": result.rows, "failed": sorted(result.failed)})
    return result


def adopt(workspace: Workspace, digests: Iterable[str]) -> int:
    """Take in packs of the archive that the catalog does not know.

    :returns: how many pieces of evidence were not known, or take the place of an older leaf
    """
    catalog, adopted, packs = workspace.catalog, 0, []
    for digest in digests:
        items = load_pack(workspace.archive, digest)
        row = _pack_row(workspace, digest, items)
        store_index(workspace.archive, digest, row["retain_until"])
        adopted += catalog.adopt(row, [_columns(item, digest) for item in items])
        moves = []
        for leaf in (item.leaf for item in items if item.leaf.supersedes is not None):
            moves += [
                (known.id, known.leaf_hash, catalog_row(leaf, digest))
                for known in catalog.evidence(**dict(zip(_PLACE, place_of_leaf(leaf), strict=True)))
                if sha256_hex(known.leaf.encode()) == leaf.supersedes
            ]
        catalog.supersede(digest, moves)
        adopted += len(moves)
        packs.append(digest)
    if packs:
        workspace.note("packs.adopted", {"packs": packs, "evidence": adopted})
    return adopted


_PLACE: Final = ("source", "repository", "image", "manifest", "bundle")


# -- reading the archive ---------------------------------------------------------------------


@dataclass(slots=True)
class Contents:
    """What the archive gives, as columns of the catalog's tables.

    :param listed: every pack that is there
    :param packs: those that were read
    :param failed: packs that are damaged, ``waiting`` those in a cold class, with what was said
    """

    listed: list[str]
    leaves: _Leaves
    packs: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: dict[str, str] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)
    seals: list[dict[str, Any]] = field(default_factory=list)
    statements: list[dict[str, Any]] = field(default_factory=list)
    deliveries: list[dict[str, Any]] = field(default_factory=list)
    sealed: dict[bytes, int] = field(default_factory=dict)
    suspect: set[bytes] = field(default_factory=set)
    buried: dict[Place, str] = field(default_factory=dict)

    def evidence(self) -> Iterator[dict[str, Any]]:
        """One row for each place: of several leaves the one that none supersedes."""
        for standing in self.leaves.standing():
            yield self.row(min(standing, key=self._rank))

    def row(self, kept: _Kept) -> dict[str, Any]:
        """The columns of one leaf."""
        leaf = Leaf.parse(kept.line)
        row = catalog_row(leaf, kept.pack)
        hashed = bytes.fromhex(row["leaf_hash"])
        sealed = self.sealed.get(hashed)
        row |= {
            "seal": sealed,
            "tombstone": self.buried.get(place_of_leaf(leaf)),
            "proof_tries": 0 if kept.lacks_proof else None,
        }
        if sealed is None and hashed in self.suspect:
            row["verdict"] = "suspect"
        return row

    def _rank(self, kept: _Kept) -> tuple[bool, str, str]:
        """Of what two harvests at once found, the sealed one counts, else the earlier."""
        leaf = Leaf.parse(kept.line)
        unsealed = leaf_hash(kept.line) not in self.sealed
        return (unsealed, leaf.collected_at.isoformat(), kept.pack)


@dataclass(frozen=True, slots=True)
class _Kept:
    line: bytes
    pack: str
    lacks_proof: bool


class _Leaves:
    """The leaves of packs: their lines in a file, and in memory which of them stand.

    A million leaves take some 300 MB; their lines would take more than 1 GB.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._packs: list[str] = []
        self._places: dict[bytes, list[tuple[bytes, int, int, int, bool]]] = {}
        self._superseded: set[bytes] = set()

    def add(self, digest: str, items: Iterable[Item]) -> None:
        """Take in a pack's leaves."""
        self._packs.append(digest)
        for item in items:
            line = item.leaf.line()
            place = bytes.fromhex(sha256_hex("\0".join(place_of_leaf(item.leaf)).encode()))[:16]
            if item.leaf.supersedes is not None:
                self._superseded.add(bytes.fromhex(item.leaf.supersedes))
            kept = (bytes.fromhex(sha256_hex(line)), self._file.tell(), len(line))
            self._file.write(line)
            lacks = _lacks_proof(item)
            self._places.setdefault(place, []).append((*kept, len(self._packs) - 1, lacks))

    def standing(self) -> Iterator[list[_Kept]]:
        """For each place the leaves that none supersedes: one, but for two harvests at once."""
        for found in self._places.values():
            # Leaves that supersede each other in a circle are nobody's honest work: any will do.
            stand = [one for one in found if one[0] not in self._superseded] or found
            yield [self._kept(*one[1:]) for one in stand]

    def _kept(self, at: int, size: int, pack: int, lacks_proof: bool) -> _Kept:
        self._file.seek(at)
        return _Kept(self._file.read(size), self._packs[pack], lacks_proof)


@contextmanager
def contents(
    workspace: Workspace, packs: Collection[str] | None = None, cold: bool = True
) -> Iterator[Contents]:
    """Read the archive.

    :param packs: those to read; None for all
    :param cold: whether what lies in a cold class is asked for; else it is left out, as waiting
    """
    with tempfile.TemporaryFile() as file:
        found = Contents(packs_in(workspace.archive), _Leaves(file))
        for digest in found.listed if packs is None else sorted(packs):
            _read(workspace, digest, found, cold)
        for seal in published(workspace):
            found.seals.append(
                {
                    "sequence": seal.sequence,
                    "period": seal.period,
                    "digest": seal.digest,
                    "root": seal.root,
                    "size": seal.size,
                    "sealed_at": seal.sealed_at,
                }
            )
            files = seal.files()
            named = [*seal.files("leaves/").values(), *(files[f"{name}.jsonl"] for name in _LISTS)]
            for line in read_lines(workspace, named):
                found.sealed[leaf_hash(line)] = seal.sequence
        found.suspect = set(_suspect(workspace))
        found.buried = buried(workspace)
        found.images = [
            {
                "source": place[0],
                "repository": place[1],
                "digest": place[2],
                "state": record.state,
                "record": record.line.decode(),
                "checked_at": record.checked_at,
            }
            for place, record in newest_records(workspace.archive).items()
        ]
        found.statements = attached_statements(workspace)
        found.deliveries = deliveries(workspace, workspace.ledger.walk())
        yield found


def _read(workspace: Workspace, digest: str, found: Contents, cold: bool) -> None:
    try:
        stored = workspace.archive.stat(pack_key(digest))
        if stored is not None and stored.cold and not cold:
            found.waiting[digest] = "it lies in a cold class"
            return
        items = load_pack(workspace.archive, digest)
        found.packs[digest] = _pack_row(workspace, digest, items)
    except RestoreInProgress as err:
        found.waiting[digest] = str(err)
    except (VerificationError, MalformedError) as err:
        found.failed[digest] = str(err)
    else:
        found.leaves.add(digest, items)


def _pack_row(workspace: Workspace, digest: str, items: Collection[Item]) -> dict[str, Any]:
    stored = workspace.archive.stat(pack_key(digest))
    assert stored is not None
    label = pack_label(workspace.archive, digest)
    first = next(iter(items)).leaf
    kept = class_of(workspace.settings.retention, first)
    until = label.retain_until if label else stored.retain_until
    return {
        "digest": digest,
        "state": "stored",
        "evidence_class": label.evidence_class if label else kept.name,
        "retain_until": until or retain_until(kept, first),
        "claimed_at": max(item.leaf.collected_at for item in items),
        "size": stored.size,
        "members": len(items),
    }


def _columns(item: Item, pack: str) -> dict[str, Any]:
    return catalog_row(item.leaf, pack) | {"proof_tries": 0 if _lacks_proof(item) else None}


def _lacks_proof(item: Item) -> bool:
    return not item.leaf.material and may_lack_proof(item.payload, item.manifest)


def _suspect(workspace: Workspace) -> Iterator[bytes]:
    """Hashes of the leaves that a recheck refused."""
    for key in workspace.archive.keys("seals/"):
        if _VOID.fullmatch(key):
            report = parse_object(workspace.archive.get(key), "a voided attempt")
            yield from (bytes.fromhex(one["leaf"]) for one in report["failed"])


# -- comparing -------------------------------------------------------------------------------


@dataclass(slots=True)
class Differences:
    """Where the catalog is not what the archive gives; of each table, each in words.

    :param orphans: packs that the catalog does not know, and ``claimed`` those that it does not
        know to have arrived: the next harvest takes them up
    """

    orphans: list[str] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)
    tables: dict[str, list[str]] = field(default_factory=dict)


def differences(workspace: Workspace, found: Contents) -> Differences:
    """Compare the catalog with what the archive gives.

    Of evidence and packs only what was read is compared; a place whose evidence the catalog has in
    a pack that was not read is taken to have moved on.
    """
    catalog, result = workspace.catalog, Differences()
    packs = {pack.digest: pack for pack in catalog.every(models.Pack)}
    result.orphans = [digest for digest in found.listed if digest not in packs]
    # What was written since the reading began is in the catalog as well.
    listed = {*found.listed, *packs_in(workspace.archive)}
    result.claimed = [
        digest for digest, pack in packs.items() if pack.state == "claimed" and digest in listed
    ]
    result.tables["packs"] = [
        f"{digest}: the archive does not have it"
        for digest, pack in packs.items()
        if pack.state == "stored" and digest not in listed
    ] + _unlike(
        [row for digest, row in found.packs.items() if digest in packs],
        (pack for digest, pack in packs.items() if digest in found.packs),
        ("digest",),
        ("evidence_class", "retain_until", "size", "members"),
    )
    for name, table, rows, key, columns in (
        ("images", models.Image, found.images, _IMAGE, ("state", "record")),
        ("seals", models.Seal, found.seals, ("sequence",), ("period", "digest", "root", "size")),
        ("image_statements", models.ImageStatement, found.statements, _STATEMENT, _ATTACHED),
        ("deliveries", models.Delivery, found.deliveries, _DELIVERY, ("inventory", "images")),
    ):
        result.tables[name] = _unlike(rows, catalog.every(table), key, columns)
    result.tables["evidence"] = list(_evidence_unlike(workspace, found, result.orphans))
    return result


_IMAGE: Final = ("source", "repository", "digest")
_STATEMENT: Final = ("seal", "source", "repository", "image")
_ATTACHED: Final = ("bundle", "manifest")
_DELIVERY: Final = ("site", "sequence")
_LEAF: Final = ("leaf_hash", "pack")
_MARKS: Final = ("seal", "tombstone")


def _unlike(
    expected: Iterable[Mapping[str, Any]],
    rows: Iterable[models.Base],
    key: tuple[str, ...],
    columns: tuple[str, ...],
) -> list[str]:
    wanted = {tuple(row[name] for name in key): row for row in expected}
    unlike = []
    for row in rows:
        named = tuple(getattr(row, name) for name in key)
        shown = " ".join(map(str, named))
        given = wanted.pop(named, None)
        if given is None:
            unlike.append(f"{shown}: the archive knows nothing of it")
            continue
        unlike += [
            f"{shown}: {name} is {_short(getattr(row, name))}, the archive says"
            f" {_short(given[name])}"
            for name in columns
            if getattr(row, name) != given[name]
        ]
    return unlike + [f"{' '.join(map(str, named))}: the catalog lacks it" for named in wanted]


def _evidence_unlike(
    workspace: Workspace, found: Contents, orphans: Collection[str]
) -> Iterator[str]:
    choices: dict[bytes, list[tuple[Any, ...]]] = {}
    for standing in found.leaves.standing():
        # What lies in packs that nobody claimed is reported with them.
        known = [found.row(kept) for kept in standing if kept.pack not in orphans]
        if known:
            choices[_named(known[0])] = [
                tuple(row[name] for name in (*_LEAF, *_MARKS)) for row in known
            ]
    for row in workspace.catalog.every(models.Evidence):
        shown = f"{row.bundle} on {row.repository}@{row.image}"
        columns = {name: getattr(row, name) for name in (*_PLACE, *_LEAF, *_MARKS, "verdict")}
        choice = choices.pop(_named(columns), None)
        if row.pack not in found.packs:
            continue
        if (derived := _derived_unlike(row)) is not None:
            yield f"{shown}: its {derived} is not what its leaf says"
        if choice is None:
            yield f"{shown}: no pack that stands has its leaf"
        elif tuple(columns[name] for name in (*_LEAF, *_MARKS)) not in choice:
            leaf, pack, *marks = choice[0]
            yield (
                f"{shown}: the catalog has leaf {row.leaf_hash[:12]} in {row.pack[:19]}, seal"
                f" {row.seal}, tombstone {row.tombstone}; the archive leaf {leaf[:12]} in"
                f" {pack[:19]}, seal {marks[0]}, tombstone {marks[1]}"
            )
    for left in choices.values():
        yield f"leaf {left[0][0]} in {left[0][1]}: the catalog lacks it"


def _derived_unlike(row: models.Evidence) -> str | None:
    """The first column that is not what the row's own leaf says."""
    try:
        given = catalog_row(Leaf.parse(row.leaf.encode()), row.pack)
    except MalformedError:
        return "leaf"
    given.pop("judged")
    if row.verdict == "suspect":
        given.pop("verdict")
    return next((name for name, value in given.items() if getattr(row, name) != value), None)


def _named(row: Mapping[str, Any]) -> bytes:
    return bytes.fromhex(sha256_hex("\0".join(row[name] for name in _PLACE).encode()))[:16]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
