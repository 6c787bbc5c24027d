"""Short causal depthwise convolution, with its tail as the state."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxmodels.ops.engine import checks, halo
from jaxmodels.ops.engine.arguments import arrays
from jaxmodels.ops.engine.explicit import by_letters
from jaxmodels.ops.engine.segments import count_changes, starts

__all__ = ["causal_convolution"]

METHODS = ("auto", "chunk_parallel", "recurrent")


@by_letters(
  ("... L D", "... T D"),
  x="... L D",
  kernel="W D",
  initial_state="... T D",
)
def causal_convolution(
  x: jax.Array,
  kernel: jax.Array,
  initial_state: jax.Array | None = None,
  *,
  segment_ids: jax.Array | None = None,
  reverse: bool = False,
  method: str = "auto",
  chunk_size: int | None = None,
  axis_name: str | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Convolves every channel with its own short kernel over the past.

  y_t[d] = sum_{j=0}^{W-1} kernel[W - 1 - j, d] x_{t-j}[d]

  so `kernel[W - 1]` multiplies the present token and `kernel[0]` the oldest:
  the layout of a cross-correlation, as in the published checkpoints of Mamba
  (Gu & Dao 2023, arXiv:2312.00752), without their trailing bias and SiLU.

  Taps never cross the edge of a segment. The products are summed in float32
  or wider. With W shifted products there is nothing to gain from chunks:
  `chunk_size` is taken for the sake of the common contract and ignored.

  Cost: 2 W flops a number of x.

  Args:
    x: [..., L, D] inputs, any number of batch axes, any length.
    kernel: [W, D], W >= 1.
    initial_state: [..., W - 1, D], the inputs before the first token, oldest
      first; None stands for zeros. It belongs to segment 0.
    segment_ids: [..., L] integers; a segment is a run of equal ids. None
      joins all.
    reverse: Run from the last token to the first. The states are then in the
      order of that run too.
    method: "chunk_parallel" (W shifted products, all tokens at once),
      "recurrent" (token by token; for checking), or "auto", which is
      "chunk_parallel".
    chunk_size: Not used.
    axis_name: Mesh axis that L is cut over, inside `shard_map`: the tail
      then comes from the neighbouring device ("chunk_parallel" only; a piece
      must hold at least W - 1 tokens). `initial_state` and the state returned
      are the whole sequence's, on every device.

  Returns:
    y: [..., L, D], of the dtype of `x`.
    state: [..., W - 1, D] in float32 or wider: the last W - 1 inputs, oldest
      first, with zeros where they are not joined to the last token.

  Raises:
    ValueError: For a wrong shape, dtype or method, naming the argument.
  """
  del chunk_size
  x, kernel, initial_state, ids = arrays(
    "causal_convolution",
    x=x,
    kernel=kernel,
    initial_state=initial_state,
    segment_ids=segment_ids,
  )
  _check(x, kernel, initial_state, ids, method, axis_name)
  if method == "auto":
    method = "chunk_parallel"
  wide = np.result_type(x.dtype, kernel.dtype, np.float32)
  with jax.named_scope("causal_convolution"):
    inputs = jnp.asarray(x, wide)
    ids = ids if inputs.shape[-2] > 0 else None
    if reverse:
      inputs = jnp.flip(inputs, -2)
      ids = None if ids is None else jnp.flip(ids, -1)
    tail = _tail(inputs, kernel.shape[0] - 1, initial_state)
    if method == "recurrent":
      fresh = None
      if ids is not None:
        before = halo.id_before(ids, axis_name, reverse)
        fresh = starts(ids, before)
      y, state = _recurrent(inputs, jnp.asarray(kernel, wide), tail, fresh)
    else:
      y, state = _parallel(
        inputs, jnp.asarray(kernel, wide), tail, ids, axis_name, reverse
      )
    if reverse:
      y = jnp.flip(y, -2)
    checks.finite("causal_convolution", y=y, final_state=state)
    return y.astype(x.dtype), state


def _tail(
  inputs: jax.Array, size: int, initial_state: jax.Array | None
) -> jax.Array:
  """The inputs before the first token, in the dtype of `inputs`."""
  if initial_state is not None:
    return jnp.asarray(initial_state, inputs.dtype)
  shape = (*inputs.shape[:-2], size, inputs.shape[-1])
  if inputs.shape[-2] == 0:
    return jnp.zeros(shape, inputs.dtype)
  # Made from what is there, so that it varies over a mesh as the inputs do.
  return jnp.broadcast_to(jnp.zeros_like(inputs[..., :1, :]), shape)


def _parallel(
  inputs: jax.Array,
  kernel: jax.Array,
  tail: jax.Array,
  ids: jax.Array | None,
  axis_name: str | None,
  reverse: bool,
) -> tuple[jax.Array, jax.Array]:
  """All tokens at once: one shifted product a tap."""
  width, length = kernel.shape[0], inputs.shape[-2]
  if axis_name is not None and width > 1:
    own = inputs[..., length - width + 1 :, :]
    tail = halo.from_previous(own, tail, axis_name, reverse)
  span = jnp.concatenate([tail, inputs], -2)
  changes = None
  if ids is not None:
    changes = _span_changes(ids, width, axis_name, reverse)
  y = jnp.zeros_like(inputs)
  for tap in range(width):
    past = span[..., tap : tap + length, :]
    if changes is not None and tap < width - 1:
      present = changes[..., width - 1 :]
      joined = changes[..., tap : tap + length] == present
      past = jnp.where(joined[..., None], past, 0)
    weight = jnp.expand_dims(kernel[tap], range(inputs.ndim - 1))
    y = y + past * weight
  state = span[..., length:, :]
  if changes is not None:
    joined = changes[..., length:] == changes[..., -1:]
    state = jnp.where(joined[..., None], state, 0)
  if axis_name is not None:
    state = halo.from_last(state, axis_name, reverse)
  return y, state


def _span_changes(
  ids: jax.Array, width: int, axis_name: str | None, reverse: bool
) -> jax.Array:
  """How often the id changes, over the tail and the tokens, [..., W - 1 + L].

  Equal counts are one segment.
  """
  tail = halo.id_before(ids, None, reverse)
  tail = jnp.broadcast_to(tail, (*ids.shape[:-1], width - 1))
  if axis_name is not None and width > 1:
    own = ids[..., ids.shape[-1] - width + 1 :]
    tail = halo.from_previous(own, tail, axis_name, reverse)
  span = jnp.concatenate([tail, ids], -1)
  return count_changes(span, span[..., :1])


def _recurrent(
  inputs: jax.Array,
  kernel: jax.Array,
  tail: jax.Array,
  fresh: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """Token after token, the tail as the carry; empty where a token is fresh."""
  if fresh is None:
    fresh = jnp.zeros(inputs.shape[:-1], bool)

  def step(
    tail: jax.Array, token: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    present, fresh = token
    tail = jnp.where(fresh[..., None, None], 0, tail)
    span = jnp.concatenate([tail, present[..., None, :]], -2)
    weights = jnp.expand_dims(kernel, range(span.ndim - 2))
    return span[..., 1:, :], jnp.sum(span * weights, -2)

  tokens = jnp.moveaxis(inputs, -2, 0), jnp.moveaxis(fresh, -1, 0)
  state, y = lax.scan(step, tail, tokens)
  return jnp.moveaxis(y, 0, -2), state


def _check(
  x: jax.Array,
  kernel: jax.Array,
  initial_state: jax.Array | None,
  segment_ids: jax.Array | None,
  method: str,
  axis_name: str | None,
) -> None:
  """Checks shapes and dtypes, and numbers where that is switched on."""
  op = "causal_convolution"
  checks.require(
    method in METHODS,
    f"{op}: method must be one of {', '.join(METHODS)}, got {method!r}",
  )
  checks.require(
    axis_name is None or method != "recurrent",
    f'{op}: method must be "chunk_parallel" or "auto" on a sharded sequence '
    f'(axis_name={axis_name!r}), got "recurrent"',
  )
  # The tail has a letter of its own, whose size is checked below.
  sizes = checks.arguments(
    op,
    x=(x, "... L D"),
    kernel=(kernel, "W D"),
    initial_state=(initial_state, "... T D"),
    segment_ids=(segment_ids, "... L"),
  )
  length, width = sizes["L"], sizes["W"]
  checks.require(width > 0, f"{op}: kernel must be [W > 0, D], got W = 0")
  checks.require(
    sizes.get("T", width - 1) == width - 1,
    f"{op}: initial_state must be [..., W - 1 = {width - 1}, D], got "
    f"{sizes.get('T')} tokens",
  )
  given = {"x": x, "kernel": kernel, "initial_state": initial_state}
  checks.floating(op, complex_too=True, **given)
  checks.integers(op, segment_ids=segment_ids)
  checks.require(
    axis_name is None or length >= width - 1,
    f"{op}: x must hold at least W - 1 = {width - 1} tokens on each device "
    f"of {axis_name!r}, got {length}",
  )
  checks.finite(op, **given)
