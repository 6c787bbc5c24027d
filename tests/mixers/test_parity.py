"""Parity, learned: Mamba-2 with negative eigenvalues, and without."""

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxmodels.models import LanguageModel

SIZES = {"head_width": 8, "state_width": 8, "expand": 1, "method": "chunked"}


def draw(key, count, length):
  bits = jax.random.randint(key, (count, length), 0, 2)
  return bits, jnp.cumsum(bits, 1) % 2


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("negative", [True, False])
def test_parity_at_eight_times_the_length_of_training(negative):
  """One layer of width 32, 2,000 steps of 32 sequences of 40 bits."""
  options = SIZES | {"negative_eigenvalues": negative}
  model = LanguageModel(2, 32, 1, ("mamba2",), {"mamba2": options})
  rate = optax.cosine_decay_schedule(5e-3, 5000)
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01)
  )

  def loss(params, bits, parity):
    logits, _ = model.apply(params, bits)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, parity)
    return loss.mean(), (logits.argmax(-1) == parity).mean()

  def step(carry, key):
    params, state = carry
    slopes, _ = jax.grad(loss, has_aux=True)(params, *draw(key, 32, 40))
    with jax.numpy_dtype_promotion("standard"):  # For optax.
      updates, state = optimizer.update(slopes, state, params)
    return (optax.apply_updates(params, updates), state), None

  @jax.jit
  def hundred(carry, key):
    return jax.lax.scan(step, carry, jax.random.split(key, 100))[0]

  params = model.init(jax.random.key(1), jnp.zeros((1, 2), jnp.int32))
  carry = params, optimizer.init(params)
  for i in range(20):
    carry = hundred(carry, jax.random.key(1007 + i))
  long = draw(jax.random.key(5), 32, 320)
  accuracy = jax.jit(loss)(carry[0], *long)[1]
  print(f"accuracy at 320 bits: {accuracy:.3f}")
  assert accuracy > 0.98 if negative else accuracy < 0.75
