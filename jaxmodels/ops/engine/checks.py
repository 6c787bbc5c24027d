"""Guards of the ops: shapes and dtypes always, numbers when switched on.

Shapes and dtypes are checked while an op is traced, at no cost in the compiled
program. A wrong call raises a `ValueError` that names the op, the argument, the
value it got and the value it needs.

Inside `with numerics():` numbers are checked too, by value assertions of chex.
Otherwise the program contains no such checks. In a jitted function they need
`chex.chexify`:

    with checks.numerics():
      step = chex.chexify(jax.jit(step), async_check=False)
      step(...)                                # traced here, with the checks

A function reads the switch when it is traced. A function that was compiled
without checks keeps no checks.

Shapes are written in letters, one letter per axis, such as "... L H K":
- "..." stands for batch axes, or for channels: any number of axes, the same in
  each argument of a call.
- "*", at the end, stands for any further axes, which may differ between
  arguments.
- "... L H | ... L H K" allows either of the two; the rank of the array decides.
- The size of a small letter divides the size of its capital. In "... L h K",
  each of the h heads is shared by H / h heads of the other arguments.
"""

import contextlib
import contextvars
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import export

Keys = tuple[Any, ...]

# Which numbers are checked: none, those of arguments, or all.
_NUMERICS = contextvars.ContextVar("jaxmodels_numerics", default="none")


# The message of a check inside the message of chex.
_MESSAGE = re.compile(r"Custom message: (.*?)\.? \[failed at", re.DOTALL)


class NumberError(ValueError):
  """An argument holds an invalid number, such as a log decay above 0."""


@contextlib.contextmanager
def numerics(
  enabled: bool = True, *, arguments_only: bool = False
) -> Iterator[None]:
  """Switches numeric guards on (or off) for functions traced inside.

  Args:
    enabled: whether the guards are on.
    arguments_only: whether to check only the arguments of ops, and only
      arguments with known values. Ops then return zeros without running.
  """
  which = "arguments" if arguments_only else "all"
  token = _NUMERICS.set(which if enabled else "none")
  try:
    yield
  finally:
    _NUMERICS.reset(token)


def message_of(error: AssertionError) -> str:
  """The message of the check that failed, without that of chex around it."""
  found = _MESSAGE.search(str(error))
  return found[1] if found else str(error)


def runs() -> bool:
  """Whether ops run: not under `numerics(arguments_only=True)`."""
  return _NUMERICS.get() != "arguments"


def require(condition: bool, message: str) -> None:
  """Raises `ValueError(message)` unless the (static) condition holds."""
  if not condition:
    raise ValueError(message)


def method(op: str, given: str, known: Sequence[str]) -> None:
  """Checks that an op has the form that a call names."""
  require(
    given in known,
    f"{op}: method must be one of {', '.join(known)}, got {given!r}",
  )


def alternatives(letters: str) -> list[Keys]:
  """The letters of each alternative, in order."""
  return [tuple(axes.split()) for axes in letters.split("|")]


def _words(letters: str) -> str:
  """The letters for a message: "[..., L, H] or [..., L, H, K]"."""
  return " or ".join(
    f"[{', '.join(axes)}]".replace(", *", ", ...")
    for axes in alternatives(letters)
  )


def count(letters: str, rank: int) -> int | None:
  """The number of axes that "..." stands for in an array of this rank.

  None if there is no "...", or if alternatives or "*" leave the number open.
  """
  first, *others = alternatives(letters)
  if others or "..." not in first or "*" in first:
    return None
  return max(rank - len(first) + 1, 0)


def keys(letters: str, rank: int, batch: int) -> Keys | None:
  """A key for each axis of an array: its letter, or its number inside "...".

  Args:
    letters: of the array.
    rank: of the array.
    batch: the number of axes that "..." stands for.

  Returns:
    The keys of the alternative that has this rank, or None if there is no such
    alternative. Axes of "*" have the key None.
  """
  for axes in alternatives(letters):
    expanded = expand(axes, batch)
    if expanded[-1:] == ("*",) and rank >= len(expanded) - 1:
      named = expanded[:-1]
      return named + (None,) * (rank - len(named))
    if len(expanded) == rank:
      return expanded
  return None


def _shared(letters: str) -> list[str]:
  """The small letters, such as h; the size of H is a multiple of that of h."""
  return [key for key in alternatives(letters)[0] if key.islower()]


def expand(axes: Keys, batch: int) -> Keys:
  """Replaces "..." by the numbers 0, 1, ... of its `batch` axes."""
  if "..." not in axes:
    return axes
  at = axes.index("...")
  return (*axes[:at], *range(batch), *axes[at + 1 :])


def arguments(op: str, /, **given: tuple[Any, Any]) -> dict[str, Any]:
  """Checks the shapes of arguments by their letters.

  The first argument with a letter binds the letter to a size, and the other
  arguments must have this size: `arguments(op, q=(q, "... L H K"), v=(v,
  "... L H V"))`. A small letter binds its own size, which must divide the size
  of its capital.

  Args:
    op: the op, for messages.
    **given: pairs of an argument, or None, and its letters (see the top of this
      file): a string, or for a pytree of arrays a pytree of strings. The first
      argument has no alternatives.

  Returns:
    The size of each letter; for "...", a tuple of sizes.

  Raises:
    ValueError: a shape does not fit. The message names the argument, its
      letters, their sizes, and the shape of the argument.
  """
  sizes: dict[Any, Any] = {}
  leaves = [
    (name + jax.tree_util.keystr(path), x.shape, own)
    for name, (tree, axes) in given.items()
    if tree is not None
    for (path, x), own in zip(
      jax.tree_util.tree_leaves_with_path(tree),
      jax.tree.leaves(jax.tree.broadcast(axes, tree)),
      strict=True,
    )
  ]
  for argument, shape, own in leaves:
    _bind(op, argument, shape, own, sizes)
  for argument, shape, own in leaves:  # Once all capitals are bound.
    _divides(op, argument, shape, own, sizes)
  batch = sizes.pop("...", 0)
  return sizes | {"...": tuple(sizes.pop(i) for i in range(batch))}


def _bind(
  op: str, name: str, shape: Sequence[Any], axes: str, sizes: dict[Any, Any]
) -> None:
  """Binds the letters of one argument, or raises a ValueError.

  Args:
    op: the op, for the message.
    name: the argument, for the message.
    shape: of the argument.
    axes: its letters.
    sizes: the sizes of letters, the sizes of batch axes by number, and for
      "..." the number of batch axes; updated.
  """
  batch_axes = count(axes, len(shape))
  if batch_axes is not None:
    sizes.setdefault("...", batch_axes)
  batch = sizes.get("...", 0)
  found = keys(axes, len(shape), batch)
  wanted = found or expand(alternatives(axes)[0], batch)
  known = any(key in sizes for key in wanted)
  if found is not None:
    for key, size in zip(found, shape, strict=True):
      sizes.setdefault(key, size)
    sizes.pop(None, None)  # Of "*": any size.
  expected = [sizes.get(key) for key in wanted]
  text = f" = {_text(expected)}".replace("None", "any") if known else ""
  require(
    found is not None
    and all(
      key is None or n == size
      for key, n, size in zip(found, expected, shape, strict=True)
    ),
    f"{op}: {name} must be {_words(axes)}{text}, got shape {_text(shape)}",
  )


def _divides(
  op: str, name: str, shape: Sequence[Any], axes: str, sizes: dict[Any, Any]
) -> None:
  """Checks that the sizes of small letters divide those of their capitals."""
  for key in _shared(axes):
    part, whole = sizes[key], sizes.get(key.upper(), sizes[key])
    require(
      part == whole or (part > 0 and whole % part == 0),
      f"{op}: {name} must be {_words(axes)} where {key} divides "
      f"{key.upper()} = {whole}, got shape {_text(shape)}",
    )


def is_open(size: Any) -> bool:
  """Whether a size is symbolic: at least 1, and known only in a later call."""
  return bool(export.is_symbolic_dim(size))


def at_most(size: Any, most: int) -> bool:
  """Whether a size is known to be at most `most`; False if it is symbolic."""
  return not is_open(size) and bool(size <= most)


def require_length(
  op: str, length: Any, form: str, instead: str | None = None
) -> None:
  """Raises a ValueError if a form needs a fixed L, but L is symbolic.

  Args:
    op: the op, for the message.
    length: L.
    form: what needs a fixed L, for the message, such as 'method "associative"'.
    instead: what works with a symbolic L, for the message; None for nothing.
  """
  other = "" if instead is None else f", or use {instead}"
  require(
    not is_open(length),
    f"{op}: {form} needs the number L of tokens, got the symbolic length "
    f"{length}; export a fixed length{other}",
  )


def shape(
  op: str, name: str, x: Any, expected: Sequence[int | None], words: str
) -> None:
  """Checks the shape of an argument.

  Args:
    op: the op, for the message.
    name: the argument, for the message.
    x: the argument.
    expected: the sizes that it must have; None allows any size.
    words: these sizes in letters, such as "[..., L, H, K]".
  """
  wanted = tuple("any" if n is None else n for n in expected)
  fits = len(x.shape) == len(wanted) and all(
    n is None or n == size for n, size in zip(expected, x.shape, strict=True)
  )
  require(
    fits,
    f"{op}: {name} must be {words} = {_text(wanted)}, "
    f"got shape {_text(x.shape)}",
  )


def rank_at_least(op: str, name: str, x: Any, rank: int, words: str) -> None:
  """Checks that an argument has at least `rank` axes."""
  require(
    x.ndim >= rank,
    f"{op}: {name} must be {words}, got shape {_text(x.shape)}",
  )


def dtype(op: str, name: str, x: Any, kind: Any, words: str) -> None:
  """Checks that an argument's dtype is of a kind, such as `jnp.floating`."""
  require(
    jnp.issubdtype(x.dtype, kind),
    f"{op}: {name} must be {words}, got dtype {x.dtype}",
  )


def floating(op: str, *, complex_too: bool = False, **arrays: Any) -> None:
  """Checks that pytrees hold real, or with `complex_too` complex, floats."""
  kind: Any = jnp.floating
  words = "real floating point"
  if complex_too:
    kind, words = jnp.inexact, "real or complex floating point"
  for name, tree in arrays.items():
    for x in jax.tree.leaves(tree):
      dtype(op, name, x, kind, words)


def integers(op: str, **arrays: Any) -> None:
  """Checks that arrays hold integers; skips None."""
  for name, x in arrays.items():
    if x is not None:
      dtype(op, name, x, jnp.integer, "integers")


def segment_ids(op: str, ids: Any, leading: Sequence[int]) -> None:
  """Checks segment ids [..., L]: any integers."""
  if ids is not None:
    shape(op, "segment_ids", ids, leading, "[..., L]")
    integers(op, segment_ids=ids)


def finite(op: str, **arrays: Any) -> None:
  """Checks that pytrees hold neither NaN nor infinity."""
  for name, tree in arrays.items():
    for x in jax.tree.leaves(tree):
      _all(x, jnp.isfinite, f"{op}: {name} must be finite")


def log_decay(op: str, x: Any, name: str = "log_decay") -> None:
  """Checks log decays: at most 0 and not NaN; -inf is a decay of 0."""
  # NaN <= 0 is False.
  _all(x, lambda x: x <= 0, f"{op}: {name} must be at most 0")


def between(op: str, name: str, x: Any, low: float, high: float) -> None:
  """Checks that values are in [low, high]; plus infinity is never allowed."""

  def inside(x):
    return (x >= low) & (x < high if high == math.inf else x <= high)

  _all(x, inside, f"{op}: {name} must lie in [{low}, {high}]")


def _all(x: Any, holds: Callable[[Any], Any], message: str) -> None:
  """Checks that `holds` is true for each number, if `numerics` is on."""
  which = _NUMERICS.get()
  if which == "none" or x is None or x.size == 0:
    return
  if which == "arguments":
    if not isinstance(x, jax.core.Tracer) and not jnp.all(holds(x)):
      raise NumberError(message)
    return
  chex.assert_trees_all_equal(
    jnp.all(holds(x)),
    jnp.ones((), bool),
    custom_message=message,
    exception_type=NumberError,
  )


def _text(shape: Sequence[Any]) -> str:
  return "(" + ", ".join(str(n) for n in shape) + ")"
