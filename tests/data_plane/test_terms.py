"""Prices, models and places of a tenant: the caller narrows them, and never widens them."""

import pytest
from prefill_data.errors import DataPlaneError
from prefill_data.gateway.callers import address_within, peer_address
from prefill_data.gateway.terms import Terms, choose_place, current_span, flat_terms, rates_of
from prefill_data.router.choose import DatacenterView
from prefill_fleet.snapshot import ModelEntry, PlaceEntry, PreferenceEntry, PriceSpan, Rates
from prefill_wire.status import StatusCode

NOW = 1_000_000
VIEWS = [
    DatacenterView("fra", "", 0.0, True),
    DatacenterView("iad", "iad:1", 80.0, True),
    DatacenterView("nrt", "nrt:1", 200.0, True),
]
PLACES = {
    name: PlaceEntry(name=name, jurisdiction=jurisdiction, active=True)
    for name, jurisdiction in (("fra", "EU"), ("iad", "US"), ("nrt", "JP"))
}


def span(start, price, end=0):
    rates = Rates(input_miss_micros=price, input_hit_micros=price // 10)
    return PriceSpan(valid_from_ms=start, valid_until_ms=end, rates=rates)


def model(name, price=5, **fields):
    prices = (span(0, price),) if price else ()
    listed = {"fingerprint": "", "tokenizer_fingerprint": "", "numerics_profile": "fp32",
              "context_tokens": 9, "codecs": (), "active": True, "restricted": False}  # fmt: skip
    return ModelEntry(name=name, prices=prices, **{**listed, **fields})


def terms(**fields):
    listed = (model("m", 1000), model("r", restricted=True), model("old", active=False),
              model("free", price=0))  # fmt: skip
    models = {each.name: each for each in listed}
    return Terms(**{"models": models, "places": PLACES, "overrides": {}, **fields})


def place_of(found, wishes=(), residency=()):
    return choose_place(found, VIEWS, wishes, residency).name


@pytest.mark.parametrize(
    ("spans", "price"),
    [
        ([], None),
        ([span(NOW + 1, 1)], None),
        ([span(NOW, 1)], 1),
        ([span(0, 1), span(10, 2), span(NOW + 1, 3)], 2),
        ([span(0, 1), span(10, 2, NOW)], None),
        ([span(0, 1), span(10, 2, NOW + 1)], 2),
    ],
)
def test_the_span_that_began_last_is_in_force_until_it_ends(spans, price):
    found = current_span(spans, NOW)
    assert (found.rates.input_miss_micros if found else None) == price


def test_an_override_goes_before_the_list_and_ends():
    found = terms(overrides={"m": (span(10, 7, 20),)})
    assert [rates_of(found, "m", at).input_miss_micros for at in (9, 10, 19, 20)] == [
        1000, 7, 7, 1000,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["absent", "r", "old", "free", "x" * 500])
def test_a_model_that_is_not_for_sale_to_the_tenant_is_unknown(name):
    with pytest.raises(DataPlaneError) as refusal:
        rates_of(terms(), name, NOW)
    assert refusal.value.code is StatusCode.UNKNOWN_MODEL


def test_a_restricted_model_looks_like_an_absent_one_until_it_is_granted():
    texts = []
    for name in ("r", "q"):
        with pytest.raises(DataPlaneError) as refusal:
            rates_of(terms(), name, NOW)
        texts.append(refusal.value.message.replace(name, "?", 1))
    assert texts[0].replace("'r'", "'?'") == texts[1].replace("'q'", "'?'")
    assert rates_of(terms(granted=("r",)), "r", NOW).input_miss_micros == 5


def test_residency_cannot_be_widened_by_the_caller():
    european = terms(jurisdictions=("EU",))
    assert place_of(european, wishes=["iad", "nrt"]) == "fra"
    for residency in (["iad"], ["iad", "nrt"]):
        with pytest.raises(DataPlaneError) as refusal:
            place_of(european, residency=residency)
        assert refusal.value.code is StatusCode.NO_DATACENTER
        assert "outside EU" in refusal.value.message
    assert place_of(terms(), residency=["iad"]) == "iad"  # the twin: without the rule it goes


def test_a_place_that_the_catalogue_does_not_know_is_outside_every_jurisdiction():
    unknown = terms(places={"iad": PLACES["iad"]}, jurisdictions=("EU",))
    with pytest.raises(DataPlaneError, match="not in the catalogue"):
        place_of(unknown)
    ruled = terms(places=None, jurisdictions=("EU",))
    with pytest.raises(DataPlaneError, match="outside EU"):
        place_of(ruled)


def test_a_drained_place_takes_nothing_new():
    closed = PlaceEntry(name="fra", jurisdiction="EU", active=False)
    assert place_of(terms(places={**PLACES, "fra": closed})) == "iad"


@pytest.mark.parametrize(
    ("preference", "wishes", "place"),
    [
        ({}, (), "fra"),
        ({"wishes": ("nrt", "iad")}, (), "nrt"),
        ({"wishes": ("nrt",)}, ("iad",), "iad"),
        ({"deny": ("fra",)}, (), "iad"),
        ({"deny": ("fra",)}, ("fra",), "iad"),
        ({"allow": ("nrt",)}, ("iad",), "nrt"),
        ({"wishes": ("nrt", "iad"), "max_added_latency_ms": 100}, (), "iad"),
        ({"wishes": ("iad",), "fallback": False}, ("nrt",), "iad"),
    ],
)
def test_a_preference_orders_and_filters(preference, wishes, place):
    assert place_of(terms(preference=PreferenceEntry(**preference)), wishes) == place


def test_without_fallback_nothing_else_will_do():
    strict = terms(preference=PreferenceEntry(wishes=("gru",), fallback=False))
    with pytest.raises(DataPlaneError, match="not among the wishes"):
        place_of(strict)
    assert place_of(terms(preference=PreferenceEntry(wishes=("gru",)))) == "fra"


def test_the_lower_cap_holds():
    capped = terms(preference=PreferenceEntry(max_price_micros=50))
    assert [capped.price_cap_micros(asked) for asked in (0, 20, 80)] == [50, 20, 50]
    assert terms().price_cap_micros(0) == 0


def test_a_key_file_sells_everything_at_one_rate():
    flat = flat_terms(9)
    assert rates_of(flat, "anything", NOW).input_miss_micros == 9
    assert place_of(flat, ["nrt"]) == "nrt"


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.1.2.3:4000", "10.1.2.3"),
        ("ipv6:%5B::1%5D:4000", "::1"),
        ("ipv6:[2001:db8::7]:1", "2001:db8::7"),
        ("unix:/a/socket", ""),
        ("", ""),
    ],
)
def test_the_address_of_a_peer(peer, address):
    assert peer_address(peer) == address


@pytest.mark.parametrize(
    ("address", "within"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("::ffff:10.0.0.1", True),
        ("2001:db8::1", True),
        ("", False),
        ("nonsense", False),
    ],
)
def test_an_address_is_within_its_networks_or_nowhere(address, within):
    assert address_within(address, ["10.0.0.0/8", "2001:db8::/32"]) is within
