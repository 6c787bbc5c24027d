"""The training step and the evaluation step, as pure functions.

A step takes the summed gradient (`gradients`), over microbatches and devices,
divides it once by the summed weight, and applies it (`apply`).
"""

from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from train.losses import Batch, Loss, NextToken
from train.losses.base import inverse, is_sequence
from train.norm import norm, zero_if_finite
from train.state import TrainState

# The collection in which layers sow losses of their own.
SOWN = "losses"


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
    spread: Maps a function of parameters, other variables, a batch and possibly
      more over devices; the function returns sums over the batch, and the
      variables. The default runs it on one device.
    axes: Mesh axes that `spread` binds inside the function.
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule | None
  accumulation: int = 1
  loss: Loss = NextToken()
  sequence: Container[str] | None = None
  spread: Callable[[Callable[..., Any]], Callable[..., Any]] = identity
  axes: tuple[str, ...] = ()


def loss_sums(
  learner: Learner,
  params: Any,
  variables: Any,
  batch: Batch,
  rng: jax.Array | None = None,
) -> tuple[dict[str, jax.Array], Any]:
  """Runs the model and sums the parts of the metrics over a batch.

  Losses that layers sow into the collection "losses" are means over the batch;
  of arrays, the mean is taken. Their sum times the weight of the batch is
  "sown_loss". Only training has it. Of several microbatches, or under `pmap`,
  each counts with its own weight.

  Args:
    learner: Model and loss. Inside `shard_map`, its `axes` are those of devices
      that each have a share of the batch, or a piece of its sequences. Each
      draws its own dropout.
    params: Parameters.
    variables: The other collections of variables, by name.
    batch: Arrays `[B, ...]`.
    rng: Key for dropout; None to evaluate.

  Returns:
    Float32 scalars, see `Loss.sums`; over all of `axes`. And the variables
    after the call, which evaluation does not change.
  """
  axes = learner.axes
  if rng is not None and axes:
    rng = jax.random.fold_in(rng, jax.lax.axis_index(axes))
  outputs, changed = learner.loss.outputs(
    learner.model,
    {"params": params, **variables},
    batch,
    rngs=None if rng is None else {"dropout": rng},
    mutable=[] if rng is None else [SOWN, *variables],
  )
  with jax.named_scope("loss"):
    pieces = 1
    if "sequence" in axes and not learner.loss.per_token:
      outputs = _whole(outputs)
      batch = {
        name: _whole(x) if is_sequence(name, x, learner.sequence) else x
        for name, x in batch.items()
      }
      pieces = jax.lax.axis_size("sequence")
    sums = learner.loss.sums(outputs, batch)
    if pieces > 1:
      # Every device has summed the same whole sequences.
      sums = jax.tree.map(lambda x: x / pieces, sums)
  sown = jax.tree.leaves(changed.pop(SOWN, ()))
  variables = {**variables, **changed}
  sown = [jnp.mean(x.astype(jnp.float32)) for x in sown]
  if axes:
    sums, sown, variables = _varying((sums, sown, variables), axes)
    sums = jax.lax.psum(sums, axes)
    # Each device has an equal share of the tokens.
    sown, variables = agreed((sown, variables), axes)
  if sown:
    sums["sown_loss"] = sum(sown, jnp.float32(0)) * sums["weight"]
  return sums, variables


def _varying(tree: Any, axes: tuple[str, ...]) -> Any:
  """Types values as different on every device, as sums over devices need."""

  def vary(x: jax.Array) -> jax.Array:
    varies = jax.typeof(x).manual_axis_type.varying
    missing = tuple(axis for axis in axes if axis not in varies)
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
  learner: Learner, params: Any, variables: Any, batch: Batch
) -> dict[str, jax.Array]:
  """Returns the sums of `loss_sums`, without dropout."""

  def sums(params: Any, variables: Any, batch: Batch) -> dict[str, jax.Array]:
    return loss_sums(learner, params, variables, batch)[0]

  return learner.spread(sums)(params, variables, batch)


def gradients(
  learner: Learner, params: Any, variables: Any, batch: Batch, rng: jax.Array
) -> tuple[Any, dict[str, jax.Array], Any]:
  """Sums gradients and metrics over the microbatches of a batch.

  Args:
    learner: Its `accumulation` divides B.
    params: Parameters.
    variables: The other variables; a microbatch gets those of the one before.
    batch: Arrays `[B, ...]`.
    rng: Key of this step.

  Returns:
    The gradient of the summed loss, the sums of `loss_sums`, and the variables.
  """

  def loss(params: Any, *rest: Any) -> tuple[Any, Any]:
    sums, after = loss_sums(learner, params, *rest)
    if "sown_loss" in sums:
      return sums["loss"] + sums["sown_loss"], (sums, after)
    return sums["loss"], (sums, after)

  gradient = learner.spread(jax.grad(loss, has_aux=True))
  count = learner.accumulation
  if count == 1:
    key = jax.random.fold_in(rng, 0)
    grads, (sums, variables) = gradient(params, variables, batch, key)
    return grads, sums, variables

  micro = jax.tree.map(
    lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), dict(batch)
  )

  def add(carry: Any, inputs: Any) -> tuple[Any, None]:
    total, variables = carry
    index, batch = inputs
    key = jax.random.fold_in(rng, index)
    grads, (sums, variables) = gradient(params, variables, batch, key)
    return (jax.tree.map(jnp.add, total, (grads, sums)), variables), None

  first = jax.tree.map(lambda x: x[0], micro)
  grads, (sums, _) = jax.eval_shape(gradient, params, variables, first, rng)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (grads, sums))
  (total, variables), _ = jax.lax.scan(
    add, (zeros, variables), (jnp.arange(count), micro)
  )
  return *total, variables


def train_step(
  learner: Learner,
  state: TrainState,
  batch: Batch,
  axis_name: str | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Performs one update.

  Args:
    learner: Model, optimizer, schedule, accumulation.
    state: The state before.
    batch: This device's share: see `train.losses`.
    axis_name: The axis of devices that share the batch, if any. Each draws
      its own dropout, so only a model without dropout computes the same on
      one device and on many.

  Returns:
    The state after, and metrics: those of the loss (see `Loss.means`), "tokens"
    (positions of the batch that the model read, padding included), "grad_norm"
    (before clipping), "update_norm", "param_norm", "learning_rate" if the
    optimizer has one, and "finite". If the loss, the gradient, or anything in
    the new state is not finite, the old state is kept, except that `stopped` is
    set.
  """
  rng = jax.random.wrap_key_data(state.rng)
  rng = jax.random.fold_in(rng, state.step)
  if axis_name is not None:
    rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))

  def mean_gradients(params: Any) -> tuple[Any, dict[str, jax.Array], Any]:
    grads, sums, variables = gradients(
      learner, params, state.variables, batch, rng
    )
    if axis_name is not None:
      grads, sums = jax.lax.psum((grads, sums), axis_name)
      variables = agreed(variables, axis_name)
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
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    metrics["tokens"] = jnp.float32(devices * positions(learner, batch))
  return _selected(state, new.replace(variables=variables), metrics)


def counted_inputs(inputs: Any) -> Any:
  """Returns `model_flops`' argument `inputs` for the inputs of an example."""
  if not isinstance(inputs, Mapping):
    is_token = jnp.issubdtype(inputs.dtype, jnp.integer)
    if inputs.ndim == 1 and is_token:
      return None
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), inputs
  )


def positions(learner: Learner, batch: Batch) -> int:
  """The positions that a model reads: B times L, or B without a sequence."""
  size = len(batch["weights"])
  for name, x in batch.items():
    if is_sequence(name, x, learner.sequence):
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
    finite = jnp.isfinite(zero_if_finite((new.opt_state, new.variables)))
    for name in ("loss", "grad_norm", "update_norm", "param_norm"):
      finite &= jnp.isfinite(metrics[name])
  with jax.named_scope("select"):
    take = finite & ~state.stopped
    kept = jax.tree.map(lambda n, o: jnp.where(take, n, o), new, state)
    kept = kept.replace(stopped=state.stopped | ~finite)
  return kept, {**metrics, "finite": finite}
