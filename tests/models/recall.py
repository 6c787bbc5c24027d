"""Recall of values by keys: a task on which small models train in seconds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax


@functools.cache
def rows(seed, count=64, pairs=4):
  """Recall: pairs of key and value, and then each key once more."""
  rng = np.random.default_rng(seed)
  inputs = np.zeros((count, 4 * pairs), np.int32)
  targets = np.zeros_like(inputs)
  for row in range(count):
    keys = rng.permutation(np.arange(1, 16))[:pairs]
    values = rng.permutation(np.arange(16, 32))[:pairs]
    inputs[row, : 2 * pairs : 2], inputs[row, 1 : 2 * pairs : 2] = keys, values
    order = rng.permutation(pairs)
    inputs[row, 2 * pairs :: 2] = keys[order]
    targets[row, 2 * pairs :: 2] = values[order]
  return inputs, targets


def trained(model, variables, steps, rate, pairs=4):
  """The variables after steps of Adam, on 200 batches of 64 rows."""
  optimizer = optax.adam(rate)
  params, moments = variables["params"], optimizer.init(variables["params"])

  def loss(params, inputs, targets):
    logits, _ = model.apply({"params": params}, inputs)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.mean(each, where=targets > 0)

  @jax.jit
  def step(params, moments, inputs, targets):
    slopes = jax.grad(loss)(params, inputs, targets)
    with jax.numpy_dtype_promotion("standard"):
      updates, moments = optimizer.update(slopes, moments)
    return optax.apply_updates(params, updates), moments

  for i in range(steps):
    params, moments = step(params, moments, *rows(i % 200, pairs=pairs))
  return {"params": params}


def accuracy(model, variables, pairs=4):
  """The share of the queries that a model answers, of 512 other rows."""
  inputs, targets = rows(10_000, 512, pairs)
  logits, _ = jax.jit(model.apply)(variables, inputs)
  right = np.argmax(logits, -1) == targets
  return right[targets > 0].mean()
