"""The classifier of series: its views, and reading in both orders."""

import functools

import jax
import numpy as np
import pytest

from jaxmodels.layers import MLP
from jaxmodels.layers.wavelets import geometric_scales, wavelet_transform
from jaxmodels.models import Backbone, SeriesClassifier
from jaxmodels.models.series_classifier import dilations, tango

X = np.random.default_rng(0).normal(size=(2, 18, 3)).astype(np.float32)
MODEL = SeriesClassifier(
  classes=4,
  width=6,
  mixers=(MLP(18),),
  feature_mixers=(MLP(3),),
  view="both",
  scales=5,
  patch_size=4,
  kernels=2,
)


@functools.cache
def drawn(pooling="mean"):
  rng = np.random.default_rng(1)
  model = MODEL.clone(pooling=pooling)
  params = jax.eval_shape(model.init, jax.random.key(0), X)["params"]
  return jax.tree.map(
    lambda p: 0.5 * rng.normal(size=p.shape).astype(p.dtype), params
  )


def dense(p, x):
  return x @ p["kernel"] + p["bias"]


def gelu(x):
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def second_view(p, x):
  """Convolutions step by step, then the line; x [B, C, L]."""
  found = []
  for d in (1, 2):
    padded = np.pad(x, ((0, 0), (0, 0), (4 * d, 4 * d)))
    for kind in (np.max, lambda y, axis: np.mean(1 / (1 + np.exp(-y)), axis)):
      for k in range(2):
        kernel, bias = p[f"kernel_{d}"][:, 0, k], p[f"bias_{d}"][0, 0, k]
        y = [
          padded[..., t : t + 8 * d + 1 : d] @ kernel + bias for t in range(18)
        ]
        found.append(kind(np.stack(y, -1), -1))
  convolved = dense(p["convolutions"], np.stack(found, -1))
  return np.concatenate([convolved, dense(p["line"], x)], -1)


def wavelets(p, x):
  """Patches of 4 scales and 4 steps, after zeros to 8 scales and 20 steps."""
  energy = np.abs(wavelet_transform(x, geometric_scales(5, 2, 18)))
  energy = np.pad(energy, ((0, 0), (0, 0), (0, 3), (0, 2)))
  parts = [
    np.einsum(
      "bcij,ijcf->bf",
      energy[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4],
      p["patches"]["kernel"],
    )
    + p["patches"]["bias"]
    for i in range(2)
    for j in range(5)
  ]
  return dense(p["wavelets"], np.stack(parts, -1))


@pytest.mark.parametrize(
  "pooling", ["flat", pytest.param("mean", marks=pytest.mark.slow)]
)
def test_logits_follow_the_equation(pooling):
  p = drawn(pooling)
  x = np.swapaxes(X, 1, 2)
  w, t = wavelets(p, x), second_view(p, x)
  a = p["share"]
  z = np.concatenate([w, gelu(a * t + (2 - a) * w), t], -1)
  z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
  z = z * p["fused_norm"]["scale"] + p["fused_norm"]["bias"]

  def both(name, z):
    stack = Backbone(z.shape[-1], 1, (MLP(z.shape[-1]),), mlp="none")
    run = jax.jit(lambda z: stack.apply({"params": p[name]}, z)[0])
    return np.asarray(run(z)) + np.asarray(run(z[:, ::-1].copy()))

  y = both("variates", z)
  y = y + both("features", np.swapaxes(z, 1, 2).copy()).swapaxes(1, 2)
  y = y.reshape(2, -1) if pooling == "flat" else y.mean(1)
  wanted = dense(p["head"], dense(p["hidden"], y))
  model = MODEL.clone(pooling=pooling)
  logits = jax.jit(model.apply)({"params": p}, X)
  np.testing.assert_allclose(logits, wanted, atol=2e-4)


def test_a_sequence_and_its_inversion_have_the_same_tango():
  stack = Backbone(3, 1, ("short_convolution",), mlp="none")
  params = jax.jit(stack.init)(jax.random.key(0), X)
  run = jax.jit(lambda x: tango(lambda x: stack.apply(params, x)[0], x))
  back = X[:, ::-1].copy()
  np.testing.assert_array_equal(run(X), run(back))
  one = jax.jit(stack.apply)
  assert np.abs(one(params, X)[0] - one(params, back)[0]).max() > 1e-2


@pytest.mark.slow
def test_kernels_that_are_not_trained_have_no_gradient():
  frozen = MODEL.clone(train_kernels=False)

  def loss(p):
    return (frozen.apply({"params": p}, X) ** 2).sum()

  slopes = jax.jit(jax.grad(loss))(drawn())
  for name, slope in slopes.items():
    still = name.startswith(("kernel_", "bias_"))
    assert all((np.abs(x).max() == 0) == still for x in jax.tree.leaves(slope))


def test_dilated_kernels_fit_in_the_series():
  assert dilations(5) == [1]
  assert dilations(16) == [1]
  assert dilations(17) == [1, 2]
  assert dilations(33) == [1, 2, 4]


@pytest.mark.parametrize(
  ("change", "x", "match"),
  [
    ({"width": 5}, X, "'both' needs an even width, got 5"),
    ({"view": "lines"}, X, "view.*lines"),
    ({}, X[:, :1], "L must be at least 2, got 1"),
    ({}, X[0], r"SeriesClassifier: x must be \[B, L, C\]"),
  ],
)
def test_the_error_names_what_is_wrong(change, x, match):
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(MODEL.clone(**change).init, jax.random.key(0), x)
