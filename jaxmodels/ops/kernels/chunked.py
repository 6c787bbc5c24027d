"""A recurrence of matrix states in two kernels: its value and its gradient.

`chunk_kernel` makes them from the function of one head and one chunk that
"chunked" runs. The body of the first kernel is that function, and the body of
the second its `jax.vjp`, so no equation is written twice.

The states stay in the chip's vector memory for the whole sequence, and so does
all that a chunk computes: scores, triangular systems, writes. For the gradient
the first kernel stores one state per chunk. The second one goes from the last
chunk to the first, and computes each chunk again from the state before it.

A step of the grid is one row of the batch, one block of heads and one chunk;
its heads run in a loop. Tokens keep their layout [B, L, H, W]: nothing is
transposed in main memory.

No chip has run these kernels. Tests interpret them on a CPU and compile them
for TPU v5e and v6e. With a TPU, `python -m benchmarks.chip --ops delta_rule`
compares them with the definition and times them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from jaxmodels.ops.engine.chunks import Tree, merge
from jaxmodels.ops.engine.over_mesh import can_split, over_mesh
from jaxmodels.ops.engine.platform import takes_kernels, trace_for, wide
from jaxmodels.ops.engine.segments import Masks, joined_by_row
from jaxmodels.ops.kernels.chunk_block import (
  Function,
  Leaf,
  Plan,
  backward,
  forward,
  gradient_of,
  value_of,
)
from jaxmodels.ops.kernels.grid import TILE, for_platform, tiled, vary_alike

# Bytes of vector memory for blocks and scratch, and for all: the compiler
# spills registers. TPU v5e, v5p and v6e have at least 64 MiB; older ones have
# 16, so `fits_chunk_kernel` leaves them out.
ROOM = 40 << 20
LIMIT = 60 << 20
_TOO_OLD = ("v2", "v3", "v4")


def chunk_kernel(function: Function, extra: int = 0) -> Callable[..., Any]:
  """Makes the form "pallas" of a family.

  Args:
    function: `(chunk, masks, state) -> (y, state)` of one head and one chunk:
      leaves of the chunk are [C], [C, 1] or [C, W], the state is [K, V], and y
      is [C, V - extra].
    extra: columns of the state that are not in y.

  Returns:
    a `Family.kernel`.
  """

  def run(
    chunks: Tree, masks: Masks, state: jax.Array, dtype: Any
  ) -> tuple[jax.Array, jax.Array]:
    leaves, tree = jax.tree.flatten(chunks)
    count, size = leaves[0].shape[0], leaves[0].shape[3]
    changes = None
    if not masks.constant:
      changes = jnp.cumsum(~joined_by_row(masks), axis=-1)
      changes = changes.astype(state.dtype)[:, :, None]
    alike = all(x.shape[2] == state.shape[1] for x in leaves)
    y, last = over_mesh(
      functools.partial(_on_one_device, function, extra, tree, size, dtype),
      [*(merge(x, count * size) for x in leaves), changes, state],
      [*(["B L H"] * len(leaves)), "B", "B H"],
      ("B L H", "B H"),
      {"B": 1, "H": 1} if alike else {"B": 1},
    )
    y = y.reshape(y.shape[0], count, size, *y.shape[2:])
    return jnp.moveaxis(y, (0, 3), (1, 2)), last

  return run


def fits_chunk_kernel(k: Any, v: Any, *more: Any) -> bool:
  """Whether "auto" may take the kernel on the target platform.

  It needs a TPU of the fifth generation or later, float32 states, sizes known
  while tracing, chunks that fit in vector memory, and one device or a mesh in
  the context.

  Args:
    k: [B, L, h, K], or its shape and dtype, as all of these.
    v: [B, L, H, V].
    *more: the other tokens, [B, L, h, W], [B, L, H] or None.
  """
  tokens = [k, v, *(x for x in more if x is not None)]
  if not (takes_kernels() and wide(*tokens) == jnp.float32 and can_split()):
    return False
  if not all(isinstance(n, int) for x in tokens for n in x.shape):
    return False
  here = jax.default_backend() == "tpu" and jax.local_devices()[0].device_kind
  if here and any(old in here for old in _TOO_OLD):
    return False
  heads, state = v.shape[2], (k.shape[3], v.shape[3])
  leaves = [Leaf((_SIZE, *x.shape[3:]), x.shape[2]) for x in tokens]
  return _heads_per_block(leaves, heads, state) is not None


_SIZE = 128  # Tokens per chunk, for the estimate of memory.


def _on_one_device(function, extra, tree, size, dtype, *given):
  *tokens, changes, state = given
  batch, heads, *widths = state.shape
  whole = [Leaf((size, *x.shape[3:]), x.shape[2]) for x in tokens]
  block = _heads_per_block(whole, heads, widths)
  if block is None:
    raise ValueError(
      f'method "pallas": {heads} heads of {widths[0]} x {widths[1]} need more '
      f"than {ROOM >> 20} MiB of a TPU's vector memory; use another method or "
      "a smaller chunk_size"
    )
  parts = heads // block
  leaves = tuple(x._replace(heads=x.heads // parts) for x in whole)
  y = Leaf((size, widths[1] - extra), block)
  packed = changes is not None
  plan = Plan(function, tree, leaves, y, tuple(widths), heads, packed)

  def arranged(leaf, x):
    if not leaf.flat:
      return x
    x = x.astype(state.dtype).reshape(batch, -1, parts, leaf.heads)
    return jnp.moveaxis(x, 2, 1)

  *tokens, state = vary_alike(
    *map(arranged, leaves, tokens), *([changes] * packed), state
  )
  changes = (tokens.pop(),) if packed else ()
  return _run(plan, jnp.dtype(dtype or state.dtype), tokens, changes, state)


def _heads_per_block(
  leaves: Sequence[Leaf], heads: int, state: Sequence[int]
) -> int | None:
  """All heads, or as many as fit in `ROOM` in blocks that a TPU can load.

  Args:
    leaves: the arrays of tokens.
    heads: H.
    state: K and V.
  """
  for parts in range(1, heads + 1):
    splits = all(
      x.heads % (TILE * parts) == 0 for x in leaves if not x.flat
    ) and all(x.heads % parts == 0 for x in leaves)
    if heads % parts or (parts > 1 and not splits):
      continue
    own = [x._replace(heads=x.heads // parts) for x in leaves]
    if _bytes(own, heads // parts, state) <= ROOM:
      return heads // parts
  return None


def _bytes(leaves: Sequence[Leaf], heads: int, state: Sequence[int]) -> int:
  """Vector memory of the gradient, in float32; blocks are there twice."""
  size = leaves[0].shape[0]
  y = Leaf((size, state[1]), heads)
  arrays = [*leaves, *leaves, y]
  blocks = sum(
    tiled((size, x.heads) if x.flat else (size, x.heads, x.shape[1]))
    for x in arrays
  )
  scratch = sum(tiled(part) for x in arrays for part in x.scratch)
  return 4 * (2 * blocks + scratch + 6 * heads * tiled(state))


# The calls.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(plan, dtype, tokens, changes, state):
  return tuple(_forward(plan, dtype, tokens, changes, state))


def _run_forward(plan, dtype, tokens, changes, state):
  plan = plan._replace(stores=True)
  y, last, entering = _forward(plan, dtype, tokens, changes, state)
  return (y, last), (tokens, changes, entering)


def _forward(plan, dtype, tokens, changes, state):
  batch, *per_head = state.shape
  length = tokens[0].shape[2 if plan.leaves[0].flat else 1]
  results = [
    ("rows", (batch, length, plan.heads, plan.y.shape[1]), dtype),
    ("state", state.shape, state.dtype),
  ]
  if plan.stores:
    shape = (batch, length // plan.size, *per_head)
    results.append(("states", shape, state.dtype))
  return _call(
    plan,
    forward,
    value_of,
    [*_operands(plan, tokens, changes), ("state", state)],
    results,
    [*plan.leaves, plan.y],
  )


def _run_backward(plan, dtype, saved, cotangents):
  (tokens, changes, entering), (dy, d_last) = saved, cotangents
  results = [
    (leaf.kind, x.shape, x.dtype)
    for leaf, x in zip(plan.leaves, tokens, strict=True)
  ]
  *d_tokens, d_state = _call(
    plan,
    backward,
    gradient_of,
    [
      *_operands(plan, tokens, changes),
      ("states", entering),
      ("rows", dy),
      ("state", d_last),
    ],
    [*results, ("state", d_last.shape, d_last.dtype)],
    [*plan.leaves, plan.y, *plan.leaves],
    reverse=True,
  )
  return list(d_tokens), jax.tree.map(jnp.zeros_like, changes), d_state


_run.defvjp(_run_forward, _run_backward)


def _operands(plan, tokens, changes):
  kinds = [leaf.kind for leaf in plan.leaves]
  kinds += ["changes"] * plan.packed
  return list(zip(kinds, (*tokens, *changes), strict=True))


def _call(plan, body, function_of, operands, results, scratch, reverse=False):
  """Runs a body over all rows, blocks of heads, and chunks in order.

  Args:
    plan: what is computed.
    body: `forward` or `backward`.
    function_of: makes the function that the body evaluates per head.
    operands: pairs of a kind and an array.
    results: a kind, a shape and a dtype each.
    scratch: the leaves that have scratch memory.
    reverse: whether to run from the last chunk to the first.
  """
  state = next(x for kind, x in operands if kind == "state")
  x = next(x for kind, x in operands if kind == "rows")
  count, parts = x.shape[1] // plan.size, state.shape[1] // plan.y.heads
  varying = jax.typeof(state).manual_axis_type

  def spec(kind, shape):
    block, index = _BLOCKS[kind](plan, shape)

    def at(b, p, i):
      return index(b, p, count - 1 - i if reverse else i)

    return pl.BlockSpec(block, at)

  def call(interpret):
    with trace_for("tpu", in_kernel=not interpret):
      traced = jax.make_jaxpr(function_of(plan))(*_shapes(plan, state, reverse))
    constants = [_stored(x, state.dtype) for x in traced.consts]
    given = [*(("constant", x) for x in constants), *operands]
    kernel = pl.pallas_call(
      functools.partial(body, plan, traced),
      [jax.ShapeDtypeStruct(*x, manual_axis_type=varying) for _, *x in results],
      grid=(state.shape[0], parts, count),
      in_specs=[spec(kind, x.shape) for kind, x in given],
      out_specs=[spec(kind, shape) for kind, shape, _ in results],
      scratch_shapes=[
        pltpu.VMEM(part, state.dtype) for x in scratch for part in x.scratch
      ],
      compiler_params=pltpu.CompilerParams(
        dimension_semantics=("parallel", "parallel", "arbitrary"),
        vmem_limit_bytes=LIMIT,
      ),
      interpret=interpret,
      name=f"chunk_{body.__name__}",
    )
    return functools.partial(kernel, *constants)

  return for_platform(call, *(x for _, x in operands))


def _shapes(plan, state, gradient):
  """The arguments of the function of one head."""

  def like(*shape):
    return jax.ShapeDtypeStruct(shape, state.dtype)

  given = [like(*leaf.shape) for leaf in plan.leaves]
  given += [like(plan.size)] * plan.packed + [like(*plan.state)]
  if gradient:
    given += [like(*plan.y.shape), like(*plan.state)]
  return given


def _stored(constant, dtype):
  """A constant as numbers with at least two axes."""
  x = np.asarray(constant)
  return x.astype(dtype).reshape((1,) * (2 - x.ndim) + x.shape)


# The block and its index by the kind of an array.
_BLOCKS = {
  "rows": lambda plan, shape: (
    (None, plan.size, shape[2] * plan.y.heads // plan.heads, shape[3]),
    lambda b, p, i: (b, i, p, 0),
  ),
  "flat": lambda plan, shape: (
    (None, None, plan.size, shape[3]),
    lambda b, p, i: (b, p, i, 0),
  ),
  "changes": lambda plan, shape: (
    (None, None, 1, plan.size),
    lambda b, p, i: (b, i, 0, 0),
  ),
  "state": lambda plan, shape: (
    (None, plan.y.heads, *plan.state),
    lambda b, p, i: (b, p, 0, 0),
  ),
  "states": lambda plan, shape: (
    (None, None, plan.y.heads, *plan.state),
    lambda b, p, i: (b, i, p, 0, 0),
  ),
  "constant": lambda plan, shape: (shape, lambda b, p, i: (0,) * len(shape)),
}
