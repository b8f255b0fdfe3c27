"""Plain transformers, without our kernels, in another process: what the demo compares with."""

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from prefill_stack.demo.decoding import Continuation
from prefill_stack.errors import ProcessFailed

STEP_TOKENS = 2_048
# transformers asks for hundreds of MiB anew in every layer. Kept by the allocator instead of given
# back, they cost no page faults: 18 s of 48 s for the long prompt. Its arithmetic stays its own.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(4 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
}


@dataclass(frozen=True)
class Questions:
    """The prompts of one run of the oracle, and the folder of their files."""

    folder: Path
    checkpoint: Path
    prompts: Mapping[str, Sequence[int]]
    max_new: int

    def write(self) -> None:
        """The prompts as files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, prompt in self.prompts.items():
            np.save(self.folder / f"{name}.npy", np.asarray(prompt, dtype=np.uint32))

    def command(self) -> list[str]:
        """The process: it loads the model once and answers in the order of the prompts."""
        command = [sys.executable, "-m", "prefill_stack.child", "prefill_engine.oracle"]
        command += ["--checkpoint", str(self.checkpoint)]
        for name in self.prompts:
            question, answer = (self.folder / f"{name}.{end}" for end in ("npy", "npz"))
            command += ["--question", str(question), str(answer)]
        return [*command, "--max-new", str(self.max_new), "--step", str(STEP_TOKENS)]

    def answers(self) -> dict[str, Continuation]:
        """What the oracle wrote."""
        found = {}
        for name in self.prompts:
            with np.load(self.folder / f"{name}.npz", allow_pickle=False) as answer:
                tokens = [int(t) for t in answer["tokens"]]
                found[name] = Continuation(tokens, answer["logits"])
        return found


async def ask_oracle(questions: Questions) -> dict[str, Continuation]:
    """Greedy tokens and logits of the all-local runs."""
    questions.write()
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *questions.command(),
        stdin=pipe,
        stdout=pipe,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, **KEEP_MEMORY},
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
    return questions.answers()
