"""The shipped profiles against their sources, and how curves are read between their points."""

import numpy as np
import pytest
from prefill_data.planner import schema
from prefill_data.planner.build import hardware
from prefill_data.planner.curves import DecodeCurve, TableCurve
from prefill_data.planner.errors import MissingProfilePointError
from prefill_data.planner.lengths import LogNormal, histogram
from prefill_data.planner.loading import load_profile, shipped

MIB = 1024 * 1024


def machine(name, tmp_path):
    return hardware(load_profile(name, tmp_path))


def at(curve, tokens):
    return float(curve.at(np.array([float(tokens)]))[0])


@pytest.mark.parametrize("name", shipped("profiles"))
def test_a_shipped_profile_names_its_source_and_is_what_it_is_called(name, tmp_path):
    profile = load_profile(name, tmp_path)
    assert profile.name == name
    assert len(profile.source) > 80
    assert profile.gpus_per_instance == 8
    assert "TO" + "DO" not in profile.source


@pytest.mark.parametrize(
    ("tokens", "seconds", "mib"),
    [(1024, 0.44, 190.8), (8192, 0.72, 308.9), (32_000, 1.84, 701.3), (131_072, 7.40, 2316.3)],
)
def test_the_papers_measurements_are_on_its_curves(tokens, seconds, mib, tmp_path):
    h200 = machine("paper-1t-h200", tmp_path)
    assert at(h200.prefill, tokens) == pytest.approx(seconds)
    assert at(h200.state, tokens) / MIB == pytest.approx(mib, rel=0.008)
    assert at(machine("paper-1t-h20", tmp_path).state, tokens) == at(h200.state, tokens)


@pytest.mark.parametrize(
    ("tokens", "milliseconds"),
    [(1024, 64), (8192, 94), (16_384, 182), (32_768, 363), (65_536, 748), (131_072, 1610)],
)
def test_kimi_linear_on_8xh100(tokens, milliseconds, tmp_path):
    kimi = machine("kimi-linear-48b-h100", tmp_path)
    assert at(kimi.prefill, tokens) == pytest.approx(milliseconds / 1000)
    # 20 KDA layers of 32 x 128 x 128 fp32 and 3 x 12,288 bf16; 7 MLA layers of 576 bf16.
    fixed = 20 * (32 * 128 * 128 * 4 + 3 * 12_288 * 2)
    assert at(kimi.state, tokens) == pytest.approx(fixed + tokens * 7 * 576 * 2)
    assert fixed / MIB == pytest.approx(41.4, abs=0.05)


def test_calibrated_figures_are_figures(tmp_path):
    from prefill_data.planner.report import FIGURES

    for name in shipped("profiles"):
        calibration = load_profile(name, tmp_path).calibration
        assert calibration is None or set(calibration.figures) <= set(FIGURES)


def test_a_table_is_straight_between_points_and_positive_below_them():
    curve = TableCurve("t", (1000, 2000, 4000), (1.0, 3.0, 4.0))
    assert [at(curve, x) for x in (1000, 1500, 3000, 4000)] == pytest.approx([1, 2, 3.5, 4])
    # The first segment's slope would reach zero at 500: never below the line to the origin.
    assert at(curve, 750) == pytest.approx(0.75)
    assert at(curve, 1) == pytest.approx(0.001)
    with pytest.raises(MissingProfilePointError, match="the last is 4,000"):
        at(curve, 4001)


def test_the_best_batch_that_keeps_the_slo():
    decode = DecodeCurve("d", (1, 8, 16, 32), (0.01, 0.012, 0.02, 0.05))
    assert decode.slots(40, "slo") == (16, 0.02)
    assert decode.slots(20, "slo") == (16, 0.02)  # 32 at 0.05 s makes fewer tokens/s
    assert decode.slots(83, "slo") == (8, 0.012)


def test_the_log_normal_keeps_mass_and_mean():
    lengths = LogNormal(9.90, 1.00, 128, 131_072).lengths(1024)
    assert lengths.weights.sum() == pytest.approx(1)
    random = np.random.default_rng(5)
    drawn = np.exp(random.normal(9.90, 1.0, 2_000_000))
    drawn = drawn[(drawn >= 128) & (drawn <= 131_072)]
    assert lengths.mean_tokens == pytest.approx(drawn.mean(), rel=0.003)
    above = lengths.weights[lengths.tokens > 19_400].sum()
    assert above == pytest.approx((drawn > 19_400).mean(), abs=0.002)


def test_a_histogram_is_normalised_and_cached_tokens_are_not_prefilled():
    lengths = histogram([(1000, 3), (9000, 1)], 200)
    assert lengths.mean_tokens == pytest.approx(3000)
    cached = lengths.with_hit_fraction(0.5)
    assert cached.mean_tokens == pytest.approx(1500)
    assert cached.mean_total_tokens == pytest.approx(3000)


def test_every_field_of_a_file_is_documented():
    """The planner's README has every field of the files that people write."""
    from pathlib import Path

    import prefill_data.planner as package

    readme = (Path(package.__file__).parent / "README.md").read_text(encoding="utf-8")
    kinds = [schema.PlanFile, schema.ProfileFile, schema.PrefillClusterFile]
    kinds += [schema.LocalClusterFile, schema.LinkFile, schema.SloFile, schema.CodecFile]
    kinds += [schema.ExchangeFile, schema.SearchFile, schema.LogNormalWorkload]
    kinds += [schema.HistogramWorkload, schema.TraceWorkload, schema.Calibration]
    missing = {f"{k.__name__}.{f}" for k in kinds for f in k.__struct_fields__ if f not in readme}
    assert not missing
