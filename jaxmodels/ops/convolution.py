"""Short causal depthwise convolution; its state is the last W - 1 inputs."""

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

  so `kernel[W - 1]` multiplies the present token and `kernel[0]` the oldest.
  This is the layout of a cross-correlation, as in the published checkpoints of
  Mamba (Gu & Dao 2023, arXiv:2312.00752). The op does not include their bias
  and SiLU.

  An output reads only inputs of its own segment.

  Cost: 2 W flops per element of x.

  `segment_ids` and the other options: see `jaxmodels.ops`.

  Args:
    x: [..., L, D], real or complex.
    kernel: [W, D], W >= 1.
    initial_state: [..., W - 1, D], the inputs before the first token, oldest
      first.
    reverse: with it, states are in the order of the run too.
    method: "chunk_parallel" (W shifted products, all tokens at once),
      "recurrent" (token by token; for checking), or "auto", which is
      "chunk_parallel".
    chunk_size: not used; the op takes it because all ops do.
    axis_name: the neighbouring device then passes on its last W - 1 inputs. It
      needs "chunk_parallel", and at least W - 1 tokens on each device.

  Returns:
    y [..., L, D], and the state [..., W - 1, D]: the last W - 1 inputs, oldest
    first, with zeros for inputs of another segment than the last token's.
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
  # Zeros made from the inputs, so that they vary over a mesh as the inputs do.
  return jnp.broadcast_to(jnp.zeros_like(inputs[..., :1, :]), shape)


def _parallel(
  inputs: jax.Array,
  kernel: jax.Array,
  tail: jax.Array,
  ids: jax.Array | None,
  axis_name: str | None,
  reverse: bool,
) -> tuple[jax.Array, jax.Array]:
  """All tokens at once: one shifted product per tap."""
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
  """Counts changes of the id over the tail and the tokens, [..., W - 1 + L].

  Two entries are in one segment if their counts are equal.
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
  """Token by token, carrying the tail; `fresh` tokens start a segment."""
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
  """Checks shapes and dtypes, and numbers if `checks.numerics` is on."""
  op = "causal_convolution"
  checks.method(op, method, METHODS)
  checks.require(
    axis_name is None or method != "recurrent",
    f'{op}: method must be "chunk_parallel" or "auto" on a sharded sequence '
    f'(axis_name={axis_name!r}), got "recurrent"',
  )
  # The length of the tail is T here; it is compared with W - 1 below.
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
