"""Tenants, their people, keys, limits, audit rows and remembered answers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from prefill_migrations.isolation import TenantTable
from prefill_migrations.roles import APP

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

PLATFORM = "INSERT INTO tenants (id, name) VALUES ('ten_platform', 'Prefill Cloud')"
TABLES = (
    TenantTable("tenants", column="id", app="SELECT, UPDATE (name, version)"),
    TenantTable("members"),
    TenantTable("sessions", proof="proof"),
    TenantTable("api_keys", proof="key_hash"),
    TenantTable("limits"),
    TenantTable("audit_rows", app="SELECT, INSERT", operator="SELECT, INSERT"),
    TenantTable("remembered_answers"),
)


def upgrade() -> None:
    """Tables first, then the walls between tenants."""
    _tenants()
    _members()
    _sessions()
    _api_keys()
    _limits()
    _audit_rows()
    _remembered_answers()
    op.execute(PLATFORM)  # before the walls: they keep the owner out, too
    op.execute(f"GRANT SELECT ON alembic_version TO {APP}")
    for table in TABLES:
        for statement in table.protect():
            op.execute(statement)


def downgrade() -> None:
    """Drops what upgrade made, with its rows."""
    op.drop_table("remembered_answers")
    op.drop_table("audit_rows")
    op.drop_table("limits")
    op.drop_table("api_keys")
    op.drop_table("sessions")
    op.drop_table("members")
    op.drop_table("tenants")


def _tenants() -> None:
    op.create_table(
        "tenants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.CheckConstraint(
            "state IN ('active', 'suspended', 'closed')", name=op.f("ck_tenants_state")
        ),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
        sa.UniqueConstraint("name", name="uq_tenants_name"),
    )
    op.create_index("ix_tenants_created_at_id", "tenants", ["created_at", "id"], unique=False)


def _members() -> None:
    op.create_table(
        "members",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), server_default="", nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), server_default="", nullable=False),
        sa.Column("failed_sign_ins", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("locked_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.CheckConstraint(
            "role IN ('owner', 'admin', 'billing', 'developer', 'viewer', 'operator')",
            name=op.f("ck_members_role"),
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_members_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_members"),
        sa.UniqueConstraint("tenant_id", "email", name="uq_members_tenant_id_email"),
    )
    op.create_index("ix_members_tenant_id", "members", ["tenant_id"], unique=False)
    op.create_index(
        "ix_members_tenant_id_created_at_id",
        "members",
        ["tenant_id", "created_at", "id"],
        unique=False,
    )


def _sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("member_id", sa.Text(), nullable=False),
        sa.Column("proof", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("address", sa.Text(), server_default="", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["member_id"], ["members.id"], name="fk_sessions_member_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_sessions_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.UniqueConstraint("proof", name="uq_sessions_proof"),
    )
    op.create_index("ix_sessions_member_id", "sessions", ["member_id"], unique=False)
    op.create_index("ix_sessions_tenant_id", "sessions", ["tenant_id"], unique=False)


def _api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("last4", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("addresses", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("replaced_by", sa.Text(), nullable=True),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.CheckConstraint("state IN ('active', 'revoked')", name=op.f("ck_api_keys_state")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_api_keys_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("key_hash", name="uq_api_keys_key_hash"),
    )
    op.create_index("ix_api_keys_tenant_id", "api_keys", ["tenant_id"], unique=False)
    op.create_index(
        "ix_api_keys_tenant_id_created_at_id",
        "api_keys",
        ["tenant_id", "created_at", "id"],
        unique=False,
    )
    op.create_index(
        "uq_api_keys_tenant_id_name_active",
        "api_keys",
        ["tenant_id", "name"],
        unique=True,
        postgresql_where=sa.text("state = 'active' AND replaced_by IS NULL"),
    )


def _limits() -> None:
    op.create_table(
        "limits",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("requests_per_second", sa.BigInteger(), nullable=True),
        sa.Column("requests_burst", sa.BigInteger(), nullable=True),
        sa.Column("tokens_per_second", sa.BigInteger(), nullable=True),
        sa.Column("tokens_burst", sa.BigInteger(), nullable=True),
        sa.Column("concurrency", sa.BigInteger(), nullable=True),
        sa.Column("day_tokens_soft", sa.BigInteger(), nullable=True),
        sa.Column("day_tokens_hard", sa.BigInteger(), nullable=True),
        sa.Column("month_tokens_soft", sa.BigInteger(), nullable=True),
        sa.Column("month_tokens_hard", sa.BigInteger(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.CheckConstraint("concurrency >= 0", name=op.f("ck_limits_concurrency")),
        sa.CheckConstraint("day_tokens_hard >= 0", name=op.f("ck_limits_day_tokens_hard")),
        sa.CheckConstraint("day_tokens_soft >= 0", name=op.f("ck_limits_day_tokens_soft")),
        sa.CheckConstraint("month_tokens_hard >= 0", name=op.f("ck_limits_month_tokens_hard")),
        sa.CheckConstraint("month_tokens_soft >= 0", name=op.f("ck_limits_month_tokens_soft")),
        sa.CheckConstraint("requests_burst >= 0", name=op.f("ck_limits_requests_burst")),
        sa.CheckConstraint("requests_per_second >= 0", name=op.f("ck_limits_requests_per_second")),
        sa.CheckConstraint("tokens_burst >= 0", name=op.f("ck_limits_tokens_burst")),
        sa.CheckConstraint("tokens_per_second >= 0", name=op.f("ck_limits_tokens_per_second")),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name="fk_limits_key_id"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_limits_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_limits"),
    )
    op.create_index("ix_limits_key_id", "limits", ["key_id"], unique=False)
    op.create_index("ix_limits_tenant_id", "limits", ["tenant_id"], unique=False)
    op.create_index(
        "uq_limits_subject",
        "limits",
        ["tenant_id", sa.literal_column("coalesce(key_id, '')")],
        unique=True,
    )


def _audit_rows() -> None:
    op.create_table(
        "audit_rows",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor_kind", sa.Text(), nullable=False),
        sa.Column("actor_id", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject_kind", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("after", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_audit_rows_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_audit_rows"),
    )
    op.create_index("ix_audit_rows_tenant_id", "audit_rows", ["tenant_id"], unique=False)
    op.create_index(
        "ix_audit_rows_tenant_id_at_id", "audit_rows", ["tenant_id", "at", "id"], unique=False
    )


def _remembered_answers() -> None:
    op.create_table(
        "remembered_answers",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("key_digest", sa.Text(), nullable=False),
        sa.Column("body_digest", sa.Text(), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name="fk_remembered_answers_tenant_id"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "key_digest", name="pk_remembered_answers"),
    )
