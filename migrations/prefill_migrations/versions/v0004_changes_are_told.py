"""Every change that a gateway has to know is told to whoever listens, when it is committed."""

from __future__ import annotations

from alembic import op

from prefill_migrations.roles import OPERATOR

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A NOTIFY is part of the transaction: no change is committed without it, none is told that was
# undone, and no service can forget it.
FUNCTION = """
CREATE FUNCTION prefill_tell_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_NARGS = 0 THEN
    PERFORM pg_notify('prefill_changes', '');
  ELSIF TG_OP = 'DELETE' THEN
    PERFORM pg_notify('prefill_changes', to_jsonb(OLD) ->> TG_ARGV[0]);
  ELSE
    PERFORM pg_notify('prefill_changes', to_jsonb(NEW) ->> TG_ARGV[0]);
  END IF;
  RETURN NULL;
END $$
"""
SUBJECTS = {
    "tenants": "id",
    "limits": "tenant_id",
    "datacenter_preferences": "tenant_id",
    "residencies": "tenant_id",
    "model_grants": "tenant_id",
    "price_overrides": "tenant_id",
}
CATALOGUES = ("datacenters", "models", "prices")
KEY_COLUMNS = (
    "key_hash, scopes, addresses, state, expires_at"  # not last_used_at, which changes all the time
)


def upgrade() -> None:
    """The sequence of snapshot versions, and one trigger a table."""
    op.execute("CREATE SEQUENCE snapshot_versions")
    op.execute(f"GRANT USAGE, UPDATE ON SEQUENCE snapshot_versions TO {OPERATOR}")
    op.execute(FUNCTION)
    for table, column in SUBJECTS.items():
        _trigger(table, "INSERT OR UPDATE OR DELETE", f"'{column}'")
    for table in CATALOGUES:
        _trigger(table, "INSERT OR UPDATE OR DELETE", "")
    _trigger("api_keys", f"INSERT OR DELETE OR UPDATE OF {KEY_COLUMNS}", "'tenant_id'")


def downgrade() -> None:
    """Drops what upgrade made."""
    for table in (*SUBJECTS, *CATALOGUES, "api_keys"):
        op.execute(f"DROP TRIGGER tell_change ON {table}")
    op.execute("DROP FUNCTION prefill_tell_change()")
    op.execute("DROP SEQUENCE snapshot_versions")


def _trigger(table: str, events: str, argument: str) -> None:
    op.execute(
        f"CREATE TRIGGER tell_change AFTER {events} ON {table} "
        f"FOR EACH ROW EXECUTE FUNCTION prefill_tell_change({argument})"
    )
