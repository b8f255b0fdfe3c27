"""The first content of a fresh platform, put in by an operator's hands: the management client."""

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import msgspec
from prefill_cloud.manage import (
    DatacenterValues,
    KeyValues,
    ManagementClient,
    ModelValues,
    PriceValues,
)
from prefill_cloud.manage.errors import NotFoundError, StateConflictError
from prefill_cloud.manage.tenants import Tenant
from prefill_engine.identity import identify
from prefill_wire.limits import MAX_PROMPT_TOKENS

from prefill_stack.platform.plan import Place
from prefill_stack.platform.platform import Platform

MISS_MICROS, HIT_MICROS = 200_000, 50_000  # per million tokens: a development price
MARK_DIGITS = 8  # of the control key: they tell the keys of several installations apart
SOON = dt.timedelta(seconds=1)  # a price is never valid from the past on


def seed_platform(platform: Platform) -> None:
    """Catalogue and tenants, by the operator of a control plane that answers."""
    plan = platform.plan
    with ManagementClient(platform.api_url, platform.operator) as client:
        for name, folder in plan.checkpoints.items():
            seed_model(client, name, model_values(folder, plan.profile))
        for place in plan.places:
            endpoint = platform.endpoints[place.name]
            seed_datacenter(client, place, endpoint, list(plan.checkpoints))
        for tenant in plan.tenants:
            platform.tenant_keys[tenant] = _tenant_key(client, platform, tenant)


def _tenant_key(client: ManagementClient, platform: Platform, tenant: str) -> str:
    """Kept beside the other secrets, so that a second start finds it."""
    path = platform.plan.secrets / f"tenant.{tenant}.key"
    if not path.exists():
        installation = platform.control_public_key.hex()[:MARK_DIGITS]
        platform.secrets.file(path.name, seed_tenant(client, tenant, f"up {installation}"))
    return path.read_text(encoding="ascii")


def model_values(folder: Path, profile: str) -> ModelValues:
    """A checkpoint as the catalogue describes it."""
    found = identify(folder)
    return ModelValues(
        fingerprint=found.fingerprint.hex(),
        tokenizer_fingerprint=found.tokenizer_fingerprint.hex(),
        numerics_profile=profile,
        context_tokens=int(found.config.get("model_max_length") or MAX_PROMPT_TOKENS),
    )


def seed_datacenter(
    client: ManagementClient, place: Place, endpoint: str, models: Sequence[str]
) -> None:
    """A datacenter, or its new endpoint and models: what an operator changed besides stays."""
    try:
        known = client.datacenters.read(place.name)
    except NotFoundError:
        values = DatacenterValues(
            jurisdiction=place.jurisdiction,
            endpoint=endpoint,
            place=place.place,
            models=models,
            rtt_ms=place.rtt_ms,
        )
        client.datacenters.create(place.name, values)
        return
    values = msgspec.structs.replace(known.values(), endpoint=endpoint, models=models)
    client.datacenters.update(place.name, values, version=known.version)


def seed_model(client: ManagementClient, name: str, values: ModelValues) -> None:
    """A model as its checkpoint now is, with a list price; who may use it, and by which codecs its
    states travel, stays."""
    try:
        known = client.models.read(name)
    except NotFoundError:
        client.models.create(name, values)
    else:
        kept = {"restricted": known.restricted, "codecs": known.codecs}
        values = msgspec.structs.replace(values, **kept)
        client.models.update(name, values, version=known.version)
    if not client.prices.list(model=name).page(limit=1).items:
        client.prices.create(
            PriceValues(
                model=name,
                valid_from=dt.datetime.now(dt.UTC) + SOON,
                input_miss_micros=MISS_MICROS,
                input_hit_micros=HIT_MICROS,
            )
        )


def seed_tenant(client: ManagementClient, name: str, key_name: str) -> str:
    """The secret of a tenant's key that may prefill and read its usage.

    A tenant of this name may be there, and a key of it too whose secret a crash lost before it was
    kept: nobody holds that secret, so a successor takes its place.
    """
    keys = client.for_tenant(_tenant(client, name).id).keys
    held = [key for key in keys.list(state="active") if key.name == key_name]
    lost = next((key for key in held if key.replaced_by is None), None)
    if lost is not None:
        return keys.rotate(lost.id, overlap_seconds=0).secret.text
    values = KeyValues(name=key_name, scopes=["prefill", "usage:read"])
    return keys.create(values).secret.text


def _tenant(client: ManagementClient, name: str) -> Tenant:
    """Made, or the one that has the name."""
    try:
        return client.tenants.create(name)
    except StateConflictError as error:
        found = next((each for each in client.tenants.list() if each.name == name), None)
        if found is None:
            raise error from None
        return found
