"""The training step and the evaluation step, as pure functions.

A step is two functions in this order:
  1. `gradients` sums the gradient over the microbatches of a batch;
  2. `apply` gives the mean gradient to the optimizer.
A strategy of `train.devices` replaces the first by one that also sums over
devices. The sum is divided once by the summed weight.
"""

import functools
import types
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxmodels.models.lora import FROZEN
from train.losses import Batch, Loss, NextToken
from train.losses.base import inverse, is_sequence
from train.losses.distillation import Teacher
from train.norm import norm, zero_if_finite
from train.parameters import path_of
from train.state import TrainState

# The collection in which layers sow losses of their own.
SOWN = "losses"

# A summed gradient, the sums of the loss, and the variables after the call.
Sums = tuple[Any, dict[str, jax.Array], Any]
# Computes these from parameters, variables, a batch, a key and the variables of
# a teacher.
Gradients = Callable[[Any, Any, Batch, jax.Array, Any], Sums]


def identity(x: Any) -> Any:
  """Returns x."""
  return x


class Learner(NamedTuple):
  """A model with its optimizer: the part of a step that does not change.

  Attributes:
    model: A module that `loss` can call.
    optimizer: The optimizer of its parameters.
    schedule: The learning rate by step; None if the optimizer has none.
    accumulation: Microbatches per update.
    loss: What is minimised.
    sequence: The names of the arrays of a batch that are `[B, L, ...]`; None
      for all of two axes or more.
    teacher: The frozen model of a loss that has one.
    layers: The number of first axes of parameters along which a scan reads one
      layer at a time: see `train.devices.parameter_use.layer_axes`. Only meshes
      need it.
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule | None
  accumulation: int = 1
  loss: Loss = NextToken()
  sequence: Container[str] | None = None
  teacher: Teacher | None = None
  layers: Mapping[str, int] = types.MappingProxyType({})


def loss_sums(
  learner: Learner,
  params: Any,
  variables: Any,
  batch: Batch,
  rng: jax.Array | None = None,
  frozen: Any = None,
  axes: tuple[str, ...] = (),
) -> tuple[dict[str, jax.Array], Any]:
  """Runs the model and sums the parts of the metrics over a batch.

  Losses that layers sow into the collection "losses" are means over the batch;
  of arrays, the mean is taken. Their sum times the weight of the batch is
  "sown_loss". Only training has it. Of several microbatches, or under `pmap`,
  each counts with its own weight.

  Args:
    learner: Model and loss.
    params: Parameters.
    variables: The other collections of variables, by name.
    batch: Arrays `[B, ...]`.
    rng: Key for dropout; None to evaluate.
    frozen: The variables of the teacher, if there is one, as an argument of the
      program; None to put the learner's into the program itself.
    axes: Inside `shard_map`, the mesh axes of the devices that each have a
      share of the batch, or a piece of its sequences. Each draws its own
      dropout.

  Returns:
    Float32 scalars, see `Loss.sums`; over all of `axes`. And the variables
    after the call, which evaluation does not change.
  """
  if rng is not None and axes:
    rng = jax.random.fold_in(rng, jax.lax.axis_index(axes))
  outputs, changed = learner.loss.outputs(
    learner.model,
    {"params": params, **variables},
    batch,
    rngs=None if rng is None else {"dropout": rng},
    mutable=[] if rng is None else [SOWN, *changing(variables)],
  )
  if learner.teacher is not None:
    given = learner.teacher.variables if frozen is None else frozen
    with jax.named_scope("teacher"):
      known, _ = learner.loss.outputs(
        learner.teacher.model, given, batch, mutable=[]
      )
    outputs = outputs, known
  with jax.named_scope("loss"):
    pieces = 1
    if "sequence" in axes and not learner.loss.per_token:
      outputs = jax.tree.map(
        # A model that pools has the same outputs on all of these devices.
        lambda x: _whole(x) if "sequence" in _axes_of(x) else x,
        outputs,
      )
      batch = jax.tree_util.tree_map_with_path(
        lambda keys, x: (
          _whole(x) if is_sequence(path_of(keys), x, learner.sequence) else x
        ),
        dict(batch),
      )
      pieces = jax.lax.axis_size("sequence")
    sums = learner.loss.sums(outputs, batch)
    if pieces > 1:
      # Every device has summed the same whole sequences.
      sums = jax.tree.map(lambda x: x / pieces, sums)
  sown = jax.tree.leaves(changed.pop(SOWN, ()))
  sown = [jnp.mean(x.astype(jnp.float32)) for x in sown]
  if axes:
    sums, sown, changed = _varying((sums, sown, changed), axes)
    sums = jax.lax.psum(sums, axes)
    # Each device has an equal share of the tokens.
    sown, changed = agreed((sown, changed), axes)
  if sown:
    sums["sown_loss"] = sum(sown, jnp.float32(0)) * sums["weight"]
  return sums, {**variables, **changed}


def changing(variables: Mapping[str, Any]) -> dict[str, Any]:
  """The collections that a step may change: all but the frozen one."""
  return {name: x for name, x in variables.items() if name != FROZEN}


def _axes_of(x: jax.Array) -> Container[str]:
  """The mesh axes over which a value may differ, inside `shard_map`."""
  return jax.typeof(x).manual_axis_type.varying


def _varying(tree: Any, axes: tuple[str, ...]) -> Any:
  """Types values as different on every device, as sums over devices need."""

  def vary(x: jax.Array) -> jax.Array:
    missing = tuple(axis for axis in axes if axis not in _axes_of(x))
    return jax.lax.pcast(x, missing, to="varying") if missing else x

  return jax.tree.map(vary, tree)


def _whole(tree: Any) -> Any:
  """Gathers the pieces of sequences, along axis 1 of arrays `[B, L, ...]`."""
  return jax.tree.map(
    lambda x: jax.lax.all_gather(x, "sequence", axis=1, tiled=True), tree
  )


def agreed(variables: Any, axes: str | tuple[str, ...]) -> Any:
  """Means over devices of the variables that each of them has changed."""

  def agree(x: jax.Array) -> jax.Array:
    mean = jnp.issubdtype(x.dtype, jnp.inexact)
    return (jax.lax.pmean if mean else jax.lax.pmax)(x, axes)

  return jax.tree.map(agree, variables)


def eval_step(
  learner: Learner,
  params: Any,
  variables: Any,
  batch: Batch,
  frozen: Any = None,
  axes: tuple[str, ...] = (),
) -> dict[str, jax.Array]:
  """Returns the sums of `loss_sums`, without dropout."""
  return loss_sums(learner, params, variables, batch, None, frozen, axes)[0]


def gradient(
  learner: Learner,
  params: Any,
  variables: Any,
  batch: Batch,
  rng: jax.Array,
  frozen: Any = None,
  axes: tuple[str, ...] = (),
) -> Sums:
  """Returns the gradient of the loss, summed over one microbatch.

  Args:
    learner: Model and loss.
    params: Parameters.
    variables: The other variables.
    batch: The arrays of the microbatch.
    rng: Key for dropout.
    frozen: As for `loss_sums`.
    axes: As for `loss_sums`.

  Returns:
    The gradient of the summed loss, the sums of `loss_sums`, and the variables.
  """

  def loss(params: Any) -> tuple[Any, Any]:
    sums, after = loss_sums(
      learner, params, variables, batch, rng, frozen, axes
    )
    if "sown_loss" in sums:
      return sums["loss"] + sums["sown_loss"], (sums, after)
    return sums["loss"], (sums, after)

  grads, (sums, after) = jax.grad(loss, has_aux=True)(params)
  return grads, sums, after


def accumulated(gradient: Gradients, count: int) -> Gradients:
  """Sums a gradient over microbatches.

  Args:
    gradient: Returns the gradient of a microbatch: see `gradient`.
    count: The number of microbatches, which divides B.

  Returns:
    The same function of a batch `[B, ...]`. A microbatch gets the variables of
    the one before, and its own key.
  """

  def run(
    params: Any, variables: Any, batch: Batch, rng: jax.Array, frozen: Any
  ) -> Sums:
    if count == 1:
      key = jax.random.fold_in(rng, 0)
      return gradient(params, variables, batch, key, frozen)
    micro = jax.tree.map(
      lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), dict(batch)
    )

    def add(carry: Any, inputs: Any) -> tuple[Any, None]:
      total, variables = carry
      index, batch = inputs
      key = jax.random.fold_in(rng, index)
      grads, sums, variables = gradient(params, variables, batch, key, frozen)
      return (jax.tree.map(jnp.add, total, (grads, sums)), variables), None

    first = jax.tree.map(lambda x: x[0], micro)
    grads, sums, _ = jax.eval_shape(
      gradient, params, variables, first, rng, frozen
    )
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (grads, sums))
    ((grads, sums), variables), _ = jax.lax.scan(
      add, (zeros, variables), (jnp.arange(count), micro)
    )
    return grads, sums, variables

  return run


def gradients(learner: Learner) -> Gradients:
  """Returns the gradient of a batch on one device, over its microbatches."""
  one = functools.partial(gradient, learner)
  return accumulated(one, learner.accumulation)


def train_step(
  learner: Learner,
  state: TrainState,
  batch: Batch,
  frozen: Any = None,
  summed: Gradients | None = None,
  devices: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Performs one update.

  Args:
    learner: Model, optimizer, schedule, accumulation.
    state: The state before.
    batch: The batch, or this device's share of it: see `train.losses`.
    frozen: As for `loss_sums`.
    summed: Sums the gradient over the batch of all devices; `gradients` of the
      learner if None.
    devices: The number of devices that have a share each.

  Returns:
    The state after, and metrics: those of the loss (see `Loss.means`), "tokens"
    (positions of the batch that the model read, padding included), "grad_norm"
    (before clipping), "update_norm", "param_norm", "learning_rate" if the
    optimizer has one, and "finite". If the loss, the gradient, or anything in
    the new state is not finite, the old state is kept, except that `stopped` is
    set.
  """
  summed = summed or gradients(learner)
  rng = jax.random.wrap_key_data(state.rng)
  rng = jax.random.fold_in(rng, state.step)

  def mean_gradients(params: Any) -> Sums:
    grads, sums, variables = summed(params, state.variables, batch, rng, frozen)
    scale = inverse(sums["weight"])
    grads = jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
    return grads, sums, variables

  with jax.named_scope("gradient"):
    grads, sums, variables = mean_gradients(state.params)
  new, metrics = apply(
    learner,
    state,
    grads,
    # For an optimizer that takes gradients at other parameters too.
    lambda params, _: mean_gradients(params)[0],
  )
  with jax.named_scope("metrics"):
    metrics = learner.loss.means(sums) | metrics
    metrics["tokens"] = jnp.float32(devices * positions(learner, batch))
  return _selected(state, new.replace(variables=variables), metrics)


def counted_inputs(inputs: Any) -> Any:
  """Returns `model_flops`' argument `inputs` for the inputs of an example."""
  # Dictionaries and tuples of arrays have no number of axes.
  is_row = getattr(inputs, "ndim", None) == 1
  if is_row and jnp.issubdtype(inputs.dtype, jnp.integer):
    return None
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), inputs
  )


def positions(learner: Learner, batch: Batch) -> int:
  """The positions that a model reads: B times L, or B without a sequence."""
  size = len(batch["weights"])
  for keys, x in jax.tree.leaves_with_path(dict(batch)):
    if is_sequence(path_of(keys), x, learner.sequence):
      return size * x.shape[1]
  return size


def apply(
  learner: Learner, state: TrainState, grads: Any, grad_fn: Callable[..., Any]
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Applies a mean gradient.

  Args:
    learner: Optimizer and schedule.
    state: The state before.
    grads: The gradient, over all microbatches and devices.
    grad_fn: Gives the gradient at other parameters.

  Returns:
    The state after, and the metrics of the update.
  """
  with jax.named_scope("optimizer"):
    optimizer = optax.with_extra_args_support(learner.optimizer)
    updates, opt_state = optimizer.update(
      grads, state.opt_state, state.params, grad_fn=grad_fn
    )
    params = optax.apply_updates(state.params, updates)
    new = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
  with jax.named_scope("metrics"):
    metrics = {
      "grad_norm": norm(grads),
      "update_norm": norm(updates),
      "param_norm": norm(params),
    }
    if learner.schedule is not None:
      metrics["learning_rate"] = learner.schedule(state.step)
  return new, metrics


def _selected(
  state: TrainState, new: TrainState, metrics: Mapping[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
  """The new state if it and the step are finite, else the old one."""
  with jax.named_scope("metrics"):
    changed = new.opt_state, changing(new.variables)
    finite = jnp.isfinite(zero_if_finite(changed))
    for name in ("loss", "grad_norm", "update_norm", "param_norm"):
      finite &= jnp.isfinite(metrics[name])
  with jax.named_scope("select"):
    take = finite & ~state.stopped
    kept = jax.tree.map(lambda n, o: jnp.where(take, n, o), new, state)
    kept = kept.replace(stopped=state.stopped | ~finite)
  return kept, {**metrics, "finite": finite}
