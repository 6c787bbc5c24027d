"""Guards of the ops: shapes and dtypes always, numbers when switched on.

Shapes and dtypes are checked by static chex assertions while an op is traced;
they cost nothing after. A wrong call is a `ValueError` that names the op, the
argument, what it got and what it wanted.

Numbers are checked by chex value assertions inside `with numerics():`, and
are absent from the program otherwise. In a jitted function they need
`chex.chexify`:

    with checks.numerics():
      step = chex.chexify(jax.jit(step), async_check=False)
      step(...)                                # traced here, with the checks

The switch is read when a function is traced: one that was compiled without
checks stays so.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

_NUMERICS = contextvars.ContextVar("jaxmodels_numerics", default=False)


@contextlib.contextmanager
def numerics(enabled: bool = True) -> Iterator[None]:
  """Switches the numeric guards on (or off) for what is traced inside."""
  token = _NUMERICS.set(enabled)
  try:
    yield
  finally:
    _NUMERICS.reset(token)


def require(condition: bool, message: str) -> None:
  """Raises `ValueError(message)` unless the (static) condition holds."""
  if not condition:
    raise ValueError(message)


def shape(
  op: str, name: str, x: Any, expected: Sequence[int | None], letters: str
) -> None:
  """Checks the shape of an argument; None stands for any size.

  Args:
    op: the op, for the message.
    name: the argument, for the message.
    x: the argument.
    expected: the shape wanted.
    letters: the same in letters, such as "[..., L, H, K]".
  """
  wanted = tuple("any" if n is None else n for n in expected)
  chex.assert_shape(
    x,
    tuple(expected),
    custom_message=(
      f"{op}: {name} must be {letters} = {_text(wanted)}, "
      f"got shape {_text(x.shape)}"
    ),
    include_default_message=False,
    exception_type=ValueError,
  )


def rank_at_least(op: str, name: str, x: Any, rank: int, letters: str) -> None:
  """Checks that an argument has at least so many axes."""
  require(
    x.ndim >= rank,
    f"{op}: {name} must be {letters}, got shape {_text(x.shape)}",
  )


def dtype(op: str, name: str, x: Any, kind: Any, words: str) -> None:
  """Checks that an argument's dtype is of a kind, such as `jnp.floating`."""
  require(
    jnp.issubdtype(x.dtype, kind),
    f"{op}: {name} must be {words}, got dtype {x.dtype}",
  )


def segment_ids(op: str, ids: Any, leading: Sequence[int]) -> None:
  """Checks segment ids [..., L]: any integers."""
  if ids is None:
    return
  shape(op, "segment_ids", ids, leading, "[..., L]")
  dtype(op, "segment_ids", ids, jnp.integer, "integers")


def finite(op: str, **arrays: Any) -> None:
  """Checks that pytrees hold neither NaN nor infinity."""
  if not _NUMERICS.get():
    return
  for name, tree in arrays.items():
    chex.assert_tree_all_finite(
      tree,
      custom_message=f"{op}: {name} must be finite",
      exception_type=ValueError,
    )


def log_decay(op: str, x: Any) -> None:
  """Checks log decays: at most 0 and not NaN; -inf is a decay of 0."""
  if x is None or not _NUMERICS.get() or x.size == 0:
    return
  _all(x <= 0, f"{op}: log_decay must be at most 0")  # And so not NaN.


def between(op: str, name: str, x: Any, low: float, high: float) -> None:
  """Checks that values lie in [low, high]."""
  if not _NUMERICS.get() or x.size == 0:
    return
  inside = (x >= low) & (x <= high)
  _all(inside, f"{op}: {name} must lie in [{low}, {high}]")


def _all(condition: jax.Array, message: str) -> None:
  chex.assert_trees_all_equal(
    jnp.all(condition),
    jnp.ones((), bool),
    custom_message=message,
    exception_type=ValueError,
  )


def _text(shape: Sequence[Any]) -> str:
  return "(" + ", ".join(str(n) for n in shape) + ")"
