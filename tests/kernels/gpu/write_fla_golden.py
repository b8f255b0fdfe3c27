"""Writes fla_naive.npz: fla's own naive recurrence on inputs drawn by numpy.

Run it where flash-linear-attention is installed (0.6.0 wrote the file that is committed):
`python tests/kernels/gpu/write_fla_golden.py`. fla need not be where the tests run.
"""

from pathlib import Path

import numpy as np
import torch
from fla.ops.kda.naive import naive_chunk_kda, naive_recurrent_kda

T, H, K, V = 64, 2, 16, 24


def main() -> None:
    random = np.random.default_rng(0)
    q, k = random.standard_normal((2, T, H, K))
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    arrays = {
        "q": q * K**-0.5,
        "k": k,
        "v": random.standard_normal((T, H, V)),
        "g": -2 * random.random((T, H, K)) ** 2,
        "beta": random.random((T, H)),
        "state": random.standard_normal((1, H, K, V)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tokens = [tensors[name][None] for name in ("q", "k", "v", "g", "beta")]
    options = {"scale": 1.0, "initial_state": tensors["state"], "output_final_state": True}
    for name, function in (("recurrent", naive_recurrent_kda), ("chunk", naive_chunk_kda)):
        out, state = function(*tokens, **options)
        arrays |= {f"{name}_out": out[0].numpy(), f"{name}_state": state.numpy()}
    np.savez_compressed(Path(__file__).with_name("fla_naive.npz"), **arrays)


if __name__ == "__main__":
    main()
