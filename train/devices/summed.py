"""Sums gradients and losses over devices: on a mesh, or over one named axis."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import PartitionSpec

from train.devices import parameter_use
from train.devices.mesh import (
  AXES,
  batch_specs,
  by_example,
  cut_model,
  gather_tables,
  on_mesh,
  shardings,
)
from train.step import (
  Batch,
  Gradients,
  Learner,
  Sums,
  agreed,
  changing,
  gradient,
  loss_sums,
)


def over_axis(gradients: Gradients, axis: str) -> Gradients:
  """Sums gradients over the devices of `pmap`.

  Args:
    gradients: Sums the gradient over one device's share of the batch.
    axis: The name of the axis. Each device draws its own dropout, so only a
      model without dropout computes the same on one device and on many.
  """

  def run(
    params: Any, variables: Any, batch: Batch, rng: jax.Array, frozen: Any
  ) -> Sums:
    rng = jax.random.fold_in(rng, jax.lax.axis_index(axis))
    grads, sums, variables = gradients(params, variables, batch, rng, frozen)
    grads, sums = jax.lax.psum((grads, sums), axis)
    return grads, sums, {**variables, **agreed(changing(variables), axis)}

  return run


class OverMesh:
  """The gradient and the sums of a loss, over the devices of a mesh.

  If sequences are not sharded, the compiler shards all computations like the
  batch, gathers parameters layer by layer, and sums over devices. If they are
  sharded, the model calls collectives itself on its shard of the batch, and all
  parameters are gathered before the model runs.
  """

  def __init__(self, learner: Learner, mesh: jax.sharding.Mesh):
    self._mesh = mesh
    self._axes = AXES if mesh.shape["sequence"] > 1 else ()
    if self._axes:
      learner = learner._replace(model=cut_model(learner.model))
      if (teacher := learner.teacher) is not None:
        teacher = teacher._replace(model=cut_model(teacher.model))
        learner = learner._replace(teacher=teacher)
    self._learner = learner

  def gradient(
    self,
    params: Any,
    variables: Any,
    batch: Batch,
    rng: jax.Array,
    frozen: Any,
  ) -> Sums:
    """Returns what `train.step.gradient` returns, of the whole batch."""
    given = params, variables, frozen
    tables = self._tables(given, batch)
    params, variables, frozen = gather_tables(self._mesh, given, tables)
    grads, sums, variables = self._run(
      gradient, params, variables, batch, rng, frozen
    )
    grads = gather_tables(self._mesh, grads, tables[0])
    return self._sharded((grads, sums, variables))

  def sums(
    self,
    step: Callable[..., Any],
    params: Any,
    variables: Any,
    batch: Batch,
    frozen: Any,
  ) -> dict[str, jax.Array]:
    """Returns what `train.step.eval_step`, given as `step`, sums."""
    given = params, variables, frozen
    tables = self._tables(given, batch)
    params, variables, frozen = gather_tables(self._mesh, given, tables)
    return self._sharded(self._run(step, params, variables, batch, frozen))

  def _run(
    self,
    function: Callable[..., Any],
    params: Any,
    variables: Any,
    batch: Batch,
    *rest: Any,
  ) -> Any:
    """Runs a function on the mesh, with the batch over all devices."""

    def run(*given: Any) -> Any:
      return function(self._learner, *given, self._axes)

    specs = batch_specs(batch, self._learner.sequence)
    batch = jax.lax.with_sharding_constraint(
      dict(batch), on_mesh(self._mesh, specs)
    )
    if not self._axes:
      size = jax.tree.leaves(batch)[0].shape[0]
      # Kernels that the compiler cannot split read the mesh from here.
      with (
        jax.sharding.use_abstract_mesh(self._mesh.abstract_mesh),
        nn.intercept_methods(by_example(self._mesh, size)),
      ):
        return run(params, variables, batch, *rest)
    whole = PartitionSpec()
    lifted = jax.shard_map(
      run,
      mesh=self._mesh,
      in_specs=(whole, whole, specs, *(whole for _ in rest)),
      out_specs=whole,
    )
    return lifted(params, variables, batch, *rest)

  def _sharded(self, tree: Any) -> Any:
    places = shardings(self._mesh, tree, self._learner.layers)
    return jax.lax.with_sharding_constraint(tree, places)

  def _tables(self, given: tuple[Any, Any, Any], batch: Batch) -> Any:
    """Says which variables are gathered for lookups, also of the teacher.

    Args:
      given: Parameters, other variables, and the variables of the teacher.
      batch: The batch.
    """
    if self._axes or self._mesh.shape["fsdp"] == 1:
      return jax.tree.map(lambda _: False, given)

    def sums(given: Any) -> Any:
      params, variables, frozen = given
      return loss_sums(self._learner, params, variables, batch, None, frozen)

    return parameter_use.looked_up(sums, given)
