"""A recurrent policy: resets inside the scan equal resets of the state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.models import Feedback, RecurrentPolicy, episode_ids

BATCH, LENGTH, FEATURES, ACTIONS = 2, 6, 3, 4
# The first row continues an episode, the second starts with one; the last
# episode of each row has one step.
FIRST = np.array([[0, 0, 1, 0, 1, 1], [1, 0, 0, 1, 0, 1]], bool)
MIXERS = {
  "s5": ("s5", {"state_width": 4}),
  "mamba": ("mamba", {"state_width": 2}),
  "gated_deltanet": ("gated_deltanet", {"heads": 2}),
  "mlstm": ("mlstm", {"heads": 2}),
  "rg_lru": ("rg_lru", {"heads": 2}),
}


def made(mixer, seed=0):
  """A policy, its variables, observations, feedback and a first state."""
  model = RecurrentPolicy(
    actions=ACTIONS, width=8, depth=1, mixers=(mixer,), mlp="none"
  )
  rng = np.random.default_rng(seed)
  shape = (BATCH, LENGTH)
  x = jnp.asarray(rng.normal(size=(*shape, FEATURES)), jnp.float32)
  action = np.where(FIRST, -1, rng.integers(ACTIONS, size=shape))
  reward = np.where(FIRST, 0, rng.normal(size=shape))
  feedback = Feedback(
    jnp.asarray(action, jnp.int32),
    jnp.asarray(reward, jnp.float32),
    jnp.asarray(FIRST),
  )
  variables = model.init(jax.random.key(seed), x, feedback=feedback)
  # The head of the logits starts near zero, which would hide differences.
  head = variables["params"]["logits"]
  head["kernel"] = jnp.asarray(rng.normal(size=(8, ACTIONS)), jnp.float32)
  # A state that is not zero.
  _, state = model.apply(variables, -x, feedback=feedback)
  return model, variables, x, feedback, state


def stepped(model, variables, x, feedback, state):
  """One call per step; a state is zero where an episode starts."""

  def step(state, now):
    x, feedback = now

    def reset(zero, own):
      first = feedback.first.reshape(-1, *[1] * (own.ndim - 1))
      return jnp.where(first, zero, own)

    state = jax.tree.map(reset, model.init_state(BATCH), state)
    now = jax.tree.map(lambda leaf: leaf[:, None], (x, feedback))
    output, state = model.apply(variables, now[0], state, feedback=now[1])
    return state, jax.tree.map(lambda leaf: leaf[:, 0], output)

  by_time = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), (x, feedback))
  state, outputs = jax.lax.scan(step, state, by_time)
  return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), outputs), state


def compare(name, wrap):
  """Compares a packed call and single steps, each wrapped in `wrap`."""
  model, variables, x, feedback, state = made(MIXERS[name])

  def packed(variables):
    ids = episode_ids(feedback.first)
    return model.apply(variables, x, state, segment_ids=ids, feedback=feedback)

  def slowly(variables):
    return stepped(model, variables, x, feedback, state)

  fast, slow = (jax.jit(wrap(run))(variables) for run in (packed, slowly))
  leaves = zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True)
  for ours, theirs in leaves:
    scale = float(jnp.abs(theirs).max(initial=1))
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * scale)


@pytest.mark.slow
def test_resets_inside_the_scan_equal_resets_of_the_state():
  compare("s5", lambda run: run)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXERS)
def test_gradients_through_resets_equal_those_through_single_steps(name):
  def with_gradient(run):
    def loss(variables):
      output, state = run(variables)
      return sum(jnp.sum(jnp.sin(leaf)) for leaf in output), (output, state)

    return jax.value_and_grad(loss, has_aux=True)

  compare(name, with_gradient)


def test_feedback_is_appended_to_the_observation():
  model, variables, x, feedback, _ = made(MIXERS["s5"])
  one_hot = np.zeros((BATCH, LENGTH, ACTIONS), np.float32)
  for b, t in np.ndindex(BATCH, LENGTH):
    if feedback.action[b, t] >= 0:
      one_hot[b, t, feedback.action[b, t]] = 1
  others = np.stack([feedback.reward, FIRST], -1).astype(np.float32)
  whole = jnp.concatenate([x, one_hot, others], -1)
  ours, _ = model.apply(variables, x, feedback=feedback)
  theirs, _ = model.apply(variables, whole)
  np.testing.assert_array_equal(ours.logits, theirs.logits)
  assert ours.value.shape == (BATCH, LENGTH)
  with pytest.raises(ValueError, match=r"feedback.reward must be \[B, L\]"):
    model.apply(variables, x, feedback=feedback._replace(reward=x))
