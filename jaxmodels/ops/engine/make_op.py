"""Ops of your own: `make_op` puts the op contract around a family."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.engine import arguments, checks
from jaxmodels.ops.engine.explicit import run_by_letters
from jaxmodels.ops.engine.method import default_chunk_size, run
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.recurrence import Family, Method
from jaxmodels.ops.engine.segments import causal_masks


def make_op(
  name: str, family: Family, tokens: Callable[..., Any]
) -> Callable[..., tuple[jax.Array, Any]]:
  """Makes an op of a family: `run` with a zero state, defaults and guards.

  It is called like every op of this package, but for `initial_state`, which
  is given by name:

      op(*tokens, initial_state=None, segment_ids=None, reverse=False,
         method="auto", chunk_size=None, axis_name=None) -> (y, final_state)

  Tokens are [B, L, H, ...], in order or by name, and states [B, H, ...]. y
  and the states are float32 or wider.

  Args:
    name: of the op, for messages and for the scope in the compiled program.
    family: the recurrence. Its updates must look like its states: an update
      is what becomes of the zero state.
    tokens: the NamedTuple that its chunks are.

  Returns:
    The op. It raises a ValueError that names the argument where a shape, a
    dtype or an option does not fit.
  """

  def op(
    *args: Any,
    initial_state: Any = None,
    segment_ids: jax.Array | None = None,
    reverse: bool = False,
    method: Method = "auto",
    chunk_size: int | None = None,
    axis_name: str | None = None,
    **named: Any,
  ) -> tuple[jax.Array, Any]:
    given = _arrays(name, tokens(*args, **named))._asdict()
    segment_ids = arguments.array(name, "segment_ids", segment_ids)
    options = {
      "reverse": reverse,
      "method": method,
      "chunk_size": chunk_size,
      "axis_name": axis_name,
    }
    return run_by_letters(
      name,
      lambda arrays: run_op(options, **arrays),
      {**given, "initial_state": initial_state, "segment_ids": segment_ids},
      {
        **dict.fromkeys(given, "BLH"),
        "initial_state": "BH",
        "segment_ids": "BL",
      },
      ("BLH", "BH"),
    )

  def run_op(options, initial_state, segment_ids, **sequence):
    sequence = tokens(**sequence)
    _check(name, sequence, segment_ids)
    with jax.named_scope(name):
      state = _zero_state(family, sequence)
      if initial_state is not None:
        state = _like(name, initial_state, state)
      y, state = run(
        name,
        family,
        sequence,
        state,
        segment_ids,
        default=default_chunk_size(),
        **options,
      )
    checks.finite(name, y=y, final_state=state)
    return y, state

  op.__name__ = op.__qualname__ = name
  return op


def _arrays(name: str, sequence: Any) -> Any:
  """The tokens as arrays; a list of numbers is one, any other a pytree."""

  def of_numbers(x):
    return isinstance(x, list) and all(map(np.isscalar, jax.tree.leaves(x)))

  return type(sequence)(
    *(
      jax.tree.map(
        lambda x, field=field: arguments.array(name, field, x),
        tree,
        is_leaf=of_numbers,
      )
      for field, tree in zip(sequence._fields, sequence, strict=True)
    )
  )


def _check(name: str, sequence: Any, segment_ids: jax.Array | None) -> None:
  """Checks that all tokens are [B, L, H, ...]."""
  leading: tuple[int, ...] = ()
  for argument, tree in sequence._asdict().items():
    for x in jax.tree.leaves(tree):
      checks.rank_at_least(name, argument, x, 3, "[B, L, H, ...]")
      leading = leading or x.shape[:3]  # Of the first array.
      expected = *leading, *[None] * (x.ndim - 3)
      checks.shape(name, argument, x, expected, "[B, L, H, ...]")
    if argument == "log_decay":
      checks.log_decay(name, tree)
    else:
      checks.finite(name, **{argument: tree})
  checks.segment_ids(name, segment_ids, leading[:2])


def _zero_state(family, sequence):
  """Zeros like the update of a token, and so placed like the tokens."""

  def update(token):
    return family.summarize(token, causal_masks(1)).update

  def first(x):  # [B, H, C=1, ...]; a sum, since there may be none.
    x = jnp.sum(x[:, :1], axis=1, dtype=x.dtype)[:, :, None]
    return x.astype(wide(x))

  updates = jax.vmap(jax.vmap(update))(jax.tree.map(first, sequence))
  return jax.tree.map(jnp.zeros_like, updates)


def _like(name, state, zero):
  """The state, at least as wide as the zero state and of its shapes."""
  try:
    jax.tree.map(lambda zero, x: None, zero, state)
  except ValueError as error:
    structure = str(jax.tree.structure(zero))
    wanted = structure.removeprefix("PyTreeDef(").removesuffix(")")
    wrong = f"{name}: initial_state must be the pytree {wanted}, got "
    raise ValueError(wrong + arguments.describe(state)) from error

  def convert(zero, x):
    x = arguments.array(name, "initial_state", x)
    checks.shape(name, "initial_state", x, zero.shape, "[B, H, ...]")
    return x.astype(wide(x, zero))

  return jax.tree.map(convert, zero, state)
