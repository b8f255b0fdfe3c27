"""What the demo's table shows of a finding."""

from prefill_stack.commands.demo import _shown


def test_values_are_for_people():
    assert _shown(8.106231689453125e-06) == "8.106e-06"
    assert _shown(9_982_272) == "9,982,272"
    assert [_shown(True), _shown(False), _shown(0.9997), _shown(1234.56)] == [
        "yes",
        "no",
        "0.9997",
        "1,234.6",
    ]
    assert _shown({"open_ms": 1.5, "cloud": "eu"}) == "open_ms: 1.5\ncloud: eu"
