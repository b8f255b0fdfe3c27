"""What the cloud serves to this key."""

from __future__ import annotations

from dataclasses import dataclass

from prefill_wire.errors import WireError
from prefill_wire.identity import ModelIdentity
from prefill_wire.pb import prefill_pb2

from prefill_cloud.errors import refused_by_wire


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model by its identity, the longest prompt it takes, and where it is served."""

    identity: ModelIdentity
    max_tokens: int
    datacenters: tuple[str, ...]


def served_models(response: prefill_pb2.ListModelsResponse) -> list[ServedModel]:
    """The models of an answer; `IntegrityFailureError` when one of them cannot be."""
    try:
        return [
            ServedModel(
                ModelIdentity.from_message(model.identity),
                model.max_tokens,
                tuple(model.datacenters),
            )
            for model in response.models
        ]
    except WireError as error:
        raise refused_by_wire(error, "") from error
