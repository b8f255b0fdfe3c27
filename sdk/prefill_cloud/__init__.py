"""Prefill long prompts in Prefill Cloud, decode them locally, token for token."""

from prefill_cloud.blocking import Client
from prefill_cloud.client import AsyncClient
from prefill_cloud.decode.local import LocalEngine
from prefill_cloud.errors import PrefillCloudError, UseLocalError
from prefill_cloud.generation import GeneratedPiece, Generation
from prefill_cloud.policy import Decision, Route, Situation, decide
from prefill_cloud.state import PrefilledState

__all__ = [
    "AsyncClient",
    "Client",
    "Decision",
    "GeneratedPiece",
    "Generation",
    "LocalEngine",
    "PrefillCloudError",
    "PrefilledState",
    "Route",
    "Situation",
    "UseLocalError",
    "decide",
]
