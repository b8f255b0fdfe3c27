"""A decode engine that counts: no model, no torch, every call is written down."""

import numpy as np
from loopback_cloud import IDENTITY, SCHEMA
from prefill_cloud.decode.engine import Handle
from prefill_cloud.decode.sampling import Sampler

VOCABULARY = 128


class Letters:
    """A vocabulary of characters; token 0 ends an answer, 200 and beyond are byte halves."""

    end_tokens = frozenset({0})

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(chr(i) for i in ids if i)

    def render(self, messages):
        return "".join(f"<{m['role']}>{m['content']}" for m in messages)


class CountingEngine:
    """The token after n tokens is n modulo the vocabulary, wherever the prompt was prefilled."""

    identity, schema = IDENTITY, SCHEMA

    def __init__(self, *, vocabulary=None, held_tokens=0, max_tokens=10_000, clock=None):
        self.vocabulary, self.held_tokens, self.max_tokens = vocabulary, held_tokens, max_tokens
        self.step_tokens, self.seconds_a_step, self._clock = 4, 0.0, clock
        self.calls, self.sequences, self.script = [], {}, None
        self.loaded = None
        self.before_step = self.before_open = lambda: None

    def prefix(self, tokens, capacity_tokens, *, exact):
        return min(self.held_tokens, len(tokens) - 1)

    def load(self, state, tokens, capacity_tokens):
        self.loaded = state
        return self._add("load", tokens, len(tokens) - 1)

    def open(self, tokens, capacity_tokens, *, exact):
        return self._add("open", tokens, self.prefix(tokens, capacity_tokens, exact=exact))

    def _add(self, call, tokens, position):
        self.before_open()
        self.calls.append(call)
        handle = Handle(len(self.calls))
        self.sequences[handle] = [len(tokens), position]
        return handle

    def prefill(self, handle):
        self.before_step()
        self.calls.append("prefill")
        count, position = self.sequences[handle]
        self.sequences[handle][1] = min(position + self.step_tokens, count - 1)
        if self._clock is not None:
            self._clock.now += self.seconds_a_step
        return self.sequences[handle][1]

    def decode(self, handle, sampling):
        count, position = self.sequences[handle]
        assert position == count - 1
        sampler = Sampler(sampling)
        for token in self.script or iter(int, 1):
            logits = np.zeros(VOCABULARY, np.float32)
            logits[token if self.script else count % VOCABULARY] = 5.0
            count += 1
            yield sampler.choose(logits)

    def close(self, handle):
        self.calls.append("close")
        del self.sequences[handle]
