"""Receipts, hourly sums and request records."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from prefill_migrations.isolation import TenantTable

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = (
    TenantTable("receipts", app="SELECT", operator="SELECT, INSERT"),
    TenantTable("usage_hours", app="SELECT", operator="SELECT, INSERT, UPDATE"),
    TenantTable("request_records", app="SELECT", operator="SELECT, INSERT, UPDATE"),
)


def upgrade() -> None:
    """Tables first, then the walls between tenants."""
    _receipts()
    _usage_hours()
    _request_records()
    for table in TABLES:
        for statement in table.protect():
            op.execute(statement)


def downgrade() -> None:
    """Drops what upgrade made, with its rows."""
    op.drop_table("request_records")
    op.drop_table("usage_hours")
    op.drop_table("receipts")


def _receipts() -> None:
    op.create_table(
        "receipts",
        sa.Column("receipt_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("fencing_epoch", sa.BigInteger(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("model_fingerprint", sa.Text(), nullable=False),
        sa.Column("datacenter", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("token_count", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("state_bytes_raw", sa.BigInteger(), nullable=False),
        sa.Column("state_bytes_sent", sa.BigInteger(), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("ingested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.CheckConstraint("amount_micros >= 0", name=op.f("ck_receipts_amount_micros")),
        sa.CheckConstraint("cached_tokens <= token_count", name=op.f("ck_receipts_cached_tokens")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_receipts_tenant_id"),
        sa.PrimaryKeyConstraint("receipt_id", name="pk_receipts"),
    )
    op.create_index(
        "ix_receipts_page", "receipts", ["tenant_id", "finished_at", "receipt_id"], unique=False
    )
    op.create_index("ix_receipts_tenant_id", "receipts", ["tenant_id"], unique=False)


def _usage_hours() -> None:
    op.create_table(
        "usage_hours",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("datacenter", sa.Text(), nullable=False),
        sa.Column("requests", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("state_bytes_sent", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_usage_hours_tenant_id"),
        sa.PrimaryKeyConstraint(
            "tenant_id", "hour", "key_id", "model", "datacenter", name="pk_usage_hours"
        ),
    )


def _request_records() -> None:
    op.create_table(
        "request_records",
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("token_count", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("datacenter", sa.Text(), nullable=False),
        sa.Column("route_reason", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "timeline", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False
        ),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_request_records_tenant_id"),
        sa.PrimaryKeyConstraint("request_id", "attempt", name="pk_request_records"),
    )
    op.create_index("ix_request_records_tenant_id", "request_records", ["tenant_id"], unique=False)
    op.create_index(
        "ix_request_records_tenant_id_at_request_id",
        "request_records",
        ["tenant_id", "at", "request_id"],
        unique=False,
    )
