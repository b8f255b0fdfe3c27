"""`python -m prefill_kernels.native` compiles now, so that no first prefill waits for it.

Prints where the library lies or why there is none; either way all forms run, so it never fails.
"""

from prefill_kernels.native import native

found = native()
print(f"native kernels: {found.reason or found.library._name}")  # noqa: T201 - it is a command
