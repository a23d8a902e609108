"""Questions to the catalog and changes of it, one method each."""

from __future__ import annotations

import fcntl
import sqlite3
import time
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final, TypeVar
from zlib import crc32

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    Table,
    bindparam,
    case,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    make_url,
    or_,
    select,
    text,
    update,
)
from sqlalchemy import Row as RowOf
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.orm import Session

from longseal.archive.records import Place
from longseal.catalog.models import (
    Base,
    Delivery,
    Evidence,
    Image,
    ImageStatement,
    Memory,
    Pack,
    Seal,
)
from longseal.errors import RetryableError, SettingsError, VerificationError

HEAD: Final = "0004"

"""The newest migration; a catalog at it is opened without loading Alembic."""

TURN_SECONDS: Final = 600
"""How long a turn may last, and is waited for."""

_TURNS: Final = 64
"""Repositories share so many turns: PostgreSQL has room for some thousand locks in all."""

_BUSY_SECONDS: Final = 60

_BATCH = 500
_PLACE: Final = ("source", "repository", "image", "manifest", "bundle")
"""What makes a piece of evidence one."""

_FROM_ARCHIVE: Final = (ImageStatement, Evidence, Seal, Pack, Image, Delivery)
"""In the order in which they can be emptied."""

Row = TypeVar("Row", bound=Base)
Item = TypeVar("Item")


class Catalog:
    """What is known about images, evidence, packs, seals and deliveries."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Catalog:
        """Connect, and bring the tables to the newest migration.

        :param url: SQLAlchemy URL; ``sqlite:///…`` or ``postgresql+psycopg://…``
        :raises SettingsError: naming ``catalog``, when the database cannot be used
        """
        try:
            target = make_url(url)
            if target.get_backend_name() == "sqlite" and target.database:
                Path(target.database).parent.mkdir(parents=True, exist_ok=True)
            engine = create_engine(target)
            if engine.dialect.name == "sqlite":
                event.listen(engine, "connect", _tune_sqlite)
            _migrate(engine)
        except ValueError:
            # Its text may quote what follows a colon, and that may be the password.
            raise SettingsError("catalog", "not a database URL: its port is no number") from None
        except (ArgumentError, ImportError, NoSuchModuleError, OSError) as err:
            raise SettingsError("catalog", f"not a database that can be used: {err}") from err
        except DBAPIError as err:
            raise SettingsError("catalog", f"the database cannot be used: {_said(err)}") from err
        return cls(engine)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction: committed at the end, rolled back on any error.

        :raises RetryableError: the database is gone, busy, or gave the way to another transaction
        """
        try:
            with Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session
        except DBAPIError as err:
            if isinstance(err, OperationalError) or err.connection_invalidated:
                text = f"the catalog's database did not do it: {_said(err)}"
                raise RetryableError(text) from err
            raise

    # -- harvest -----------------------------------------------------------------------------

    @contextmanager
    def turn(self, source: str, repositories: Iterable[str]) -> Iterator[None]:
        """Have nobody else pack what is found in these repositories; a process that dies gives way.

        So two harvests of one registry at once never write the same evidence twice.

        :raises RetryableError: another has had its turn for over :data:`TURN_SECONDS`
        """
        database = self._engine.url.database
        if self._engine.dialect.name == "sqlite":
            with _locked(f"{database}.turn") if database else nullcontext():
                yield
            return
        numbers = {crc32(f"{source}/{name}".encode()) % _TURNS for name in repositories}
        with self.session() as session:
            # Whose host is gone says nothing to the server, which ends its transaction then.
            for name in ("lock_timeout", "idle_in_transaction_session_timeout"):
                session.execute(text(f"SET LOCAL {name} = '{TURN_SECONDS}s'"))
            for number in sorted(numbers):
                session.execute(
                    text("SELECT pg_advisory_xact_lock(7305802, :number)"), {"number": number}
                )
            yield

    def known_manifests(
        self, source: str, repository: str, images: Collection[str]
    ) -> dict[str, set[str]]:
        """By image, the attachments whose evidence is safe in the archive already, all of it."""
        known: dict[str, set[str]] = {}
        with self.session() as session:
            for part in _parts(sorted(images)):
                rows = session.execute(
                    select(Evidence.image, Evidence.manifest)
                    .join(Pack, Pack.digest == Evidence.pack)
                    .where(
                        Evidence.source == source,
                        Evidence.repository == repository,
                        Evidence.image.in_(part),
                    )
                    .group_by(Evidence.image, Evidence.manifest)
                    # One layer of an attachment may lie in a pack that is only claimed.
                    .having(func.count(case((Pack.state != "stored", 1))) == 0)
                )
                for image, manifest in rows:
                    known.setdefault(image, set()).add(manifest)
        return known

    def stored_evidence(
        self, source: str, bundles: Collection[str]
    ) -> set[tuple[str, str, str, str]]:
        """Where evidence with these digests was found, and is safe in the archive already.

        :returns: repository, image, manifest and bundle of each piece
        """
        found: set[tuple[str, str, str, str]] = set()
        place = (Evidence.repository, Evidence.image, Evidence.manifest, Evidence.bundle)
        with self.session() as session:
            for part in _parts(sorted(bundles)):
                rows = session.execute(
                    select(*place)
                    .join(Pack, Pack.digest == Evidence.pack)
                    .where(
                        Evidence.source == source,
                        Evidence.bundle.in_(part),
                        Pack.state == "stored",
                    )
                )
                found.update(
                    (where, image, manifest, bundle) for where, image, manifest, bundle in rows
                )
        return found

    def held_manifests(
        self, source: str, repository: str, images: Collection[str]
    ) -> dict[str, set[str]]:
        """By image, the attachments that its registry should still have: no tombstone says else."""
        held: dict[str, set[str]] = {}
        with self.session() as session:
            for part in _parts(sorted(images)):
                rows = session.execute(
                    select(Evidence.image, Evidence.manifest).where(
                        Evidence.source == source,
                        Evidence.repository == repository,
                        Evidence.image.in_(part),
                        Evidence.tombstone.is_(None),
                    )
                )
                for image, manifest in rows:
                    held.setdefault(image, set()).add(manifest)
        return held

    def held_images(
        self, source: str, repositories: Collection[str] | None = None
    ) -> dict[str, set[str]]:
        """By repository, the images that have an attachment which should still be there.

        :param repositories: those asked for; None for all
        """
        held: dict[str, set[str]] = {}
        query = (
            select(Evidence.repository, Evidence.image)
            .where(Evidence.source == source, Evidence.tombstone.is_(None))
            .distinct()
        )
        parts = [None] if repositories is None else _parts(sorted(repositories))
        with self.session() as session:
            for part in parts:
                some = query if part is None else query.where(Evidence.repository.in_(part))
                for repository, image in session.execute(some):
                    held.setdefault(repository, set()).add(image)
        return held

    def records(self, source: str, repository: str, images: Collection[str]) -> dict[str, str]:
        """By image, the completeness record of the last search."""
        with self.session() as session:
            return {
                digest: record
                for part in _parts(sorted(images))
                for digest, record in session.execute(
                    select(Image.digest, Image.record).where(
                        Image.source == source,
                        Image.repository == repository,
                        Image.digest.in_(part),
                    )
                )
            }

    def record_images(self, images: Sequence[dict[str, Any]]) -> None:
        """Note how the search for each image's attestations ended; columns of :class:`Image`."""
        self._upsert(Image, images, ("source", "repository", "digest"))

    def remembered(
        self, source: str, repositories: Collection[str]
    ) -> Iterator[tuple[str, str, str, datetime]]:
        """What was noted by :meth:`remember`: repository, key, value and when."""
        with self.session() as session:
            for part in _parts(sorted(repositories)):
                rows = session.execute(
                    select(Memory.repository, Memory.key, Memory.value, Memory.noted_at).where(
                        Memory.source == source, Memory.repository.in_(part)
                    )
                )
                yield from ((row[0], row[1], row[2], row[3]) for row in rows)

    def remember(self, rows: Sequence[dict[str, Any]]) -> None:
        """Note what a registry said; columns of :class:`Memory`."""
        for part in _parts(rows):
            self._upsert(Memory, part, ("source", "repository", "key"))

    def claim_packs(
        self, packs: Sequence[dict[str, Any]], evidence: Sequence[dict[str, Any]]
    ) -> None:
        """Note what packs will hold, before they are written; columns of both tables.

        Evidence whose pack is stored keeps its place; evidence of a claim that never came to be
        moves over: within :meth:`turn` no claim of another is under way.
        """
        lost = select(Pack.digest).where(Pack.state == "claimed")
        statement = self._insert(Evidence)
        moved = {name: statement.excluded[name] for name in evidence[0] if name not in _PLACE}
        with self.session() as session:
            session.execute(
                self._insert(Pack).on_conflict_do_nothing(),
                sorted(packs, key=lambda pack: str(pack["digest"])),
            )
            session.execute(
                statement.on_conflict_do_update(
                    index_elements=_PLACE, set_=moved, where=Evidence.pack.in_(lost)
                ),
                sorted(evidence, key=lambda row: [str(row[name]) for name in _PLACE]),
            )

    def mark_stored(self, digest: str) -> None:
        """The archive has this pack."""
        with self.session() as session:
            session.execute(update(Pack).where(Pack.digest == digest).values(state="stored"))

    def pack(self, digest: str) -> Pack:
        """One pack.

        :raises VerificationError: the catalog knows no such pack
        """
        with self.session() as session:
            found = session.get(Pack, digest)
        if found is None:
            raise VerificationError(f"the catalog knows no pack {digest}: rebuild it")
        return found

    def packs(self) -> list[str]:
        """Every pack that the archive should have."""
        with self.session() as session:
            return list(
                session.scalars(
                    select(Pack.digest).where(Pack.state == "stored").order_by(Pack.digest)
                )
            )

    def claimed_packs(self) -> list[str]:
        """Packs that were claimed and not yet seen in the archive."""
        with self.session() as session:
            return list(
                session.scalars(
                    select(Pack.digest).where(Pack.state == "claimed").order_by(Pack.digest)
                )
            )

    # -- made again from the archive ---------------------------------------------------------

    @contextmanager
    def replaced(self) -> Iterator[Callable[[type[Base], Iterable[dict[str, Any]]], None]]:
        """Empty the tables that the archive gives, and fill them by calls: all of it, or nothing.

        What a registry said stays: it is nowhere else, and costs requests only.
        """
        with self.session() as session:
            for table in _FROM_ARCHIVE:
                session.execute(delete(table))

            def fill(table: type[Base], rows: Iterable[dict[str, Any]]) -> None:
                rows = iter(rows)
                while part := list(islice(rows, _BATCH)):
                    session.execute(insert(table), part)

            yield fill

    def every(self, table: type[Row]) -> Iterator[Row]:
        """All rows of a table, a few hundred at a time."""
        with self.session() as session:
            for row in session.scalars(select(table).execution_options(yield_per=_BATCH)):
                session.expunge(row)
                yield row

    def adopt(self, pack: dict[str, Any], evidence: Sequence[dict[str, Any]]) -> int:
        """Take in a stored pack that nobody claimed, and of its evidence what is not known.

        :param evidence: columns of :class:`Evidence`
        :returns: how many pieces were not known
        """
        with self.session() as session:
            session.execute(self._insert(Pack).on_conflict_do_nothing(), [pack])
            known = func.count(Evidence.id)
            before = session.scalar(select(known)) or 0
            session.execute(self._insert(Evidence).on_conflict_do_nothing(), list(evidence))
            return (session.scalar(select(known)) or 0) - before

    # -- judging again -----------------------------------------------------------------------

    def packs_judged_otherwise(self, regime: str) -> list[str]:
        """Stored packs with evidence that was last judged under something else."""
        with self.session() as session:
            return list(
                session.scalars(
                    select(Evidence.pack)
                    .join(Pack, Pack.digest == Evidence.pack)
                    .where(
                        Pack.state == "stored",
                        or_(Evidence.judged.is_(None), Evidence.judged != regime),
                    )
                    .distinct()
                    .order_by(Evidence.pack)
                )
            )

    def mark_judged(self, evidence: Collection[int], regime: str) -> None:
        """Note under what ``evidence`` was judged last."""
        with self.session() as session:
            for part in _parts(sorted(evidence)):
                session.execute(update(Evidence).where(Evidence.id.in_(part)).values(judged=regime))

    def claim_pack(self, pack: dict[str, Any]) -> None:
        """Note a pack before it is written; columns of :class:`Pack`."""
        with self.session() as session:
            session.execute(self._insert(Pack).on_conflict_do_nothing(), [pack])

    def supersede(self, pack: str, moves: Iterable[tuple[int, str, dict[str, Any]]]) -> None:
        """The archive has ``pack``: move rows to its leaves, which no seal covers yet.

        :param moves: row, hash of the leaf that it has, and the new columns; a row that has moved
            on meanwhile stays where it is
        """
        with self.session() as session:
            session.execute(update(Pack).where(Pack.digest == pack).values(state="stored"))
            changes = [
                {**columns, "seal": None, "of_row": row, "of_leaf": before}
                for row, before, columns in moves
            ]
            if changes:
                table = Evidence.__table__
                assert isinstance(table, Table)
                names = changes[0].keys() - {"of_row", "of_leaf"}
                session.execute(
                    table.update()
                    .where(
                        table.c.id == bindparam("of_row"), table.c.leaf_hash == bindparam("of_leaf")
                    )
                    .values({name: bindparam(name) for name in sorted(names)}),
                    changes,
                )

    def unproven(self, tries: int, limit: int) -> list[Evidence]:
        """Verified evidence that may lack a log's inclusion proof, by pack.

        :param tries: only what the log was asked for less often
        :param limit: most pieces; those asked for least come first
        """
        query = (
            select(Evidence)
            .join(Pack, Pack.digest == Evidence.pack)
            .where(
                Evidence.proof_tries < tries,
                Evidence.verdict == "verified",
                Pack.state == "stored",
            )
            .order_by(Evidence.proof_tries, Evidence.pack, Evidence.id)
            .limit(limit)
        )
        return sorted(self._all(query), key=lambda row: (row.pack, row.id))

    def note_proofs(self, tries: Mapping[int, int | None]) -> None:
        """By row, how often the log was asked for a proof; None where nothing is left to ask."""
        with self.session() as session:
            for row, count in tries.items():
                session.execute(
                    update(Evidence).where(Evidence.id == row).values(proof_tries=count)
                )

    def restore(self, verdicts: Mapping[int, str]) -> None:
        """Evidence that was set aside, and holds after all."""
        with self.session() as session:
            for row, verdict in verdicts.items():
                session.execute(update(Evidence).where(Evidence.id == row).values(verdict=verdict))

    def packs_signed_by(
        self, identity: str, issuer: str, first: datetime, last: datetime, since: datetime | None
    ) -> set[str]:
        """The packs with evidence of this signer, signed between the two moments.

        :param since: only what a harvest found that began then or later; None for all
        """
        query = (
            select(Evidence.pack)
            .join(Pack, Pack.digest == Evidence.pack)
            .where(
                Evidence.identity == identity,
                Evidence.issuer == issuer,
                Evidence.signed_at.between(first, last),
                Pack.state == "stored",
            )
            .distinct()
        )
        if since is not None:
            query = query.where(Evidence.collected_at >= since)
        with self.session() as session:
            return set(session.scalars(query))

    def held(self, verdicts: Collection[str]) -> Iterator[Evidence]:
        """Evidence with these verdicts, in order, a few hundred rows at a time."""
        query = (
            select(Evidence)
            .where(Evidence.verdict.in_(verdicts))
            .order_by(*(getattr(Evidence, name) for name in _PLACE))
        )
        with self.session() as session:
            for row in session.scalars(query.execution_options(yield_per=_BATCH)):
                session.expunge(row)
                yield row

    # -- reseal ------------------------------------------------------------------------------

    def unsealed(self, before: datetime | None) -> Iterator[RowOf[str, str, str]]:
        """``leaf``, ``verdict`` and ``pack`` of the evidence that no seal covers.

        In the order of the leaves' bytes, a few hundred rows at a time.

        :param before: only what was signed earlier
        """
        postgres = self._engine.dialect.name == "postgresql"
        query = (
            select(Evidence.leaf, Evidence.verdict, Evidence.pack)
            .join(Pack, Pack.digest == Evidence.pack)
            .where(Evidence.seal.is_(None), Evidence.verdict != "suspect", Pack.state == "stored")
            .order_by(Evidence.leaf.collate("C") if postgres else Evidence.leaf)
        )
        if before is not None:
            query = query.where(Evidence.signed_at < before)
        with self.session() as session:
            yield from session.connection().execute(query.execution_options(yield_per=_BATCH))

    def unsealed_packs(self) -> list[str]:
        """The packs with verified evidence that no seal covers."""
        query = (
            select(Evidence.pack)
            .join(Pack, Pack.digest == Evidence.pack)
            .where(Evidence.seal.is_(None), Evidence.verdict == "verified", Pack.state == "stored")
            .distinct()
            .order_by(Evidence.pack)
        )
        with self.session() as session:
            return list(session.scalars(query))

    def packs_of(self, leaf_hashes: Collection[str]) -> list[str]:
        """The packs that hold these leaves: where to look, never what to believe."""
        found: set[str] = set()
        with self.session() as session:
            for part in _parts(sorted(leaf_hashes)):
                found.update(
                    session.scalars(
                        select(Evidence.pack).where(Evidence.leaf_hash.in_(part)).distinct()
                    )
                )
        return sorted(found)

    def set_aside(self, leaf_hashes: Collection[str]) -> None:
        """Evidence that did not hold when it was verified again: no seal takes it any more."""
        with self.session() as session:
            for part in _parts(sorted(leaf_hashes)):
                session.execute(
                    update(Evidence).where(Evidence.leaf_hash.in_(part)).values(verdict="suspect")
                )

    def records_of(self, places: Iterable[Place]) -> Iterator[tuple[Place, str]]:
        """The completeness records of these images, each by registry, repository and digest."""
        query = select(Image.source, Image.repository, Image.digest, Image.record)
        wanted = set(places)
        with self.session() as session:
            for part in _parts(sorted({place[2] for place in wanted})):
                rows = session.connection().execute(query.where(Image.digest.in_(part)))
                for source, repository, digest, record in rows:
                    if (place := (source, repository, digest)) in wanted:
                        yield place, record

    def alarming_images(self) -> set[tuple[str, str, str]]:
        """Registry, repository and digest of the images whose last search was not whole, or found
        something gone."""
        query = select(Image.source, Image.repository, Image.digest)
        with self.session() as session:
            rows = session.execute(query.where(Image.state.not_in(("whole", "empty"))))
            return {(row.source, row.repository, row.digest) for row in rows}

    def add_seal(self, seal: Seal, leaves: Iterable[str]) -> None:
        """Note a published seal and the evidence that it covers, by leaf hash.

        Of two runs that publish the same seal at once, the first counts.
        """
        hashes = sorted(leaves)
        row = {each.name: getattr(seal, each.name) for each in Seal.__table__.columns}
        statement = self._insert(Seal).values(row)
        with self.session() as session:
            session.execute(statement.on_conflict_do_nothing(index_elements=["sequence"]))
            rows = array("q")
            connection = session.connection()
            for part in _parts(hashes):
                rows.extend(
                    connection.scalars(select(Evidence.id).where(Evidence.leaf_hash.in_(part)))
                )
            # Hashes are in no order of the table's: row by row, each would touch another page.
            covered = (
                update(Evidence)
                .where(Evidence.id.between(bindparam("first"), bindparam("last")))
                .values(seal=seal.sequence)
            )
            for some in _parts(list(_runs(sorted(rows)))):
                connection.execute(
                    covered, [{"first": first, "last": last} for first, last in some]
                )

    def verified_images(self, images: Collection[str]) -> set[tuple[str, str, str]]:
        """By source, repository and digest, those of ``images`` that have verified evidence."""
        found: set[tuple[str, str, str]] = set()
        with self.session() as session:
            for part in _parts(sorted(images)):
                rows = session.execute(
                    select(Evidence.source, Evidence.repository, Evidence.image)
                    .where(Evidence.image.in_(part), Evidence.verdict == "verified")
                    .distinct()
                )
                found.update((source, repository, image) for source, repository, image in rows)
        return found

    def seals(self) -> list[Seal]:
        """Every published seal, oldest first."""
        return self._all(select(Seal).order_by(Seal.sequence))

    def add_image_statements(self, rows: Sequence[dict[str, Any]]) -> None:
        """Note attached image statements; columns of :class:`ImageStatement`."""
        self._upsert(ImageStatement, rows, ("source", "repository", "image", "seal"))

    def image_statements(self, images: Collection[str] | None = None) -> list[ImageStatement]:
        """Attached image statements, oldest seal first."""
        query = select(ImageStatement).order_by(ImageStatement.seal, ImageStatement.id)
        if images is None:
            return self._all(query)
        found: list[ImageStatement] = []
        for part in _parts(sorted(images)):
            found += self._all(query.where(ImageStatement.image.in_(part)))
        return found

    def own_manifests(self, source: str, images: Collection[str]) -> set[str]:
        """The manifests of image statements that hang on ``images`` in one registry."""
        return {row.manifest for row in self.image_statements(images) if row.source == source}

    def drop_image_statement(self, row_id: int) -> None:
        """The statement is no longer attached."""
        with self.session() as session:
            session.execute(delete(ImageStatement).where(ImageStatement.id == row_id))

    # -- retention, mirror, questions --------------------------------------------------------

    def placed(self, repositories: Collection[str] | None = None) -> Iterator[Any]:
        """Every piece of evidence, by place, a few hundred rows at a time: of its columns, what
        retention asks for. The longest, the leaf, is not among them.

        :param repositories: those asked for; None for all
        """
        columns = (
            *_PLACE,
            "verdict",
            "reason",
            "predicate_type",
            "signed_at",
            "leaf_hash",
            "pack",
            "seal",
            "tombstone",
            "id",
        )
        query = select(*(getattr(Evidence, name) for name in columns)).order_by(
            *(getattr(Evidence, name) for name in _PLACE)
        )
        parts = [None] if repositories is None else _parts(sorted(repositories))
        with self.session() as session:
            for part in parts:
                some = query if part is None else query.where(Evidence.repository.in_(part))
                yield from session.connection().execute(some.execution_options(yield_per=_BATCH))

    def bury(self, evidence: Collection[int], deletion: str | None) -> None:
        """The registry's copies of ``evidence`` are gone, under this deletion statement.

        :param deletion: the plan's digest while it is carried out; None where a copy stayed or came
            back
        """
        with self.session() as session:
            for part in _parts(sorted(evidence)):
                session.execute(
                    update(Evidence).where(Evidence.id.in_(part)).values(tombstone=deletion)
                )

    def dispose(self, packs: Collection[str]) -> None:
        """The archive has these packs no longer: nothing that was in them is known any more."""
        with self.session() as session:
            for part in _parts(sorted(packs)):
                session.execute(delete(Evidence).where(Evidence.pack.in_(part)))
                session.execute(delete(Pack).where(Pack.digest.in_(part)))

    def evidence(self, **equal: str) -> list[Evidence]:
        """Evidence whose columns have the values given, for example ``image=…``."""
        return self._all(select(Evidence).filter_by(**equal).order_by(Evidence.id))

    def about(self, digest: str) -> list[Evidence]:
        """Evidence that has this digest, is of an attachment with it, or was found on an image."""
        columns = (Evidence.bundle, Evidence.manifest, Evidence.image)
        either = or_(*(column == digest for column in columns))
        return self._all(select(Evidence).where(either).order_by(Evidence.id))

    def images(self, source: str | None = None) -> list[Image]:
        """Every image seen, by source, repository and digest."""
        query = select(Image).order_by(Image.source, Image.repository, Image.digest)
        return self._all(query if source is None else query.where(Image.source == source))

    def counts(self) -> dict[str, int]:
        """How much evidence there is, by verdict."""
        with self.session() as session:
            rows = session.execute(
                select(Evidence.verdict, func.count()).group_by(Evidence.verdict)
            )
            return {row[0]: row[1] for row in rows}

    def add_delivery(self, delivery: Delivery) -> None:
        """Note a transfer to a site."""
        with self.session() as session:
            session.add(delivery)

    def deliveries(self, site: str) -> list[Delivery]:
        """Transfers to ``site``, oldest first."""
        return self._all(select(Delivery).filter_by(site=site).order_by(Delivery.sequence))

    # ----------------------------------------------------------------------------------------

    def _all(self, query: Select[Row]) -> list[Row]:
        with self.session() as session:
            rows: list[Row] = list(session.scalars(query))
            session.expunge_all()
            return rows

    def _insert(self, table: type[Base]) -> Any:
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        # Into the table: the mapper would make objects of every row first.
        return dialect.insert(table.__table__)

    def _upsert(
        self, table: type[Base], rows: Sequence[dict[str, Any]], key: tuple[str, ...]
    ) -> None:
        if not rows:
            return
        statement = self._insert(table)
        changed = {name: statement.excluded[name] for name in rows[0] if name not in key}
        with self.session() as session:
            session.execute(
                statement.on_conflict_do_update(index_elements=list(key), set_=changed),
                sorted(rows, key=lambda row: [str(row[name]) for name in key]),
            )


@contextmanager
def _locked(path: str) -> Iterator[None]:
    with Path(path).open("ab") as file:
        last = time.monotonic() + TURN_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as err:
                if time.monotonic() > last:
                    raise RetryableError(f"another process has had {path} for too long") from err
                time.sleep(0.02)
        try:
            yield
        finally:
            # Closing is not enough where a process was forked meanwhile.
            fcntl.flock(file, fcntl.LOCK_UN)


def _parts(items: Sequence[Item]) -> Iterator[Sequence[Item]]:
    # SQLite binds at most 32,766 values in one statement.
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """First and last of each run of sorted ``numbers`` without a gap."""
    for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        yield found[0], found[-1]


def _said(err: DBAPIError) -> str:
    """What the database said, without the statement and its values."""
    return str(err.orig).strip().partition("\n")[0]


def _tune_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_BUSY_SECONDS * 1000}")
    _use_wal(cursor)
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _use_wal(cursor: Any) -> None:
    """Have readers and a writer side by side; the file remembers it.

    Of two that change the mode at once, SQLite refuses one without waiting for its timeout.
    """
    last = time.monotonic() + _BUSY_SECONDS
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > last:
                raise
            time.sleep(0.02)


def _migrate(engine: Engine) -> None:
    with engine.begin() as connection:
        if _version(connection) == HEAD:
            return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect() as connection:
        _lock(connection)
        if _version(connection) != HEAD:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as err:
                raise SettingsError(
                    "catalog", f"its tables are of another Longseal: use a newer one ({err})"
                ) from err
        connection.commit()


def _lock(connection: Connection) -> None:
    """One process migrates; another that starts at the same moment waits."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(7305801)"))
    else:
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("longseal_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM longseal_version"))
    return found
