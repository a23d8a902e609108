"""The first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("site", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.Integer(), nullable=False),
        sa.Column("inventory", sa.String(length=71), nullable=False),
        sa.Column("images", sa.Integer(), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("site", "sequence"),
    )
    op.create_table(
        "image",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("repository", sa.String(length=255), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.Column("checked_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("source", "repository", "digest"),
    )
    with op.batch_alter_table("image", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_image_digest"), ["digest"], unique=False)

    op.create_table(
        "pack",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("evidence_class", sa.String(length=64), nullable=False),
        sa.Column("retain_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("members", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "seal",
        sa.Column("sequence", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("period", sa.String(length=80), nullable=False),
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("root", sa.String(length=71), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("sealed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("sequence"),
        sa.UniqueConstraint("period"),
    )
    op.create_table(
        "evidence",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("repository", sa.String(length=255), nullable=False),
        sa.Column("image", sa.String(length=71), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.Column("bundle", sa.String(length=71), nullable=False),
        sa.Column("verdict", sa.String(length=8), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("predicate_type", sa.String(length=1024), nullable=True),
        sa.Column("identity", sa.Text(), nullable=True),
        sa.Column("issuer", sa.Text(), nullable=True),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("collected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("leaf", sa.Text(), nullable=False),
        sa.Column("leaf_hash", sa.String(length=64), nullable=False),
        sa.Column("pack", sa.String(length=71), nullable=False),
        sa.Column("seal", sa.Integer(), nullable=True),
        sa.Column("tombstone", sa.String(length=71), nullable=True),
        sa.ForeignKeyConstraint(
            ["pack"],
            ["pack.digest"],
        ),
        sa.ForeignKeyConstraint(
            ["seal"],
            ["seal.sequence"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("source", "repository", "image", "manifest", "bundle"),
    )
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_evidence_bundle"), ["bundle"], unique=False)
        batch_op.create_index(batch_op.f("ix_evidence_image"), ["image"], unique=False)
        batch_op.create_index(batch_op.f("ix_evidence_leaf_hash"), ["leaf_hash"], unique=False)
        batch_op.create_index(batch_op.f("ix_evidence_pack"), ["pack"], unique=False)
        batch_op.create_index(
            "ix_evidence_unsealed", ["seal", "verdict", "signed_at"], unique=False
        )

    op.create_table(
        "image_statement",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("seal", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("repository", sa.String(length=255), nullable=False),
        sa.Column("image", sa.String(length=71), nullable=False),
        sa.Column("bundle", sa.String(length=71), nullable=False),
        sa.Column("manifest", sa.String(length=71), nullable=False),
        sa.ForeignKeyConstraint(
            ["seal"],
            ["seal.sequence"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("source", "repository", "image", "seal"),
    )
    with op.batch_alter_table("image_statement", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_image_statement_image"), ["image"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("image_statement", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_image_statement_image"))

    op.drop_table("image_statement")
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.drop_index("ix_evidence_unsealed")
        batch_op.drop_index(batch_op.f("ix_evidence_pack"))
        batch_op.drop_index(batch_op.f("ix_evidence_leaf_hash"))
        batch_op.drop_index(batch_op.f("ix_evidence_image"))
        batch_op.drop_index(batch_op.f("ix_evidence_bundle"))

    op.drop_table("evidence")
    op.drop_table("seal")
    op.drop_table("pack")
    with op.batch_alter_table("image", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_image_digest"))

    op.drop_table("image")
    op.drop_table("delivery")
