"""`check_mixer`: the layer contract of a sequence mixer, in one line."""

import contextlib
import dataclasses
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.mixers import contract
from jaxmodels.ops.engine import checks
from jaxmodels.testing.diagnosis import FUTURE, diagnose_mixer
from jaxmodels.testing.errors import relative_error, tolerance, wrong_tokens
from jaxmodels.testing.evaluate import named

_BATCH = 2
_WIDE = ("float32", "float64", "complex64", "complex128", "int32", "bool")
# Chex puts the message of a check among its own words.
_CHEX = re.compile(r"Custom message: (.*?)\.? \[failed at", re.DOTALL)


def check_mixer(
  module: nn.Module,
  *,
  width: int | None = None,
  length: int = 20,
  methods: Sequence[str] = (
    "recurrent",
    "associative",
    "chunked",
    "chunk_parallel",
  ),
  params: Any = None,
  bfloat16: bool = True,
  causal: bool = True,
  seed: int = 0,
) -> None:
  """Checks that a Linen mixer keeps the layer contract.

  A mixer is `mixer(x, state=None, *, segment_ids=None) -> (y, state)` with
  `init_state(batch_size)`. Checked is that
    - y and the state have the right shapes and dtypes;
    - the arguments that it gives to ops pass their numeric guards (finite, log
      decays at most 0, ...: see `jaxmodels.ops.engine.checks`);
    - no gradient comes from the future or from another document, and every
      parameter has one, finite and not zero;
    - no state is the zero state;
    - a sequence cut in four and continued is the uncut one, and so is one
      token at a time, with documents that run across the cuts;
    - packed documents are the same documents on their own;
    - where the module has a field `method`, every method gives the values
      and the gradients of "recurrent";
    - with dtype bfloat16 it is close to itself in float32, and its state is
      not narrower than that.

  Args:
    module: not bound; all its fields are as it will be used. A field
      `chunk_size` that is None is set to 8, so that there are chunks.
    width: of x; `module.width` by default.
    length: L, a multiple of four from 20 on.
    methods: of those, the ones that the module knows are compared with
      "recurrent"; with none its own method is the one that is checked.
    params: of the module; by default its initial ones with noise, so that
      none is at a special value, such as a bias of zero.
    bfloat16: whether to check that dtype, for a module with a field `dtype`.
    causal: False for a mixer that reads the future on purpose, such as a
      bidirectional one. Then nothing is checked that only holds for causal
      mixers: the future, the zero state, cut and continued, token by token.
      Packed documents, gradients, methods and dtypes still are.
    seed: of the inputs.

  Raises:
    AssertionError: a report on what is wrong, where, and the likely cause.
  """
  heading = f"{type(module).__name__} breaks the contract of a mixer."
  size = width or getattr(module, "width", None)
  if size is None:
    raise ValueError(
      f"check_mixer: {type(module).__name__} has no field width; give width="
    )
  try:
    trial = _Trial(module, size, length, params, seed, causal)
  except contract.ContractError as error:
    raise AssertionError(f"{heading}\n{error}") from error
  failures = list(trial.gradients([m for m in methods if m != "recurrent"]))
  acausal = not causal or any(FUTURE in line for line in failures)
  if not acausal:
    failures += [*trial.no_state(), *trial.pieces()]
  failures += trial.documents(acausal)
  if bfloat16:
    failures += trial.bfloat16()
  if failures:
    if acausal:
      failures.append(_SKIPPED if not causal else f"{_SKIPPED}; {_ON_PURPOSE}")
    raise AssertionError("\n".join([heading, *failures]))


_SKIPPED = (
  "not checked, since the mixer reads the future: the zero state, cut and "
  "continued, by tokens"
)
_ON_PURPOSE = "if it is meant to, give check_mixer causal=False"


class _Trial:
  """One module with parameters, inputs and its compiled calls."""

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
    self.module, self.causal = module, causal
    self.length, self.quarter = length, length // 4
    self.x = rng.standard_normal((_BATCH, length, width)).astype(np.float32)
    self.params = params
    if params is None:
      init = jax.jit(module.init)(jax.random.key(seed), self.x[:, :1])
      self.params = jax.tree.map(
        lambda p: p + 0.1 * rng.standard_normal(p.shape).astype(p.dtype),
        init["params"],
      )
    self.starts = _starts(length)
    self.ids = np.zeros((_BATCH, length), np.int32)
    for row, start in self.starts:
      self.ids[row, start:] += start > 0
    self.ids %= 2  # Ids come back, and each time it is another document.
    self.call = jax.jit(self._call(module, contract.mix))
    # A function of its own: jax keeps what it traced, with guards or without.
    whole = self._call(module, contract.mix)
    self.whole = chex.chexify(jax.jit(whole), async_check=False)
    _drop_reminder(self.whole)
    try:
      with checks.numerics():
        results = self.whole(self.params, self.x, self._zero(), self.ids)
    except AssertionError as error:
      found = _CHEX.search(str(error))
      raise contract.ContractError(
        f"numeric guard: {found[1] if found else error}"
      ) from error
    self.y, self.final = results

  def _zero(self) -> Any:
    """The zero state; None for a mixer that has no past to continue from."""
    return contract.zero_state(self.module, _BATCH) if self.causal else None

  def _call(
    self, module: nn.Module, method: Callable | None = None
  ) -> Callable:
    def call(params, x, state, ids=None):
      return module.apply({"params": params}, x, state, ids, method=mix)

    def plain(module, x, state, ids):
      return module(x, state, segment_ids=ids)

    mix = method or plain
    return call

  def _run(self, start: int, stop: int, state: Any) -> tuple[Any, Any]:
    before = self.ids[:, start - 1 : start] if start else 0
    ids = self.ids[:, start:stop] - before
    return self.call(self.params, self.x[:, start:stop], state, ids)

  def no_state(self) -> Iterator[str]:
    """None is the zero state."""
    zero = self._zero()
    token = self.x[:, :1]
    ids = np.zeros((_BATCH, 1), np.int32)
    y, last = self.call(self.params, token, zero, ids)
    y_none, last_none = self.call(self.params, token, None, ids)
    yield from _differ("state None against init_state", y_none, y)
    yield from _states_differ("state None against init_state", last_none, last)

  def pieces(self) -> Iterator[str]:
    """Cut and continued, and token by token."""
    for size, name in ((self.quarter, "cut and continued"), (1, "by tokens")):
      state, outputs = self._zero(), []
      for start in range(0, self.length, size):
        y, state = self._run(start, start + size, state)
        outputs.append(y)
      every = range(0, self.length, self.quarter)
      cuts = [(row, at) for row in range(_BATCH) for at in every]
      part = "piece" if size > 1 else ""
      y = np.concatenate(outputs, 1)
      yield from _differ(name, y, self.y, cuts, part)
      yield from _states_differ(name, state, self.final)

  def documents(self, acausal: bool) -> Iterator[str]:
    """Each document on its own."""
    wanted = np.array(self.y, np.float32)
    zero = self._zero()
    for row, start in self.starts:
      later = [s for r, s in self.starts if r == row and s > start]
      stop = min(later, default=self.length)
      # What follows the document does not matter to a causal mixer, and keeps
      # the shape: there is one program for all documents.
      alone = np.roll(self.x, -start, 1)
      if acausal:
        alone = alone[:, : stop - start]
      ids = np.zeros(alone.shape[:2], np.int32)
      call = self.call if acausal else self.whole
      y, _ = call(self.params, alone, zero, ids)
      wanted[row, start:stop] = y[row, : stop - start]
    # Nothing tells a future that is read from a reset that leaks.
    part = "" if self.causal and acausal else "document"
    name = "packed against separate"
    yield from _differ(name, self.y, wanted, self.starts, part)

  def gradients(self, methods: Sequence[str]) -> Iterator[str]:
    """No future, no idle parameter, and every method like "recurrent"."""
    if not methods or not _has_field(self.module, "method"):
      yield from self._own_gradients(self._slopes(self.module))
      return
    recurrent = self._slopes(self.module.clone(method="recurrent"))
    wanted = recurrent(self.length - 1)
    yield from self._own_gradients(recurrent)
    for method in methods:
      slopes = self._slopes(self.module.clone(method=method))
      try:
        got = slopes(self.length - 1)
      except ValueError as error:
        if "method must be one of" in str(error):
          continue  # The module does not have it.
        raise
      name = f'method "{method}" against "recurrent"'
      yield from (f"{name}: {line}" for line in self._future(slopes))
      yield from _differ(name, got[2], wanted[2])
      for path, slope in named("", wanted[0]).items():
        error = relative_error(named("", got[0])[path], slope)
        if not error <= tolerance("float32"):
          yield f"{name}: gradient of {path} is off by {error:.1e}"

  def _own_gradients(self, slopes: Callable) -> Iterator[str]:
    yield from self._future(slopes)
    by_params, _, _ = slopes(self.length - 1)
    for name, slope in named("", by_params).items():
      if not np.isfinite(slope).all():
        yield f"gradient of {name}: not finite"
      elif not slope.any():
        yield f"gradient of {name}: zero, the output does not depend on it"

  def _future(self, slopes: Callable[[int], Any]) -> Iterator[str]:
    """A line where outputs up to a token have a gradient by later inputs."""
    if not self.causal:
      return
    last = self.length // 2
    _, by_x, _ = slopes(last)
    later = np.abs(by_x[:, last + 1 :]).max(-1) > 0
    if later.any():
      token = last + 1 + np.flatnonzero(later.any(0))[0]
      yield (
        f"{FUTURE}: outputs up to token {last} have a gradient by x of token "
        f"{token}"
      )

  def _slopes(self, module: nn.Module) -> Callable[[int], Any]:
    """Gradients by parameters and x of the outputs up to a token, and y."""

    @jax.jit
    def slopes(params, x, weights):
      def loss(params, x):
        y, _ = self._call(module)(params, x, self._zero(), self.ids)
        return jnp.sum(jnp.sin(y) * weights.astype(y.dtype)), y

      (by_params, by_x), y = jax.grad(loss, (0, 1), has_aux=True)(params, x)
      return by_params, by_x, y

    def up_to(last: int) -> Any:
      weights = (np.arange(self.length) <= last).astype(np.float32)
      results = slopes(self.params, self.x, weights[None, :, None])
      return jax.tree.map(np.asarray, results)

    return up_to

  def bfloat16(self) -> Iterator[str]:
    """Close to float32, and no narrow state."""
    if not _has_field(self.module, "dtype"):
      return
    call = jax.jit(self._call(self.module.clone(dtype=jnp.bfloat16)))
    y, state = call(self.params, self.x, None, self.ids)
    if y.dtype != jnp.bfloat16:
      yield f"bfloat16: y has dtype {y.dtype}"
    error = relative_error(y, self.y)
    if not error <= tolerance("bfloat16"):
      yield f"bfloat16: y is off by {error:.1e} from float32"
    for name, leaf in named("state ", state).items():
      if leaf.dtype.name not in _WIDE:
        yield f"bfloat16: {name} is {leaf.dtype}, narrower than float32"


def _drop_reminder(chexified: Any) -> None:
  """Spares the user chex's warning at exit: each call waits for its checks."""
  with contextlib.suppress(ImportError, AttributeError, ValueError):
    internal = importlib.import_module("chex._src.asserts_internal")
    internal.CHEXIFY_STORAGE.wait_fns.remove(chexified.wait_checks)


def _starts(length: int) -> list[tuple[int, int]]:
  """(row, token) of each document; none starts where a quarter does."""
  return [(0, 0), (0, 3), (0, length // 2 + 1), (1, 0), (1, length - 8)]


def _has_field(module: nn.Module, name: str) -> bool:
  return any(field.name == name for field in dataclasses.fields(module))


def _differ(
  name: str,
  y: Any,
  wanted: Any,
  starts: Sequence[tuple[int, int]] = (),
  part: str = "",
) -> Iterator[str]:
  """A line where y [B, L, D] is off by more than rounding."""
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
  """Lines on the leaves of a state that are off by more than rounding."""
  leaves = named("", state)
  for path, expected in named("", wanted).items():
    error = relative_error(leaves[path], expected)
    if not error <= tolerance("float32"):
      yield f"{name}: state {path} is off by {error:.1e}"
