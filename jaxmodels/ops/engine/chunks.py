"""Splits sequences in chunks; lifts functions of one head to all heads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.ops.engine import halo
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.segments import Masks, causal_masks, segment_masks

Tree = Any  # A pytree of arrays.


class Inputs(NamedTuple):
  """A sequence in n chunks: tokens [n, B, H, C, ...], ids [n, B, 1 + C]."""

  chunks: Tree
  ids: jax.Array | None


def split(tokens: Tree, size: int, neutral: Tree) -> Tree:
  """Splits [B, L, H, ...] to [n, B, H, C, ...].

  Neutral tokens pad the last chunk. If `neutral` is None, C must divide L.
  """

  def to_chunks(x, fill):
    batch, length, heads, *rest = x.shape
    count = _count(length, size)
    pad = [(0, 0), (0, count * size - length)] + [(0, 0)] * (x.ndim - 2)
    x = jnp.pad(x, pad, constant_values=fill)
    x = x.reshape(batch, count, size, heads, *rest)
    return jnp.moveaxis(x, (1, 3), (0, 2))

  fill = jax.tree.broadcast(0 if neutral is None else neutral, tokens)
  return jax.tree.map(to_chunks, tokens, fill)


def _count(length: int, size: int) -> int:
  """The number of chunks, rounded up; works for a symbolic length too."""
  return -(-length // size)


def merge(y: jax.Array, length: int) -> jax.Array:
  """Merges [n, B, H, C, ...] to [B, L, H, ...]."""
  count, batch, heads, size, *rest = y.shape
  y = jnp.moveaxis(y, (0, 2), (1, 3)).reshape(batch, count * size, heads, *rest)
  return y[:, :length]


def split_ids(ids: jax.Array, before: jax.Array, size: int) -> jax.Array:
  """Splits [B, L] to [n, B, 1 + C]: the id before each chunk, then its ids."""
  batch, length = ids.shape
  count = _count(length, size)
  ids = jnp.pad(ids, [(0, 0), (0, count * size - length)], mode="edge")
  ids = jnp.moveaxis(ids.reshape(batch, count, size), 1, 0)
  before = jnp.concatenate([before[None], ids[:-1, :, -1]])
  return jnp.concatenate([before[..., None], ids], axis=-1)


def in_run_order(
  ids: jax.Array, reverse: bool, axis_name: str | None
) -> tuple[jax.Array, jax.Array]:
  """The ids in the order of the run, and the id [B] before the first one."""
  if reverse:
    ids = jnp.flip(ids, 1)
  return ids, halo.id_before(ids, axis_name, reverse)[:, 0]


def masks_from(ids: jax.Array | None, size: int) -> Masks:
  """Masks of chunks with ids [..., 1 + C]; None is one segment."""
  if ids is None:
    return causal_masks(size)
  masks = segment_masks
  for _ in range(ids.ndim - 1):
    masks = jax.vmap(masks)
  return masks(ids[..., 1:], ids[..., 0])


def over_heads(
  function: Callable[..., Tree],
  masks: Masks | None = None,
  chunks: bool = False,
) -> Callable[..., Tree]:
  """Lifts a function of one head to [B, H], or with `chunks` to [n, B, H].

  A leaf may have h heads in place of H: h divides H, and head i reads head
  i // (H / h) of the leaf. What depends on shared heads alone is computed once
  per shared head.

  All heads share the masks. If the masks are constant, all rows of the batch
  and all chunks share them too.
  """

  def lifted(*args):
    linked = [isinstance(arg, Masks) for arg in args]
    per_head = [None if is_links else 0 for is_links in linked]
    constant = masks is not None and masks.constant
    per_batch = per_head if constant else [0] * len(args)
    lifted = _map(_over_heads(function, per_head), per_batch)
    if not chunks:
      return lifted(*args)
    # Batch and chunks become one axis: XLA on CPU has crashed in reductions of
    # arrays with seven axes. The batch comes first: if it is sharded and came
    # after the chunks, each device would gather the whole batch.
    count, batch = jax.tree.leaves(args[0])[0].shape[:2]
    folded = (
      arg if one is None else _reshape(_swap(arg), 2, (batch * count,))
      for arg, one in zip(args, per_batch, strict=True)
    )
    return _swap(_reshape(lifted(*folded), 1, (batch, count)))

  return lifted


def _over_heads(function, per_head):
  """As `_map`, where leaves may have h heads in place of H.

  It maps over groups of heads, and within a group over the heads, which read
  the same shared leaves.
  """

  def mapped(*args):
    given = list(zip(args, per_head, strict=True))
    along = [arg for arg, axis in given if axis == 0]
    counts = {x.shape[0] for x in jax.tree.leaves(along)}
    if len(counts) == 1:
      return _map(function, per_head)(*args)
    groups, heads = sorted(counts)

    def grouped(x):
      own = x.shape[0] == heads
      return x.reshape(groups, -1, *x.shape[1:]) if own else x

    def axes(x):
      return 0 if x.shape[0] == heads else None

    within = [
      axis if axis is None else jax.tree.map(axes, arg) for arg, axis in given
    ]
    by_group = [
      arg if axis is None else jax.tree.map(grouped, arg) for arg, axis in given
    ]
    y = _map(jax.vmap(function, within), per_head)(*by_group)
    return _reshape(y, 2, (heads,))

  return mapped


def repeat_heads(tree: Tree, heads: int, axis: int) -> Tree:
  """Repeats shared heads, so that the axis has `heads` of them.

  With h heads, head i of the result is head `i // (heads / h)`. Called for one
  chunk at a time, it avoids the memory of a repeated sequence.
  """

  def repeat(x):
    count = x.shape[axis]
    return x if count == heads else jnp.repeat(x, heads // count, axis)

  return jax.tree.map(repeat, tree)


def zero_matrix(token: Tree) -> jax.Array:
  """The empty state [K, V] of a family with k [1, K] and v [1, V]."""
  shape = token.k.shape[1], token.v.shape[1]
  return jnp.zeros(shape, wide(token.k, token.v))


def widen(tree: Tree) -> Tree:
  """Converts floats narrower than float32 to float32."""
  return jax.tree.map(lambda x: x.astype(wide(x)), tree)


def _map(function, axes):
  """`vmap` over axis 0 of the arguments whose entry in `axes` is not None.

  An axis of length 1 is removed before the call and added after it. Otherwise
  XLA on a CPU does not vectorise loops: a selective scan takes four times as
  long.
  """

  def mapped(*args):
    along = [arg for arg, axis in zip(args, axes, strict=True) if axis == 0]
    if jax.tree.leaves(along)[0].shape[0] != 1:  # Or the length is symbolic.
      return jax.vmap(function, axes)(*args)
    single = (
      arg if axis is None else jax.tree.map(lambda x: x[0], arg)
      for arg, axis in zip(args, axes, strict=True)
    )
    return jax.tree.map(lambda x: x[None], function(*single))

  return mapped


def _swap(tree):
  """Swaps the first two axes of all leaves."""
  return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)


def _reshape(tree, count, shape):
  """Replaces the first `count` axes of all leaves by `shape`."""
  return jax.tree.map(lambda x: x.reshape(*shape, *x.shape[count:]), tree)
