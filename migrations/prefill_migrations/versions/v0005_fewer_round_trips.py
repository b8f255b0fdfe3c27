"""A caller is found in one statement; receipts of all tenants are listed by an index."""

from __future__ import annotations

from alembic import op

from prefill_migrations.roles import APP

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# With the rights of who asks: the policies decide inside it, row by row, as they do outside. Both
# settings end with the transaction, which is this one statement.
CALLER = """
CREATE FUNCTION prefill_caller(shown text) RETURNS TABLE (
  kind text, id text, tenant_id text, tenant_state text, revoked boolean,
  expires_at timestamptz, addresses text[], scopes text[], role text
) LANGUAGE plpgsql VOLATILE SECURITY INVOKER AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('prefill.proof', shown, true);
  SELECT 'key', k.id, k.tenant_id, k.state <> 'active', k.expires_at, k.addresses, k.scopes, ''
    INTO kind, id, tenant_id, revoked, expires_at, addresses, scopes, role
    FROM api_keys k WHERE k.key_hash = shown;
  IF NOT FOUND THEN
    SELECT 'member', s.member_id, s.tenant_id, false, s.expires_at, '{}', '{}'
      INTO kind, id, tenant_id, revoked, expires_at, addresses, scopes
      FROM sessions s WHERE s.proof = shown;
    IF NOT FOUND THEN
      RETURN;
    END IF;
  END IF;
  PERFORM set_config('prefill.tenant', prefill_caller.tenant_id, true);
  tenant_state := (SELECT t.state FROM tenants t WHERE t.id = prefill_caller.tenant_id);
  IF kind = 'member' THEN
    role := coalesce((SELECT m.role FROM members m WHERE m.id = prefill_caller.id), 'viewer');
  END IF;
  RETURN NEXT;
END $$
"""
CALLER_OF = "prefill_caller(text)"
BY_TENANT, BY_TIME = "ix_receipts_tenant_id", "ix_receipts_finished_at_receipt_id"


def upgrade() -> None:
    """The function, and one index for another that `ix_receipts_page` makes needless."""
    op.execute(CALLER)
    op.execute(f"REVOKE ALL ON FUNCTION {CALLER_OF} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {CALLER_OF} TO {APP}")
    op.create_index(BY_TIME, "receipts", ["finished_at", "receipt_id"], unique=False)
    op.drop_index(BY_TENANT, "receipts")


def downgrade() -> None:
    """Drops what upgrade made."""
    op.create_index(BY_TENANT, "receipts", ["tenant_id"], unique=False)
    op.drop_index(BY_TIME, "receipts")
    op.execute(f"DROP FUNCTION {CALLER_OF}")
