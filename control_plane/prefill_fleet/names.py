"""The names in Redis. A role's access is granted by these prefixes: see the ACL of the service."""

BEAT_KEY = "prefill:snapshot:beat"
ROLL_KEY = "prefill:snapshot:roll"
CHANGED_CHANNEL = "prefill:snapshot:changed"
WORKER_BEATS_KEY = "prefill:fleet:worker:beats"
GATEWAY_BEATS_KEY = "prefill:fleet:gateway:beats"
_TENANT_PREFIX = "prefill:snapshot:tenant:"
_LIMIT_PREFIX = "prefill:limits:"


def tenant_key(tenant: str) -> str:
    """Where a tenant's entry lies."""
    return _TENANT_PREFIX + tenant


def limit_key(tenant: str, subject: str, limit: str) -> str:
    """Where one limit's state lies; the tenant is part of the key, `subject` a key id or `-`."""
    return f"{_LIMIT_PREFIX}{tenant}:{subject}:{limit}"
