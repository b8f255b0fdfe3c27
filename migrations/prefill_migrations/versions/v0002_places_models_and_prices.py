"""Datacenters, what tenants wish about them, models and prices."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from prefill_migrations.isolation import TenantTable, catalogue

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CATALOGUE = ("datacenters", "models", "prices")
TABLES = (
    TenantTable("datacenter_preferences"),
    TenantTable("residencies"),
    TenantTable("price_overrides", app="SELECT"),
    TenantTable("model_grants", app="SELECT"),
)


def upgrade() -> None:
    """Tables first, then the walls between tenants."""
    _datacenters()
    _datacenter_preferences()
    _residencies()
    _models()
    _prices()
    _price_overrides()
    _model_grants()
    for name in CATALOGUE:
        for statement in catalogue(name):
            op.execute(statement)
    for table in TABLES:
        for statement in table.protect():
            op.execute(statement)


def downgrade() -> None:
    """Drops what upgrade made, with its rows."""
    op.drop_table("model_grants")
    op.drop_table("price_overrides")
    op.drop_table("prices")
    op.drop_table("models")
    op.drop_table("residencies")
    op.drop_table("datacenter_preferences")
    op.drop_table("datacenters")


def _datacenters() -> None:
    op.create_table(
        "datacenters",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("jurisdiction", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), server_default="", nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("models", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column(
            "accelerators",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default="{}",
            nullable=False,
        ),
        sa.Column("rtt_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("egress_mbps", sa.BigInteger(), server_default="10000", nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.CheckConstraint(
            "state IN ('active', 'cordoned', 'draining')", name=op.f("ck_datacenters_state")
        ),
        sa.CheckConstraint("egress_mbps > 0", name=op.f("ck_datacenters_egress_mbps")),
        sa.CheckConstraint("rtt_ms >= 0", name=op.f("ck_datacenters_rtt_ms")),
        sa.PrimaryKeyConstraint("name", name="pk_datacenters"),
    )


def _datacenter_preferences() -> None:
    op.create_table(
        "datacenter_preferences",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("wishes", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("allow", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("deny", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("max_price_micros", sa.BigInteger(), nullable=True),
        sa.Column("max_added_latency_ms", sa.BigInteger(), nullable=True),
        sa.Column("fallback", sa.Boolean(), server_default="true", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name="fk_datacenter_preferences_tenant_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_datacenter_preferences"),
        sa.UniqueConstraint("tenant_id", name="uq_datacenter_preferences_tenant_id"),
    )
    op.create_index(
        "ix_datacenter_preferences_tenant_id", "datacenter_preferences", ["tenant_id"], unique=False
    )


def _residencies() -> None:
    op.create_table(
        "residencies",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column(
            "jurisdictions", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_residencies_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_residencies"),
        sa.UniqueConstraint("tenant_id", name="uq_residencies_tenant_id"),
    )
    op.create_index("ix_residencies_tenant_id", "residencies", ["tenant_id"], unique=False)


def _models() -> None:
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("tokenizer_fingerprint", sa.Text(), nullable=False),
        sa.Column("numerics_profile", sa.Text(), nullable=False),
        sa.Column("context_tokens", sa.BigInteger(), nullable=False),
        sa.Column("codecs", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("restricted", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.CheckConstraint("state IN ('active', 'retired')", name=op.f("ck_models_state")),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )


def _prices() -> None:
    op.create_table(
        "prices",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("input_miss_micros", sa.BigInteger(), nullable=False),
        sa.Column("input_hit_micros", sa.BigInteger(), nullable=False),
        sa.Column("egress_micros", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("relay_decode_micros", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("egress_micros >= 0", name=op.f("ck_prices_egress_micros")),
        sa.CheckConstraint(
            "input_hit_micros <= input_miss_micros", name=op.f("ck_prices_hit_within_miss")
        ),
        sa.CheckConstraint("input_hit_micros >= 0", name=op.f("ck_prices_input_hit_micros")),
        sa.CheckConstraint("input_miss_micros >= 0", name=op.f("ck_prices_input_miss_micros")),
        sa.CheckConstraint("relay_decode_micros >= 0", name=op.f("ck_prices_relay_decode_micros")),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_prices_model"),
        sa.PrimaryKeyConstraint("id", name="pk_prices"),
        sa.UniqueConstraint("model", "valid_from", name="uq_prices_model_valid_from"),
    )


def _price_overrides() -> None:
    op.create_table(
        "price_overrides",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("valid_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("valid_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("input_miss_micros", sa.BigInteger(), nullable=False),
        sa.Column("input_hit_micros", sa.BigInteger(), nullable=False),
        sa.Column("egress_micros", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("relay_decode_micros", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.CheckConstraint("egress_micros >= 0", name=op.f("ck_price_overrides_egress_micros")),
        sa.CheckConstraint(
            "input_hit_micros <= input_miss_micros", name=op.f("ck_price_overrides_hit_within_miss")
        ),
        sa.CheckConstraint(
            "input_hit_micros >= 0", name=op.f("ck_price_overrides_input_hit_micros")
        ),
        sa.CheckConstraint(
            "input_miss_micros >= 0", name=op.f("ck_price_overrides_input_miss_micros")
        ),
        sa.CheckConstraint(
            "relay_decode_micros >= 0", name=op.f("ck_price_overrides_relay_decode_micros")
        ),
        sa.CheckConstraint("valid_until > valid_from", name=op.f("ck_price_overrides_valid_until")),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_price_overrides_model"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_price_overrides_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_price_overrides"),
        sa.UniqueConstraint(
            "tenant_id", "model", "valid_from", name="uq_price_overrides_tenant_id_model_valid_from"
        ),
    )
    op.create_index("ix_price_overrides_tenant_id", "price_overrides", ["tenant_id"], unique=False)


def _model_grants() -> None:
    op.create_table(
        "model_grants",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.name"], name="fk_model_grants_model"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name="fk_model_grants_tenant_id"),
        sa.PrimaryKeyConstraint("id", name="pk_model_grants"),
        sa.UniqueConstraint("tenant_id", "model", name="uq_model_grants_tenant_id_model"),
    )
    op.create_index("ix_model_grants_tenant_id", "model_grants", ["tenant_id"], unique=False)
