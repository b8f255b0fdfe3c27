"""Plain transformers, without our kernels, in another process: what the demo compares with."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefill_stack.demo.decoding import Continuation
from prefill_stack.errors import ProcessFailed

STEP_TOKENS = 2_048


@dataclass(frozen=True)
class Question:
    """The files of one run of the oracle."""

    folder: Path
    checkpoint: Path
    max_new: int

    def write(self, prompt: Sequence[int]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(self.folder / "tokens.npy", np.asarray(prompt, dtype=np.uint32))

    def command(self) -> list[str]:
        module = ["prefill_stack.child", "prefill_engine.oracle"]
        files = ["--tokens", str(self.folder / "tokens.npy")]
        files += ["--output", str(self.folder / "answer.npz")]
        numbers = ["--max-new", str(self.max_new), "--step", str(STEP_TOKENS)]
        checkpoint = ["--checkpoint", str(self.checkpoint)]
        return [sys.executable, "-m", *module, *checkpoint, *files, *numbers]

    def answer(self) -> Continuation:
        with np.load(self.folder / "answer.npz", allow_pickle=False) as answer:
            return Continuation([int(t) for t in answer["tokens"]], answer["logits"])


async def ask_oracle(question: Question, prompt: Sequence[int]) -> Continuation:
    """Greedy tokens and logits of the all-local run."""
    question.write(prompt)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *question.command(), stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output = await process.stdout.read() if process.stdout is not None else b""
        code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code != 0:
        words = output.decode(errors="replace").strip().splitlines()[-1:]
        raise ProcessFailed(
            f"the transformers oracle stopped with exit code {code}: {' '.join(words)}",
            "run `prefill-cloud version`; transformers must be the pinned version",
        )
    return question.answer()
