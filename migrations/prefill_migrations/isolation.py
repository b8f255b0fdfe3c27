"""Row-level security of one table, as SQL that a migration runs.

A tenant's rows are those of `prefill.tenant`; a row with a proof (a key, a session) is also seen by
whoever shows that very proof. Without either there are no rows. Operators see every tenant's rows,
or only those of the tenant that they name. Forced, so the owner obeys too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prefill_migrations.roles import APP, OPERATOR

TENANT = "(SELECT nullif(current_setting('prefill.tenant', true), ''))"
PROOF = "(SELECT nullif(current_setting('prefill.proof', true), ''))"
ALL_VERBS = "SELECT, INSERT, UPDATE, DELETE"


@dataclass(frozen=True)
class TenantTable:
    """One table of tenants' rows; `app` is what a tenant's own requests may do with their rows."""

    name: str
    column: str = "tenant_id"
    proof: str = ""
    app: str = ALL_VERBS
    operator: str = ALL_VERBS

    def protect(self) -> Iterator[str]:
        """Statements that close the table, then open what is meant to be open."""
        yield f"ALTER TABLE {self.name} ENABLE ROW LEVEL SECURITY"
        yield f"ALTER TABLE {self.name} FORCE ROW LEVEL SECURITY"
        own = f"{self.column} = {TENANT}"
        yield (
            f"CREATE POLICY tenant ON {self.name} FOR ALL TO {APP} USING ({own}) WITH CHECK ({own})"
        )
        if self.proof:
            shown = f"{self.proof} = {PROOF}"
            yield f"CREATE POLICY proof ON {self.name} FOR SELECT TO {APP} USING ({shown})"
        any_or_named = f"{TENANT} IS NULL OR {own}"
        yield (
            f"CREATE POLICY operator ON {self.name} FOR ALL TO {OPERATOR} "
            f"USING ({any_or_named}) WITH CHECK ({any_or_named})"
        )
        yield f"GRANT {self.app} ON {self.name} TO {APP}"
        yield f"GRANT {self.operator} ON {self.name} TO {OPERATOR}"


def catalogue(name: str) -> Iterator[str]:
    """Statements for a table that everybody reads and only operators write."""
    yield f"GRANT SELECT ON {name} TO {APP}"
    yield f"GRANT {ALL_VERBS} ON {name} TO {OPERATOR}"
