"""Hedgehog: distilled maps mimic softmax, and a converted model still works."""

import jax
import numpy as np
import optax
import pytest

from jaxmodels.layers.feature_maps import Hedgehog
from jaxmodels.mixers.hedgehog import hedgehog_loss
from jaxmodels.models import LanguageModel
from jaxmodels.models.linearize import (
  distill,
  linear,
  linearize,
  with_teachers,
)
from tests.models import recall


def test_the_loss_is_the_cross_entropy_of_the_weights():
  rng = np.random.default_rng(0)
  q, k = rng.normal(size=(2, 2, 7, 2, 3)).astype(np.float32)
  f, g = rng.uniform(size=(2, 2, 7, 2, 5)).astype(np.float32)
  ids = np.repeat([[0, 1]], (3, 4), -1).repeat(2, 0)
  total = []
  for b, t, h in np.ndindex(2, 7, 2):
    seen = [s for s in range(t + 1) if ids[b, s] == ids[b, t]]
    p = np.exp(k[b, seen, h] @ q[b, t, h])
    w = g[b, seen, h] @ f[b, t, h]
    total.append(-np.sum(p / p.sum() * np.log(w / w.sum())))
  got = hedgehog_loss(q, k, f, g, segment_ids=ids)
  np.testing.assert_allclose(got, np.mean(total), rtol=1e-5)


@pytest.mark.slow
def test_distilled_weights_are_spiky_and_grow_with_the_product():
  """Of one head, as in figures 2 and 3 of the paper."""
  rng = np.random.default_rng(1)
  q, k = 2 * rng.normal(size=(2, 4, 32, 1, 4)).astype(np.float32)
  layer = Hedgehog(64)
  params = jax.vmap(layer.init, (0, None))(
    jax.random.split(jax.random.key(0)), q
  )

  def loss(params):
    maps = (jax.tree.map(lambda p, i=i: p[i], params) for i in range(2))
    f, g = (layer.apply(p, u) for p, u in zip(maps, (q, k), strict=True))
    return hedgehog_loss(q / 2, k, f, g), (f, g)

  optimizer = optax.adam(0.05)

  def step(carry, _):
    params, moments = carry
    (value, _), slopes = jax.value_and_grad(loss, has_aux=True)(params)
    with jax.numpy_dtype_promotion("standard"):
      updates, moments = optimizer.update(slopes, moments)
    return (optax.apply_updates(params, updates), moments), value

  start = (params, optimizer.init(params))
  (trained, _), values = jax.jit(
    lambda start: jax.lax.scan(step, start, length=1000)
  )(start)

  def entropy(weights):
    return -np.sum(weights * np.log(weights + 1e-30), -1).mean()

  def weights_of(params):
    _, (f, g) = loss(params)
    products = np.einsum("bthf,bshf->bhts", f, g)[:, :, -1]
    return products / products.sum(-1, keepdims=True)

  scores = np.einsum("bthk,bshk->bhts", q / 2, k)[:, :, -1]
  exact = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
  # Weights of softmax have an entropy of 1.3 here, and uniform ones of 3.5.
  before, after = entropy(weights_of(params)), entropy(weights_of(trained))
  assert after - entropy(exact) < 0.6 * (before - entropy(exact))
  assert values[-1] < values[0]

  def ranks(x):
    return np.argsort(np.argsort(x, -1), -1)

  agree = [
    np.corrcoef(ranks(a), ranks(b))[0, 1]
    for a, b in zip(
      weights_of(trained).reshape(-1, 32), scores.reshape(-1, 32), strict=True
    )
  ]
  assert np.mean(agree) > 0.8


def model_of(**options):
  return LanguageModel(
    32,
    32,
    2,
    ("short_convolution", ("softmax_attention", {"heads": 2, **options})),
    mlp="none",
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  "scan_layers", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_only_the_maps_change_and_the_names_fit(scan_layers):
  rng = np.random.default_rng(0)
  model = model_of(rotary_fraction=0.5).clone(scan_layers=scan_layers)
  tokens = rng.integers(0, 32, (2, 12))
  variables = jax.jit(model.init)(jax.random.key(0), tokens)
  teachers = with_teachers(model)
  trained, losses = distill(teachers, variables, [tokens] * 3, 0.1)
  assert losses[-1] < losses[0]
  for (path, x), (_, y) in zip(
    jax.tree_util.tree_leaves_with_path(
      jax.tree.map(lambda x: x, variables["params"])
    ),
    [
      (path, y)
      for path, y in jax.tree_util.tree_leaves_with_path(trained["params"])
      if "_map" not in jax.tree_util.keystr(path)
    ],
    strict=True,
  ):
    np.testing.assert_array_equal(x, y, err_msg=str(path))
  student = linear(model)
  wanted = jax.eval_shape(student.init, jax.random.key(0), tokens)["params"]
  got = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), trained)
  assert got["params"] == wanted
  # The teacher's own outputs are those of the softmax model.
  np.testing.assert_allclose(
    teachers.apply(trained, tokens)[0], model.apply(variables, tokens)[0],
    atol=1e-6,
  )  # fmt: skip


def test_options_that_linear_attention_has_not_are_refused():
  for options in ({"softcap": 3.0}, {"window": 4}, {"kv_heads": 1}):
    (field,) = options
    with pytest.raises(ValueError, match=f"linearize: .* has {field} = "):
      with_teachers(model_of(**options))


@pytest.mark.slow
def test_a_converted_model_keeps_its_accuracy():
  """Softmax, converted by distillation alone, and fine-tuned after that."""
  model = model_of(rotary_fraction=0.0)
  variables = jax.jit(model.init)(jax.random.key(0), recall.rows(0)[0])
  variables = recall.trained(model, variables, 1500, 3e-3)
  before = recall.accuracy(model, variables)
  batches = [recall.rows(i % 200)[0] for i in range(1000)]
  student, converted = linearize(model, variables, batches, features=16)
  after = recall.accuracy(student, converted)
  tuned = recall.accuracy(
    student, recall.trained(student, converted, 300, 1e-3)
  )
  print(f"accuracy {before:.3f}, converted {after:.3f}, tuned {tuned:.3f}")
  assert before > 0.98
  assert tuned > before - 0.01
  # Without distillation the maps are the identity, and recall is lost.
  untrained, _ = distill(
    with_teachers(model, 16), variables, [batches[0]], learning_rate=0.0
  )
  assert recall.accuracy(student, untrained) < after
