"""The first content of a fresh platform, put in over its own REST API."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from prefill_stack.errors import StackError
from prefill_stack.platform.plan import Place

SECONDS = 30.0
MISS_MICROS, HIT_MICROS = 200_000, 50_000  # per million tokens: a development price
SOON = dt.timedelta(seconds=1)  # a price is never valid from the past on


@dataclass(frozen=True)
class SeededModel:
    """A model as the catalogue names it."""

    name: str
    fingerprint: str
    tokenizer_fingerprint: str
    numerics_profile: str
    context_tokens: int
    codecs: Sequence[str]


class Seeder:
    """An operator's hands; what is there already is left alone."""

    def __init__(self, url: str, credential: str) -> None:
        headers = {"authorization": f"Bearer {credential}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=SECONDS, trust_env=False)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def datacenter(self, place: Place, endpoint: str, models: Sequence[str]) -> None:
        """A datacenter, or its new endpoint."""
        content = {
            "jurisdiction": place.jurisdiction,
            "endpoint": endpoint,
            "place": place.place,
            "models": list(models),
            "rtt_ms": place.rtt_ms,
        }
        known = self._http.get(f"/v1/datacenters/{place.name}")
        if known.status_code == httpx.codes.NOT_FOUND:
            self._post("/v1/datacenters", {"name": place.name, **content})
        else:
            etag = {"if-match": known.headers["etag"]}
            _checked(self._http.put(f"/v1/datacenters/{place.name}", json=content, headers=etag))

    def model(self, model: SeededModel) -> None:
        """A model with a list price."""
        content = {name: value for name, value in vars(model).items() if name != "name"}
        known = self._http.get(f"/v1/models/{model.name}")
        if known.status_code != httpx.codes.NOT_FOUND:
            etag = {"if-match": known.headers["etag"]}
            _checked(self._http.put(f"/v1/models/{model.name}", json=content, headers=etag))
            return
        self._post("/v1/models", {"name": model.name, **content})
        rates = {"input_miss_micros": MISS_MICROS, "input_hit_micros": HIT_MICROS}
        valid_from = (dt.datetime.now(dt.UTC) + SOON).isoformat()
        self._post("/v1/prices", {"model": model.name, "valid_from": valid_from, **rates})

    def tenant_key(self, tenant: str) -> str:
        """A tenant and a key of it that may prefill and read its usage; the secret."""
        made = self._post("/v1/tenants", {"name": tenant})
        scopes = ["prefill", "usage:read"]
        key = self._post(
            "/v1/keys", {"name": "first", "scopes": scopes}, {"prefill-tenant": made["id"]}
        )
        return str(key["secret"])

    def _post(
        self, path: str, content: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        answer = self._http.post(path, json=dict(content), headers=dict(headers or {}))
        return dict(_checked(answer).json())


def _checked(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        path = answer.request.url.path
        raise StackError(
            f"{answer.request.method} {path} answered {answer.status_code}: {answer.text[:300]}",
            "see the control plane's log in the platform's folder",
        )
    return answer
