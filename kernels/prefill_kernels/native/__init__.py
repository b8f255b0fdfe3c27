"""C++ kernels, compiled for this machine at first use; callers fall back where there are none."""

from prefill_kernels.native.library import Native, native

__all__ = ["Native", "native"]
