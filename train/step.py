"""The training step and the evaluation step, as pure functions.

Losses, gradients and counts are summed, over microbatches and over devices,
and divided once by the summed weight. A mean of means would give the tokens
of short documents and padded rows too much weight.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from train.norm import norm, zero_if_finite
from train.state import TrainState

Batch = Mapping[str, jax.Array]


def identity(x: Any) -> Any:
  """Returns x."""
  return x


class Learner(NamedTuple):
  """A model with its optimizer: the part of a step that does not change.

  Attributes:
    model: A module with the call of `LanguageModel`.
    optimizer: The optimizer of its parameters.
    schedule: The learning rate by step; None if it is not known.
    accumulation: Microbatches per update.
    spread: Maps a function of parameters, a batch and possibly more over
      devices; the function returns sums over the tokens of the batch. The
      default runs it on one device.
    axes: Mesh axes that `spread` binds inside the function: see `token_sums`.
  """

  model: nn.Module
  optimizer: optax.GradientTransformation
  schedule: optax.Schedule | None
  accumulation: int = 1
  spread: Callable[[Callable[..., Any]], Callable[..., Any]] = identity
  axes: tuple[str, ...] = ()


def token_sums(
  model: nn.Module,
  params: Any,
  batch: Batch,
  rng: jax.Array | None = None,
  axes: tuple[str, ...] = (),
) -> dict[str, jax.Array]:
  """Runs the model and sums the parts of the metrics over the tokens.

  Args:
    model: A module with the call of `LanguageModel`.
    params: Its parameters.
    batch: "inputs", "targets", "segment_ids" and "weights", all `[B, L]`.
    rng: Key for dropout; None to evaluate.
    axes: Mesh axes, inside `shard_map`, of devices that each have a share of
      the batch, or a piece of its sequences. Each draws its own dropout.

  Returns:
    Float32 scalars: "loss" (nats) and "correct", weighted sums over tokens,
    and "weight", the sum of the weights; over all of `axes`.
  """
  if rng is not None and axes:
    rng = jax.random.fold_in(rng, jax.lax.axis_index(axes))
  logits, _ = model.apply(
    {"params": params},
    batch["inputs"],
    segment_ids=batch["segment_ids"],
    rngs=None if rng is None else {"dropout": rng},
  )
  with jax.named_scope("loss"):
    sums = _weighted_sums(logits.astype(jnp.float32), batch)
  return jax.lax.psum(sums, axes) if axes else sums


def _weighted_sums(logits: jax.Array, batch: Batch) -> dict[str, jax.Array]:
  """Adds up over the tokens of logits `[B, L, V]` and a batch `[B, L]`."""
  targets, weights = batch["targets"], batch["weights"].astype(jnp.float32)
  picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  losses = jax.nn.logsumexp(logits, axis=-1) - picked
  correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
  return {
    "loss": jnp.sum(losses * weights),
    "correct": jnp.sum(correct * weights),
    "weight": jnp.sum(weights),
  }


def _inverse(weight: Any) -> Any:
  """Returns 1 / weight, and 1 where there is no weight."""
  return 1.0 / (weight + (weight == 0).astype(weight.dtype))


def means(sums: Mapping[str, Any]) -> dict[str, Any]:
  """Turns the sums of `token_sums` into metrics per token.

  Args:
    sums: Arrays of JAX or numpy.

  Returns:
    "loss" in nats, "bits_per_token", "accuracy", and "targets", the summed
    weight of what was to be predicted. Without weight, zeros.
  """
  weight = sums["weight"]
  scale = _inverse(weight)
  loss = sums["loss"] * scale
  return {
    "loss": loss,
    "bits_per_token": loss / math.log(2),
    "accuracy": sums["correct"] * scale,
    "targets": weight,
  }


def eval_step(
  learner: Learner, params: Any, batch: Batch
) -> dict[str, jax.Array]:
  """Returns the sums of `token_sums`, without dropout."""
  sums = functools.partial(token_sums, learner.model, axes=learner.axes)
  return learner.spread(sums)(params, batch)


def _gradients(
  learner: Learner, params: Any, batch: Batch, rng: jax.Array
) -> tuple[Any, dict[str, jax.Array]]:
  """Sums gradients and metrics over the microbatches of a batch.

  Args:
    learner: Its `accumulation` divides B.
    params: Parameters.
    batch: Arrays `[B, L]`.
    rng: Key of this step.

  Returns:
    The gradient of the summed loss, and the sums of `token_sums`.
  """

  def loss(params: Any, batch: Batch, rng: jax.Array) -> tuple[Any, dict]:
    sums = token_sums(learner.model, params, batch, rng, learner.axes)
    return sums["loss"], sums

  gradient = learner.spread(jax.grad(loss, has_aux=True))
  count = learner.accumulation
  if count == 1:
    return gradient(params, batch, jax.random.fold_in(rng, 0))

  micro = jax.tree.map(
    lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), dict(batch)
  )

  def add(carry: Any, inputs: Any) -> tuple[Any, None]:
    index, batch = inputs
    new = gradient(params, batch, jax.random.fold_in(rng, index))
    return jax.tree.map(jnp.add, carry, new), None

  first = jax.tree.map(lambda x: x[0], micro)
  shapes = jax.eval_shape(gradient, params, first, rng)
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  total, _ = jax.lax.scan(add, zeros, (jnp.arange(count), micro))
  return total


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
    batch: This device's share: "inputs", "targets", "segment_ids" and
      "weights", all `[B, L]`.
    axis_name: The axis of devices that share the batch, if any. Each draws
      its own dropout, so only a model without dropout computes the same on
      one device and on many.

  Returns:
    The state after, and metrics: "loss" (nats per target), "bits_per_token",
    "accuracy", "targets" (their summed weight), "tokens" (positions of the
    batch that the model read, padding included), "grad_norm" (before
    clipping), "update_norm", "param_norm", "learning_rate", and "finite". If
    the loss, the gradient, or anything in the new state is not finite, the old
    state is kept, except that `stopped` is set.
  """
  rng = jax.random.wrap_key_data(state.rng)
  rng = jax.random.fold_in(rng, state.step)
  if axis_name is not None:
    rng = jax.random.fold_in(rng, jax.lax.axis_index(axis_name))

  def gradients(params: Any) -> tuple[Any, dict[str, jax.Array]]:
    grads, sums = _gradients(learner, params, batch, rng)
    if axis_name is not None:
      grads, sums = jax.lax.psum((grads, sums), axis_name)
    scale = _inverse(sums["weight"])
    return jax.tree.map(lambda g: g * scale.astype(g.dtype), grads), sums

  with jax.named_scope("gradient"):
    grads, sums = gradients(state.params)
  with jax.named_scope("optimizer"):
    optimizer = optax.with_extra_args_support(learner.optimizer)
    updates, opt_state = optimizer.update(
      grads,
      state.opt_state,
      state.params,
      # For an optimizer that takes gradients at other parameters too.
      grad_fn=lambda params, _: gradients(params)[0],
    )
    params = optax.apply_updates(state.params, updates)
  with jax.named_scope("metrics"):
    metrics = means(sums)
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    metrics["tokens"] = jnp.float32(devices * batch["inputs"].size)
    metrics["grad_norm"] = norm(grads)
    metrics["update_norm"] = norm(updates)
    metrics["param_norm"] = norm(params)
    if learner.schedule is not None:
      metrics["learning_rate"] = learner.schedule(state.step)
    finite = jnp.isfinite(zero_if_finite(opt_state))
    for name in ("loss", "grad_norm", "update_norm", "param_norm"):
      finite &= jnp.isfinite(metrics[name])
    metrics["finite"] = finite
  with jax.named_scope("select"):
    apply = finite & ~state.stopped
    new = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
    kept = jax.tree.map(lambda n, o: jnp.where(apply, n, o), new, state)
    return kept.replace(stopped=state.stopped | ~finite), metrics
