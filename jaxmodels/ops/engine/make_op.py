"""Makes an op from a family: `make_op`, and the class `Op` behind it.

The ops of the library are instances of `Op` too. An op's file declares its
arguments in letters. `Op` converts them to arrays, checks them, handles
Explicit mesh axes, makes the zero state, chooses the form, and runs it.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.engine import arguments, checks
from jaxmodels.ops.engine.auto import Choice, Row, choose
from jaxmodels.ops.engine.chunks import repeat_heads
from jaxmodels.ops.engine.explicit import run_by_letters
from jaxmodels.ops.engine.method import Options, run
from jaxmodels.ops.engine.platform import wide
from jaxmodels.ops.engine.recurrence import Family, Method
from jaxmodels.ops.engine.segments import causal_masks

__all__ = ["Op", "Recurrence", "make_op"]

_TOKENS = "B L H *"


class Recurrence(NamedTuple):
  """The recurrence of one call.

  Attributes:
    family: the family that the call runs.
    tokens: pytree of [B, L, H, ...], or [B, L, ...] if the op has no heads.
    choice: the forms and the chunk size of "auto".
  """

  family: Family
  tokens: Any
  choice: Choice


@dataclasses.dataclass(frozen=True)
class Op:
  """An op: its arguments in letters, and the recurrence that it runs on them.

  Letters are those of `jaxmodels.ops.engine.checks`.

  Attributes:
    name: for messages, and for the scope in the compiled program.
    recurrence: `(**arguments) -> Recurrence`. The arguments are checked, and
      "..." is one axis in them.
    arguments: letters by name. Arguments with "L" are sequences. The others
      have no length axis, and each device has all of them.
    y: letters of the outputs.
    state: letters of the state, a pytree.
    heads: whether the third axis of tokens, and the second axis of states, is
      that of heads.
    within: lowest and highest value of arguments by name. All others must be
      finite, but log_decay only at most 0.
    kind: "real" or "complex", the dtypes that arguments may have; None for any.
    like: the argument whose dtype y gets; None for float32 or wider.
    enter: converts the state that the user passes to the state of the family.
    leave: converts the state of the family back.
    outputs: converts the y of the family.
  """

  name: str
  recurrence: Callable[..., Recurrence]
  arguments: Mapping[str, str]
  y: str
  state: Any
  heads: bool = True
  within: Mapping[str, tuple[float, float]] = dataclasses.field(
    default_factory=dict
  )
  kind: str | None = "real"
  like: str | None = None
  enter: Callable[[Any], Any] = lambda state: state
  leave: Callable[[Any], Any] = lambda state: state
  outputs: Callable[[jax.Array], jax.Array] = lambda y: y

  def __call__(
    self,
    given: Mapping[str, Any],
    initial_state: Any,
    segment_ids: Any,
    options: Options,
  ) -> tuple[jax.Array, Any]:
    """Runs the op on the arguments of a call, in the order of `arguments`."""
    return run_by_letters(
      self.name,
      lambda arrays: self._run(options, **arrays),
      {
        **{name: _arrays(self.name, name, x) for name, x in given.items()},
        "initial_state": self._state(initial_state),
        "segment_ids": arguments.array(self.name, "segment_ids", segment_ids),
      },
      {
        **self.arguments,
        "initial_state": self.state,
        "segment_ids": self._ids,
      },
      (self.y, self.state),
    )

  def _run(
    self, options: Options, initial_state: Any, segment_ids: Any, **given: Any
  ) -> tuple[jax.Array, Any]:
    """Runs the op on arrays, where all mesh axes are Auto."""
    given = {name: given[name] for name in self.arguments}
    batch = self._check(given, initial_state, segment_ids)["..."]
    given = {n: _fold(x, self.arguments[n], batch) for n, x in given.items()}
    segment_ids = _fold(segment_ids, self._ids, batch)
    with jax.named_scope(self.name):
      family, tokens, choice = self.recurrence(**given)
      if not self.heads:
        tokens = jax.tree.map(lambda x: x[:, :, None], tokens)
      state = self._entering(
        family, tokens, _fold(initial_state, self.state, batch)
      )
      y, state = run(
        self.name,
        family,
        tokens,
        state,
        segment_ids,
        options,
        choice,
        None if self.like is None else given[self.like].dtype,
      )
      if not self.heads:
        y, state = y[:, :, 0], jax.tree.map(lambda x: x[:, 0], state)
      y, state = self.outputs(y), self.leave(state)
    y = _unfold(y, self.y, batch)
    state = _unfold(state, self.state, batch)
    checks.finite(self.name, y=y, final_state=state)
    return y, state

  @property
  def _ids(self) -> str:
    """The letters of segment ids: those of y up to "L"."""
    return self.y[: self.y.index("L") + 1]

  @property
  def _open(self) -> bool:
    """Whether the letters leave the structure of the state open."""
    return isinstance(self.state, str) and self.state.endswith("*")

  def _state(self, given: Any) -> Any:
    """Converts the initial state to arrays, in the structure of its letters."""
    if given is None or self._open:
      return _arrays(self.name, "initial_state", given)
    if isinstance(self.state, str):
      return arguments.array(self.name, "initial_state", given)
    return arguments.state(self.name, given, type(self.state))

  def _check(self, given: Any, state: Any, segment_ids: Any) -> dict[str, Any]:
    """Checks shapes and dtypes, and numbers if `checks.numerics` is on."""
    sizes = checks.arguments(
      self.name,
      **{name: (x, self.arguments[name]) for name, x in given.items()},
      # If the structure of the state is open, `_like` checks its shapes later.
      initial_state=(None if self._open else state, self.state),
      segment_ids=(segment_ids, self._ids),
    )
    everything = {**given, "initial_state": state}
    self._check_dtypes(everything, segment_ids)
    for name, x in everything.items():
      if name.endswith("log_decay"):
        checks.log_decay(self.name, x, name)
      elif name in self.within:
        checks.between(self.name, name, x, *self.within[name])
      else:
        checks.finite(self.name, **{name: x})
    return sizes

  def _check_dtypes(self, given: Mapping[str, Any], segment_ids: Any) -> None:
    checks.integers(self.name, segment_ids=segment_ids)
    if self.kind is None:
      return
    checks.floating(self.name, complex_too=self.kind == "complex", **given)
    if self.like and not jnp.iscomplexobj(given[self.like]):
      real = f"real where {self.like} is"
      for name, tree in given.items():
        for x in jax.tree.leaves(tree):
          checks.dtype(self.name, name, x, jnp.floating, real)

  def _entering(self, family: Family, tokens: Any, given: Any) -> Any:
    """The state before the first token [B, H, ...], float32 or wider."""
    if given is None:
      return _zero_state(family, tokens)
    zero = jax.eval_shape(functools.partial(_zero_state, family), tokens)
    state = self.enter(given)
    if not self.heads:
      state = jax.tree.map(lambda x: x[:, None], state)
    return _like(self.name, state, zero)


def make_op(
  name: str,
  family: Family | Callable[..., Family],
  tokens: Any,
  *,
  letters: Mapping[str, str] | None = None,
  y: str | None = None,
  state: Any = None,
  like: str | None = None,
  auto: Row | None = None,
) -> Callable[..., tuple[jax.Array, Any]]:
  """Makes an op from a family: zero state, guards, forms and batch axes.

  The op is called like every op of `jaxmodels.ops`, which documents the shared
  arguments, except that `initial_state` is passed by name:

      op(*tokens, initial_state=None, segment_ids=None, reverse=False,
         method="auto", chunk_size=None, axis_name=None) -> (y, final_state)

  Without letters, tokens are [B, L, H, ...], by position or by name, and states
  are [B, H, ...]. Other shapes are declared in the letters of
  `jaxmodels.ops.engine.checks`. For example, `{"x": "... L H D", "A": "H D"}`
  allows any number of batch axes, and an argument A without a length axis. The
  family is then a function of the arguments without a length axis,
  `family(A=A) -> Family`. A further argument with h in place of H, such as
  "... L h K", may have fewer heads than the first sequence, which share them.
  If the first sequence has no axis H, there is one head.

  Args:
    name: of the op, for messages and for the scope in the compiled program.
    family: the recurrence, or a function of the arguments without a length
      axis that returns it. An update must be a pytree like a state, because it
      is the state after a span that starts from zero.
    tokens: the NamedTuple of which the family's chunks are instances.
    letters: the letters of each argument, in the order of a call.
    y: letters of the outputs. By default, those of the first sequence up to
      the heads, followed by any further axes.
    state: letters of the state, a string or a pytree of strings. The default is
      that of y without L.
    like: the argument whose dtype y gets. By default y is float32 or wider, as
      the state is.
    auto: the forms and the chunk sizes of "auto". By default "chunked" on a CPU
      and "chunk_parallel" elsewhere, and always "chunked" for a family without
      summaries.

  Returns:
    The op. It raises a ValueError that names the argument if a shape, a dtype
    or an option is wrong.
  """
  if letters is None:
    letters = dict.fromkeys(tokens._fields, _TOKENS)
  sequences = [n for n in letters if "L" in letters[n].split()]
  # Up to the heads, or up to the length if there are no heads.
  first = letters[sequences[0]]
  lead = first[: first.index("H" if "H" in first.split() else "L") + 1]

  def recurrence(**given: Any) -> Recurrence:
    # Widened to float32, like the chunks that the family gets.
    whole = {
      name: jax.tree.map(lambda x: x.astype(wide(x)), given.pop(name))
      for name in letters
      if name not in sequences
    }
    own = family if isinstance(family, Family) else family(**whole)
    chosen = choose(auto or "default", given.get("k"), given.get("v"))
    return Recurrence(own, tokens(**given), chosen)

  made = Op(
    name,
    recurrence,
    letters,
    y=y or f"{lead} *",
    state=state or f"{lead.replace(' L', '')} *",
    heads="H" in first.split(),
    kind=None,
    like=like,
  )
  defaults = {n: inspect.Parameter.empty for n in letters}
  defaults |= tokens._field_defaults
  kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
  signature = inspect.Signature(
    [inspect.Parameter(n, kind, default=defaults[n]) for n in letters]
  )

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
    bound = signature.bind(*args, **named)
    bound.apply_defaults()
    options = Options(reverse, method, chunk_size, axis_name)
    return made(bound.arguments, initial_state, segment_ids, options)

  op.__name__ = op.__qualname__ = name
  return op


def _arrays(op: str, name: str, x: Any) -> Any:
  """Converts an argument to arrays; a list is an array if it holds numbers."""

  def of_numbers(x):
    return isinstance(x, list) and all(map(np.isscalar, jax.tree.leaves(x)))

  return jax.tree.map(
    lambda x: arguments.array(op, name, x), x, is_leaf=of_numbers
  )


def _fold(tree: Any, letters: Any, batch: tuple[int, ...]) -> Any:
  """Joins the axes that "..." stands for in one."""
  return _regroup(tree, letters, batch, (math.prod(batch),))


def _unfold(tree: Any, letters: Any, batch: tuple[int, ...]) -> Any:
  """Undoes `_fold`."""
  return _regroup(tree, letters, (math.prod(batch),), batch)


def _regroup(
  tree: Any, letters: Any, old: tuple[int, ...], new: tuple[int, ...]
) -> Any:
  """Reshapes the axes `old`, which stand where the letters have "..."."""

  def regroup(x, axes):
    if "..." not in axes:
      return x
    at = axes.split().index("...")
    return x.reshape(*x.shape[:at], *new, *x.shape[at + len(old) :])

  if tree is None:
    return None
  return jax.tree.map(regroup, tree, jax.tree.broadcast(letters, tree))


def _zero_state(family: Family, tokens: Any) -> Any:
  """The zero state, made from tokens, so that it is sharded like them."""

  def first(x):  # [B, H, C=1, ...]; the sum of no tokens is 0.
    x = jnp.sum(x[:, :1], axis=1, dtype=x.dtype)[:, :, None]
    return x.astype(wide(x))

  def update(token):
    return family.summarize(token, causal_masks(1)).update

  heads = max(x.shape[2] for x in jax.tree.leaves(tokens))
  one = repeat_heads(jax.tree.map(first, tokens), heads, 1)
  zero = family.zero
  if zero is None:
    return jax.tree.map(jnp.zeros_like, jax.vmap(jax.vmap(update))(one))
  # A constant would be typed as replicated inside a `shard_map`.
  placed = sum(
    jnp.zeros_like(jnp.sum(x, axis=tuple(range(2, x.ndim))), dtype=jnp.float32)
    for x in jax.tree.leaves(one)
  )
  return jax.tree.map(
    lambda x: x + jnp.expand_dims(placed, range(2, x.ndim)).astype(x.dtype),
    jax.vmap(jax.vmap(zero))(one),
  )


def _like(name, state, zero):
  """The state, in a dtype at least as wide as that of the zero state.

  Raises:
    ValueError: its structure or a shape differs from the zero state's.
  """
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
