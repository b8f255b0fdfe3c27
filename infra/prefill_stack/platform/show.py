"""What `up` tells: addresses, credentials (the operator's once), processes."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from prefill_stack.platform.keeper import Keeper
from prefill_stack.platform.platform import Platform
from prefill_stack.up_folder import save_access as save


def access_document(platform: Platform, keeper: Keeper) -> dict[str, Any]:
    """How the platform is reached, for programs; the operator's credential only when it is new."""
    return {
        "api_url": platform.api_url,
        "operator_credential": platform.operator if platform.fresh else None,
        "endpoints": platform.endpoints,
        "endpoint": next(iter(platform.endpoints.values())),
        "api_keys": platform.tenant_keys,
        "control_public_key": platform.control_public_key.hex(),
        "processes": {kept.part.name: kept.part.pid for kept in keeper.kept},
        "logs": str(platform.plan.logs),
    }


def save_access(platform: Platform) -> Path:
    """Leave access where the other commands look for it (0600)."""
    document = {
        "endpoint": next(iter(platform.endpoints.values())),
        "api_key": next(iter(platform.tenant_keys.values()), ""),
        "control_public_key": platform.control_public_key.hex(),
        "tls_authority": "",
        "management_url": platform.api_url,
        "operator_credential": platform.operator,
    }
    return save(platform.plan.directory, document)


def status_table(console: Console, platform: Platform, keeper: Keeper) -> None:
    """For people: what runs where, and how to get in."""
    table = Table(title="Prefill Cloud on this machine")
    for column in ("process", "pid"):
        table.add_column(column)
    for kept in keeper.kept:
        table.add_row(kept.part.name, str(kept.part.pid))
    console.print(table)
    lines = {"REST API": f"{platform.api_url}  (documents: {platform.api_url}/docs)"}
    if platform.fresh:
        lines["operator"] = f"{platform.operator}  (shown once)"
    lines |= {f"gateway {name}": at for name, at in platform.endpoints.items()}
    lines |= {f"API key {tenant}": key for tenant, key in platform.tenant_keys.items()}
    lines["control public key"] = platform.control_public_key.hex()
    lines["logs"] = str(platform.plan.logs)
    for name, value in lines.items():
        console.print(f"{name:22} {value}", soft_wrap=True)
