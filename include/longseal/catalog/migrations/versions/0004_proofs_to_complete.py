"""Which evidence may lack a log's inclusion proof"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.add_column(sa.Column("proof_tries", sa.Integer(), nullable=True))
        batch_op.create_index(batch_op.f("ix_evidence_proof_tries"), ["proof_tries"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_evidence_proof_tries"))
        batch_op.drop_column("proof_tries")
