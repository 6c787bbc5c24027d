"""Peers in PyTorch, uncompiled.

Every peer but softmax attention has a cost that grows linearly with the length.
Peers that loop over tokens in Python, or make an [L, L] matrix, are left out.
"""

import functools
import importlib
import inspect
import math

import numpy as np

from benchmarks.peers.draws import CONVOLVED, HEADS, KERNEL, WIDTH
from benchmarks.peers.ours import fixed_decays

CHUNK = 64


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


def fla_ungated_delta():
  """Scales q by 1/sqrt(K); the axis of heads comes first."""
  rule = _fla("delta_rule.naive").delta_rule_chunkwise

  def run(q, k, v, beta):
    q, k, v, beta = (x.transpose(1, 2) for x in (q, k, v, beta))
    y, state = rule(q * math.sqrt(WIDTH), k, v, beta, chunk_size=CHUNK)
    return y.transpose(1, 2), state

  return run


def fla_delta_per_key():
  """The plain chunk form of KDA."""
  rule = _fla("kda.naive").naive_chunk_kda

  def run(q, k, v, beta, log_decay):
    return rule(
      q, k, v, log_decay, beta, scale=1.0, output_final_state=True,
      chunk_size=CHUNK,
    )  # fmt: skip

  return run


def fla_linear():
  """Returns no state."""
  rule = _fla("linear_attn.naive").naive_chunk_linear_attn
  return functools.partial(rule, scale=1.0)


def fla_rwkv6():
  """Returns no state; the axis of heads comes first."""
  rule = _fla("rwkv6.chunk_naive").naive_chunk_rwkv6

  def run(q, k, v, log_decay, bonus):
    heads_first = (x.transpose(1, 2) for x in (q, k, v, log_decay))
    return rule(*heads_first, bonus).transpose(1, 2)

  return run


def fla_mesa():
  """Adds 1e-5 to the denominators of the conjugate gradients.

  Large queries make this negligible, and outputs are proportional to them.
  """
  rule = _fla("mesa_net.naive").naive_mesa_net_CG
  ones = importlib.import_module("torch").ones(HEADS, WIDTH)

  def run(q, k, v, beta, log_decay):
    y, H, G = rule(1e3 * q, k, v, log_decay, ones, beta, CHUNK)
    return y / 1e3, H, G

  return run


def torch_convolution():
  """A convolution by channel, after zeros for the tokens before the first."""
  functional = importlib.import_module("torch.nn.functional")

  def run(x, kernel):
    taps = kernel.mT[:, None]
    y = functional.conv1d(x.mT, taps, padding=KERNEL - 1, groups=CONVOLVED)
    return y[..., : x.shape[1]].mT

  return run


def fla_decay_per_head():
  """Scales nothing if told so."""
  rule = _fla("simple_gla.naive").naive_chunk_simple_gla

  def run(q, k, v, log_decay=None):
    if log_decay is None:
      log_decay = q.new_tensor(np.asarray(fixed_decays())).expand(q.shape[:3])
    return rule(
      q, k, v, log_decay, output_final_state=True, chunk_size=CHUNK, scale=1.0
    )

  return run


def fla_dplr():
  """Scales q by 1/sqrt(K); the axis of heads comes first."""
  rule = _fla("generalized_delta_rule.dplr.naive").dplr_chunkwise

  def run(q, k, v, a, b, log_decay):
    tokens = q * math.sqrt(WIDTH), k, v, b, a, log_decay
    y, state = rule(*(x.transpose(1, 2) for x in tokens), chunk_size=CHUNK)
    return y.transpose(1, 2), state

  return run


def _transformers(model, function):
  """A function of transformers, without its dispatch to GPU kernels."""
  name = f"transformers.models.{model}.modeling_{model}"
  return inspect.unwrap(getattr(importlib.import_module(name), function))


def _fla(name):
  return importlib.import_module(f"fla.ops.{name}")
