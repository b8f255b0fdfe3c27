"""Tenants, keys, limits, datacenters, prices and usage of a Prefill Cloud, over its REST API.

    async with AsyncManagementClient("https://api.example", credential) as client:
        issued = await client.keys.create(KeyValues(name="build", scopes=["prefill"]))
        async for row in client.usage.list(["model", "day"]):
            print(row.group, row.amount_micros)

`ManagementClient` is the same without `async` and `await`. Exceptions: `errors.py`.
"""

from prefill_cloud.manage.calls import ANY_VERSION, NO_VERSION
from prefill_cloud.manage.client import Account, AsyncManagementClient, ManagementClient
from prefill_cloud.manage.datacenters import DatacenterValues, PreferenceValues
from prefill_cloud.manage.errors import ManagementError
from prefill_cloud.manage.keys import KeyValues
from prefill_cloud.manage.limits import LimitValues
from prefill_cloud.manage.models import ModelValues
from prefill_cloud.manage.patience import Patience
from prefill_cloud.manage.prices import OverrideValues, PriceValues, QuoteRequest
from prefill_cloud.manage.routes import RouteRequest
from prefill_cloud.manage.secret import Secret

__all__ = [
    "ANY_VERSION",
    "NO_VERSION",
    "Account",
    "AsyncManagementClient",
    "DatacenterValues",
    "KeyValues",
    "LimitValues",
    "ManagementClient",
    "ManagementError",
    "ModelValues",
    "OverrideValues",
    "Patience",
    "PreferenceValues",
    "PriceValues",
    "QuoteRequest",
    "RouteRequest",
    "Secret",
]
