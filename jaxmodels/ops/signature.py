"""Signature of a path: its iterated integrals, by Chen's identity.

Chen 1957, "Integration of paths"; Lyons 1998, "Differential equations driven by
rough signals". The signature describes a path up to its speed, and a linear
function of it approximates any continuous function of the path. So a linear
regression on it reads series that are sampled at uneven times.

The signature of two paths in a row is the tensor product of their signatures
(Chen's identity). The product is associative, so all forms of the engine apply.
The tensor of level 0 is 1 and is not stored.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine import checks
from jaxmodels.ops.engine.auto import choose
from jaxmodels.ops.engine.make_op import Op, Recurrence
from jaxmodels.ops.engine.method import Options
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.recurrence import Family, Method, Summary


class Tokens(NamedTuple):
  """A chunk: the increments dx [C, D] of the path."""

  dx: jax.Array


def signature(
  dx: jax.Array,
  initial_state: jax.Array | None = None,
  *,
  depth: int = 3,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: Method = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """The signature of a piecewise linear path, up to each token.

      S_t = S_{t-1} (x) exp(dx_t),    exp(z) = sum_n z^(x n) / n!

  in the tensors of levels 1 to `depth`; (x) is the tensor product. Level n of
  S_t is the integral of `dx(u_1) (x) ... (x) dx(u_n)` over `u_1 < ... < u_n`.
  y is every state, as one vector: level 1 [D], level 2 [D, D] in row-major
  order, and so on. N = D + D^2 + ... + D^depth.

  dx is `jnp.diff` of the path along L. A path with time as a channel keeps its
  speed. If only the final state is used, `jit` drops y.

  Cost: about 2 N D / (D - 1) flops per token, chunked forward.

  `segment_ids` and the other options: see `jaxmodels.ops`.

  Args:
    dx: [..., L, D] real, the increments of the path.
    initial_state: [..., N], the signature of the path before.
    depth: The highest level, at least 1.
    chunk_size: 16 by default.

  Returns:
    y [..., L, N], and the final state.
  """
  checks.require(
    isinstance(depth, int) and depth >= 1,
    f"signature: depth must be an integer of at least 1, got {depth!r}",
  )
  return _op(depth)(
    {"dx": dx},
    initial_state,
    segment_ids,
    Options(reverse, method, chunk_size, axis_name),
  )


def levels(state: jax.Array, width: int) -> list[jax.Array]:
  """The tensors of a signature [..., N]: [..., D], [..., D, D], and so on.

  Args:
    state: [..., N].
    width: D.
  """
  found: list[jax.Array] = []
  start, size = 0, width
  while start < state.shape[-1]:
    level = state[..., start : start + size]
    found.append(level.reshape(*state.shape[:-1], *(width,) * (len(found) + 1)))
    start, size = start + size, size * width
  return found


def _split(state, width):
  """The levels of a signature [N], each as a vector."""
  return [x.reshape(-1) for x in levels(state, width)]


def _outer(a, b):
  return (a[:, None] * b[None]).reshape(-1)


def product(first: jax.Array, second: jax.Array, width: int) -> jax.Array:
  """Chen's product of two signatures [N] of paths in a row."""
  a, b = _split(first, width), _split(second, width)
  mixed = [jnp.zeros_like(x) for x in a]
  for i, j in itertools.product(range(len(a)), repeat=2):
    if i + j + 1 < len(a):
      mixed[i + j + 1] += _outer(a[i], b[j])
  return first + second + jnp.concatenate(mixed)


def _extend(state, z):
  """`state (x) exp(z)`, by Horner's rule: one product per level and degree."""
  before, after = _split(state, z.shape[0]), []
  for n in range(1, len(before) + 1):
    term = z / n
    for k in range(1, n):
      term = _outer(before[k - 1] + term, z / (n - k))
    after.append(before[n - 1] + term)
  return jnp.concatenate(after)


def read_and_advance(chunk, masks, state):
  """Takes one product with an exponential per token."""
  return _scan(state, jnp.asarray(masks.previous), chunk.dx)


def _scan(state, joined, dx):
  def body(state, token):
    joined, z = token
    state = _extend(jnp.where(joined, state, 0), z)
    return state, state

  last, y = lax.scan(body, state, (joined, dx))
  return y, last


def read(chunk, masks, state):
  """Every state of the chunk."""
  return read_and_advance(chunk, masks, state)[0]


def summarize(chunk, masks, depth):
  """The signature of the last segment; 1 if it continues the state, else 0."""
  # Starts with a token, so that it is sharded like the tokens.
  first = _extend(_zero(chunk, depth), chunk.dx[0])
  _, last = _scan(first, jnp.asarray(masks.previous[1:]), chunk.dx[1:])
  return Summary(jnp.asarray(masks.through, last.dtype), last)


def _zero(chunk, depth):
  width = chunk.dx.shape[1]
  size = sum(width**n for n in range(1, depth + 1))
  return jnp.zeros(size, wide(chunk.dx))


@functools.lru_cache
def _family(width: int, depth: int) -> Family:
  """The family of paths of D channels, up to a level."""

  def advance(summary, state):
    through, update = summary
    return product(through * state, update, width)

  def compose(earlier, later):
    return Summary(
      earlier.transition * later.transition, advance(later, earlier.update)
    )

  return Family(
    functools.partial(summarize, depth=depth),
    compose,
    advance,
    read,
    read_and_advance,
    zero=functools.partial(_zero, depth=depth),
  )


@functools.lru_cache
def _op(depth: int) -> Op:
  """The op with a number of levels."""

  def recurrence(dx):
    family = _family(dx.shape[-1], depth)
    return Recurrence(family, Tokens(dx), choose("signature"))

  return Op(
    "signature",
    recurrence,
    {"dx": "... L D"},
    y="... L N",
    state="... N",
    heads=False,
    like="dx",
  )
