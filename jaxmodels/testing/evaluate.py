"""Runs an op or its definition: outputs and all gradients by name."""

import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from jaxmodels.testing import cases
from jaxmodels.testing.errors import widest

AXIS = "sequence"


def default_shards() -> int:
  """Devices for "sequence-parallel": four, two or one."""
  return 4 if jax.device_count() >= 4 else min(jax.device_count(), 2)


class Evaluator:
  """Outputs and gradients of an op in one form, compiled once per shape.

  Args:
    function: the op or, without a form, its definition.
    form: a name in `cases.FORMS`.
    shards: devices that share the sequence in the form "sequence-parallel".
    whole: arguments without a length axis, replicated over devices.
    options: further arguments of the function.
  """

  def __init__(
    self,
    function: Callable,
    form: str | None = None,
    shards: int = 1,
    whole: Collection[str] = (),
    **options: Any,
  ):
    self.form = form
    self.shards = shards if form == cases.SHARDED else 1
    self.whole = {"initial_state", *whole}
    self._function = function
    self.options = options
    if form is not None:
      method = "chunked" if form == cases.SHARDED else form
      self.options = {"method": method, **options}
    self._compiled = jax.jit(self._evaluate)

  def chunk(self, length: int) -> int:
    """Tokens per chunk in this form, for a sequence of L."""
    if self.form in ("recurrent", "associative"):
      return 1
    return min(self.options["chunk_size"], length // self.shards)

  def outputs(self, arguments, segment_ids):
    """(y, final_state)."""
    call = functools.partial(self._function, **self.options)
    if self.form != cases.SHARDED:
      return call(**arguments, segment_ids=segment_ids)
    along, whole = PartitionSpec(None, AXIS), PartitionSpec()
    specs = {name: whole if name in self.whole else along for name in arguments}
    ids_spec = whole if segment_ids is None else along
    sharded = jax.shard_map(
      lambda arguments, ids: call(**arguments, segment_ids=ids, axis_name=AXIS),
      mesh=make_mesh(self.shards),
      in_specs=(specs, ids_spec),
      out_specs=(along, whole),
    )
    return sharded(arguments, segment_ids)

  def _evaluate(self, arguments, segment_ids, cotangents):
    outputs, pull_back = jax.vjp(
      lambda arguments: self.outputs(arguments, segment_ids), arguments
    )
    cotangents = jax.tree.map(
      lambda c, o: c.astype(o.dtype), cotangents, outputs
    )
    (gradients,) = pull_back(cotangents)
    if self.form == "recurrent":  # It has a cheaper way to compute the value.
      outputs = self.outputs(arguments, segment_ids)
    return {
      **named("y", outputs[0]),
      **named("final_state", outputs[1]),
      **named("gradient of ", gradients),
    }

  def __call__(self, arguments, segment_ids, cotangents):
    """Returns all results by name."""
    results = self._compiled(arguments, segment_ids, cotangents)
    return jax.tree.map(np.asarray, results)


@functools.cache
def make_mesh(shards: int) -> jax.sharding.Mesh:
  """Devices in a row, over which the sequence is sharded."""
  return jax.make_mesh((shards,), (AXIS,), axis_types=(AxisType.Auto,))


class Run(NamedTuple):
  """One set of arguments.

  Attributes:
    length: L.
    resets: the name of the segment ids.
    starts: segment ids [L] of the first row, or None; the second has none.
    dtype: of the arguments.
    arguments: by name, batch 2.
    seed: seed of the cotangents.
  """

  length: int
  resets: str
  starts: np.ndarray | None
  dtype: str
  arguments: Mapping[str, Any]
  seed: int

  @property
  def ids(self) -> np.ndarray | None:
    """Segment ids [2, L]."""
    if self.starts is None:
      return None
    return np.stack([self.starts, 0 * self.starts])

  @property
  def has_resets(self) -> bool:
    """Whether a segment starts anywhere."""
    return self.starts is not None and bool(self.starts.any())

  def truth(self, definition: Evaluator) -> tuple[Any, dict[str, np.ndarray]]:
    """Cotangents, and all results of the definition in float64."""
    rng = np.random.default_rng(self.seed)
    ids = np.zeros((2, self.length), np.int32) if self.ids is None else self.ids
    with jax.enable_x64(True):
      exact = jax.tree.map(widest, self.arguments)
      shapes = jax.eval_shape(definition.outputs, exact, ids)
      cotangents = draw_like(rng, shapes)
      return cotangents, definition(exact, ids, cotangents)


def named(prefix: str, tree: Any) -> dict[str, Any]:
  """The leaves of a pytree by their path behind a prefix."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    prefix + jax.tree_util.keystr(path, simple=True, separator="."): leaf
    for path, leaf in leaves
  }


def round_to(arguments: Mapping[str, Any], dtype: str) -> dict[str, Any]:
  """Arguments in a dtype, or in the complex dtype of its precision."""
  complex_dtype = "complex128" if dtype == "float64" else "complex64"

  def cast(x):
    return x.astype(complex_dtype if np.iscomplexobj(x) else jnp.dtype(dtype))

  return jax.tree.map(cast, dict(arguments))


def draw_like(rng: np.random.Generator, shapes: Any) -> Any:
  """Normal numbers in float64 (or complex128) of the shapes of a pytree."""

  def draw(x):
    noise = rng.standard_normal(x.shape)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
      noise = noise + 1j * rng.standard_normal(x.shape)
    return noise

  return jax.tree.map(draw, shapes)
