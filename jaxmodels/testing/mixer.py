"""`check_mixer`: the layer contract of a sequence mixer, in one line."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.testing.diagnosis import FUTURE, diagnose_mixer
from jaxmodels.testing.errors import relative_error, tolerance, wrong_tokens
from jaxmodels.testing.evaluate import named

_BATCH = 2
_WIDE = ("float32", "float64", "complex64", "complex128", "int32", "bool")


def check_mixer(
  module: nn.Module,
  *,
  width: int | None = None,
  length: int = 20,
  methods: Sequence[str] = ("recurrent", "associative", "chunked", "parallel"),
  params: Any = None,
  bfloat16: bool = True,
  seed: int = 0,
) -> None:
  """Checks that a Linen mixer keeps the layer contract.

  A mixer is `mixer(x, state=None, *, segment_ids=None) -> (y, state)` with
  `init_state(batch_size)`. Checked is that
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
    seed: of the inputs.

  Raises:
    AssertionError: a report on what is wrong, where, and the likely cause.
  """
  trial = _Trial(module, width or module.width, length, params, seed)
  failures = [
    *trial.gradients([m for m in methods if m != "recurrent"]),
    *trial.no_state(),
    *trial.pieces(),
    *trial.documents(),
    *(trial.bfloat16() if bfloat16 else ()),
  ]
  if failures:
    name = type(module).__name__
    raise AssertionError(
      "\n".join([f"{name} breaks the contract of a mixer.", *failures])
    )


class _Trial:
  """One module with parameters, inputs and its compiled calls."""

  def __init__(
    self, module: nn.Module, width: int, length: int, params: Any, seed: int
  ):
    if getattr(module, "chunk_size", 0) is None:
      module = module.clone(chunk_size=8)
    rng = np.random.default_rng(seed)
    self.module, self.length, self.quarter = module, length, length // 4
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
    self.call = jax.jit(self._call(module))
    zero = module.init_state(_BATCH)
    self.y, self.final = self._run(0, length, zero)

  def _call(self, module: nn.Module) -> Callable:
    def call(params, x, state, ids=None):
      return module.apply({"params": params}, x, state, segment_ids=ids)

    return call

  def _run(self, start: int, stop: int, state: Any) -> tuple[Any, Any]:
    before = self.ids[:, start - 1 : start] if start else 0
    ids = self.ids[:, start:stop] - before
    return self.call(self.params, self.x[:, start:stop], state, ids)

  def no_state(self) -> Iterator[str]:
    """None is the zero state, in values, shapes and dtypes."""
    zero = self.module.init_state(_BATCH)
    token = self.x[:, :1]
    ids = np.zeros((_BATCH, 1), np.int32)
    y, last = self.call(self.params, token, zero, ids)
    y_none, last_none = self.call(self.params, token, None, ids)
    kinds = [
      jax.tree.map(lambda x: (x.shape, x.dtype), tree)
      for tree in (zero, last, last_none)
    ]
    if kinds[0] != kinds[1] or kinds[1] != kinds[2]:
      yield (
        "init_state: structure, shapes or dtypes are not those of the state "
        f"that is returned: {kinds[0]} against {kinds[1]}"
      )
    yield from _differ("state None against init_state", y_none, y)
    yield from _states_differ("state None against init_state", last_none, last)

  def pieces(self) -> Iterator[str]:
    """Cut and continued, and token by token."""
    for size, name in ((self.quarter, "cut and continued"), (1, "by tokens")):
      state, outputs = self.module.init_state(_BATCH), []
      for start in range(0, self.length, size):
        y, state = self._run(start, start + size, state)
        outputs.append(y)
      every = range(0, self.length, self.quarter)
      cuts = [(row, at) for row in range(_BATCH) for at in every]
      part = "piece" if size > 1 else ""
      y = np.concatenate(outputs, 1)
      yield from _differ(name, y, self.y, cuts, part)
      yield from _states_differ(name, state, self.final)

  def documents(self) -> Iterator[str]:
    """Each document on its own."""
    wanted = np.array(self.y, np.float32)
    zero = self.module.init_state(_BATCH)
    for row, start in self.starts:
      later = [s for r, s in self.starts if r == row and s > start]
      stop = min(later, default=self.length)
      # What follows the document does not matter, and keeps the shape.
      alone = np.roll(self.x, -start, 1)
      y, _ = self.call(self.params, alone, zero, 0 * self.ids)
      wanted[row, start:stop] = y[row, : stop - start]
    yield from _differ(
      "packed against separate", self.y, wanted, self.starts, "document"
    )

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
      yield from (f"{name}: {line}" for line in _causality(slopes, self.length))
      yield from _differ(name, got[2], wanted[2])
      for path, slope in named("", wanted[0]).items():
        error = relative_error(named("", got[0])[path], slope)
        if not error <= tolerance("float32"):
          yield f"{name}: gradient of {path} is off by {error:.1e}"

  def _own_gradients(self, slopes: Callable) -> Iterator[str]:
    yield from _causality(slopes, self.length)
    by_params, _, _ = slopes(self.length - 1)
    for name, slope in named("", by_params).items():
      if not np.isfinite(slope).all():
        yield f"gradient of {name}: not finite"
      elif not slope.any():
        yield f"gradient of {name}: zero, the output does not depend on it"

  def _slopes(self, module: nn.Module) -> Callable[[int], Any]:
    """Gradients by parameters and x of the outputs up to a token, and y."""

    @jax.jit
    def slopes(params, x, weights):
      def loss(params, x):
        zero = module.init_state(_BATCH)
        y, _ = self._call(module)(params, x, zero, self.ids)
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


def _causality(slopes: Callable[[int], Any], length: int) -> Iterator[str]:
  """A line where outputs up to a token have a gradient by later inputs."""
  last = length // 2
  _, by_x, _ = slopes(last)
  later = np.abs(by_x[:, last + 1 :]).max(-1) > 0
  if later.any():
    token = last + 1 + np.flatnonzero(later.any(0))[0]
    yield (
      f"{FUTURE}: outputs up to token {last} have a gradient by x of token "
      f"{token}"
    )


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
