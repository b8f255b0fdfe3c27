"""Where the control plane's database is, known before it is there: light to import."""

from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

from prefill_stack.platform.secrets import PlatformSecrets

DATABASE = "prefill"
OWNER, APP = "prefill_owner", "prefill_app"  # as the migrations name them


@dataclass(frozen=True)
class DatabaseUrls:
    """Who migrates and who serves; both hold passwords."""

    owner: str = field(repr=False)
    app: str = field(repr=False)


def database_urls(admin_url: str, secrets: PlatformSecrets) -> DatabaseUrls:
    """Of the roles that log in, with the passwords that they are given."""
    owner, app = ((role, secrets.password(role)) for role in (OWNER, APP))
    return DatabaseUrls(_url(admin_url, *owner), _url(admin_url, *app))


def _url(admin_url: str, user: str, password: str) -> str:
    """The same server, another user, the platform's database."""
    parts = urlsplit(admin_url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, f"{user}:{password}@{host}", f"/{DATABASE}", parts.query, ""))
