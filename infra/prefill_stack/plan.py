"""`prefill-cloud plan`: the best fleet for a plan file, as a table, JSON or a picture."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from prefill_stack.console import people, print_json
from prefill_stack.errors import NotConfigured


def plan(
    file: Annotated[Path | None, typer.Argument(help="A plan file (YAML).")] = None,
    case: Annotated[
        str | None, typer.Option(help="A shipped plan: paper, startup or enterprise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    picture: Annotated[
        Path | None, typer.Option("--plot", help="Write OUT.png or OUT.html.")
    ] = None,
) -> None:
    """Say how many machines of what kind, behind which link, at which threshold."""
    from prefill_data.planner.answers import Title, answer
    from prefill_data.planner.loading import load_case, load_plan
    from prefill_data.planner.report import document

    if (file is None) == (case is None):
        raise NotConfigured("give a plan file or --case, one of them", "try --case paper")
    source, scenario = load_plan(file) if file is not None else load_case(str(case))
    found = answer(scenario, Title(source.name, source.currency))
    result = document(found)
    if picture is not None:
        from prefill_data.planner.plot import plot

        plot(found, picture)
    if as_json:
        print_json(result)
    else:
        show(people(), result)


def show(console: Console, result: dict[str, Any]) -> None:
    """Tables for people, and one sentence of advice at the end."""
    console.print(_stages(result))
    console.print(_clusters(result))
    console.print(_latency(result))
    money = result["cost"]
    if money["per_million_input_tokens_micros"] is not None:
        console.print(
            f"Cost: {money['currency']} {_money(money['machines_micros_per_hour'])}/h machines"
            f" + {_money(money['egress_micros_per_hour'])}/h egress,"
            f" {_money(money['per_million_input_tokens_micros'])} per million input tokens"
        )
    console.print(result["advice"], soft_wrap=True)


def _stages(result: dict[str, Any]) -> Table:
    table = Table(title=f"{result['plan']}: throughput (requests/s), {result['form']} lengths")
    for column in ("fleet", "PrfaaS/P/D", "PrfaaS", "PD-P", "PD-D", "rate", "Gbit/s", "TTFT"):
        table.add_column(column, justify="left" if column == "fleet" else "right")
    rows = [
        ("this plan", result),
        ("local only, same GPUs", result["homogeneous"]),
        ("local only, same money", result["equal_cost"]),
        ("offload everything", result["naive"]),
    ]
    for name, row in rows:
        if row is not None:
            table.add_row(
                name,
                f"{row['n_prfaas']}/{row['n_p']}/{row['n_d']}",
                *(
                    f"{row[key]:.2f}"
                    for key in ("theta_prfaas", "theta_pd_p", "theta_pd_d", "lambda_rps")
                ),
                f"{row['egress_gbps']:.1f}",
                f"{row['ttft_mean_seconds']:.2f} / {row['ttft_p90_seconds']:.2f} s",
            )
    table.caption = "TTFT here is prefill alone, mean / P90, as the paper counts it"
    return table


def _clusters(result: dict[str, Any]) -> Table:
    table = Table(title="Roles")
    for column in ("local cluster", "threshold", "prefill", "decode", "offloaded", "to"):
        table.add_column(column)
    for cluster in result["clusters"]:
        shares = result["offload_shares"][cluster["name"]]
        table.add_row(
            cluster["name"],
            f"{cluster['threshold_tokens']:,} tokens",
            str(cluster["n_p"]),
            str(cluster["n_d"]),
            f"{cluster['long_fraction']:.1%}",
            ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > 0) or "-",
        )
    return table


def _latency(result: dict[str, Any]) -> Table:
    table = Table(title="TTFT with queueing (seconds)")
    for column in ("load", "requests/s", "mean", "P90", "queue", "prefill", "wire", "RTT"):
        table.add_column(column, justify="right")
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


def _money(micros: int) -> str:
    """Millionths of a currency as a decimal number, by integers."""
    whole, rest = divmod(micros, 1_000_000)
    return f"{whole}.{rest:06d}"[:-2]


def register(app: typer.Typer) -> None:
    """Give this command to the application."""
    app.command()(plan)
