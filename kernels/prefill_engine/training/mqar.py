"""Multi-query associative recall: pairs of key and value, then every key asked again.

A sequence is `bos k1 v1 ... kP vP | q1 a1 ... qP aP`. The part before the bar is the prompt, every
query follows with its answer so that a query is always read in the same surroundings. The model's
only attention layer comes first, where a token knows nothing of its neighbours: the pairs can only
be kept in the KDA layers' state, so recall measures that state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

KEYS = 64
VALUES = 128
PAD, BOS, EOS = 0, 1, 2
FIRST_KEY = 3
FIRST_VALUE = FIRST_KEY + KEYS
VOCAB = FIRST_VALUE + VALUES


class RecallBatch(NamedTuple):
    """Token ids of N sequences over P pairs, and where the answers are to be predicted."""

    tokens: NDArray[np.int64]  # [N, 1 + 4 P]
    query_positions: NDArray[np.int64]  # [P], the same in every sequence
    answers: NDArray[np.int64]  # [N, P], the token after each query position
    prompt_tokens: int  # 1 + 2 P: the pair section, what a prefill is given


def recall_batch(seed: int, n_sequences: int, n_pairs: int) -> RecallBatch:
    """Draw sequences of distinct keys with values drawn freely; equal seeds give equal batches."""
    if not 1 <= n_pairs <= KEYS:
        raise ValueError(f"n_pairs must be 1 to {KEYS}, got {n_pairs}")
    random = np.random.default_rng(seed)
    order = random.random((n_sequences, KEYS)).argsort(axis=1)[:, :n_pairs]
    keys = FIRST_KEY + order
    values = FIRST_VALUE + random.integers(0, VALUES, (n_sequences, n_pairs))
    asked = random.random((n_sequences, n_pairs)).argsort(axis=1)
    queries = np.take_along_axis(keys, asked, axis=1)
    answers = np.take_along_axis(values, asked, axis=1)
    prompt = 1 + 2 * n_pairs
    tokens = np.full((n_sequences, 1 + 4 * n_pairs), BOS, dtype=np.int64)
    tokens[:, 1:prompt:2], tokens[:, 2:prompt:2] = keys, values
    tokens[:, prompt::2], tokens[:, prompt + 1 :: 2] = queries, answers
    return RecallBatch(tokens, prompt + 2 * np.arange(n_pairs), answers, prompt)
