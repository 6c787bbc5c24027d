"""Selective scan: the state-space model of Mamba.

Every channel d of x has a state of N numbers that decay at rates of their
own, `h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t` (Gu & Dao 2023,
arXiv:2312.00752). All states of a sequence are N times as large as the
sequence, so they are made chunk by chunk, and made again for the gradient.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops import diagonal
from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.arguments import arrays
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.method import run
from jaxmodels.ops.engine.platform import platform, wide
from jaxmodels.ops.engine.recurrence import Family, Method

_CHUNK = 16


class Tokens(NamedTuple):
  """A chunk: x, dt [C, D], B, C [C, N]."""

  x: jax.Array
  dt: jax.Array
  B: jax.Array
  C: jax.Array


@by_letters(
  ("...LD", "...D"),
  of="x",
  x="...LD",
  dt="...LD",
  A="D",
  B="...L",
  C="...L",
  D="D",
  initial_state="...D",
)
def selective_scan(
  x: jax.Array,
  dt: jax.Array,
  A: jax.Array,
  B: jax.Array,
  C: jax.Array,
  D: jax.Array | None = None,
  initial_state: jax.Array | None = None,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The selective state-space model of Mamba.

      h_t[d, n] = exp(dt_t[d] A[d, n]) h_{t-1}[d, n] + dt_t[d] B_t[n] x_t[d]
      y_t[d]    = sum_n C_t[n] h_t[d, n] + D[d] x_t[d]

  The decay acts before the token is written, and y reads the state after it.
  A is discretised by zero-order hold and B by Euler's rule, as in the paper's
  code. dt is taken as it is: give it after its softplus.

  "chunked" never holds [..., L, D, N], forward or backward: it keeps the
  states between chunks, 1 / C of that, and makes those of one chunk at a
  time. "chunk_parallel" and "associative" hold it whole and are for checking
  and short sequences; so does the gradient of "recurrent".

  Cost: about 7 D N flops a token, chunked forward, on a CPU; 16 D N
  elsewhere, where a chunk is a scan of log C depth.

  Args:
    x: [..., L, D].
    dt: [..., L, D], the step sizes, at least 0.
    A: [D, N], the rates, below 0. (Published checkpoints hold log(-A).)
    B: [..., L, N].
    C: [..., L, N].
    D: [D] or None, the skip.
    initial_state: [..., D, N]; zero by default.
    segment_ids: [..., L] integers; a segment is a run of equal ids. The
      entering state has id 0, and each token sees only its own segment.
    reverse: run from the last token to the first.
    method: a form, see `jaxmodels.ops.engine.recurrence`; "auto" is
      "recurrent" for one token and else "chunked", on every platform.
    chunk_size: a power of two; 16 by default.
    axis_name: mesh axis over which L is sharded, inside `shard_map`.

  Returns:
    y [..., L, D] in the dtype of x, and the final state [..., D, N] in
    float32 or wider.

  Raises:
    ValueError: a shape, dtype or option does not fit; names the argument.
  """
  op = "selective_scan"
  tokens = Tokens(*arrays(op, x=x, dt=dt, B=B, C=C))
  A, D, initial_state, segment_ids = arrays(
    op, A=A, D=D, initial_state=initial_state, segment_ids=segment_ids
  )
  x = tokens.x
  _check(op, tokens, A, D, initial_state, segment_ids)
  *batch, _, _ = x.shape
  dtype = wide(*tokens, A) if initial_state is None else wide(initial_state, A)
  if initial_state is None:
    initial_state = _zero_state(x, A, dtype)
  count = math.prod(batch)

  def fold(x):  # Leading batch axes become one.
    return x.reshape(count, *x.shape[len(batch) :])

  with jax.named_scope(op):
    y, state = run(
      op,
      _family(A.astype(dtype), None if D is None else D.astype(dtype)),
      jax.tree.map(lambda x: fold(x)[:, :, None], tokens),  # One head.
      initial_state.astype(dtype).reshape(count, 1, *A.shape),
      None if segment_ids is None else fold(segment_ids),
      reverse=reverse,
      method=method,
      chunk_size=chunk_size,
      default=_CHUNK,
      elsewhere="chunked",
      axis_name=axis_name,
      dtype=x.dtype,
    )
  y, state = y.reshape(x.shape), state.reshape(initial_state.shape)
  checks.finite(op, y=y, final_state=state)
  return y, state


def _family(A, D) -> Family:
  """The diagonal recurrence over channels [D, N], written and read by x."""

  def elementwise(chunk):
    a = jnp.exp(chunk.dt[:, :, None] * A[None])
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
    """No state but the last is kept, nor anything else of [C, D, N]."""

    def body(h, token):
      (x, dt, B, C), joined = token
      kept = jnp.where(joined, jnp.exp(dt[:, None] * A) * h, 0)
      h = kept + (dt * x)[:, None] * B[None]
      return h, jnp.sum(h * C[None], axis=-1)

    last, y = lax.scan(body, state, (chunk, masks.previous))
    return skip(chunk, y), last

  return Family(
    summarize,
    diagonal.compose,
    diagonal.advance,
    read,
    # Half the time of a scan of log C depth on a CPU; an accelerator has
    # little to do in one token.
    scan_by_token if platform() == "cpu" else read_and_advance,
  )


def _zero_state(x, A, dtype):
  """Zeros [..., D, N], made from x so as to be placed like it."""
  zero = jnp.zeros_like(jnp.sum(x[..., :1, :], -2), dtype=dtype)
  return jnp.broadcast_to(zero[..., None], (*zero.shape, A.shape[1]))


def _check(op, tokens, A, D, initial_state, segment_ids):
  """Checks shapes and dtypes, and numbers where that is switched on."""
  x = tokens.x
  checks.rank_at_least(op, "x", x, 2, "[..., L, D]")
  *leading, channels = x.shape
  checks.shape(op, "dt", tokens.dt, x.shape, "[..., L, D] like x")
  checks.shape(op, "A", A, (channels, None), "[D, N]")
  width = A.shape[1]
  checks.shape(op, "B", tokens.B, (*leading, width), "[..., L, N]")
  checks.shape(op, "C", tokens.C, (*leading, width), "[..., L, N]")
  if D is not None:
    checks.shape(op, "D", D, (channels,), "[D]")
  if initial_state is not None:
    state_shape = (*leading[:-1], channels, width)
    checks.shape(op, "initial_state", initial_state, state_shape, "[..., D, N]")
  given = {**tokens._asdict(), "A": A, "D": D, "initial_state": initial_state}
  for name, array in given.items():
    if array is not None:
      checks.dtype(op, name, array, jnp.floating, "real floating point")
  checks.segment_ids(op, segment_ids, leading)
  checks.between(op, "dt", tokens.dt, 0, math.inf)
  checks.between(op, "A", A, -math.inf, 0)
  checks.finite(op, **given)
