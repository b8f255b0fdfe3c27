"""Wrong passwords are counted for every address alike, whether or not anybody has it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from prefill_migrations.roles import APP, OPERATOR

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLE = "sign_in_tries"


def upgrade() -> None:
    """A table of nobody's rows: a stranger signs in before any tenant is known to exist."""
    op.create_table(
        TABLE,
        sa.Column("slot", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("proof", sa.Text(), nullable=False),
        sa.Column("failures", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("locked_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("slot", name="pk_sign_in_tries"),
    )
    op.execute(f"GRANT SELECT, INSERT, UPDATE ON {TABLE} TO {APP}, {OPERATOR}")


def downgrade() -> None:
    """Drops what upgrade made; members' own counts stay."""
    op.drop_table(TABLE)
