"""Models: the catalogue, and who may use restricted ones."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from prefill_cloud.manage.calls import (
    Call,
    Rows,
    View,
    changing,
    doing,
    listing,
    part_of,
    reading,
    removing,
    with_name,
)
from prefill_cloud.manage.verbs import M, Noun, list_verb, verb


class ModelValues(View, frozen=True, kw_only=True):
    """What is chosen of a model; fingerprints are 64 hexadecimal digits."""

    fingerprint: str
    tokenizer_fingerprint: str
    numerics_profile: str
    context_tokens: int
    codecs: Sequence[str] = ()
    restricted: bool = False


class Model(ModelValues, frozen=True, kw_only=True):
    """A model; `state` is active or retired."""

    name: str
    state: str
    created_at: dt.datetime
    version: int

    def values(self) -> ModelValues:
        """What `update` takes."""
        return part_of(ModelValues, self)


class ModelGrant(View, frozen=True, kw_only=True):
    """An account on a restricted model's allow-list."""

    id: str
    tenant_id: str
    model: str
    created_at: dt.datetime


class Models(Noun[M]):
    """`client.models`; changing them is for operators."""

    @verb("createModel")
    def create(self, name: str, values: ModelValues, *, idempotency_key: str = "") -> Call[Model]:
        """Add a model."""
        return doing(Model, with_name(name, values), "models", key=idempotency_key)

    @list_verb("listModels")
    def list(self, *, state: str = "") -> Rows[Model]:
        """Models that the caller may use."""
        return listing(Model, "models", {"state": state})

    @verb("readModel")
    def read(self, name: str) -> Call[Model]:
        """Read a model."""
        return reading(Model, "models", name)

    @verb("updateModel")
    def update(self, name: str, values: ModelValues, *, version: int) -> Call[Model]:
        """Replace everything but name and state."""
        return changing(Model, values, "models", name, version=version)

    @verb("retireModel")
    def retire(self, name: str) -> Call[Model]:
        """Serve it no more."""
        return doing(Model, {}, "models", name, "retire")

    @verb("restoreModel")
    def restore(self, name: str) -> Call[Model]:
        """Serve it again."""
        return doing(Model, {}, "models", name, "restore")


class ModelGrants(Noun[M]):
    """`client.model_grants`; for operators, on behalf of `client.for_tenant(...)`."""

    @verb("createModelGrant")
    def create(self, model: str, *, idempotency_key: str = "") -> Call[ModelGrant]:
        """Put the account on a model's allow-list."""
        return doing(ModelGrant, {"model": model}, "model-grants", key=idempotency_key)

    @list_verb("listModelGrants")
    def list(self) -> Rows[ModelGrant]:
        """The account's grants; every account's for an operator."""
        return listing(ModelGrant, "model-grants")

    @verb("deleteModelGrant")
    def delete(self, grant_id: str) -> Call[None]:
        """Take an account off the allow-list."""
        return removing("model-grants", grant_id)
