"""What `prefill-cloud plan` prints for people: tables from the JSON object, then one sentence."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

AXES = {
    "bandwidth_gbps": "Gbit/s of links",
    "rtt_ms": "RTT ms (P90 TTFT)",
    "state_ratio": "codec, x smaller",
    "hardware_ratio": "remote, x faster",
    "hit_fraction": "more cache hits",
}


def show(console: Console, result: dict[str, Any]) -> None:
    """Tables for people, and one sentence of advice at the end."""
    for table in (_stages(result), _roles(result), _latency(result)):
        console.print(table)
    if result["sensitivity"]:
        console.print(_sensitivity(result["sensitivity"]))
    console.print(_purchases(result))
    for line in _facts(result):
        console.print(line, soft_wrap=True)
    console.print()
    console.print(result["advice"], soft_wrap=True, style="bold")


def _table(title: str, *columns: str) -> Table:
    table = Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False
    )
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    return table


def _stages(result: dict[str, Any]) -> Table:
    title = f"{result['plan']}: requests/s of each stage ({result['form']} lengths)"
    table = _table(title, "fleet", "F/P/D", "PrfaaS", "PD-P", "PD-D", "rate", "Gbit/s", "TTFT s")
    rows = [
        ("this plan", result),
        ("local, same GPUs", result["homogeneous"]),
        ("local, same money", result["equal_cost"]),
        ("offload all", result["naive"]),
    ]
    rates = ("theta_prfaas", "theta_pd_p", "theta_pd_d", "lambda_rps")
    for name, row in rows:
        if row is not None:
            table.add_row(
                name,
                f"{row['n_prfaas']}/{row['n_p']}/{row['n_d']}",
                *(f"{row[key]:.2f}" for key in rates),
                f"{row['egress_gbps']:.1f}",
                f"{row['ttft_mean_seconds']:.2f}/{row['ttft_p90_seconds']:.2f}",
                style="bold" if row is result else None,
            )
    table.caption = (
        "F/P/D: remote, local prefill, decode instances. TTFT: mean/P90 of prefill alone"
    )
    table.caption_justify = "left"
    return table


def _roles(result: dict[str, Any]) -> Table:
    table = _table("Roles", "local cluster", "threshold", "prefill", "decode", "offloaded", "to")
    for cluster in result["clusters"]:
        shares = result["offload_shares"][cluster["name"]]
        table.add_row(
            cluster["name"],
            f"{cluster['threshold_tokens']:,} tokens",
            str(cluster["n_p"]),
            str(cluster["n_d"]),
            f"{cluster['long_fraction']:.1%}",
            "\n".join(f"{name} {share:.0%}" for name, share in shares.items() if share > 0) or "-",
        )
    return table


def _latency(result: dict[str, Any]) -> Table:
    columns = ("load", "requests/s", "mean", "P90", "queue", "prefill", "wire", "RTT")
    table = _table("TTFT with queueing (seconds; the last four add up to the mean)", *columns)
    rows = [(f"{each['load']:.0%}", each["rate_rps"], each) for each in result["queueing"]]
    slo = result["slo"]
    if slo is not None and slo["ttft"] is not None:
        rows.append((f"P90 {slo['ttft_p90_target_seconds']:g} s", slo["rate_rps"], slo["ttft"]))
    for name, rate, times in rows:
        parts = ("mean", "p90", "queue", "prefill", "exposed_wire", "rtt")
        table.add_row(name, f"{rate:.2f}", *(f"{times[f'{part}_seconds']:.3f}" for part in parts))
    if slo is not None and slo["problem"]:
        table.caption = slo["problem"]
    return table


def _sensitivity(axes: dict[str, list[dict[str, Any]]]) -> Table:
    """One row an axis: every value over the best rate there (for round trips over the P90)."""
    table = _table("What if (value over requests/s, re-optimised)", "input", *[""] * 8)
    for axis, points in axes.items():
        cells = [f"{point['value']:g}\n[bold]{_outcome(axis, point)}[/]" for point in points]
        table.add_row(AXES[axis], *cells, *[""] * (8 - len(cells)))
    table.show_header = False
    return table


def _outcome(axis: str, point: dict[str, Any]) -> str:
    if axis == "rtt_ms":
        p90 = point["ttft_p90_seconds"]
        return f"{p90:.2f} s" if p90 is not None else "-"
    return f"{point['lambda_rps']:.2f}"


def _purchases(result: dict[str, Any]) -> Table:
    currency = result["cost"]["currency"]
    table = _table("What to buy next", "purchase", "requests/s", f"{currency}/h")
    for each in result["purchases"]:
        price = each["price_micros_per_hour"]
        table.add_row(
            each["what"], f"+{each['gain_rps']:.2f}", money(price) if price is not None else "-"
        )
    return table


def _facts(result: dict[str, Any]) -> list[str]:
    """Single figures, a line each; those that the plan file gives no ground for are left out."""
    cost, lines = result["cost"], []
    currency = cost["currency"]
    if cost["per_million_input_tokens_micros"] is not None:
        lines.append(
            f"Cost at that rate: {currency} {money(cost['machines_micros_per_hour'])}/h machines"
            f" + {money(cost['egress_micros_per_hour'])}/h egress,"
            f" {money(cost['per_million_input_tokens_micros'])} per million input tokens"
        )
    if result["break_even_gbps"]:
        lines.append(f"Offloading pays above {result['break_even_gbps']:.1f} Gbit/s on every link")
    price = result["break_even_price_micros_per_hour"]
    if price is not None:
        lines.append(f"Offloading pays below {currency} {money(price)}/h for a remote instance")
    lines.append(
        f"Queues grow without end from {result['capacity_rps']:.2f} requests/s; "
        + ", ".join(f"{form} optimum {rate:.2f}" for form, rate in result["forms"].items() if rate)
    )
    if result["whole_grid_rps"] is not None:
        lines.append(f"search.last_tokens binds: without it {result['whole_grid_rps']:.2f}/s")
    for cluster in result["clusters"]:
        if cluster["block_hit_fraction"] is not None:
            lines.append(
                f"{cluster['name']}: {cluster['block_hit_fraction']:.1%} of the trace's blocks are"
                f" reused; {cluster['mean_uncached_tokens']:,.0f} of"
                f" {cluster['mean_total_tokens']:,.0f} tokens are left to prefill"
            )
    return lines


def money(micros: int) -> str:
    """Millionths of a currency as a decimal number of four digits, by integers."""
    whole, rest = divmod(micros, 1_000_000)
    return f"{whole}.{rest:06d}"[:-2]
