"""The platform that a program is traced for, and the dtype of its sums.

Ops choose their form by the platform. JAX knows only the platform of this
machine, but a program for a TPU may be traced and compiled without one.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

_TRACED_FOR: contextvars.ContextVar[str | None] = contextvars.ContextVar(
  "traced_for", default=None
)
_CAPABILITY: contextvars.ContextVar[int] = contextvars.ContextVar(
  "capability", default=0
)
_KERNELS: contextvars.ContextVar[bool] = contextvars.ContextVar(
  "kernels", default=True
)
_IN_KERNEL: contextvars.ContextVar[bool] = contextvars.ContextVar(
  "in_kernel", default=False
)


def platform() -> str:
  """Returns "cpu", "gpu" or "tpu": that of `trace_for`, or JAX's default."""
  return _TRACED_FOR.get() or jax.default_backend()


def masked_block(size: int, exact: bool = False) -> int:
  """Tokens per block that a ladder over a chunk of `size` handles by masks.

  A masked round computes all pairs of a block in one product, also pairs that
  it does not need. On a TPU the block is the whole chunk: its matrix unit
  multiplies 128 x 128 at once, and arrays of small blocks fill few of its
  lanes. A CPU is faster with blocks of 8 in the first rounds and pairs of
  blocks in the others. A GPU launches fewer kernels with whole chunks, but has
  no fast unit for exact products.

  Args:
    size: C.
    exact: whether the products are of the highest precision.
  """
  whole = {"cpu": False, "tpu": True}.get(platform(), not exact)
  return size if whole else min(size, 8)


def cudnn_head_width() -> int:
  """The widest heads that cuDNN's fused attention takes, or 0 without it.

  0 on any platform but an NVIDIA GPU of this machine with bfloat16 products:
  JAX needs the GPU to check what its cuDNN can do, so a program that is
  compiled ahead of time for a GPU has no call of cuDNN.
  """
  generation = _capability_here() if platform() == "gpu" else 0
  return {8: 128}.get(generation, 256 if generation > 8 else 0)


def has_wgmma() -> bool:
  """Whether the program is for an NVIDIA GPU with wgmma: H100, H200.

  That is the GPU of this machine, or the one that `trace_for` names.
  """
  if _TRACED_FOR.get():
    return _CAPABILITY.get() == 9
  return _capability_here() == 9


def _capability_here() -> int:
  """The compute capability of this machine's NVIDIA GPU, such as 9, or 0."""
  here: Any = jax.config.values["jax_default_device"]
  other = here is not None and getattr(here, "platform", here) != "gpu"
  if jax.default_backend() != "gpu" or other:
    return 0
  device = jax.local_devices()[0]
  if "cuda" not in device.client.platform_version:
    return 0
  return int(device.compute_capability.split(".")[0])


def takes_kernels() -> bool:
  """Whether "auto" may take kernels for TPUs: on a TPU, see `trace_for`."""
  return platform() == "tpu" and _KERNELS.get()


def in_kernel() -> bool:
  """Whether this is the body of a Pallas kernel, whose compiler knows less."""
  return _IN_KERNEL.get()


@contextlib.contextmanager
def trace_for(
  name: str,
  in_kernel: bool = False,
  capability: int = 0,
  kernels: bool = True,
) -> Iterator[None]:
  """Traces for another platform than JAX's default.

  JAX's cache of traced functions does not distinguish these platforms: lower a
  new function inside the context, not one that was traced before.

  Args:
    name: "cpu", "gpu" or "tpu".
    in_kernel: see the function of this name.
    capability: the compute capability of an NVIDIA GPU, such as 9 of an H100.
      With 0 the program suits any GPU.
    kernels: whether "auto" may take kernels for TPUs.
  """
  values: dict[contextvars.ContextVar[Any], Any] = {
    _TRACED_FOR: name,
    _IN_KERNEL: in_kernel,
    _CAPABILITY: capability,
    _KERNELS: kernels,
  }
  tokens = [(variable, variable.set(x)) for variable, x in values.items()]
  try:
    yield
  finally:
    for variable, token in tokens:
      variable.reset(token)


def wide(*arrays: Any) -> Any:
  """The common dtype of the arrays, at least float32 (or complex64)."""
  with jax.numpy_dtype_promotion("standard"):  # Intended, even under "strict".
    dtype = jnp.result_type(*arrays)
    return jnp.promote_types(dtype, jnp.float32)
