"""Sessions: where a prompt is prefilled and why, what falls back, and what is an error."""

import asyncio
import threading

import pytest
from counting_engine import CountingEngine, Letters
from loopback_cloud import random_state
from prefill_cloud import PrefillCloudError, Route
from prefill_cloud.clock import Clock
from prefill_cloud.errors import DeadlineExceededError, InvalidRequestError
from prefill_cloud.pace import Pace
from prefill_cloud.session import AsyncSession
from prefill_wire.status import STATUS_TABLE, Disposition, StatusCode

PROMPT = list(range(100, 112))
ANSWER = [12, 13, 14, 15]
FAILURES = [code for code in StatusCode if code is not StatusCode.OK]
FALLING = [c for c in FAILURES if STATUS_TABLE[c].disposition is Disposition.FALLBACK]
ERRORS = [c for c in FAILURES if STATUS_TABLE[c].disposition is Disposition.ERROR]


class FrozenTime:
    """A clock that stands until it is set forward."""

    def __init__(self):
        self.now = 1000.0

    async def sleep(self, seconds):
        self.now += seconds

    def clock(self):
        return Clock(monotonic=lambda: self.now, sleep=self.sleep)


async def generate(client, engine, prompt=PROMPT, **options):
    options = {"max_new_tokens": 4, **options}
    return await client.session(engine).generate(prompt, **options)


async def test_a_long_prompt_is_prefilled_by_the_cloud(cloud, connect):
    engine = CountingEngine()
    async with connect(cloud) as client:
        result = await generate(client, engine)
    assert (result.route, result.tokens, result.finish_reason) == (Route.CLOUD, ANSWER, "length")
    assert result.request_id == result.receipt.request_id == cloud.only.accept.request_id
    assert (result.bytes_raw, result.amount_micros) == (result.receipt.state_bytes_raw, 7)
    assert result.bytes_sent > 0
    assert result.fallback_code is None
    assert engine.calls == ["load", "close"]
    for key, array in random_state(PROMPT).items():
        assert engine.loaded.tensors[key].tobytes() == array.tobytes()


async def test_the_timeline_names_every_span_in_ms(cloud, connect):
    async with connect(cloud) as client:
        times = (await generate(client, CountingEngine())).timeline.as_ms()
    wanted = {"queue", "prefill", "encode", "wire", "open", "load", "first_token"}
    assert wanted <= times.keys()
    assert (times["queue"], times["prefill"], times["encode"]) == (1.0, 2.0, 3.0)
    assert all(times[name] > 0 for name in ("handshake", "open", "claim", "load", "first_token"))
    assert times["total"] >= times["handshake"]


async def test_the_hinted_threshold_keeps_short_prompts_here(cloud, connect):
    cloud.threshold_tokens = len(PROMPT)
    cloud.faults.use_local = "12 tokens, the threshold is 12"
    async with connect(cloud) as client:
        first = await generate(client, CountingEngine())
        again = await generate(client, CountingEngine())
    assert (first.route, again.route) == (Route.LOCAL, Route.LOCAL)
    assert first.reason == "the cloud's advice: 12 tokens, the threshold is 12"
    assert again.reason == "12 uncached tokens, at most the threshold of 12"
    assert first.fallback_code is None
    assert (first.tokens, again.tokens) == (ANSWER, ANSWER)
    assert cloud.calls["Open"] == 1  # the second one was not even asked


async def test_a_hint_that_has_run_out_is_asked_for_anew(cloud, connect):
    time = FrozenTime()
    async with connect(cloud, clock=time.clock()) as client:
        await client.models()
        assert client.hint.threshold_tokens() == 4
        time.now += 59.0
        assert (await generate(client, CountingEngine(), PROMPT[:4])).route is Route.LOCAL
        time.now += 2.0
        assert client.hint.threshold_tokens() == 0
        assert (await generate(client, CountingEngine(), PROMPT[:4])).route is Route.CLOUD


@pytest.mark.parametrize(("held", "route"), [(8, Route.LOCAL), (7, Route.CLOUD)])
async def test_what_the_engine_holds_counts_against_the_threshold(cloud, connect, held, route):
    engine = CountingEngine(held_tokens=held)
    async with connect(cloud) as client:
        await client.models()
        result = await generate(client, engine)
    assert result.route is route
    assert result.tokens == ANSWER
    if route is Route.CLOUD:
        assert cloud.only.opened.local_prefix_tokens == held


async def test_a_single_token_has_no_state_to_move(cloud, connect):
    async with connect(cloud) as client:
        result = await generate(client, CountingEngine(), [5])
    assert (result.route, result.tokens) == (Route.LOCAL, [1, 2, 3, 4])
    assert not cloud.calls


REFUSALS = [(call, code) for call in ("Open", "Prompt", "Claim") for code in FALLING]
REFUSALS.remove(("Claim", StatusCode.NETWORK_UNAVAILABLE))  # a claim waits for the gateway


@pytest.mark.parametrize(("call", "code"), REFUSALS)
async def test_what_the_cloud_cannot_do_is_done_here(cloud, connect, call, code):
    cloud.faults.refuse[call] = code
    engine = CountingEngine()
    async with connect(cloud) as client:
        result = await generate(client, engine)
    assert (result.route, result.tokens) == (Route.LOCAL, ANSWER)
    assert result.fallback_code is code
    assert result.reason == f"{code}: refused with {code}."
    assert result.request_id == ("" if call == "Open" else cloud.only.accept.request_id)
    assert (result.receipt, result.bytes_sent, result.amount_micros) == (None, 0, 0)
    assert engine.calls == ["open", "prefill", "prefill", "prefill", "close"]


@pytest.mark.parametrize("code", ERRORS)
async def test_what_the_caller_has_to_mend_is_an_error(cloud, connect, code):
    cloud.faults.refuse["Open"] = code
    engine = CountingEngine()
    async with connect(cloud) as client:
        with pytest.raises(PrefillCloudError) as caught:
            await generate(client, engine)
    assert caught.value.code is code
    assert engine.calls == []


@pytest.mark.parametrize("code", FAILURES)
async def test_without_fallback_every_refusal_is_raised(cloud, connect, code):
    cloud.faults.refuse["Open"] = code
    async with connect(cloud, fallback="never") as client:
        with pytest.raises(PrefillCloudError) as caught:
            await generate(client, CountingEngine())
    assert caught.value.code is code


async def test_a_changed_state_never_reaches_the_engine(cloud, connect):
    cloud.faults.flip = 3
    engine = CountingEngine()
    async with connect(cloud) as client:
        result = await generate(client, engine)
    assert (result.route, result.fallback_code) == (Route.LOCAL, StatusCode.INTEGRITY_FAILURE)
    assert result.tokens == ANSWER
    assert "load" not in engine.calls


async def test_no_network_is_an_outage(cloud, connect):
    cloud.faults.unavailable["Open"] = 99
    async with connect(cloud) as client:
        result = await generate(client, CountingEngine())
    assert (result.route, result.fallback_code) == (Route.LOCAL, StatusCode.NETWORK_UNAVAILABLE)


async def test_local_prefill_begins_while_there_is_time_for_it(cloud, connect):
    """Nothing is measured yet, so half of the deadline is kept: the cloud gets 0.2 s here."""
    cloud.faults.hold_chunks = asyncio.Event()
    async with connect(cloud) as client:
        result = await generate(client, CountingEngine(), deadline_seconds=0.4)
    assert (result.route, result.fallback_code) == (Route.LOCAL, StatusCode.DEADLINE_EXCEEDED)
    assert result.request_id == cloud.only.accept.request_id
    assert result.tokens == ANSWER
    assert 0 < cloud.only.opened.deadline_ms <= 200


async def test_the_measured_pace_decides_when(cloud, connect):
    time = FrozenTime()
    engine = CountingEngine(clock=time)
    engine.seconds_a_step = 1.0  # 4 tokens a second
    cloud.faults.refuse["Open"] = StatusCode.CAPACITY_EXHAUSTED
    async with connect(cloud, clock=time.clock()) as client:
        session = client.session(engine)
        assert (await session.generate(PROMPT, max_new_tokens=1)).tokens == [12]
        cloud.faults.refuse.clear()
        await session.generate(PROMPT, max_new_tokens=1, deadline_seconds=10.0)
    # 11 tokens at 3.9 a second (the last step was shorter), and a fifth more: 3.4 s are kept
    assert 6_400 < cloud.only.opened.deadline_ms < 6_700


async def test_local_prefill_ends_at_the_deadline_too(cloud, connect):
    time = FrozenTime()
    engine = CountingEngine(clock=time)
    engine.seconds_a_step = 10.0
    cloud.faults.refuse["Open"] = StatusCode.WORKER_LOST
    async with connect(cloud, clock=time.clock()) as client:
        with pytest.raises(DeadlineExceededError, match="8 of 11 tokens"):
            await generate(client, engine, deadline_seconds=15.0)
    assert engine.calls == ["open", "prefill", "prefill", "close"]


def test_the_reserve():
    pace = Pace()
    assert pace.reserve_seconds(1000, 60.0) == 30.0  # unknown: half
    pace.measured(100, 1.0)
    assert pace.reserve_seconds(1000, 60.0) == pytest.approx(12.0)
    assert pace.reserve_seconds(100_000, 60.0) == 0.0  # hopeless here: all for the cloud
    pace.measured(200, 1.0)
    assert pace.reserve_seconds(1000, 60.0) == pytest.approx(1200 / 130)


async def test_text_and_messages_are_tokenized_by_the_engines_vocabulary(cloud, connect):
    engine = CountingEngine(vocabulary=Letters())
    async with connect(cloud) as client:
        text = await generate(client, engine, "hello")
        assert list(cloud.only.tokens) == [ord(c) for c in "hello"]
        chat = await generate(client, engine, [{"role": "user", "content": "hi"}])
    assert (text.prompt_tokens, chat.prompt_tokens) == (5, 8)
    assert text.text == "\x05\x06\x07\x08"


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        ("text", {}, "has no tokenizer"),
        ([{"role": "user", "content": "hi"}], {}, "has no tokenizer"),
        (PROMPT, {"stop": "end"}, "has no tokenizer"),
        ([], {}, "0 tokens"),
        (PROMPT, {"max_new_tokens": 0}, "max_new_tokens is 0"),
        (PROMPT, {"max_new_tokens": 9_999}, "12 prompt tokens and 9999 new ones"),
        (PROMPT, {"temperature": -1.0}, "temperature is -1.0"),
        (PROMPT, {"top_p": 0.0}, "top_p is 0.0"),
        (PROMPT, {"seed": -1}, "seed is -1"),
        (PROMPT, {"deadline_seconds": 0.0}, "deadline_seconds is 0.0"),
        (PROMPT, {"deadline_seconds": float("inf")}, "deadline_seconds is inf"),
    ],
)
async def test_a_wrong_wish_is_an_error_before_any_call(cloud, connect, prompt, options, words):
    engine = CountingEngine()
    async with connect(cloud) as client:
        with pytest.raises(InvalidRequestError, match=words):
            await generate(client, engine, prompt, **options)
    assert engine.calls == []
    assert not cloud.calls


@pytest.mark.parametrize(
    ("stop", "tokens", "text"),
    [
        ((), [104, 105, 33, 106, 0], "hi!j"),
        ("!", [104, 105, 33], "hi"),
        (["i!"], [104, 105, 33], "h"),
        (["i?", "xyz"], [104, 105, 33, 106, 0], "hi!j"),
        ([33], [104, 105, 33], "hi"),
    ],
)
async def test_stops(cloud, connect, stop, tokens, text):
    engine = CountingEngine(vocabulary=Letters())
    engine.script = [104, 105, 33, 106, 0, 107]
    async with connect(cloud) as client:
        result = await generate(client, engine, "prompt", max_new_tokens=6, stop=stop)
    assert (result.tokens, result.text, result.finish_reason) == (tokens, text, "stop")


async def test_the_stream_gives_the_same_as_the_whole(cloud, connect):
    engine = CountingEngine(vocabulary=Letters())
    engine.script = [104, 105, 33, 106]
    async with connect(cloud) as client:
        session = client.session(engine)
        whole = await session.generate("prompt", max_new_tokens=4, stop="jump")
        stream = session.stream("prompt", max_new_tokens=4, stop="jump")
        with pytest.raises(PrefillCloudError, match="no result"):
            _ = stream.result
        pieces = [piece async for piece in stream]
    assert [piece.token for piece in pieces] == [104, 105, 33, 106, None]
    assert [piece.text for piece in pieces] == ["h", "i", "!", "", "j"]
    assert stream.result.text == whole.text == "hi!j"
    assert engine.sequences == {}


async def test_a_stream_left_early_frees_its_sequence(cloud, connect):
    engine = CountingEngine()
    async with connect(cloud) as client:
        async with client.session(engine).stream(PROMPT, max_new_tokens=50) as stream:
            async for piece in stream:
                assert engine.sequences  # the twin: it is open until the stream is left
                assert piece.token == 12
                break
        assert engine.sequences == {}


async def test_a_cancelled_local_prefill_frees_its_sequence(cloud, connect):
    engine = CountingEngine()
    cloud.faults.refuse["Open"] = StatusCode.WORKER_LOST
    loop, stepping = asyncio.get_running_loop(), asyncio.Event()
    engine.before_step = lambda: loop.call_soon_threadsafe(stepping.set)
    async with connect(cloud) as client:
        task = asyncio.create_task(generate(client, engine, list(range(5_000))))
        await stepping.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.sequences == {}
    assert engine.calls.count("prefill") < 1_249


@pytest.mark.parametrize("route", [Route.CLOUD, Route.LOCAL])
async def test_a_sequence_that_opens_while_its_caller_leaves_is_freed(cloud, connect, route):
    engine, opening, go_on = CountingEngine(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def wait():
        loop.call_soon_threadsafe(opening.set)
        go_on.wait()

    engine.before_open = wait
    if route is Route.LOCAL:
        cloud.faults.refuse["Open"] = StatusCode.WORKER_LOST
    async with connect(cloud) as client:
        session = client.session(engine)
        task = asyncio.create_task(session.generate(PROMPT, max_new_tokens=4))
        await opening.wait()
        task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await session._thread.call(lambda: None)  # after all that the thread still had to do
        assert engine.calls == ["load" if route is Route.CLOUD else "open", "close"]
        assert engine.sequences == {}


async def test_generations_of_one_session_run_at_the_same_time(cloud, connect):
    async with connect(cloud) as client:
        session = client.session(CountingEngine())
        asked = [session.generate(PROMPT[:n], max_new_tokens=3) for n in (5, 6, 7)]
        results = await asyncio.gather(*asked)
    assert [r.tokens for r in results] == [[5, 6, 7], [6, 7, 8], [7, 8, 9]]


async def test_a_session_without_a_cloud_prefills_here():
    async with AsyncSession(None, CountingEngine()) as session:
        result = await session.generate(PROMPT, max_new_tokens=4)
    assert (result.route, result.tokens) == (Route.LOCAL, ANSWER)
    assert result.reason == "this session has no cloud"


async def test_an_engine_that_stops_in_its_own_way_is_an_error_not_a_wait():
    engine = CountingEngine()
    engine.before_step = lambda: next(iter(()))
    async with AsyncSession(None, engine) as session:
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            await session.generate(PROMPT, max_new_tokens=4)
    assert engine.sequences == {}
