"""What the cases time of ours, where it is more than a single op.

Every function takes `method`. With "recurrent" and float64 inputs it runs token
by token, and is what errors are measured against.
"""

import jax
import jax.numpy as jnp

from benchmarks.peers import draws
from jaxmodels import ops
from jaxmodels.mixers import mamba3 as mixer


def output(op):
  """The op without its state, which the peers do not return."""
  return lambda **inputs: op(**inputs)[0]


def mamba2(x, dt, A, B, C, method="auto"):
  """Mamba-2 as linear attention."""
  dt = jax.nn.softplus(dt)
  write = dt[..., None] * x
  return ops.linear_attention(C, B, write, dt * A[None, None], method=method)


def mamba3(C, B, x, log_decay, own, other, method="auto"):
  """The recurrence of the mixer `Mamba3`, with the states that it keeps.

  As there, linear attention writes B and x once, at the next token; the rows
  of a token are tokens of linear attention.
  """
  rank = C.shape[3]
  factor = jnp.exp(log_decay) * (_before(own) + other)
  rows = jnp.zeros((*log_decay.shape, rank - 1), log_decay.dtype)
  decays = jnp.concatenate([log_decay[..., None], rows], 3)
  write = _before(x) * factor[..., None, None]
  tokens = (C, _before(B), write, decays[..., None])
  q, k, v, g = (mixer._in_line(tensor, False) for tensor in tokens)
  y, state = ops.linear_attention(q, k, v, g[..., 0], method=method)
  y = mixer._in_rows(y, rank, False)
  if rank > 1:
    y = y + mixer._later_rows(C, _before(B), write)
  written = x * own[..., None, None]
  y = y + mixer._own(C, B, written)
  last = jnp.einsum("bhrn,bhrp->bhnp", B[:, -1], written[:, -1])
  return y, state + last


def _before(x):
  """The rows of the tokens before, and zeros for the first."""
  return jnp.pad(x, ((0, 0), (1, 0), *((0, 0),) * (x.ndim - 2)))[:, :-1]


def hgrn2(q, v, log_decay, method="auto"):
  """The keys are 1 minus the decays."""
  k = -jnp.expm1(log_decay)
  return ops.linear_attention(q, k, v, log_decay, method=method)


def lightning(q, k, v, method="auto"):
  """The fixed decays per head of RetNet and Lightning Attention."""
  decay = jnp.broadcast_to(fixed_decays(q.dtype)[None, None], q.shape[:3])
  return ops.linear_attention(q, k, v, decay, method=method)


def fixed_decays(dtype=jnp.float32):
  """The logs of RetNet's decays, [H]."""
  return jnp.log1p(-(2.0 ** (-5 - jnp.arange(draws.HEADS, dtype=dtype))))


def test_time(
  q, k, v, rate, weight, bias, norm_scale, norm_bias, method="auto"
):
  """TTT-linear; a channel of 1 has the bias as its row of the weight."""
  q, k = (jnp.pad(x, ((0, 0),) * 3 + ((0, 1),), constant_values=1)
          for x in (q, k))  # fmt: skip
  weight = jnp.concatenate([weight, bias[:, None]], 1)
  return ops.ttt_linear(
    q, k, v, rate, weight, norm_scale=norm_scale, norm_bias=norm_bias,
    mini_batch=draws.BATCH, method=method,
  )[0]  # fmt: skip


def log_linear(method="auto", **inputs):
  """Without the count of tokens of its state."""
  y, state = ops.log_linear_attention(**inputs, method=method)
  return y, state.levels


def complex_diagonal(radius, angle, real, imaginary, method="auto"):
  """The recurrence of LRU and S5: real and imaginary parts of all states."""
  a, b = complex_elements(radius, angle, real, imaginary)
  y = ops.diagonal_recurrence(a, b, method=method)[0]
  return jnp.real(y), jnp.imag(y)


def complex_elements(radius, angle, real, imaginary):
  """The factors and writes of every token, [B, L, D]."""
  a = jax.lax.complex(radius * jnp.cos(angle), radius * jnp.sin(angle))
  b = jax.lax.complex(real, imaginary)
  return jnp.broadcast_to(a[None, None], real.shape), b


def all_scores(q, k, v):
  """The formula of softmax attention, for all pairs of tokens."""
  scores = jnp.einsum("bthk,bshk->bhts", q, k)
  past = jnp.tri(q.shape[1], dtype=bool)[None, None]
  weights = jax.nn.softmax(jnp.where(past, scores, -jnp.inf))
  return jnp.einsum("bhts,bshk->bthk", weights, v)
