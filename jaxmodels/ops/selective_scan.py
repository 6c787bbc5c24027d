"""Selective scan: the state-space model of Mamba.

Every channel of x has a state of N numbers, each with its own rate of decay:
`h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t` (Gu & Dao 2023, arXiv:2312.00752).
The states of all tokens are N times as large as the sequence, so the op
computes them chunk by chunk, and recomputes them for the gradient.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops import diagonal, kernels
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.auto import choose
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.platform import platform, wide
from jaxmodels.ops.engine.recurrence import Family, Method
from jaxmodels.ops.engine.segments import joined_by_row


class Tokens(NamedTuple):
  """A chunk: x, dt [C, D], B, C [C, N]."""

  x: jax.Array
  dt: jax.Array
  B: jax.Array
  C: jax.Array


def selective_scan(
  x: jax.Array,
  dt: jax.Array,
  A: jax.Array,
  B: jax.Array,
  C: jax.Array,
  D: jax.Array | None = None,
  initial_state: jax.Array | None = None,
  *,
  negative_eigenvalues: bool = False,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The selective state-space model of Mamba.

      h_t[d, n] = exp(dt_t[d] A[d, n]) h_{t-1}[d, n] + dt_t[d] B_t[n] x_t[d]
      y_t[d]    = sum_n C_t[n] h_t[d, n] + D[d] x_t[d]

  A is discretised by zero-order hold and B by Euler's rule, as in the paper's
  code. The op applies no softplus to dt: pass dt after its softplus.

  With `negative_eigenvalues` the factor on `h_{t-1}` is `2 exp(dt A) - 1`, in
  [-1, 1], in place of `exp(dt A)`, in [0, 1] (Grazzi et al. 2024,
  arXiv:2411.12537).

  "chunked" never stores all states [..., L, D, N], forward or backward: it
  stores one state per chunk, and computes the states of one chunk at a time.
  "chunk_parallel" and "associative" store all states, so they suit checks and
  short sequences. The gradient of "recurrent" stores all states too.

  "pallas" is a kernel for TPUs, which no chip has run yet
  (`jaxmodels.ops.kernels.selective`). "auto" takes it on a TPU for N up to
  about 100, on one device or with a mesh in the context, by `jax.set_mesh` or
  inside `jax.shard_map`. It has gradients of the first order in reverse mode
  only.

  Cost: about 7 D N flops per token, chunked forward, on a CPU; 16 D N
  elsewhere, where a chunk is a scan of depth log C.

  `segment_ids` and the other options: see `jaxmodels.ops`.

  Args:
    x: [..., L, D].
    dt: [..., L, D], the step sizes, at least 0.
    A: [D, N], the rates, below 0. (Published checkpoints hold log(-A).)
    B: [..., L, N].
    C: [..., L, N].
    D: [D], or None for no skip.
    initial_state: [..., D, N].
    negative_eigenvalues: Whether transitions reach from -1 to 1.
    chunk_size: by default 16 (256 on a GPU), or 64 with "pallas", which takes
      fewer at a time if N is large.

  Returns:
    y [..., L, D], and the final state [..., D, N].
  """
  recurrence = functools.partial(_recurrence, negative_eigenvalues)
  return dataclasses.replace(OP, recurrence=recurrence)(
    {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D},
    initial_state,
    segment_ids,
    Options(reverse, method, chunk_size, axis_name),
  )


def _recurrence(negative, x, dt, A, B, C, D):
  checks.finite("selective_scan", dt=dt, A=A)
  tokens = Tokens(x, dt, B, C)
  dtype = wide(*tokens, A)
  skip = None if D is None else D.astype(dtype)
  family = _family(A.astype(dtype), skip, negative)
  fits = kernels.fits_selective_scan(tokens, A)
  return Recurrence(family, tokens, choose("selective_scan", fits=fits))


def _family(A, D, negative) -> Family:
  """The diagonal recurrence of states [D, N], with B writing and C reading."""

  def transition(dt):
    a = jnp.exp(dt * A)
    return 2 * a - 1 if negative else a

  def elementwise(chunk):
    a = jax.vmap(transition)(chunk.dt[:, :, None])
    b = (chunk.dt * chunk.x)[:, :, None] * chunk.B[:, None, :]
    return diagonal.Tokens(a, b)

  def summarize(chunk, masks):
    return diagonal.summarize(elementwise(chunk), masks)

  def skip(chunk, y):
    return y if D is None else y + D[None] * chunk.x

  def read(chunk, masks, state):
    return read_and_advance(chunk, masks, state)[0]

  def read_and_advance(chunk, masks, state):
    states, last = diagonal.read_and_advance(elementwise(chunk), masks, state)
    return skip(chunk, jnp.sum(states * chunk.C[:, None, :], axis=-1)), last

  def scan_by_token(chunk, masks, state):
    """Stores no state but the last, and no other array of [C, D, N]."""

    def body(h, token):
      (x, dt, B, C), joined = token
      kept = jnp.where(joined, transition(dt[:, None]) * h, 0)
      h = kept + (dt * x)[:, None] * B[None]
      return h, jnp.sum(h * C[None], axis=-1)

    last, y = lax.scan(body, state, (chunk, masks.previous))
    return skip(chunk, y), last

  def kernel(chunks, masks, state, dtype):
    """Gets all chunks [n, B, 1, C, ...]."""
    by_row = jax.tree.map(lambda x: jnp.swapaxes(x[:, :, 0], 0, 1), chunks)
    joined = None if masks.constant else joined_by_row(masks)
    y, last = kernels.selective_scan(
      by_row, A, D, joined, state[:, 0], negative
    )
    y = jnp.swapaxes(y, 0, 1)[:, :, None]
    return y.astype(dtype or state.dtype), last[:, None]

  return Family(
    summarize,
    diagonal.compose,
    diagonal.advance,
    read,
    # On a CPU, half the time of a scan of depth log C. On an accelerator one
    # token is too little work per step.
    scan_by_token if platform() == "cpu" else read_and_advance,
    kernel=kernel,
    zero=lambda token: jnp.zeros(A.shape, wide(*token, A)),
  )


OP = Op(
  "selective_scan",
  functools.partial(_recurrence, False),
  {
    "x": "... L D",
    "dt": "... L D",
    "A": "D N",
    "B": "... L N",
    "C": "... L N",
    "D": "D",
  },
  y="... L D",
  state="... D N",
  heads=False,
  within={"dt": (0, math.inf), "A": (-math.inf, 0)},
  like="x",
)
