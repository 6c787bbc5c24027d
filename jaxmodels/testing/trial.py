"""The inputs, compiled programs and checks of one mixer."""

import contextlib
import dataclasses
import functools
import importlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxmodels.mixers import contract
from jaxmodels.ops.engine import checks
from jaxmodels.testing import cases
from jaxmodels.testing.compilation import jit
from jaxmodels.testing.diagnosis import FUTURE, diagnose_mixer
from jaxmodels.testing.errors import relative_error, tolerance, wrong_tokens
from jaxmodels.testing.evaluate import AXIS, default_shards, make_mesh, named

BATCH = 2
_WIDE = ("float32", "float64", "complex64", "complex128", "int32", "bool")
# Errors in bfloat16 are compared with the largest change, in a few draws, from
# rounding only x and the parameters: one read that cancels may dominate it.
# Of 48 mixers of the library with random parameters, one had an error of 0.2,
# but this was 1.01 times that change; the largest ratio was 2.1. A ratio up to
# _LITTLE passes. Above it, the error must not exceed 1.5 times that of
# "recurrent" (as in tests/ops/test_bfloat16.py), nor the ratio _ROUNDINGS.
_ROUNDINGS, _LITTLE, _FORMS_DIFFER = 4, 3, 1.5
_DRAWS = 6
# float32 rounds too, and chunks may round more: a few rounding steps.
_FLOOR = 2e-6


class Trial:
  """One module with parameters, inputs and its compiled calls.

  Args:
    module: unbound.
    width: D.
    length: L.
    params: parameters, or None for the initial ones with noise.
    seed: seed of the inputs and the noise.
    causal: whether the module promises not to read the future.

  Raises:
    ContractError: an op does not accept a shape, a dtype or a number.
  """

  def __init__(
    self,
    module: nn.Module,
    width: int,
    length: int,
    params: Any,
    seed: int,
    causal: bool,
  ):
    if getattr(module, "chunk_size", 0) is None:
      module = module.clone(chunk_size=8)
    rng = np.random.default_rng(seed)
    self.module, self.causal, self.length = module, causal, length
    # A mixer that reads the future has no past to continue from.
    self.zero = contract.zero_state(module, BATCH) if causal else None
    self.x = rng.standard_normal((BATCH, length, width)).astype(np.float32)
    self.initial, self.constants = _initial(module, self.x[:, :1], params, seed)
    self.params = params
    if params is None:
      self.params = jax.tree.map(
        lambda p: p + 0.1 * rng.standard_normal(p.shape).astype(p.dtype),
        self.initial,
      )
    self.starts = _starts(length)
    self.ids = np.zeros((BATCH, length), np.int32)
    for row, start in self.starts:
      self.ids[row, start:] += start > 0
    self.ids %= 2  # Repeated ids: each run is another document.
    self.call = jit(self.apply(module, contract.mix))
    # A new function, because JAX caches traces, with guards or without.
    guarded = jax.jit(self.apply(module, contract.mix))
    self.whole = chex.chexify(guarded, async_check=False)
    _drop_reminder(self.whole)
    try:
      with checks.numerics():
        results = self.whole(self.params, self.x, None, self.ids)
    except AssertionError as error:
      raise contract.ContractError(
        f"numeric guard: {checks.message_of(error)}"
      ) from error
    self.y, self.final = results

  def apply(
    self, module: nn.Module, method: Callable | None = None
  ) -> Callable:
    """A function of parameters, x, state and segment ids."""

    def plain(module, x, state, ids):
      return module(x, state, segment_ids=ids)[:2]

    def call(params, x, state=None, ids=None):
      variables = {**self.constants, "params": params}
      return module.apply(variables, x, state, ids, method=method or plain)

    return call

  def _run(self, start: int, stop: int, state: Any) -> tuple[Any, Any]:
    before = self.ids[:, start - 1 : start] if start else 0
    ids = self.ids[:, start:stop] - before
    return self.call(self.params, self.x[:, start:stop], state, ids)

  def no_state(self) -> Iterator[str]:
    """Whether None equals the zero state, if `pieces` found an error."""
    token = self.x[:, :1]
    ids = np.zeros((BATCH, 1), np.int32)
    y, last = self.call(self.params, token, self.zero, ids)
    y_none, last_none = self.call(self.params, token, None, ids)
    yield from _differ("state None against init_state", y_none, y)
    yield from _states_differ("state None against init_state", last_none, last)

  def pieces(self, size: int) -> Iterator[str]:
    """Checks a sequence that is split into pieces, from the zero state.

    Compares the pieces with the whole sequence without a state. So None must
    equal the zero state, too. Pieces of one token test decoding.
    """
    state, outputs = self.zero, []
    for start in range(0, self.length, size):
      y, state = self._run(start, start + size, state)
      outputs.append(y)
    every = range(0, self.length, self.length // 4)
    cuts = [(row, at) for row in range(BATCH) for at in every]
    name, part = (
      ("cut and continued", "piece") if size > 1 else ("by tokens", "")
    )
    yield from _differ(name, np.concatenate(outputs, 1), self.y, cuts, part)
    yield from _states_differ(name, state, self.final)

  def documents(self, acausal: bool) -> Iterator[str]:
    """Compares packed documents with each document run separately."""
    wanted = np.array(self.y, np.float32)
    for row, start in self.starts:
      later = [s for r, s in self.starts if r == row and s > start]
      stop = min(later, default=self.length)
      # Tokens after the document do not affect a causal mixer, and they keep
      # the shape: there is one program for all documents.
      alone = np.roll(self.x, -start, 1)
      if acausal:
        alone = alone[:, : stop - start]
      ids = np.zeros(alone.shape[:2], np.int32)
      call = self.call if acausal else self.whole
      y, _ = call(self.params, alone, None, ids)
      wanted[row, start:stop] = y[row, : stop - start]
    # A read of the future and a leaked reset look the same here.
    part = "" if self.causal and acausal else "document"
    name = "packed against separate"
    yield from _differ(name, self.y, wanted, self.starts, part)

  def gradients(self) -> Iterator[str]:
    """Checks for reads of the future, unused parameters, and the value."""
    yield from self._own_gradients(self.slopes)
    _, _, y = self.slopes(self.params, self.length - 1)
    yield from _differ("y beside a gradient against y alone", y, self.y)

  def methods(self, methods: Sequence[str]) -> Iterator[tuple[str, Iterator]]:
    """Checks gradients of "recurrent"; compares every method with it."""
    recurrent = self._slopes("recurrent")
    wanted = recurrent(self.params, self.length - 1)
    yield "recurrent", self._own_gradients(recurrent)
    for method in methods:
      yield method, self._against(method, wanted)

  def _against(self, method: str, wanted: Any) -> Iterator[str]:
    """The differences between one method and "recurrent"."""
    slopes = self._slopes(method)
    got = slopes(self.params, self.length - 1)
    name = f'method "{method}" against "recurrent"'
    yield from (f"{name}: {line}" for line in self._future(slopes))
    yield from _differ(name, got[2], wanted[2])
    for path, slope in named("", wanted[0]).items():
      error = relative_error(named("", got[0])[path], slope)
      if not error <= tolerance("float32"):
        yield f"{name}: gradient of {path} is off by {error:.1e}"

  def why_not(self, method: str) -> str | None:
    """The reason why a method cannot run; None if it can."""
    if method == cases.SHARDED:
      if not has_field(self.module, "axis_name"):
        return "the module has no field axis_name"
      if default_shards() == 1:
        return "there is one device"
      if not has_field(self.module, "method"):
        return None
      reason = self.why_not("associative")
      # Of spans that do not compose; attention has other forms, but shards.
      return reason if reason and "compose" in reason else None
    if not has_field(self.module, "method"):
      return "the module has no field method"
    try:
      call = self.apply(self._with(method))
      jax.eval_shape(call, self.params, self.x, None, self.ids)
    except ValueError as error:
      if "method must be one of" not in str(error):
        raise
      return str(error)
    return None

  def _with(self, method: str) -> nn.Module:
    """The module with that method; "sequence-parallel" is "chunked"."""
    sharded = method == cases.SHARDED
    fields: dict[str, Any] = {"axis_name": AXIS} if sharded else {}
    if has_field(self.module, "method"):
      fields["method"] = "chunked" if sharded else method
    return self.module.clone(**fields)

  def _own_gradients(self, slopes: Callable) -> Iterator[str]:
    yield from self._future(slopes)
    by_params, _, _ = slopes(self.params, self.length - 1)
    for name, slope in named("", by_params).items():
      if not np.isfinite(slope).all():
        yield f"gradient of {name}: not finite"
      elif not slope.any():
        yield f"gradient of {name}: zero, the output does not depend on it"

  def _future(self, slopes: Callable[[Any, int], Any]) -> Iterator[str]:
    """Yields a line if outputs have a gradient by later inputs."""
    if not self.causal:
      return
    last = self.length // 2
    _, by_x, _ = slopes(self.params, last)
    later = np.abs(by_x[:, last + 1 :]).max(-1) > 0
    if later.any():
      token = last + 1 + np.flatnonzero(later.any(0))[0]
      yield (
        f"{FUTURE}: outputs up to token {last} have a gradient by x of token "
        f"{token}"
      )

  @functools.cached_property
  def slopes(self) -> Callable[[Any, int], Any]:
    """Gradients of the module's own method, see `_slopes`."""
    return self._slopes(None)

  def _slopes(self, method: str | None) -> Callable[[Any, int], Any]:
    """Gradients by parameters and x of sum(sin(y)) up to a token, and y."""
    module = self.module if method is None else self._with(method)
    call = self.apply(module)
    if method == cases.SHARDED:
      call = _sharded(call)

    @jit
    def slopes(params, x, weights):
      def loss(params, x):
        y, _ = call(params, x, None, self.ids)
        return jnp.sum(jnp.sin(y) * weights.astype(y.dtype)), y

      (by_params, by_x), y = jax.grad(loss, (0, 1), has_aux=True)(params, x)
      return by_params, by_x, y

    def up_to(params: Any, last: int) -> Any:
      weights = (np.arange(self.length) <= last).astype(np.float32)
      results = slopes(params, self.x, weights[None, :, None])
      return jax.tree.map(np.asarray, results)

    return up_to

  def bfloat16(self) -> Iterator[str]:
    """Checks that errors are those of rounding, and the state is not narrow."""
    narrow = self.module.clone(dtype=jnp.bfloat16)
    y, state = self._unpacked(narrow)
    if y.dtype != jnp.bfloat16:
      yield f"bfloat16: y has dtype {y.dtype}"
    for name, leaf in named("state ", state).items():
      if leaf.dtype.name not in _WIDE:
        yield f"bfloat16: {name} is {leaf.dtype}, narrower than float32"
    error, inherent = relative_error(y, self.y), 0.0
    for draw in range(_DRAWS):
      rounded = _round((self.params, self.x), draw)
      y_rounded, _ = self.whole(*rounded, None, self.ids)
      inherent = max(inherent, relative_error(y_rounded, self.y))
      if error <= _LITTLE * inherent:
        return
    allowed = max(tolerance("bfloat16"), _ROUNDINGS * inherent)
    if not error <= allowed:
      yield (
        f"bfloat16: y is off by {error:.1e} from float32 (allowed "
        f"{allowed:.0e}; rounding x and the parameters alone: {inherent:.1e})"
      )
    method = getattr(self.module, "method", "recurrent")
    if method == "recurrent":
      return
    y_recurrent, _ = self._unpacked(narrow.clone(method="recurrent"))
    own = relative_error(y_recurrent, self.y)
    if not error <= max(_FORMS_DIFFER * own, _FLOOR):
      yield (
        f"bfloat16: y is off by {error:.1e} from float32, but by "
        f'{own:.1e} with method "recurrent"'
      )

  def _unpacked(self, module: nn.Module) -> tuple[Any, Any]:
    """(y, state) of another module with the same parameters."""
    return jit(self.apply(module))(self.params, self.x, None, self.ids)


def _initial(
  module: nn.Module, x: np.ndarray, params: Any, seed: int
) -> tuple[Any, dict[str, Any]]:
  """The initial (or given) parameters, and the other collections."""
  key = jax.random.key(seed)
  if params is not None:
    known = jax.eval_shape(module.init, key, x)
    if set(known) <= {"params"}:
      return params, {}
  variables = dict(jit(module.init)(key, x))
  # NumPy arrays, so that adding noise compiles no program per shape.
  initial = jax.tree.map(np.asarray, variables.pop("params", {}))
  return initial if params is None else params, variables


def _sharded(call: Callable) -> Callable:
  """The call with the sequence sharded over devices; gives y, and no state."""
  along, whole = PartitionSpec(None, AXIS), PartitionSpec()
  return jax.shard_map(
    lambda *given: (call(*given)[0], None),
    mesh=make_mesh(default_shards()),
    in_specs=(whole, along, whole, along),
    out_specs=(along, None),
  )


def _round(tree: Any, seed: int) -> Any:
  """Adds random errors as large as the rounding of bfloat16."""
  rng = np.random.default_rng(seed)

  def rounded(x: Any) -> np.ndarray:
    noise = 1 + 2.0**-8 * rng.uniform(-1, 1, np.shape(x))
    x = np.asarray(x)
    return (x * noise).astype(x.dtype) if x.dtype.kind in "fc" else x

  return jax.tree.map(rounded, tree)


def has_field(module: nn.Module, name: str) -> bool:
  """Whether a module has a field of that name."""
  return any(field.name == name for field in dataclasses.fields(module))


def _drop_reminder(chexified: Any) -> None:
  """Removes chex's warning at exit: each call waits for its checks."""
  with contextlib.suppress(ImportError, AttributeError, ValueError):
    internal = importlib.import_module("chex._src.asserts_internal")
    internal.CHEXIFY_STORAGE.wait_fns.remove(chexified.wait_checks)


def _starts(length: int) -> list[tuple[int, int]]:
  """(row, token) of each document's start; no quarter starts there."""
  return [(0, 0), (0, 3), (0, length // 2 + 1), (1, 0), (1, length - 8)]


def _differ(
  name: str,
  y: Any,
  wanted: Any,
  starts: Sequence[tuple[int, int]] = (),
  part: str = "",
) -> Iterator[str]:
  """Yields a line if the error of y [B, L, D] exceeds rounding."""
  allowed = tolerance("float32")
  error = relative_error(y, wanted)
  if error <= allowed:
    return
  wrong = wrong_tokens(y, wanted, allowed)
  line = f"{name}: y is off by {error:.1e} (allowed {allowed:.0e})"
  if wrong.any():
    row, token = np.argwhere(wrong)[0]
    line += f", first at token {token} of row {row}"
  yield line + diagnose_mixer(wrong, starts, part)


def _states_differ(name: str, state: Any, wanted: Any) -> Iterator[str]:
  """Yields a line per leaf of a state whose error exceeds rounding."""
  leaves = named("", state)
  for path, expected in named("", wanted).items():
    error = relative_error(leaves[path], expected)
    if not error <= tolerance("float32"):
      yield f"{name}: state {path} is off by {error:.1e}"
