"""The cases of `benchmarks.peers`: an op, its inputs, and its peers.

A peer is a function without arguments that imports another implementation
and returns it as a function of the op's inputs. `tests/peers` compares the same
functions with every form of the ops, and explains different conventions.
"""

import importlib
import importlib.util
import inspect
import math
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels import ops

HEADS, WIDTH, CHUNK = 4, 64, 64
CHANNELS = 1024  # Of the diagonal recurrence.
INNER, STATES = 256, 16  # Of the selective scan: D and N.


class Case(NamedTuple):
  """One op and its peers.

  Attributes:
    op: `(**inputs) -> outputs`, a pytree of arrays.
    inputs: `(rng, batch, length) -> dict` of float32 arrays.
    jax_peers: by name, `() -> function`; the function takes JAX arrays.
    torch_peers: the same for PyTorch tensors.
  """

  op: Callable[..., Any]
  inputs: Callable[[np.random.Generator, int, int], dict[str, np.ndarray]]
  jax_peers: dict[str, Callable[[], Callable]]
  torch_peers: dict[str, Callable[[], Callable]]


# Inputs.


def qkv(rng, batch, length):
  """Normal q and v; keys k of norm 1."""
  q, k, v = rng.standard_normal((3, batch, length, HEADS, WIDTH))
  k /= np.linalg.norm(k, axis=-1, keepdims=True)
  return {"q": q, "k": k, "v": v}


def delta(rng, batch, length):
  """Adds beta in [0, 1] and decays that remember about ten tokens."""
  shape = batch, length, HEADS
  return qkv(rng, batch, length) | {
    "beta": rng.uniform(size=shape),
    "log_decay": -0.1 * rng.exponential(size=shape),
  }


def mamba2(rng, batch, length):
  """Draws dt before its softplus, near Mamba-2's initial 0.01."""
  x, B, C = rng.standard_normal((3, batch, length, HEADS, WIDTH))
  dt = rng.standard_normal((batch, length, HEADS)) - 4.6
  return {"x": x, "dt": dt, "A": -np.arange(1.0, HEADS + 1), "B": B, "C": C}


def gates(rng, batch, length):
  """Adds the gates of the mLSTM."""
  i, f = rng.standard_normal((2, batch, length, HEADS))
  return qkv(rng, batch, length) | {
    "log_input_gate": i,
    "log_forget_gate": -np.logaddexp(0, -3 - f),
  }


def diagonal(rng, batch, length):
  """The initial decays of an RG-LRU."""
  shape = (batch, length, CHANNELS)
  return {"a": rng.uniform(0.9, 0.999, shape), "b": rng.standard_normal(shape)}


def selective(rng, batch, length):
  """The inputs of Mamba, with its initial A."""
  x = rng.standard_normal((batch, length, INNER))
  B, C = rng.standard_normal((2, batch, length, STATES))
  return {
    "x": x,
    "dt": np.exp(rng.uniform(math.log(1e-3), math.log(0.1), x.shape)),
    "A": -np.tile(np.arange(1.0, STATES + 1), (INNER, 1)),
    "B": B,
    "C": C,
    "D": np.ones(INNER),
  }


# JAX peers.


def ejkernel_delta():
  """Scales q by 1/sqrt(K)."""
  rule = _ejkernel("gated_delta_rule").gated_delta_rule

  def run(q, k, v, beta, log_decay):
    return rule(
      q * math.sqrt(WIDTH), k, v, beta, log_decay, chunk_size=CHUNK,
      use_qk_l2norm=False,
    )  # fmt: skip

  return run


def duality(x, dt, A, B, C):
  """Mamba-2 as our linear attention."""
  dt = jax.nn.softplus(dt)
  return ops.linear_attention(C, B, dt[..., None] * x, dt * A[None, None])


def ejkernel_duality():
  """Takes dt after its softplus; the state is the transpose of ours."""
  scan = _ejkernel("state_space_v2").state_space_v2

  def run(x, dt, A, B, C):
    y, state, _ = scan(
      x, A, B, C, jnp.zeros(HEADS), jax.nn.softplus(dt), n_groups=HEADS
    )
    return y.reshape(x.shape), state.mT

  return run


def mamba2_jax_duality():
  """The state is the transpose of ours."""
  ssd = importlib.import_module("mamba2_jax.modeling").ssd_forward

  def run(x, dt, A, B, C):
    y, state = ssd(
      x, dt, A, B, C, CHUNK, jnp.zeros(HEADS), jnp.zeros(HEADS), 0.0, jnp.inf,
      return_final_states=True,
    )  # fmt: skip
    return y, state.mT

  return run


def ejkernel_selective():
  """The same arguments in another order."""
  scan = _ejkernel("state_space_v1").state_space_v1
  return lambda x, dt, A, B, C, D: scan(x, A, B, C, D, dt)[:2]


def recurrentgemma(kind):
  """The scan of RG-LRU."""

  def load():
    # It checks types by a typeguard before 4, which tyro does not take.
    with mock.patch("typeguard.typechecked", lambda function: function):
      common = importlib.import_module("recurrentgemma.common")
      scan = importlib.import_module("recurrentgemma.jax.scan").linear_scan
    return lambda a, b: scan(b, a, scan_type=common.ScanType[kind])

  return load


def mlstm_chunkwise():
  """Scales q by 1/sqrt(K); the forget gate before its sigmoid."""
  if importlib.util.find_spec("jax_triton") is None:
    # Other kernels, for GPUs, import it; this one does not use it.
    sys.modules.setdefault("jax_triton", types.ModuleType("jax_triton"))
  name = "mlstm_kernels.jax.chunkwise.native"
  kernel = importlib.import_module(name).mlstm_chunkwise__native_autograd

  def run(q, k, v, log_input_gate, log_forget_gate):
    f = log_forget_gate - jnp.log(-jnp.expm1(log_forget_gate))
    tokens = q * math.sqrt(WIDTH), k, v, log_input_gate, f
    y, state = kernel(
      *(jnp.swapaxes(x, 1, 2) for x in tokens), return_last_states=True,
      eps=0.0, chunk_size=CHUNK,
    )  # fmt: skip
    return jnp.swapaxes(y, 1, 2), state

  return run


def _ejkernel(name):
  return importlib.import_module(f"ejkernel.kernels._xla.{name}")


# PyTorch peers, uncompiled.


def fla_delta():
  """The plain chunk form of flash-linear-attention."""
  fla = importlib.import_module("fla.ops.gated_delta_rule.naive")

  def run(q, k, v, beta, log_decay):
    return fla.naive_chunk_gated_delta_rule(
      q, k, v, g=log_decay, beta=beta, chunk_size=CHUNK, scale=1.0,
      output_final_state=True,
    )  # fmt: skip

  return run


def transformers_delta():
  """Qwen3-Next's; scales q by 1/sqrt(K)."""
  rule = _transformers("qwen3_next", "torch_chunk_gated_delta_rule")

  def run(q, k, v, beta, log_decay):
    return rule(
      q * math.sqrt(WIDTH), k, v, log_decay, beta, chunk_size=CHUNK,
      output_final_state=True,
    )  # fmt: skip

  return run


def fla_duality():
  """Linear attention with a decay per head, like our op."""
  fla = importlib.import_module("fla.ops.simple_gla.naive")
  softplus = importlib.import_module("torch.nn.functional").softplus

  def run(x, dt, A, B, C):
    dt = softplus(dt)
    return fla.naive_chunk_simple_gla(
      C, B, dt[..., None] * x, dt * A, output_final_state=True,
      chunk_size=CHUNK, scale=1.0,
    )  # fmt: skip

  return run


def transformers_duality():
  """Mamba-2's; the state is the transpose of ours."""
  scan = _transformers("mamba2", "mamba2_chunk_scan")

  def run(x, dt, A, B, C):
    y, state = scan(
      x, dt, A, B, C, CHUNK, dt_softplus=True, return_final_states=True
    )
    return y, state.mT

  return run


def mlstm_chunkwise_torch():
  """As `mlstm_chunkwise`, but its m has another axis."""
  name = "mlstm_kernels.torch.chunkwise.native.fwbw"
  kernel = importlib.import_module(name).mlstm_chunkwise__native_autograd
  torch = importlib.import_module("torch")

  def run(q, k, v, log_input_gate, log_forget_gate):
    f = log_forget_gate - torch.log(-torch.expm1(log_forget_gate))
    tokens = q * math.sqrt(WIDTH), k, v, log_input_gate, f
    y, (S, z, m) = kernel(
      *(x.transpose(1, 2) for x in tokens), return_last_states=True, eps=0.0,
      chunk_size=CHUNK,
    )  # fmt: skip
    return y.transpose(1, 2), (S, z, m[..., 0])

  return run


def torch_attention():
  """Scales q by 1/sqrt(K); the axis of heads comes first."""
  functional = importlib.import_module("torch.nn.functional")

  def run(q, k, v):
    y = functional.scaled_dot_product_attention(
      *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True, scale=1.0
    )
    return y.transpose(1, 2)

  return run


def _transformers(model, function):
  """A function of transformers, without its dispatch to GPU kernels."""
  name = f"transformers.models.{model}.modeling_{model}"
  return inspect.unwrap(getattr(importlib.import_module(name), function))


CASES = {
  "gated delta rule": Case(
    ops.delta_rule,
    delta,
    {"ejkernel": ejkernel_delta},
    {"fla-core": fla_delta, "transformers": transformers_delta},
  ),
  "state-space duality": Case(
    duality,
    mamba2,
    {"ejkernel": ejkernel_duality, "mamba2-jax": mamba2_jax_duality},
    {"fla-core": fla_duality, "transformers": transformers_duality},
  ),
  "diagonal recurrence": Case(
    ops.diagonal_recurrence,
    diagonal,
    {
      "recurrentgemma, linear": recurrentgemma("LINEAR_NATIVE"),
      "recurrentgemma, associative": recurrentgemma("ASSOCIATIVE_NATIVE"),
    },
    {},
  ),
  # Without the one of transformers: a Python loop, whose gradient takes time
  # quadratic in the length.
  "selective scan": Case(
    ops.selective_scan, selective, {"ejkernel": ejkernel_selective}, {}
  ),
  "mLSTM": Case(
    ops.normalized_linear_attention,
    gates,
    {"mlstm_kernels": mlstm_chunkwise},
    {"mlstm_kernels, torch": mlstm_chunkwise_torch},
  ),
  "softmax attention": Case(
    lambda **inputs: ops.attention(**inputs)[0],
    qkv,
    {},
    {"torch": torch_attention},
  ),
}
