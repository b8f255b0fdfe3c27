"""What dies is started again with growing patience; what is stopped stays stopped."""

import threading

import pytest
from prefill_stack.errors import StackError
from prefill_stack.platform.keeper import LONGEST_DELAY_SECONDS, Keeper, delay_seconds


class StandIn:
    """A part that a test kills, and that may refuse to start."""

    def __init__(self, name, log, refusals=0):
        self.name, self.log, self.refusals = name, log, refusals
        self.pid, self.alive = None, False
        self.fault = StackError(f"{name} does not start", "look at its log")
        self.started, self.told = threading.Event(), threading.Event()

    def start(self):
        self.log.append(("start", self.name))
        if self.refusals:
            self.refusals -= 1
            raise self.fault
        self.alive = True
        self.started.set()

    def destroy(self):
        self.log.append(("destroy", self.name))

    def stop(self):
        self.log.append(("stop", self.name))
        self.alive = False


@pytest.fixture
def story():
    return []


@pytest.fixture
def keeper():
    made = Keeper(say=lambda line: None)
    yield made
    made.stop()


def test_parts_stop_last_started_first(keeper, story):
    for name in ("a", "b", "c"):
        keeper.start(StandIn(name, story))
    keeper.stop()
    assert [entry for entry in story if entry[0] == "stop"] == [
        ("stop", "c"),
        ("stop", "b"),
        ("stop", "a"),
    ]


def test_a_first_start_that_fails_is_the_callers(keeper, story):
    with pytest.raises(StackError, match="does not start"):
        keeper.start(StandIn("a", story, refusals=1))


@pytest.mark.parametrize("fault", [None, OSError(12, "Cannot allocate memory")])
def test_what_dies_is_started_again_even_after_refusals(keeper, story, fault):
    part, other = StandIn("a", story), StandIn("b", story)
    part.fault = fault or part.fault
    keeper.start(part)
    keeper.start(other)
    keeper.keep()
    part.started.clear()
    part.refusals = 2
    part.alive = False
    assert part.started.wait(timeout=30)
    assert story.count(("start", "a")) == 4
    assert story.count(("start", "b")) == 1


def test_what_is_destroyed_is_stopped_before(keeper, story):
    keeper.start(StandIn("a", story))
    keeper.destroy()
    assert story == [("start", "a"), ("stop", "a"), ("destroy", "a")]


def test_after_stop_nothing_is_started(keeper, story):
    part = StandIn("a", story)
    keeper.start(part)
    keeper.keep()
    keeper.stop()
    assert story[-1] == ("stop", "a")
    assert not part.alive


def test_delays_grow_and_are_bounded():
    delays = [delay_seconds(n) for n in range(12)]
    assert delays == sorted(delays)
    assert delays[0] < 1 < delays[4]
    assert delays[-1] == delay_seconds(10**6) == LONGEST_DELAY_SECONDS


def test_what_was_started_again_stops_in_its_turn(keeper, story):
    """A process is told of its parent's death when the thread ends that started it."""
    first, second = StandIn("a", story), StandIn("b", story)
    starters = []

    def start():
        starters.append(threading.current_thread())
        StandIn.start(second)

    def stop():
        story.append(("lives", [thread.is_alive() for thread in starters]))
        StandIn.stop(second)

    second.start, second.stop = start, stop
    keeper.start(first)
    keeper.start(second)
    keeper.keep()
    second.started.clear()
    second.alive = False
    assert second.started.wait(timeout=30)
    keeper.stop()
    assert len(starters) == 2
    assert story[-3:] == [("lives", [True, True]), ("stop", "b"), ("stop", "a")]
