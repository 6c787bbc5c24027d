"""The contract of mixers and channel mixers, and its errors.

A mixer is `mixer(x, state=None, *, segment_ids=None) -> (y, state)` with x and
y [B, L, D], and its `init_state(batch_size)` makes the zero state. A channel
mixer has the same contract. If it maps each token on its own, its state is (),
and it may also be a plain `mlp(x) -> y`.

A mixer or channel mixer gets more arguments from a stack if its call has
keywords for them. (A subclass of `Mixer` has these keywords in `mix`.) Give
them defaults, so that the mixer also works outside of a stack:

- `layer`: the index of the layer in the stack. It is an int, or with
  `scan_layers` an int32 array, because one program then runs all layers;
- `depth`: the number of layers, an int;
- `shared`: arrays by name that pass from layer to layer within one forward
  pass. A mixer that is given them returns `(y, state, shared)`, where shared
  has the names, shapes and dtypes of the argument.

The method `init_shared(x, depth, param)` makes the shared values before the
first layer. The stack calls it with the stream x [B, L, D] and with a function
`param(name, init, shape)`, which makes a parameter of the stack that all layers
share. For example, RWKV-7 passes on the values of its first layer, and HGRN2
reads a table of the lower bounds of all layers:

    def init_shared(self, x, depth, param):
      logits = param("bounds", nn.initializers.zeros, (depth, self.width))
      return {"bounds": jnp.cumsum(jax.nn.softmax(logits, 0), 0)}

A mixer that is random in a call draws keys from a Flax stream
(`self.make_rng`), and is deterministic if `self.has_rng` shows that the call
has no key. Every layer has its own keys and its own variables of every
collection. This includes scanned layers.

All checks use only shapes and dtypes. They run while a model is traced, and add
nothing to its program.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxmodels.mixers.mixer import Mixer

__all__ = [
  "ContractError",
  "asks_for",
  "initial_shared",
  "mix",
  "mix_in_stack",
  "zero_state",
]

MIXER = (
  "a mixer is mixer(x, state=None, *, segment_ids=None) -> (y, state), with y "
  "[B, L, D] like x, and init_state(batch_size)"
)
MLP = (
  "a channel mixer has the call of a mixer, or is mlp(x) -> y, with y "
  "[B, L, D] like x"
)
SHARED = (
  "a mixer that takes `shared` returns (y, state, shared), with the names, "
  "shapes and dtypes that init_shared(x, depth, param) makes"
)

# Arguments that the stack passes if the call of a mixer has such keywords.
EXTRAS = ("layer", "depth", "shared")


class ContractError(ValueError):
  """A module is not a mixer, or not a channel mixer; one line says why."""


class _Shared(dict[str, Any]):
  """Shared values by name; a missing name raises an error of one line."""

  def __missing__(self, name: str) -> Any:
    near = difflib.get_close_matches(name, self, 1, 0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {sorted(self)}"
    raise ContractError(f"no shared value {name!r}; {hint}: {SHARED}")


def asks_for(module: nn.Module) -> frozenset[str]:
  """The names of `EXTRAS` for which a module has keywords.

  The keywords are those of its call, or of `mix` if it inherits the call of
  `Mixer`.
  """
  call = getattr(module, "__call__", None)  # noqa: B004
  if call is None:
    return frozenset()
  parameters = inspect.signature(call).parameters
  if "place" in parameters and isinstance(module, Mixer):
    parameters = inspect.signature(module.mix).parameters
  return frozenset(EXTRAS) & set(parameters)


def mix(
  mixer: nn.Module, x: jax.Array, state: Any, segment_ids: jax.Array | None
) -> tuple[jax.Array, Any]:
  """Calls a sequence mixer on its own, outside of a stack.

  Args:
    mixer: Bound to a scope.
    x: [B, L, D].
    state: A state like that of `init_state`, or None.
    segment_ids: [B, L] or None.

  Returns:
    y [B, L, D], and the state.

  Raises:
    ContractError: The mixer breaks the contract; the message names its class.
  """
  return mix_in_stack(mixer, x, state, segment_ids, {})[:2]


def mix_in_stack(
  mixer: nn.Module,
  x: jax.Array,
  state: Any,
  segment_ids: jax.Array | None,
  extras: Mapping[str, Any],
  contract: str = MIXER,
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
  """Calls a mixer or a channel mixer inside a stack.

  Args:
    mixer: Bound to a scope.
    x: [B, L, D].
    state: A state like that of `init_state`, or None.
    segment_ids: [B, L] or None.
    extras: Values for `EXTRAS`; the mixer gets those for which it has keywords.
    contract: `MIXER` or `MLP`; `MLP` also allows `mlp(x) -> y`.

  Returns:
    y [B, L, D], the state, and the shared values.

  Raises:
    ContractError: The mixer breaks the contract; the message names its class.
  """
  name = type(mixer).__name__
  shared = extras.get("shared", {})
  # `nn.Module` declares no call.
  call: Any = mixer
  if contract == MLP and _is_plain(mixer):
    y = call(x)
    _check_output(name, y, x, contract)
    return y, (), shared
  asked = asks_for(mixer)
  named = {key: value for key, value in extras.items() if key in asked}
  if "shared" in named:
    named["shared"] = _Shared(shared)
  _check_signature(mixer, contract, x, state, segment_ids=segment_ids, **named)
  result = call(x, state, segment_ids=segment_ids, **named)
  wanted = "(y, state, shared)" if "shared" in named else "(y, state)"
  _require(
    isinstance(result, tuple | list) and len(result) == 2 + ("shared" in named),
    f"{name} must return {wanted}, got {_describe(result)}: "
    f"{SHARED if 'shared' in asked else contract}",
  )
  y, after, *rest = result
  _check_output(name, y, x, contract)
  if hasattr(mixer, "init_state"):
    _check_state(mixer.clone(parent=None), after, x.shape[0])
  if "shared" in named:
    shared = _checked_shared(name, rest[0], shared)
  return y, after, shared


def zero_state(mixer: nn.Module, batch_size: int) -> Any:
  """The zero state of a mixer that is not bound; () for a plain `mlp(x) -> y`.

  Raises:
    ContractError: The mixer breaks the contract; the message names its class.
  """
  name = type(mixer).__name__
  if not hasattr(mixer, "init_state") and _is_plain(mixer):
    return ()
  _require(hasattr(mixer, "init_state"), f"{name} has no init_state: {MIXER}")
  # `hasattr` has checked the attribute, but mypy cannot know it.
  init_state: Any = getattr(mixer, "init_state")  # noqa: B009
  return init_state(batch_size)


def initial_shared(
  modules: list[nn.Module],
  x: jax.Array,
  depth: int,
  param: Callable[..., jax.Array],
) -> dict[str, jax.Array]:
  """The shared values before the first layer.

  Args:
    modules: Mixers and channel mixers that are not bound. Modules of one class
      declare the same names.
    x: The stream [B, L, D] before the first layer.
    depth: The number of layers.
    param: `param(name, init, shape)` makes a parameter of the stack.

  Raises:
    ContractError: Two modules declare a name with different shapes or dtypes,
      or `init_shared` returns anything but arrays by name.
  """
  shared: dict[str, jax.Array] = {}
  for module in modules:
    init: Any = getattr(module, "init_shared", None)
    if init is None:
      continue
    name = type(module).__name__
    own = init(x, depth, param)
    _require(
      isinstance(own, Mapping)
      and all(hasattr(v, "shape") for v in own.values()),
      f"{name}.init_shared must return arrays by name, got {_describe(own)}",
    )
    for key, value in own.items():
      first = shared.setdefault(key, value)
      _require(
        _describe(first) == _describe(value),
        f"{name}.init_shared makes {key!r} as {_describe(value)}, but another "
        f"layer makes it as {_describe(first)}",
      )
  return shared


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ContractError(message)


def _binds(module: nn.Module, *given: Any, **named: Any) -> str | None:
  """The reason why a module cannot take these arguments, or None."""
  try:
    inspect.signature(getattr(module, "__call__")).bind(*given, **named)  # noqa: B004,B009
  except (AttributeError, TypeError) as error:
    return str(error)
  return None


def _is_plain(module: nn.Module) -> bool:
  """Whether a module takes x, but neither a state nor segment ids."""
  takes_more = _binds(module, None, None, segment_ids=None) is None
  return not takes_more and _binds(module, None) is None


def _check_signature(
  module: nn.Module, contract: str, *given: Any, **named: Any
) -> None:
  """Checks that a module can be called with these arguments."""
  name = type(module).__name__
  call: Any = getattr(module, "__call__", None)  # noqa: B004
  _require(call is not None, f"{name} has no __call__: {contract}")
  error = _binds(module, *given, **named)
  _require(error is None, f"{name}.__call__: {error}: {contract}")


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
  """Checks that a returned state is like that of `init_state`.

  They must have the same structure, shapes and dtypes. Otherwise no loop over
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


def _checked_shared(
  name: str, after: Any, before: Mapping[str, jax.Array]
) -> dict[str, jax.Array]:
  """The returned shared values, after a check against those passed in."""
  _require(
    isinstance(after, Mapping) and set(after) == set(before),
    f"{name} must return the shared values {sorted(before)}, got "
    f"{sorted(after) if isinstance(after, Mapping) else _describe(after)}: "
    f"{SHARED}",
  )
  for key, value in before.items():
    _require(
      _describe(after[key]) == _describe(value),
      f"{name} returns the shared value {key!r} as {_describe(after[key])}, "
      f"but was given {_describe(value)}: {SHARED}",
    )
  return dict(after)


def _describe(value: Any) -> str:
  """A short description of a value, for messages."""
  if hasattr(value, "shape") and hasattr(value, "dtype"):
    return f"{value.dtype}{list(value.shape)}"
  if isinstance(value, tuple | list):
    return f"a {type(value).__name__} of {len(value)}"
  return f"a {type(value).__name__}"
