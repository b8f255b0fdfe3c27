"""`prefill-cloud plan`: the paper's case, a trace's plan, pictures and mistakes, by the command."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from prefill_data.planner.loading import load_case
from prefill_stack import benches
from prefill_stack.plan_tables import money

TRACE = Path(__file__).parents[1] / "data_plane" / "data" / "conversation_trace.jsonl.gz"
KEYS = {
    *("threshold_tokens", "n_prfaas", "n_p", "n_d", "theta_prfaas", "theta_pd_p", "theta_pd_d"),
    *("lambda_rps", "ratio_homogeneous", "ratio_naive", "ttft_mean_seconds", "ttft_p90_seconds"),
    *("homogeneous", "naive", "egress_gbps", "equal_cost_ratio", "basis"),
}


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "prefill_stack.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def planned(*arguments):
    done = command("plan", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout, parse_constant=pytest.fail)  # no NaN, no Infinity


@pytest.fixture(scope="module")
def paper():
    return planned("--case", "paper")


def test_the_papers_table_by_the_command(paper):
    assert set(paper) >= KEYS
    assert abs(paper["threshold_tokens"] - 19_400) <= 0.03 * 19_400
    assert (paper["n_prfaas"], paper["n_p"], paper["n_d"]) == (4, 3, 5)
    assert paper["lambda_rps"] == pytest.approx(3.24, rel=0.01)
    assert paper["ratio_homogeneous"] == pytest.approx(1.54, abs=0.01)
    assert paper["ratio_naive"] == pytest.approx(1.16, abs=0.01)
    assert paper["ttft_p90_seconds"] == pytest.approx(3.51, rel=0.01)
    assert paper["ttft_mean_seconds"] == pytest.approx(2.22, rel=0.03)
    assert paper["homogeneous"]["ttft_p90_seconds"] == pytest.approx(9.73, rel=0.01)
    assert 12 <= paper["egress_gbps"] <= 13.5
    assert paper["equal_cost_ratio"] == pytest.approx(1.15, abs=0.01)
    sweep = {p["value"]: p["lambda_rps"] for p in paper["sensitivity"]["bandwidth_gbps"]}
    for gbps, rate, tolerance in ((13, 3.24, 0.01), (10, 3.03, 0.02), (5, 2.26, 0.02)):
        assert sweep[gbps] == pytest.approx(rate, rel=tolerance)
    assert sweep[2] == pytest.approx(1.62, rel=0.01)  # on a grid that ends at 60,000: 1.40
    assert set(paper["basis"].values()) == {"calibrated", "independent"}


def test_the_tables_end_with_the_advice(paper):
    done = command("plan", "--case", "paper")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert lines[-1] == paper["advice"]
    for word in ("threshold", "19,400 tokens", "What to buy next", "TTFT with queueing"):
        assert word in done.stdout


def test_a_trace_with_and_without_reuse(tmp_path):
    """36.6% of the conversation trace's blocks are reused, and that is worth a third more."""
    (tmp_path / "t.jsonl").write_bytes(gzip.decompress(TRACE.read_bytes()))
    file = yaml.safe_load(
        (
            Path(sys.modules[load_case.__module__].__file__).parent / "cases" / "paper.yaml"
        ).read_text(encoding="utf-8")
    )
    found = {}
    for reuse in (True, False):
        file["workload"] = {"kind": "trace", "path": "t.jsonl", "reuse": reuse}
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(file), encoding="utf-8")
        found[reuse] = planned(tmp_path / "plan.yaml")
    (cluster,) = found[True]["clusters"]
    assert 100 * cluster["block_hit_fraction"] == pytest.approx(36.6, abs=0.2)
    assert cluster["mean_total_tokens"] == pytest.approx(12_035, abs=1)
    assert found[False]["clusters"][0]["block_hit_fraction"] is None
    assert found[True]["lambda_rps"] == pytest.approx(1.33 * found[False]["lambda_rps"], rel=0.02)


def test_a_picture_and_its_tables(tmp_path):
    done = command("plan", "--case", "startup", "--plot", tmp_path / "a.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.html").read_bytes().startswith(b"<!doctype html>")
    assert "What to buy next" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a plan file or --case"),
        (["missing.yaml"], "missing.yaml"),
        (["--case", "papers"], "known: enterprise, paper, startup"),
        (["--case", "paper", "--plot", "a.pdf"], "name a .png or .html file"),
        (["--case", "paper", "--plot", "no/such/folder/a.png"], "no folder .no/such/folder."),
    ],
)
def test_a_mistake_is_one_line_and_a_remedy(arguments, words):
    done = command("plan", *arguments)
    assert done.returncode == 1
    assert re.search(words, done.stderr)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 2


def test_the_bench_says_its_limits():
    assert "plan" in benches.names()
    found = benches.load("plan")(sweep_points=20, cases=("startup",))
    assert found["sweep_points"] == 20
    assert (found["solve_limit_seconds"], found["sweep_limit_seconds"]) == (2.0, 60.0)
    slowest = max(found[key] for key in found if key.endswith("_solve_seconds"))
    within = slowest < 2 and found["sweep_seconds"] < 60
    assert found["within_limits"] is within


def test_money_is_printed_by_integers():
    assert money(2_500_000) == "2.5000"
    assert money(106_784) == "0.1067"
    assert money(0) == "0.0000"
