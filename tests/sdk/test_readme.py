"""The README's example runs as it is printed, against a cloud and an engine of the tests."""

import re
import types

import pytest
from counting_engine import CountingEngine, Letters
from loopback_cloud import API_KEY, LoopbackCloud
from prefill_cloud import LocalEngine
from prefill_cloud.blocking import LoopThread


@pytest.fixture
def example(request):
    readme = (request.config.rootpath / "sdk" / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    return code


def test_the_example_runs(example, monkeypatch, capsys):
    thread, cloud = LoopThread(), LoopbackCloud()
    thread.run(cloud.__aenter__())
    engine = CountingEngine(vocabulary=Letters())
    engine.script = [104, 105, 0]
    monkeypatch.setattr(LocalEngine, "from_folder", lambda folder: engine)
    lines = compile(example.replace("gateway.example:443", cloud.endpoint), "README.md", "exec")
    names = {
        "api_key": API_KEY,
        "control_key": cloud.control_public_key,
        "long_question": "why?",
    }
    types.FunctionType(lines, names)()
    thread.run(cloud.__aexit__())
    thread.close()
    assert capsys.readouterr().out.startswith("hicloud ")
