"""More cases of `benchmarks.peers`: the ops behind further mixers.

Every peer has a cost that grows linearly with the length. Peers of the same op
that loop over tokens in Python, or make an [L, L] matrix, are left out.
"""

import functools
import importlib
import math

from benchmarks.peers_cases import CHUNK, HEADS, WIDTH, Case, delta, qkv
from jaxmodels import ops

KERNEL, CHANNELS = 4, 256  # Of the short convolution.


# Inputs.


def ungated_delta(rng, batch, length):
  """The delta rule without a decay."""
  drawn = delta(rng, batch, length)
  drawn.pop("log_decay")
  return drawn


def delta_per_key(rng, batch, length):
  """One decay per key channel."""
  decay = -0.1 * rng.exponential(size=(batch, length, HEADS, WIDTH))
  return delta(rng, batch, length) | {"log_decay": decay}


def rwkv6(rng, batch, length):
  """Linear attention with a decay per key channel, and a bonus."""
  decay = -0.1 * rng.exponential(size=(batch, length, HEADS, WIDTH))
  bonus = rng.standard_normal((HEADS, WIDTH))
  return qkv(rng, batch, length) | {"log_decay": decay, "bonus": bonus}


def convolution(rng, batch, length):
  """Inputs and taps per channel."""
  return {
    "x": rng.standard_normal((batch, length, CHANNELS)),
    "kernel": rng.standard_normal((KERNEL, CHANNELS)),
  }


# PyTorch peers, uncompiled.


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
    y = functional.conv1d(x.mT, taps, padding=KERNEL - 1, groups=CHANNELS)
    return y[..., : x.shape[1]].mT

  return run


def _fla(name):
  return importlib.import_module(f"fla.ops.{name}")


def _output(op):
  """The op without its state, which the peers do not return."""
  return lambda **inputs: op(**inputs)[0]


CASES = {
  "delta rule": Case(
    ops.delta_rule, ungated_delta, {}, {"fla-core": fla_ungated_delta}
  ),
  "delta rule, decay per key": Case(
    ops.delta_rule, delta_per_key, {}, {"fla-core": fla_delta_per_key}
  ),
  "linear attention": Case(
    _output(ops.linear_attention), qkv, {}, {"fla-core": fla_linear}
  ),
  "RWKV-6": Case(
    _output(ops.linear_attention), rwkv6, {}, {"fla-core": fla_rwkv6}
  ),
  "Mesa": Case(ops.mesa, delta, {}, {"fla-core": fla_mesa}),
  "short convolution": Case(
    _output(ops.causal_convolution),
    convolution,
    {},
    {"torch": torch_convolution},
  ),
}
