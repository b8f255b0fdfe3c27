"""Prefill long prompts in Prefill Cloud, decode them locally, token for token."""

from prefill_cloud.client import AsyncClient
from prefill_cloud.errors import PrefillCloudError
from prefill_cloud.policy import Decision, Route, Situation, decide
from prefill_cloud.state import PrefilledState

__all__ = [
    "AsyncClient",
    "Decision",
    "PrefillCloudError",
    "PrefilledState",
    "Route",
    "Situation",
    "decide",
]
