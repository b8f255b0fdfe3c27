"""Ten thousand tenants with a million receipts, put into a fresh database in bulk."""

import asyncio
import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
from prefill_control.access.secrets import KEY_PREFIX, Pepper

MODEL, PLACES = "crowd", ("eu-central", "us-east")
SCOPES = ["prefill", "usage:read", "account:read"]
DAYS = 90
HEAVY_SHARE = 10  # one receipt in so many is the first tenant's


@dataclass(frozen=True)
class CrowdPlan:
    """How many; each tenant has one key."""

    tenants: int = 10_000
    receipts: int = 1_000_000


RECEIPTS = f"""
INSERT INTO receipts (receipt_id, request_id, attempt, fencing_epoch, key_id, model,
    model_fingerprint, datacenter, worker_id, token_count, cached_tokens, state_bytes_raw,
    state_bytes_sent, amount_micros, started_at, finished_at, signed, ingested_at, tenant_id)
SELECT 'rcp_crowd' || lpad(n::text, 9, '0'), 'req_crowd' || lpad(n::text, 9, '0'), 1, 1,
    'key_crowd' || lpad(t::text, 6, '0'), '{MODEL}', repeat('ab', 32),
    (ARRAY['{PLACES[0]}', '{PLACES[1]}'])[1 + n % 2], 'worker', 8000 + n % 1000, n % 8000,
    40000000, 20000000, 1000 + n % 1000, at - interval '2 seconds', at, '\\x00', at,
    'ten_crowd' || lpad(t::text, 6, '0')
FROM (SELECT n, CASE WHEN n % {HEAVY_SHARE} = 0 THEN 0 ELSE (n::bigint * 7919) % $2 END AS t,
        $3::timestamptz + n * interval '{DAYS} days' / $1 AS at
      FROM generate_series(0, $1 - 1) AS n) AS each
"""  # noqa: S608 (constants of this module)
HOURS = """
INSERT INTO usage_hours (tenant_id, hour, key_id, model, datacenter, requests, tokens,
    cached_tokens, state_bytes_sent, amount_micros)
SELECT tenant_id, date_trunc('hour', finished_at), key_id, model, datacenter, count(*),
    sum(token_count), sum(cached_tokens), sum(state_bytes_sent), sum(amount_micros)
FROM receipts GROUP BY 1, 2, 3, 4, 5
"""


async def fill(database_url: str, pepper: Pepper, plan: CrowdPlan) -> Sequence[str]:
    """Fills a migrated database as its administrator; the tenants' secrets, in their order."""
    secrets = [pepper.new_secret(KEY_PREFIX, os.urandom) for _ in range(plan.tenants)]
    begin = dt.datetime.now(dt.UTC) - dt.timedelta(days=DAYS)
    numbers = [f"{number:06d}" for number in range(plan.tenants)]
    tenants = [(f"ten_crowd{n}", f"Crowd {n}", begin) for n in numbers]
    keys = [
        (f"key_crowd{n}", f"ten_crowd{n}", "first", KEY_PREFIX, secret.last4, secret.proof,
         SCOPES, "crowd", begin)
        for n, secret in zip(numbers, secrets, strict=True)
    ]  # fmt: skip
    columns = ["id", "tenant_id", "name", "prefix", "last4", "key_hash", "scopes", "created_by",
               "created_at"]  # fmt: skip
    connection = await asyncpg.connect(database_url)
    try:
        # Every row is right by construction: a million look-ups of its tenant prove nothing.
        await connection.execute("SET session_replication_role = replica")
        named = ["id", "name", "created_at"]
        await connection.copy_records_to_table("tenants", records=tenants, columns=named)
        await connection.copy_records_to_table("api_keys", records=keys, columns=columns)
        await connection.execute(RECEIPTS, plan.receipts, plan.tenants, begin, timeout=600)
        await connection.execute(HOURS, timeout=600)
        await connection.execute("VACUUM (ANALYZE)", timeout=600)
    finally:
        await connection.close()
    return [secret.text for secret in secrets]


def filled(database_url: str, pepper: Pepper, plan: CrowdPlan) -> Sequence[str]:
    """`fill` for callers without a loop."""
    return asyncio.run(fill(database_url, pepper, plan))
