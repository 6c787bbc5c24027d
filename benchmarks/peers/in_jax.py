"""Peers in JAX, except jax-linear-attention, which is in `jla.py`.

A peer is a function without arguments that imports another implementation and
returns it as a function of the op's inputs. `tests/peers` compares some of
them with every form of the ops, and explains different conventions.
"""

import functools
import importlib
import importlib.util
import math
import sys
import types
from unittest import mock

import jax
import jax.numpy as jnp

from benchmarks.peers import draws, ours

CHUNK = 64
LOWEST = -5.0  # The log decay that tokamax's gate reaches.


def ejkernel_delta():
  """Scales q by 1/sqrt(K)."""
  rule = _ejkernel("gated_delta_rule").gated_delta_rule

  def run(q, k, v, beta, log_decay):
    return rule(
      q * math.sqrt(draws.WIDTH), k, v, beta, log_decay, chunk_size=CHUNK,
      use_qk_l2norm=False,
    )  # fmt: skip

  return run


def ejkernel_duality():
  """Takes dt after its softplus; the state is the transpose of ours."""
  scan = _ejkernel("state_space_v2").state_space_v2

  def run(x, dt, A, B, C):
    y, state, _ = scan(
      x,
      A,
      B,
      C,
      jnp.zeros(draws.HEADS),
      jax.nn.softplus(dt),
      n_groups=B.shape[2],
    )
    return y.reshape(x.shape), state.mT

  return run


def mamba2_jax_duality():
  """The state is the transpose of ours."""
  ssd = importlib.import_module("mamba2_jax.modeling").ssd_forward
  none = jnp.zeros(draws.HEADS)  # No bias of dt, and no skip.

  def run(x, dt, A, B, C):
    y, state = ssd(
      x, dt, A, B, C, CHUNK, none, none, 0.0, jnp.inf, return_final_states=True
    )  # fmt: skip
    return y, state.mT

  return run


def of_groups(load):
  """For peers that take B and C per head: repeats those of a group."""

  def loaded():
    run = load()

    def repeated(x, dt, A, B, C):
      B, C = (jnp.repeat(y, x.shape[2] // y.shape[2], 2) for y in (B, C))
      return run(x, dt, A, B, C)

    return repeated

  return loaded


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
    tokens = q * math.sqrt(draws.WIDTH), k, v, log_input_gate, f
    y, state = kernel(
      *(jnp.swapaxes(x, 1, 2) for x in tokens), return_last_states=True,
      eps=0.0, chunk_size=CHUNK,
    )  # fmt: skip
    return jnp.swapaxes(y, 1, 2), state

  return run


def mamba3_jax():
  """Sums of both weights of a write; the state is the transpose of ours."""
  scan = importlib.import_module("mamba3_jax.modeling").ssd_forward

  def run(C, B, x, log_decay, own, other):
    C, B, x = C[..., 0, :], B[..., 0, :], x[..., 0, :]
    later = jnp.pad(other[:, 1:], ((0, 0), (0, 1), (0, 0)))
    skip = own * jnp.sum(C * B, -1)
    y, state = scan(
      x, C, B, log_decay, own + later, skip, jnp.zeros(x.shape[2]), CHUNK,
      return_final_states=True,
    )  # fmt: skip
    return y[..., None, :], state.mT

  return run


def deltanet_tpu(kind, fallback_scan=True):
  """Its plain JAX in float32, or its kernel; it has heads of 128 only."""

  def load():
    rule = getattr(importlib.import_module("deltanet_tpu"), f"chunk_{kind}")
    names = {"log_decay": "g", "write_gate": "w"}
    if kind == "gdn2":
      names["beta"] = "b"

    def run(q, k, v, **gates):
      gates = {names.get(name, name): x for name, x in gates.items()}
      return rule(
        q, k, v, **gates, scale=1.0, output_final_state=True,
        fallback_scan=fallback_scan,
        precision="fp32" if fallback_scan else "bf16",
      )  # fmt: skip

    return run

  return load


def tokamax_delta_per_key():
  """Wants the gate before its sigmoid, and heads first."""
  kda = importlib.import_module("tokamax._src.ops.kda.api")

  def run(q, k, v, beta, log_decay):
    part = log_decay / LOWEST
    gate = jnp.log(part) - jnp.log1p(-part)
    q, k, v, beta, gate = (jnp.moveaxis(x, 2, 0) for x in (q, k, v, beta, gate))
    y, state = kda.kimi_delta_attention(
      q, k, v, gate, beta, a_log=jnp.zeros(q.shape[0]), scale=1.0,
      output_final_state=True, use_gate_in_kernel=True, lower_bound=LOWEST,
      implementation="xla_chunked",
    )  # fmt: skip
    return jnp.moveaxis(y, 0, 2), state[:, 0]

  return run


def discretax_diagonal():
  """The associative scan of its LRU."""
  module = importlib.import_module("discretax.sequence_mixers.lru")
  compose = module._binary_operator_diag

  def run(**inputs):
    elements = ours.complex_elements(**inputs)
    y = jax.lax.associative_scan(compose, elements, axis=1)[1]
    return jnp.real(y), jnp.imag(y)

  return run


def jax_attention():
  """All scores at once."""
  attend = functools.partial(jax.nn.dot_product_attention, is_causal=True)
  return lambda q, k, v: attend(q, k, v, scale=1.0)


def tokamax_attention():
  """In blocks of tokens, in plain JAX."""
  attend = importlib.import_module("tokamax").dot_product_attention

  def run(q, k, v):
    return attend(
      q, k, v, is_causal=True, scale=1.0, implementation="xla_chunked"
    )

  return run


def _ejkernel(name):
  return importlib.import_module(f"ejkernel.kernels._xla.{name}")
