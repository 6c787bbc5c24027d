"""The contract of mixers and channel mixers, and words for a breach of it.

All checks look at shapes and dtypes alone: they run while a model is traced,
and leave nothing in its program.
"""

import inspect
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

__all__ = ["ContractError", "mix", "mix_channels", "zero_state"]

MIXER = (
  "a mixer is mixer(x, state=None, *, segment_ids=None) -> (y, state), with y "
  "[B, L, D] like x, and init_state(batch_size)"
)
MLP = "a channel mixer is mlp(x) -> y, with y [B, L, D] like x"


class ContractError(ValueError):
  """A module is not a mixer, or not a channel mixer; one line says why."""


def mix(
  mixer: nn.Module, x: jax.Array, state: Any, segment_ids: jax.Array | None
) -> tuple[jax.Array, Any]:
  """Calls a sequence mixer.

  Args:
    mixer: Bound to a scope.
    x: [B, L, D].
    state: As its `init_state` makes it, or None.
    segment_ids: [B, L] or None.

  Returns:
    y [B, L, D], and the state.

  Raises:
    ContractError: The mixer breaks the contract; names its class.
  """
  name = type(mixer).__name__
  _check_signature(mixer, MIXER, x, state, segment_ids=segment_ids)
  result = mixer(x, state, segment_ids=segment_ids)
  _require(
    isinstance(result, tuple | list) and len(result) == 2,
    f"{name} must return (y, state), got {_describe(result)}: {MIXER}",
  )
  y, after = result
  _check_output(name, y, x, MIXER)
  if hasattr(mixer, "init_state"):
    _check_state(mixer.clone(parent=None), after, x.shape[0])
  return y, after


def mix_channels(mlp: nn.Module, x: jax.Array) -> jax.Array:
  """Calls a channel mixer: x [B, L, D] to [B, L, D]; raises as `mix`."""
  _check_signature(mlp, MLP, x)
  y = mlp(x)
  _check_output(type(mlp).__name__, y, x, MLP)
  return y


def zero_state(mixer: nn.Module, batch_size: int) -> Any:
  """The zero state of a mixer that is not bound; raises as `mix`."""
  name = type(mixer).__name__
  _require(hasattr(mixer, "init_state"), f"{name} has no init_state: {MIXER}")
  # hasattr says so for every field of a module, but mypy cannot know.
  init_state: Any = getattr(mixer, "init_state")  # noqa: B009
  return init_state(batch_size)


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ContractError(message)


def _check_signature(
  module: nn.Module, contract: str, *given: Any, **named: Any
) -> None:
  """Checks that a module can be called with these arguments."""
  name = type(module).__name__
  call: Any = getattr(module, "__call__", None)  # noqa: B004
  _require(call is not None, f"{name} has no __call__: {contract}")
  try:
    inspect.signature(call).bind(*given, **named)
  except TypeError as error:
    raise ContractError(f"{name}.__call__: {error}: {contract}") from error


def _check_output(name: str, y: Any, x: jax.Array, contract: str) -> None:
  _require(
    hasattr(y, "shape") and hasattr(y, "dtype"),
    f"{name} must return an array y, got {_describe(y)}: {contract}",
  )
  _require(
    y.shape == x.shape and jnp.issubdtype(y.dtype, jnp.floating),
    f"{name} must return y as real floating point of shape {x.shape}, got "
    f"{_describe(y)}: {contract}",
  )


def _check_state(mixer: Any, after: Any, batch_size: int) -> None:
  """Checks a state that was returned against one that `init_state` makes.

  They must be alike in structure, shapes and dtypes, or else no loop over
  tokens can carry the state.
  """
  name = type(mixer).__name__
  wanted = jax.eval_shape(lambda: mixer.init_state(batch_size))
  structures: list[Any] = [jax.tree.structure(t) for t in (after, wanted)]
  _require(
    structures[0] == structures[1],
    f"{name} returns a state of the structure {structures[0]}, but its "
    f"init_state makes {structures[1]}; they must be alike",
  )
  leaves = jax.tree_util.tree_leaves_with_path(after)
  for (path, leaf), expected in zip(
    leaves, jax.tree.leaves(wanted), strict=True
  ):
    got = jax.typeof(leaf)
    _require(
      got.shape == expected.shape and got.dtype == expected.dtype,
      f"{name} returns a state whose leaf {jax.tree_util.keystr(path)!r} is "
      f"{_describe(got)}, but its init_state makes {_describe(expected)}; "
      "they must be alike",
    )


def _describe(value: Any) -> str:
  """What a value is, in words."""
  if hasattr(value, "shape") and hasattr(value, "dtype"):
    return f"{value.dtype}{list(value.shape)}"
  if isinstance(value, tuple | list):
    return f"a {type(value).__name__} of {len(value)}"
  return f"a {type(value).__name__}"
