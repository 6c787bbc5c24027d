"""Peers from jax-linear-attention, by the op that it chooses on a CPU.

It scales queries by 1/sqrt(K) unless told otherwise.
"""

import importlib

import jax
import jax.numpy as jnp

from benchmarks.peers import draws, ours

_GATES = {"log_decay": "g", "write_gate": "w"}


def op(kind, **names):
  """The kind of op; `names` are those of our inputs, where they differ."""
  names = _GATES | names

  def load():
    jla = importlib.import_module("jla.ops")

    def run(q, k, v, **gates):
      gates = {names.get(name, name): x for name, x in gates.items()}
      return jla.linear_attention(
        kind, q, k, v, **gates, scale=1.0, output_final_state=True
      )

    return run

  return load


def mamba1():
  """Takes C for q and B for k."""
  scan = op("mamba1")()
  return lambda x, dt, A, B, C, D: scan(C, B, x, dt=dt, a=A, d=D)


def mamba2():
  """Linear attention with a decay per head."""
  rule = op("simple_gla")()

  def run(x, dt, A, B, C):
    dt = jax.nn.softplus(dt)
    return rule(C, B, dt[..., None] * x, log_decay=dt * A[None, None])

  return run


def mamba3(rank):
  """The weight of the token before includes this token's decay."""
  rule = op("mamba3" if rank == 1 else "mamba3_mimo")()

  def run(C, B, x, log_decay, own, other):
    tokens = [y[..., 0, :] if rank == 1 else y for y in (C, B, x)]
    beta = other * jnp.exp(log_decay)
    y, state = rule(*tokens, log_decay=log_decay, beta=beta, gamma=own)
    return y[..., None, :] if rank == 1 else y, state.ssm

  return run


def hgrn2():
  """The keys are 1 minus the decays."""
  rule = op("gla")()

  def run(q, v, log_decay):
    return rule(q, -jnp.expm1(log_decay), v, log_decay=log_decay)

  return run


def linear():
  """Decays of 1; without the state."""
  rule = op("simple_gla")()

  def run(q, k, v):
    return rule(q, k, v, log_decay=jnp.zeros(q.shape[:3], q.dtype))[0]

  return run


def lightning():
  """Fixed decays per head."""
  rule = op("simple_gla")()

  def run(q, k, v):
    decay = jnp.broadcast_to(ours.fixed_decays()[None, None], q.shape[:3])
    return rule(q, k, v, log_decay=decay)

  return run


def rwkv6():
  """Without the state."""
  rule = op("rwkv6", bonus="u")()
  return lambda **inputs: rule(**inputs)[0]


def rwkv7():
  """Its a and b are our b and a."""
  rule = op("rwkv7", log_decay="w")()

  def run(q, k, v, a, b, log_decay):
    return rule(q, k, v, a=b, b=a, log_decay=log_decay)

  return run


def mlstm():
  """Without its epsilon, which ours lacks."""
  jla = importlib.import_module("jla.ops")

  def run(q, k, v, log_input_gate, log_forget_gate):
    return jla.linear_attention(
      "mlstm", q, k, v, g=log_forget_gate, i=log_input_gate, scale=1.0, eps=0.0,
      output_final_state=True,
    )  # fmt: skip

  return run


def delta_product():
  """The steps of a token are tokens of k, v and beta."""
  rule = op("gated_deltaproduct")()

  def run(q, k, v, beta, log_decay):
    k, v, beta = (x.reshape(x.shape[0], -1, *x.shape[3:]) for x in (k, v, beta))
    return rule(q, k, v, beta=beta, log_decay=log_decay)

  return run


def log_linear():
  """Without the state: it merges the levels before the next token, we after."""
  rule = op("log_linear_simple_gla", scale="level_scales")()
  return lambda **inputs: rule(**inputs)[0]


def test_time():
  """Recalls v - k, and adds q to what it returns."""
  rule = importlib.import_module("jla.ops.ttt").ttt_linear

  def run(q, k, v, rate, weight, bias, norm_scale, norm_bias):
    y, _ = rule(
      q, k, v + k, rate, ln_weight=norm_scale, ln_bias=norm_bias, w0=weight,
      b0=bias, mini_batch_size=draws.BATCH, token_scale=jnp.ones(draws.BATCH),
    )  # fmt: skip
    return y - q

  return run


def convolution():
  """Without an activation, and without the state."""
  equinox = importlib.import_module("equinox")
  layer = importlib.import_module("jla.layers.conv").ShortConv
  empty = layer(draws.CONVOLVED, draws.KERNEL, activation=False)

  def run(x, kernel):
    return equinox.tree_at(lambda one: one.weight, empty, kernel.mT)(x)[0]

  return run
