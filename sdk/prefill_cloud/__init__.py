"""Prefill long prompts in Prefill Cloud, decode them locally, token for token."""

from prefill_cloud.errors import PrefillCloudError
from prefill_cloud.policy import Decision, Route, Situation, decide

__all__ = ["Decision", "PrefillCloudError", "Route", "Situation", "decide"]
