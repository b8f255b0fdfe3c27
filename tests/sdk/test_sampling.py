"""Sampling and text: greedy, drawn, repeatable; what a stream of tokens says and where it ends."""

from pathlib import Path

import numpy as np
import prefill_engine
import pytest
from prefill_cloud import PrefillCloudError
from prefill_cloud.decode.chat import CheckpointText, render_template
from prefill_cloud.decode.sampling import Sampler, Sampling
from prefill_cloud.decode.text import StopStrings, TextStream

CHECKPOINTS = Path(prefill_engine.__file__).parent / "checkpoints"
LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.3], np.float32))


def draw(count, logits=LOGITS, **options):
    sampler = Sampler(Sampling(**options))
    return [sampler.choose(logits) for _ in range(count)]


def test_temperature_zero_is_greedy():
    assert draw(3) == [1, 1, 1]
    assert draw(1, np.zeros(5, np.float32)) == [0]  # the first of equals


def test_a_seed_repeats_its_draws():
    assert draw(50, temperature=1.0, seed=7) == draw(50, temperature=1.0, seed=7)
    assert draw(50, temperature=1.0, seed=7) != draw(50, temperature=1.0, seed=8)
    assert draw(50, temperature=1.0) != draw(50, temperature=1.0)


def test_draws_follow_the_probabilities():
    counts = np.bincount(draw(20_000, temperature=1.0, seed=1), minlength=4) / 20_000
    assert np.allclose(counts, [0.1, 0.4, 0.2, 0.3], atol=0.02)


def test_a_low_temperature_prefers_the_likely():
    counts = np.bincount(draw(2_000, temperature=0.25, seed=1), minlength=4) / 2_000
    wanted = np.array([0.1, 0.4, 0.2, 0.3]) ** 4
    assert np.allclose(counts, wanted / wanted.sum(), atol=0.04)


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, {1}), (0.6, {1, 3}), (0.85, {1, 3, 2}),
                                             (1.0, {0, 1, 2, 3})])  # fmt: skip
def test_top_p_keeps_the_smallest_set(top_p, kept):
    assert set(draw(2_000, temperature=1.0, top_p=top_p, seed=3)) == kept


def test_extreme_logits_are_no_trouble():
    logits = np.array([-np.inf, 3e38, -3e38], np.float32)
    assert set(draw(20, logits, temperature=1e-3, seed=1)) == {1}


@pytest.mark.parametrize(
    ("texts", "stops", "given", "stopped"),
    [
        (["ab", "cd"], [], "abcd", False),
        (["ab", "cd"], ["bc"], "a", True),
        (["a", "b", "c", "d"], ["bcd"], "a", True),
        (["a", "b", "c", "x"], ["bcd"], "abcx", False),
        (["aab"], ["ab", "aab"], "", True),
        (["aa", "ab"], ["aab"], "a", True),
        (["ab"], [""], "ab", False),
    ],
)
def test_stop_strings(texts, stops, given, stopped):
    scanner = StopStrings(stops)
    said = "".join(scanner.push(text) for text in texts)
    assert (said + scanner.flush(), scanner.stopped) == (given, stopped)


def test_what_may_begin_a_stop_string_is_held_back():
    scanner = StopStrings(["stop"])
    assert [scanner.push(text) for text in ("a", "s", "t", "x")] == ["a", "", "", "stx"]


@pytest.fixture(scope="module")
def code_text():
    return CheckpointText(CHECKPOINTS / "code-lm")


@pytest.mark.parametrize(
    "text", ["def f(x):\n    return x + 1\n", "naïve Ω → 漢字 🚀 ends", "\ufffd?"]
)
def test_a_stream_of_tokens_says_the_text(code_text, text):
    stream, said = TextStream(code_text), []
    for token in code_text.encode(text):
        said.append(stream.push(token))
    said.append(stream.flush())
    assert "".join(said) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in said)  # no half characters


def test_half_a_character_comes_at_the_end_at_last(code_text):
    tokens = code_text.encode("🚀")
    assert len(tokens) > 1
    stream = TextStream(code_text)
    assert [stream.push(token) for token in tokens[:-1]] == [""] * (len(tokens) - 1)
    assert "\ufffd" in stream.flush()


def test_a_conversation_by_the_checkpoints_template(code_text):
    prompt = code_text.render([{"role": "user", "content": "hi"}])
    assert prompt == "<|user|>hi<|end|><|assistant|>"
    assert code_text.end_tokens == {0}
    assert code_text.decode(code_text.encode(prompt)) == "hi"  # special tokens are not text


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (["hi"], "a message is a mapping"),
        ([{"role": "user"}], "a message is a mapping"),
        ([{"role": "user", "content": ["part"]}], "are text"),
    ],
)
def test_what_is_no_conversation(code_text, messages, words):
    with pytest.raises(PrefillCloudError, match=words):
        code_text.render(messages)


def test_a_checkpoint_without_a_template_says_so():
    with pytest.raises(PrefillCloudError, match="mqar has no chat template"):
        CheckpointText(CHECKPOINTS / "mqar").render([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    "template",
    [
        "{% if messages %}{{ raise_exception('no') }}{% endif %}",
        "{% broken",
        "{{ messages[0].content.missing.deeper }}",
        "{{ ''.__class__.__mro__ }}",  # the sandbox
    ],
)
def test_a_template_that_refuses_is_a_typed_error(template):
    with pytest.raises(PrefillCloudError) as caught:
        render_template(template, [{"role": "user", "content": "secret words"}], {})
    assert "secret words" not in str(caught.value)


def test_templates_render_as_transformers_does():
    template = (
        "{{ bos_token }}\n{% for m in messages %}\n  {% if m.role == 'user' %}\n"
        "{{ m.content | tojson }}\n  {% endif %}\n{% endfor %}\n"
        "{% if add_generation_prompt %}A:{% endif %}"
    )
    rendered = render_template(template, [{"role": "user", "content": "é"}], {"bos_token": "<s>"})
    assert rendered == '<s>\n"é"\nA:'
