"""What each piece of evidence was judged by last"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.add_column(sa.Column("judged", sa.String(length=64), nullable=True))
        batch_op.create_index(batch_op.f("ix_evidence_judged"), ["judged"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("evidence", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_evidence_judged"))
        batch_op.drop_column("judged")
