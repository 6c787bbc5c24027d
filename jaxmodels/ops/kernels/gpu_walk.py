"""The walk through the chunks of a sequence, in one kernel for a Hopper GPU.

`walk_edits` takes a matrix state through n chunks that all edit it in the same
way: what they write depends on the state that they read,

    u_i = b_i + g_i S_i,    S_{i+1} = diag(d_i) S_i + a_i^T u_i + w_i.

A block of the grid is one row of the batch, one head and `LANES` columns of the
state. Its part of the state stays in the memory of one multiprocessor for the
whole sequence. g and a are copied there one chunk ahead, as soon as the chunk
before has read its own. The transition of a chunk, [K, K], is never formed.

The products run on the matrix units (wgmma) in bfloat16. Each float32 is cut
into a high and a low part, and three of the four products of parts are summed
in float32. That leaves an error of about 2^-16 per factor; TF32, which XLA
takes for such products, has 2^-11. `benchmarks/NOTES.md` has the errors.

The gradient is the same walk from the last chunk to the first, with the roles
of a and g exchanged.

No chip has run this kernel. Tests interpret it on a CPU and compile it for an
H100. With an H100 or H200, `python -m benchmarks.chip --ops delta_rule`
compares it with the definition and times it.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxmodels.ops.engine.over_mesh import can_split, over_mesh
from jaxmodels.ops.engine.platform import has_wgmma
from jaxmodels.ops.kernels.gpu_walk_block import LANES, walk_block
from jaxmodels.ops.kernels.grid import vary_alike

ROWS = (64, 128)  # C and K that the matrix units and the memory take.


def fits_walk(a: jax.Array, b: jax.Array, state: jax.Array) -> bool:
  """Whether a program may walk through these chunks in the kernel.

  It needs a GPU with wgmma, one device or a mesh in the context, float32,
  sizes known while tracing, C and K of 64 or 128, and V a multiple of 32. A
  `jax.default_matmul_precision` of "float32" or "highest" asks for more than
  the kernel gives.

  Args:
    a: [n, B, H, C, K].
    b: [n, B, H, C, V].
    state: [B, H, K, V].
  """
  settings: Any = jax.config
  exact = settings.jax_default_matmul_precision in ("float32", "highest")
  if exact or not has_wgmma() or not can_split():
    return False
  known = all(isinstance(n, int) for x in (a, b, state) for n in x.shape)
  return (
    known
    and all(x.dtype == jnp.float32 for x in (a, b, state))
    and a.shape[3] in ROWS
    and a.shape[4] in ROWS
    and b.shape[4] % LANES == 0
  )


def walk_edits(
  d: jax.Array,
  a: jax.Array,
  g: jax.Array,
  b: jax.Array,
  w: jax.Array | None,
  state: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Walks through n chunks in one launch; see `fits_walk`.

  Differentiable in reverse mode only, to any order. For forward mode name
  another form of the op, or ask for the matmul precision "highest".

  Args:
    d: [n, B, H, K].
    a: [n, B, H, C, K].
    g: [n, B, H, C, K].
    b: [n, B, H, C, V].
    w: [n, B, H, K, V]; None for zeros.
    state: [B, H, K, V], before the first chunk.

  Returns:
    the states [n, B, H, K, V] before each chunk, u [n, B, H, C, V], and the
    state after the last chunk.
  """
  more = [] if w is None else [w]
  d, a, g, b, state, *more = vary_alike(d, a, g, b, state, *more)
  return _walk(False, d, a, g, b, more[0] if more else None, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _walk(reverse, d, a, g, b, w, state):
  """As `walk_edits`; in reverse from the last chunk to the first."""
  return _run(reverse, d, a, g, b, w, state)


def _walk_forward(reverse, d, a, g, b, w, state):
  # Not `_run`, which has no derivative: for gradients of gradients.
  before, u, last = _walk(reverse, d, a, g, b, w, state)
  return (before, u, last), (d, a, g, w is None, before, u)


def _walk_backward(reverse, saved, cotangents):
  """`du' = du + a dS'` and `dS = d dS' + g^T du' + (dS of the output)`."""
  d, a, g, alone, before, u = saved
  d_before, d_u, d_last = cotangents
  change, d_b, d_state = _walk(not reverse, d, g, a, d_u, d_before, d_last)
  return (
    jnp.sum(change * before, axis=-1),
    u @ jnp.swapaxes(change, -1, -2),
    d_b @ jnp.swapaxes(before, -1, -2),
    d_b,
    None if alone else change,
    d_state,
  )


_walk.defvjp(_walk_forward, _walk_backward)


def _run(reverse, *arrays):
  """In the kernel; in a program for another platform, chunk after chunk."""
  return lax.platform_dependent(
    *arrays,
    cuda=functools.partial(_in_kernels, reverse),
    default=functools.partial(_in_order, reverse),
  )


def _in_order(reverse, *arrays):
  *chunks, state = arrays

  def step(state, chunk):
    d, a, g, b, w = chunk
    u = b + g @ state
    after = d[..., None] * state + jnp.swapaxes(a, -1, -2) @ u
    return after if w is None else after + w, (state, u)

  last, (before, u) = lax.scan(step, state, tuple(chunks), reverse=reverse)
  return before, u, last


def _halves(x):
  """`x` as a sum of two bfloat16, up to 2^-17 of it."""
  # The compiler may leave out a conversion to bfloat16 and back, but not this.
  high = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
  return high.astype(jnp.bfloat16), (x - high).astype(jnp.bfloat16)


def _in_kernels(reverse, *arrays):
  """In a kernel per device of the mesh, which share the rows and heads."""
  results = over_mesh(
    functools.partial(_in_kernel, reverse),
    arrays,
    [*["n B H"] * 5, "B H"],
    ("n B H", "n B H", "B H"),
    {"B": 1, "H": 1},
  )
  # A kernel does not say over which axes of a mesh its results vary.
  return tuple(vary_alike(arrays[-1], *results)[1:])


def _in_kernel(reverse, d, a, g, b, w, state):
  # Only here: machines without a use for it do not import it.
  from jax.experimental.pallas import mosaic_gpu as gpu

  (size, lanes), rows = b.shape[-2:], state.shape[-2]
  heads = math.prod(state.shape[:2])

  def room(rows: int, width: int = LANES, dtype: Any = jnp.float32) -> Any:
    # The matrix units read rows that are stored `LANES` numbers at a time.
    swizzle = gpu.SwizzleTransform(LANES * jnp.dtype(dtype).itemsize)
    transforms = gpu.TilingTransform((8, LANES)), swizzle
    return gpu.SMEM((rows, width), dtype, transforms=transforms)

  def halves(rows, width=LANES):
    return [room(rows, width, jnp.bfloat16)] * 2

  def flat(x):
    return x.reshape(-1, x.shape[-1])

  def result(count):
    return jax.ShapeDtypeStruct((count, lanes), b.dtype)

  given = [*_halves(g), b, *_halves(jnp.swapaxes(a, -1, -2)), d]
  places = [*halves(size, rows), room(size), *halves(rows, size)]
  places.append(gpu.SMEM((rows,), jnp.float32))
  if w is not None:
    given, places = [*given, w], [*places, room(rows)]
  kernel = gpu.kernel(
    functools.partial(walk_block, gpu, reverse, b.shape[0], heads, len(given)),
    out_type=[
      result(b.shape[0] * heads * rows),
      result(b.shape[0] * heads * size),
      result(heads * rows),
    ],
    scratch_types=[
      places,
      [gpu.Barrier() for _ in places],
      gpu.Barrier(),
      (room(rows), halves(rows)),
      (room(size), halves(size)),
    ],
    grid=(heads, lanes // LANES),
    grid_names=("head", "part"),
    compiler_params=gpu.CompilerParams(
      lowering_semantics=gpu.LoweringSemantics.Warpgroup
    ),
    kernel_name="walk_edits",
  )
  before, u, last = kernel(*map(flat, given), flat(state))
  before = before.reshape(b.shape[0], *state.shape)
  return before, u.reshape(b.shape), last.reshape(state.shape)
