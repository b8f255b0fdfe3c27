"""Tables of many objects fit the terminal with every id whole; amounts name their currency."""

import msgspec
import pytest
from prefill_stack.commands.showing import (
    as_rows,
    facts_table,
    fitting,
    show_rows,
    show_table,
    text_of,
    title_of,
)

ID, OTHER = "key_6whea2mz4anxdpf4330r7cknzw", "ten_6jnsnsba8x0emj68jjsse3pe69"
COLUMNS = ["id", "tenant_id", "name", "state", "created_at"]
ROWS = [[ID, OTHER, "first of them", "active", "2030-01-31 00:00:00Z"]]


def shown(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    show_rows(COLUMNS, ROWS)
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [40, 80, 100, 132])
def test_ids_are_whole_at_every_width(capsys, monkeypatch, width):
    text = shown(capsys, monkeypatch, width)
    assert ID in text
    assert (OTHER in text) is (width >= 80)
    assert all(len(line) <= width for line in text.splitlines())


def test_what_is_left_out_is_named(capsys, monkeypatch):
    assert "not shown in 80 columns: state, created at" in shown(capsys, monkeypatch, 80)
    assert "not shown" not in shown(capsys, monkeypatch, 132)


def test_a_time_is_never_broken_and_words_are_never_cut():
    assert fitting(["at", "name"], [["2030-01-31 00:00:00Z", "some words"]], 40) == [20, 10]
    assert fitting(["at", "name"], [["2030-01-31 00:00:00Z", "some words"]], 32) == [20, 5]
    assert fitting(["at", "name"], [["2030-01-31 00:00:00Z", "some words"]], 31) == [20]


def test_an_amount_and_its_currency_are_one_line():
    assert fitting(["amount_micros", "note"], [["0.0021 USD", "some words"]], 20) == [10]
    assert fitting(["text", "note"], [["0.0021 USD", "some words"]], 20) == [8, 5]


def test_no_rows_are_a_table_too(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    show_rows(["id", "amount_micros"], [])
    assert "amount" in capsys.readouterr().out


class Charged(msgspec.Struct):
    amount_micros: int
    currency: str


class Cap(msgspec.Struct):
    max_price_micros: int | None


def test_amounts_name_the_currency_that_was_told_with_them():
    rows = [Charged(1_500_000, "USD"), Charged(2_000_000, "EUR")]
    assert as_rows(rows, ["amount_micros"]) == [["1.50 USD"], ["2.00 EUR"]]
    assert as_rows([Cap(7), Cap(None)], ["max_price_micros"]) == [["0.000007"], ["-"]]  # none told
    assert [title_of("input_miss_micros"), title_of("token_count")] == ["input miss", "token count"]


def test_one_object_names_it_too(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    show_table(facts_table(Charged(1_500_000, "EUR")))
    assert "1.50 EUR" in capsys.readouterr().out


def test_a_timeline_is_in_units_that_people_read():
    told = {"prefill_us": 3_097_816, "started_at_ms": 1_900_000_000_000, "codec": "bf16"}
    assert text_of("timeline", told) == (
        "prefill=3,097.8 ms, started_at=2030-03-17 17:46:40Z, codec=bf16"
    )


@pytest.mark.parametrize("name", ["state_bytes_sent", "requests_per_second", "egress_mbps"])
def test_numbers_stand_at_the_right(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    show_rows([name, "note"], [["7", "7"]])
    row = capsys.readouterr().out.splitlines()[-2]
    assert row.startswith("│  ")
    assert row.endswith("7    │")
