"""The tables. Everything here can be rebuilt from the archive; nothing here is ever signed."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Moment(TypeDecorator[datetime]):
    """A UTC time that keeps its zone on databases that have none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=value.tzinfo or UTC)


class Base(DeclarativeBase):
    """The metadata that Alembic compares with."""

    type_annotation_map = {datetime: Moment}  # noqa: RUF012 - SQLAlchemy's own spelling


class Pack(Base):
    """A pack of evidence: ``claimed`` before it is written, ``stored`` once the archive has it."""

    __tablename__ = "pack"

    digest: Mapped[str] = mapped_column(String(71), primary_key=True)
    state: Mapped[str] = mapped_column(String(8))
    evidence_class: Mapped[str] = mapped_column(String(64))
    retain_until: Mapped[datetime]
    claimed_at: Mapped[datetime]
    size: Mapped[int] = mapped_column(BigInteger)
    members: Mapped[int]


class Image(Base):
    """A subject of attestations, and how the last search for them ended.

    ``source`` is the name of the registry here and below: SQLAlchemy keeps the other word.
    """

    __tablename__ = "image"
    __table_args__ = (UniqueConstraint("source", "repository", "digest"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(64))
    repository: Mapped[str] = mapped_column(String(255))
    digest: Mapped[str] = mapped_column(String(71), index=True)
    state: Mapped[str] = mapped_column(String(8))
    """whole, empty or unknown"""
    record: Mapped[str] = mapped_column(Text)
    """the completeness record, canonical JSON"""
    checked_at: Mapped[datetime]
    """when a search first gave this record"""


class Evidence(Base):
    """One attestation on one image in one repository, and what was found out about it."""

    __tablename__ = "evidence"
    __table_args__ = (
        UniqueConstraint("source", "repository", "image", "manifest", "bundle"),
        Index("ix_evidence_unsealed", "seal", "verdict", "signed_at"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(64))
    repository: Mapped[str] = mapped_column(String(255))
    image: Mapped[str] = mapped_column(String(71), index=True)
    manifest: Mapped[str] = mapped_column(String(71))
    bundle: Mapped[str] = mapped_column(String(71), index=True)
    verdict: Mapped[str] = mapped_column(String(8))
    reason: Mapped[str | None] = mapped_column(Text)
    predicate_type: Mapped[str | None] = mapped_column(String(1024))
    identity: Mapped[str | None] = mapped_column(Text)
    issuer: Mapped[str | None] = mapped_column(Text)
    signed_at: Mapped[datetime]
    collected_at: Mapped[datetime]
    leaf: Mapped[str] = mapped_column(Text)
    leaf_hash: Mapped[str] = mapped_column(String(64), index=True)
    """RFC 6962 hash of the leaf, hex"""
    pack: Mapped[str] = mapped_column(ForeignKey("pack.digest"), index=True)
    seal: Mapped[int | None] = mapped_column(ForeignKey("seal.sequence"))
    tombstone: Mapped[str | None] = mapped_column(String(71))
    """digest of the deletion statement under which the registry's copy went"""
    judged: Mapped[str | None] = mapped_column(String(64), index=True)
    """under what it was judged last, as :func:`longseal.harvest.regime` names it"""
    proof_tries: Mapped[int | None] = mapped_column(index=True)
    """of what may lack a log's inclusion proof, how often the log was asked; None for all else"""

    @property
    def in_index(self) -> bool:
        """Whether an index lists it: then it is part of the image, and stays and goes with it."""
        return (self.reason or "").startswith("in-index:")


class Seal(Base):
    """A published seal."""

    __tablename__ = "seal"

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    period: Mapped[str] = mapped_column(String(80), unique=True)
    digest: Mapped[str] = mapped_column(String(71))
    root: Mapped[str] = mapped_column(String(71))
    size: Mapped[int]
    sealed_at: Mapped[datetime]


class ImageStatement(Base):
    """An image statement attached to one image."""

    __tablename__ = "image_statement"
    __table_args__ = (UniqueConstraint("source", "repository", "image", "seal"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    seal: Mapped[int] = mapped_column(ForeignKey("seal.sequence"))
    source: Mapped[str] = mapped_column(String(64))
    repository: Mapped[str] = mapped_column(String(255))
    image: Mapped[str] = mapped_column(String(71), index=True)
    bundle: Mapped[str] = mapped_column(String(71))
    manifest: Mapped[str] = mapped_column(String(71))


class Memory(Base):
    """What a registry said, and need not be asked again so soon; losing it costs requests only."""

    __tablename__ = "memory"
    __table_args__ = (UniqueConstraint("source", "repository", "key"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(String(64))
    repository: Mapped[str] = mapped_column(String(255))
    key: Mapped[str] = mapped_column(String(71))
    """a digest, or the name of what was asked for"""
    value: Mapped[str] = mapped_column(Text)
    noted_at: Mapped[datetime]


class Delivery(Base):
    """One transfer to a site that changed something there."""

    __tablename__ = "delivery"
    __table_args__ = (UniqueConstraint("site", "sequence"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    site: Mapped[str] = mapped_column(String(64))
    sequence: Mapped[int]
    inventory: Mapped[str] = mapped_column(String(71))
    images: Mapped[int]
    delivered_at: Mapped[datetime]
