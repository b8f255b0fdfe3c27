"""The conversation trace: block reuse, and plans with and without it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prefill_data.planner import schema
from prefill_data.planner.errors import InvalidInputError, MissingProfilePointError
from prefill_data.planner.loading import load_plan, load_trace, read_trace
from prefill_data.planner.solver import solve
from prefill_data.planner.trace import TraceRequest, prefix_reuse

PATH = Path(__file__).parent.parent / "data" / "conversation_trace.jsonl.gz"


@pytest.fixture(scope="module")
def requests():
    return read_trace(PATH)


def test_the_trace_is_the_published_one(requests):
    inputs = np.array([request.input_tokens for request in requests])
    assert len(requests) == 12_031
    assert inputs.mean() == pytest.approx(12_035, abs=1)
    assert np.quantile(inputs, 0.9) == pytest.approx(27_367, abs=10)


def test_block_reuse_with_an_infinite_cache(requests):
    reuse = prefix_reuse(requests, 512)
    assert 100 * reuse.hit_fraction == pytest.approx(36.6, abs=0.2)
    assert all(
        0 <= cached < request.input_tokens
        for cached, request in zip(reuse.cached_tokens, requests, strict=True)
    )


def test_twin_reuse_counts_leading_blocks_only():
    requests = [
        TraceRequest(2000, 1, (1, 2, 3, 4)),
        TraceRequest(2000, 1, (1, 2, 9, 4)),  # block 4 is there, but not behind this prefix
        TraceRequest(2000, 1, (7, 2, 3, 4)),
        TraceRequest(1000, 1, (1, 2)),  # everything cached: one token stays
    ]
    reuse = prefix_reuse(requests, 512)
    assert reuse.cached_tokens == (0, 1024, 0, 999)
    assert reuse.hit_blocks == 4
    assert reuse.blocks == 14


def test_a_plan_with_and_without_reuse(paper):
    plans = {}
    for reuse in (False, True):
        lengths = load_trace(PATH, schema.TraceWorkload(str(PATH), reuse=reuse))
        cluster = replace(paper.local_clusters[0], lengths=lengths)
        plans[reuse] = solve(replace(paper, local_clusters=(cluster,)))
        assert lengths.mean_total_tokens == pytest.approx(12_035, abs=1)
    assert plans[True].lambda_rps > 1.1 * plans[False].lambda_rps
    assert plans[True].locals[0].threshold_tokens != plans[False].locals[0].threshold_tokens


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"input_length": 5, "output_length": 1}\n{"input_length": "x"}\n')
    with pytest.raises(InvalidInputError, match=r"t\.jsonl line 2"):
        read_trace(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[1]", "JSON object"),
        ('{"input_length": 0, "output_length": 1}', "below 1"),
        ('{"input_length": 5, "output_length": -1}', "output_length below 0"),
        ('{"input_length": 1e999, "output_length": 1}', "JSON object"),
        ('{"input_length": 5, "output_length": 1, "hash_ids": [[1]]}', "JSON object"),
        ('{"input_length": 5, "output_length": 1, "hash_ids": 3}', "JSON object"),
    ],
)
def test_any_broken_line_is_named(tmp_path, line, said):
    path = tmp_path / "t.jsonl"
    path.write_text('{"input_length": 5, "output_length": 1}\n\n' + line + "\n")
    with pytest.raises(InvalidInputError, match=r"t\.jsonl line 3") as caught:
        read_trace(path)
    assert said in f"{caught.value.problem} {caught.value.remedy}"


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "t.jsonl.gz").write_bytes(PATH.read_bytes()[:1000])
    (tmp_path / "u.jsonl.gz").write_bytes(b'{"input_length": 5}')
    for name in ("t.jsonl", "t.jsonl.gz", "u.jsonl.gz"):
        with pytest.raises(InvalidInputError, match="unreadable"):
            read_trace(tmp_path / name)
    (tmp_path / "plan.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInputError, match="not UTF-8"):
        load_plan(tmp_path / "plan.yaml")


def test_a_trace_that_decodes_nothing_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"input_length": 5, "output_length": 0}\n' * 2)
    with pytest.raises(InvalidInputError, match="not a finite number above 0"):
        load_trace(path, schema.TraceWorkload(str(path)))


def test_a_trace_longer_than_the_profile_is_refused(paper):
    lengths = load_trace(PATH, schema.TraceWorkload(str(PATH), reuse=False))
    longer = replace(lengths, tokens=lengths.tokens * 2)
    cluster = replace(paper.local_clusters[0], lengths=longer)
    with pytest.raises(MissingProfilePointError, match="131,072"):
        solve(replace(paper, local_clusters=(cluster,)))
