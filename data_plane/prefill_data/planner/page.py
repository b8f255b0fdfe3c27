"""An answer as one HTML page: advice, figures, the drawing, tables, and the JSON at the end."""

import html
import json
from typing import Any

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2933; margin: 2rem auto; padding: 0 1rem;
  max-width: 72rem; }
h1 { margin: 0; }
.advice { font-size: 1.15rem; border-left: 4px solid #1f6fb4; padding-left: 1rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; padding: 0; list-style: none; }
.cards li { border: 1px solid #d9dee5; border-radius: 8px; padding: .6rem 1rem; min-width: 9rem; }
.cards b { display: block; font-size: 1.5rem; } svg { width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: left; font-weight: bold; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #e5e7eb; text-align: right; }
th:first-child, td:first-child { text-align: left; } pre { overflow: auto; font-size: .8rem; }
"""


def page(figures: dict[str, Any], drawing: str) -> str:
    """A page of the JSON object of a plan and its SVG drawing; nothing is loaded from anywhere."""
    title = html.escape(figures["plan"])
    drawing = drawing[drawing.index("<svg") :]
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{title}: plan</title><style>{STYLE}</style><h1>{title}</h1>"
        f'<p class="advice">{html.escape(figures["advice"])}</p>{_cards(figures)}'
        f'<figure role="img" aria-label="four panels of the plan">{drawing}</figure>'
        f"{_fleets(figures)}{_latency(figures)}{_purchases(figures)}"
        f"<details><summary>All figures as JSON</summary><pre>"
        f"{html.escape(json.dumps(figures, indent=2))}</pre></details></html>\n"
    )


def _cards(figures: dict[str, Any]) -> str:
    cards = [
        (f"{figures['lambda_rps']:.2f}/s", "greatest rate"),
        (f"{figures['n_prfaas']}/{figures['n_p']}/{figures['n_d']}", "remote, prefill, decode"),
        (f"{figures['egress_gbps']:.1f} Gbit/s", "egress"),
        (f"{figures['ttft_p90_seconds']:.2f} s", "P90 of prefill alone"),
    ]
    if figures["threshold_tokens"] is not None:
        cards.insert(1, (f"{figures['threshold_tokens']:,}", "threshold, tokens"))
    if figures["equal_cost_ratio"] is not None:
        cards.append((f"{figures['equal_cost_ratio']:.2f}x", "of local, same money"))
    items = "".join(f"<li><b>{html.escape(value)}</b>{name}</li>" for value, name in cards)
    return f'<ul class="cards">{items}</ul>'


def _fleets(figures: dict[str, Any]) -> str:
    rows = [
        ("this plan", figures),
        ("local only, same GPUs", figures["homogeneous"]),
        ("local only, same money", figures["equal_cost"]),
        ("offload everything", figures["naive"]),
    ]
    rates = ("theta_prfaas", "theta_pd_p", "theta_pd_d", "lambda_rps")
    names = (*rates, "egress_gbps", "ttft_mean_seconds", "ttft_p90_seconds")
    body = [
        [name, f"{row['n_prfaas']}/{row['n_p']}/{row['n_d']}", *(f"{row[n]:.2f}" for n in names)]
        for name, row in rows
        if row is not None
    ]
    head = ["fleet", "machines", "PrfaaS", "PD-P", "PD-D", "rate", "Gbit/s", "mean s", "P90 s"]
    return _table("Fleets (TTFT of prefill alone)", head, body)


def _latency(figures: dict[str, Any]) -> str:
    names = ("mean", "p90", "queue", "prefill", "exposed_wire", "rtt")
    body = [
        [
            f"{row['load']:.0%}",
            f"{row['rate_rps']:.2f}",
            *(f"{row[f'{name}_seconds']:.3f}" for name in names),
        ]
        for row in figures["queueing"]
    ]
    head = ["load", "requests/s", "mean", "P90", "queue", "prefill", "wire", "RTT"]
    return _table("TTFT with queueing, seconds", head, body)


def _purchases(figures: dict[str, Any]) -> str:
    """Gains of single additions; money stays in integer micros."""
    body = [
        [
            each["what"],
            f"+{each['gain_rps']:.2f}",
            "-" if each["price_micros_per_hour"] is None else f"{each['price_micros_per_hour']:,}",
        ]
        for each in figures["purchases"]
    ]
    return _table("What to buy next", ["purchase", "requests/s", "micros/h"], body)


def _table(caption: str, head: list[str], body: list[list[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in body
    )
    return f"<table><caption>{caption}</caption><tr>{top}</tr>{rows}</table>"
