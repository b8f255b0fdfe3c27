"""`prefill-cloud prices`: list prices, an account's own, and quotes."""

import datetime as dt
from typing import Annotated, Any

import typer

from prefill_stack.commands.desk import Desk, verb
from prefill_stack.commands.options import moment
from prefill_stack.errors import NotConfigured

prices = typer.Typer(
    help="Prices and quotes; options take micros, tables show the currency.", no_args_is_help=True
)
overrides = typer.Typer(help="An account's own prices.", no_args_is_help=True)

Model = Annotated[str, typer.Argument(help="The model's name.")]
Miss = Annotated[
    int, typer.Option("--input-miss-micros", min=0, help="Per million tokens that are computed.")
]
Hit = Annotated[
    int, typer.Option("--input-hit-micros", min=0, help="Per million tokens found in the cache.")
]
Egress = Annotated[int, typer.Option("--egress-micros", min=0, help="Per million bytes.")]
Relay = Annotated[
    int, typer.Option("--relay-decode-micros", min=0, help="Per million tokens decoded there.")
]
From = Annotated[str, typer.Option(help="2030-01-31T00:00:00Z, or 30d from now.")]
OfModel = Annotated[str, typer.Option(help="Only of this model.")]
UNITS = "input and relay decode: for a million tokens; egress: for a million bytes"
SHOWN = "model valid_from input_miss_micros input_hit_micros egress_micros relay_decode_micros"


def validity(text: str) -> dt.datetime:
    """When a price begins."""
    at = moment("--valid-from", text)
    if at is None:
        raise NotConfigured("--valid-from is empty", "write 2030-01-31T00:00:00Z, or 30d")
    return at


@verb(prices, "create")
def create(
    desk: Desk,
    *,
    model: Model,
    miss: Miss,
    hit: Hit,
    egress: Egress = 0,
    relay: Relay = 0,
    valid_from: From = "1m",
) -> None:
    """Set list prices from a time on; the past cannot be priced anew."""
    from prefill_cloud.manage import PriceValues

    values = PriceValues(
        model=model,
        valid_from=validity(valid_from),
        input_miss_micros=miss,
        input_hit_micros=hit,
        egress_micros=egress,
        relay_decode_micros=relay,
    )
    desk.one(desk.client.prices.create(values), UNITS)


@verb(prices, "list", "list")
def list_all(desk: Desk, *, model: OfModel = "") -> None:
    """List prices, the latest validity first."""
    desk.rows(desk.client.prices.list(model=model), SHOWN, UNITS)


@verb(overrides, "create")
def create_override(
    desk: Desk,
    *,
    model: Model,
    miss: Miss,
    hit: Hit,
    egress: Egress = 0,
    relay: Relay = 0,
    valid_from: From = "1m",
    valid_until: Annotated[str, typer.Option(help="Empty: until the next.")] = "",
) -> None:
    """Set the own prices of the account that --tenant names."""
    from prefill_cloud.manage import OverrideValues

    values = OverrideValues(
        model=model,
        valid_from=validity(valid_from),
        valid_until=moment("--valid-until", valid_until),
        input_miss_micros=miss,
        input_hit_micros=hit,
        egress_micros=egress,
        relay_decode_micros=relay,
    )
    desk.one(desk.client.price_overrides.create(values), UNITS)


@verb(overrides, "list", "list")
def list_overrides(desk: Desk, *, model: OfModel = "") -> None:
    """List an account's own prices, the latest validity first."""
    columns = f"tenant_id {SHOWN} valid_until"
    desk.rows(desk.client.price_overrides.list(model=model), columns, UNITS)


@verb(prices, "quote")
def quote(
    desk: Desk,
    *,
    model: Model,
    token_count: Annotated[int, typer.Argument(min=0, help="Tokens of the prompt.")],
    cached_tokens: Annotated[int, typer.Option(min=0, help="Of them in the cache.")] = 0,
    egress_bytes: Annotated[int, typer.Option(min=0, help="Bytes of state.")] = 0,
    relay_decode_tokens: Annotated[int, typer.Option(min=0, help="Tokens decoded there.")] = 0,
) -> None:
    """Say what a request costs now, and at most; nothing is reserved."""
    from prefill_cloud.manage import QuoteRequest

    numbers: dict[str, Any] = {
        "token_count": token_count,
        "cached_tokens": cached_tokens,
        "egress_bytes": egress_bytes,
        "relay_decode_tokens": relay_decode_tokens,
    }
    desk.one(desk.client.quotes.create(QuoteRequest(model=model, **numbers)), UNITS)


def register(app: typer.Typer) -> None:
    """Give these verbs to the application."""
    prices.add_typer(overrides, name="overrides")
    app.add_typer(prices, name="prices")
