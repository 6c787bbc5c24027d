"""Losses beside their equations in float64, in chunks, and on every mesh."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.train import tiny
from tests.train.tasks import TASKS, B, C, L, Reader, config_of, language
from train import loop
from train.config import SGD, Mesh, serialize, validate
from train.data.dataset import sequence_arrays
from train.devices.strategy import make_strategy
from train.errors import UserError
from train.losses import (
  Classification,
  Distillation,
  Explained,
  Loss,
  NextToken,
  Regression,
)
from train.setup import make_learner
from train.state import init_state
from train.step import train_step


def drawn(seed=0, dtype=np.float64):
  rng = np.random.default_rng(seed)
  return {
    "logits": rng.normal(size=(B, L, C)).astype(dtype) * 3,
    "teacher_logits": rng.normal(size=(B, L, C)).astype(dtype),
    "targets": rng.integers(0, C, (B, L)).astype(np.int32),
    "weights": rng.random((B, L)).astype(dtype),
    "mask": np.arange(L)[None] < rng.integers(1, L + 1, (B, 1)),
  }


def log_softmax(x):
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


def means(loss, outputs, batch):
  arrays = jax.tree.map(jnp.asarray, batch)
  return loss.means(loss.sums(jnp.asarray(outputs, jnp.float32), arrays))


def assert_means(found, expected):
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=2e-6, err_msg=name)


def test_smoothing_and_z_loss_are_those_of_their_papers():
  x = drawn()
  log_p = log_softmax(x["logits"])
  nll = -np.take_along_axis(log_p, x["targets"][..., None], -1)[..., 0]
  log_z = np.log(np.exp(x["logits"]).sum(-1))
  each = 0.8 * nll - 0.2 * log_p.mean(-1) + 1e-2 * log_z**2
  weights = x["weights"] / x["weights"].sum()
  right = x["logits"].argmax(-1) == x["targets"]
  batch = {name: x[name] for name in ("targets", "weights")}
  loss = NextToken(label_smoothing=0.2, z_loss=1e-2)
  assert_means(
    means(loss, x["logits"], batch),
    {
      "loss": (each * weights).sum(),
      "cross_entropy": (nll * weights).sum(),
      "bits_per_token": (nll * weights).sum() / np.log(2),
      "accuracy": (right * weights).sum(),
      "targets": x["weights"].sum(),
    },
  )


@pytest.mark.parametrize("pooling", ["mean", "last", "none"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_class_is_predicted_from_the_positions_that_count(pooling, masked):
  x = drawn(1)
  mask = x["mask"] if masked else np.ones((B, L), bool)
  pooled = {
    "mean": (x["logits"] * mask[..., None]).sum(1) / mask.sum(1)[:, None],
    "last": x["logits"][np.arange(B), mask.sum(1) - 1],
    "none": x["logits"][:, 0],
  }[pooling]
  targets, weights = x["targets"][:, 0], x["weights"][:, 0]
  nll = -log_softmax(pooled)[np.arange(B), targets]
  share = weights / weights.sum()
  batch = {"targets": targets, "weights": weights}
  if masked:
    batch["mask"] = mask
  outputs = pooled if pooling == "none" else x["logits"]
  assert_means(
    means(Classification(pooling=pooling), outputs, batch),
    {
      "loss": (nll * share).sum(),
      "accuracy": ((pooled.argmax(-1) == targets) * share).sum(),
      "targets": weights.sum(),
    },
  )


@pytest.mark.parametrize("error", ["squared", "absolute", "huber"])
def test_regression_weights_tokens_and_averages_channels(error):
  x = drawn(2)
  off = x["logits"] - x["teacher_logits"]
  size = np.abs(off)
  each = {
    "squared": off**2,
    "absolute": size,
    "huber": np.where(size < 1, off**2 / 2, size - 0.5),
  }
  share = x["weights"] / x["weights"].sum()
  batch = {"targets": x["teacher_logits"], "weights": x["weights"]}
  assert_means(
    means(Regression(error=error), x["logits"], batch),
    {
      "loss": (each[error].mean(-1) * share).sum(),
      "squared_error": (each["squared"].mean(-1) * share).sum(),
      "absolute_error": (each["absolute"].mean(-1) * share).sum(),
    },
  )


def test_explained_is_the_share_of_a_reference():
  x = drawn(5)
  reference = x["teacher_logits"]
  share = (x["weights"] / x["weights"].sum())[..., None] / C
  targets = reference + np.random.default_rng(6).normal(size=reference.shape)
  batch = {
    "targets": targets,
    "reference": reference,
    "weights": x["weights"],
  }
  excess = ((x["logits"] - reference) ** 2 * share).sum()
  found = means(Explained(), x["logits"], batch)
  expected = {
    "loss": ((x["logits"] - targets) ** 2 * share).sum(),
    "excess_error": excess,
    "explained": 1 - excess / (reference**2 * share).sum(),
  }
  assert_means(found, expected)
  assert set(Explained.best) < set(found)
  assert means(Explained(), reference, batch)["explained"] == 1
  assert means(Explained(), 0 * reference, batch)["explained"] == 0
  batch["reference"] = 0 * reference
  assert means(Explained(), reference, batch)["explained"] == 0


def test_distillation_mixes_the_divergence_from_the_teacher():
  x, temperature = drawn(3), 2.0
  known = log_softmax(x["teacher_logits"] / temperature)
  own = log_softmax(x["logits"] / temperature)
  divergence = (np.exp(known) * (known - own)).sum(-1)
  nll = -np.take_along_axis(
    log_softmax(x["logits"]), x["targets"][..., None], -1
  )[..., 0]
  share = x["weights"] / x["weights"].sum()
  parts = (divergence * share).sum(), (nll * share).sum()
  names = ("targets", "weights", "teacher_logits")
  loss = Distillation(temperature=temperature, share=0.3)
  assert_means(
    means(loss, x["logits"], {name: x[name] for name in names}),
    {
      "loss": 0.3 * temperature**2 * parts[0] + 0.7 * parts[1],
      "divergence": parts[0],
      "cross_entropy": parts[1],
    },
  )


def value_and_gradient(loss, model, variables, batch):
  def value(variables):
    outputs, _ = loss.outputs(model, variables, batch, mutable=[])
    sums = loss.sums(outputs, batch)
    return sums["loss"], sums

  return jax.jit(jax.value_and_grad(value, has_aux=True))(variables)


@pytest.mark.parametrize(
  "size",
  [
    pytest.param(1, marks=pytest.mark.slow),
    5,
    pytest.param(L, marks=pytest.mark.slow),
    100,
  ],
)
@pytest.mark.parametrize(
  "loss",
  [
    NextToken(label_smoothing=0.1, z_loss=1e-3),
    pytest.param(Distillation(temperature=2.0), marks=pytest.mark.slow),
  ],
)
def test_chunks_change_no_value_and_no_gradient(loss, size):
  given = language()
  whole = value_and_gradient(loss, *given)
  cut = dataclasses.replace(loss, chunk_size=size)
  for a, b in zip(
    jax.tree.leaves(value_and_gradient(cut, *given)),
    jax.tree.leaves(whole),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_chunks_keep_the_logits_of_whole_sequences_out_of_memory():
  length, vocab = 256, 8192
  model, variables, batch = language(length, vocab)

  def temporary(loss):
    def value(variables):
      outputs, _ = loss.outputs(model, variables, batch, mutable=[])
      return loss.sums(outputs, batch)["loss"]

    compiled = jax.jit(jax.grad(value)).lower(variables).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  logits = 2 * length * vocab * 4
  assert temporary(NextToken()) > logits
  assert temporary(NextToken(chunk_size=16)) < logits / 4


def test_a_model_without_features_is_named():
  loss = NextToken(chunk_size=4)
  with pytest.raises(ValueError, match="Model has no methods features"):
    loss.outputs(tiny.Model(), {}, {"inputs": np.zeros((1, 4), np.int32)})


@functools.cache
def trained(name, strategy="jit", mesh=None, accumulation=1):
  """Two steps: the last state and metrics, and the sums of a validation."""
  loss, kind = TASKS[name]
  config = config_of(loss, kind, accumulation=accumulation)
  # Adam would enlarge the rounding of small gradients.
  optimizer = SGD(learning_rate=0.1, warmup_steps=0)
  config = dataclasses.replace(config, optimizer=optimizer)
  train = config.data.open("train")
  learner = make_learner(config)._replace(
    sequence=sequence_arrays(train, train[0])
  )
  example = jax.tree.map(np.asarray, train[0])
  state = init_state(learner.model, learner.optimizer, 0, example)
  made = make_strategy(strategy, learner, mesh=mesh)
  rows = [train[i] for i in range(B)]
  batch = jax.tree.map(lambda *x: np.stack(x), *rows)
  batch.setdefault("weights", np.ones(B, np.float32))
  given, state = made.batch(batch), made.prepare(state)
  for _ in range(2):
    state, metrics = made.step(state, given)
  sums = made.evaluate(state, given)
  return jax.device_get((made.saved(state), metrics, sums))


LAYOUTS = {
  "pmap": ("pmap", Mesh(data=2)),
  "all": ("jit", Mesh(data=2, fsdp=2, sequence=2)),
}


# By default what a mesh changes: means and statistics over the batch and the
# sequence.
OFTEN = (("class mean", "pmap"), ("class mean", "all"))


@pytest.mark.parametrize(
  ("name", "layout"),
  [
    pytest.param(*case, marks=() if case in OFTEN else pytest.mark.slow)
    for case in itertools.product(TASKS, LAYOUTS)
  ],
)
def test_every_mesh_computes_what_one_device_computes(name, layout):
  assert_same(trained(name, *LAYOUTS[layout]), trained(name))


def test_accumulated_microbatches_compute_what_one_batch_computes():
  # Running statistics see two batches.
  (state, *found), (whole, *expected) = (
    trained("class mean", accumulation=2),
    trained("class mean"),
  )
  assert_same((state.params, found), (whole.params, expected))


def assert_same(found, expected):
  flat, kind = jax.tree.flatten_with_path(found)
  assert kind == jax.tree.structure(expected)
  for (path, a), b in zip(flat, jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(
      a, b, rtol=2e-4, atol=2e-5, err_msg=jax.tree_util.keystr(path)
    )


def test_sown_losses_and_variables_are_kept():
  state, metrics, sums = trained("class mean")
  assert metrics["sown_loss"] > 0 and "sown_loss" not in sums
  assert np.abs(state.variables["stats"]["mean"]).max() > 0
  loss, kind = TASKS["class mean"]
  config = config_of(loss, kind)
  learner = make_learner(config)
  example = jax.tree.map(np.asarray, config.data.open("train")[0])
  first = init_state(learner.model, learner.optimizer, 0, example)
  batch = {
    "inputs": np.ones((2, L, 3), np.float32),
    "targets": np.zeros(2, np.int32),
    "weights": np.ones(2, np.float32),
  }

  def gradient(model):
    step = functools.partial(train_step, learner._replace(model=model))
    return jax.jit(step)(first, batch)[1]["grad_norm"]

  class Silent(Reader):
    def sow(self, *args, **options):
      return False

  assert gradient(Reader()) != gradient(Silent())


@pytest.mark.parametrize(
  "name", ["class mean", pytest.param("token", marks=pytest.mark.slow)]
)
def test_a_run_learns_and_resumes_bit_for_bit(tmp_path, name):
  loss, kind = TASKS[name]
  config = config_of(loss, kind)
  half = dataclasses.replace(
    config,
    optimizer=dataclasses.replace(
      config.optimizer,
      schedule=dataclasses.replace(config.optimizer.schedule, end_step=9),
    ),
  )
  loop.run(dataclasses.replace(half, steps=2), str(tmp_path / "cut"))
  resumed = loop.run(half, str(tmp_path / "cut"))
  uncut = loop.run(half, str(tmp_path / "uncut"))
  jax.tree.map(np.testing.assert_array_equal, resumed.params, uncut.params)
  assert resumed.metrics == uncut.metrics
  assert "bits_per_token" not in uncut.metrics


class Sums(Loss):
  """A user's own loss, without options."""

  def sums(self, outputs, batch):
    total = jnp.sum(jnp.square(outputs))
    return {"loss": total, "weight": jnp.sum(batch["weights"])}


def test_losses_are_saved_and_a_wrong_metric_names_those_there_are():
  config = config_of(*TASKS["class last"])
  saved = serialize.to_json(config)
  assert saved["loss"]["pooling"] == "last"
  with pytest.raises(UserError, match="must be one of loss, accuracy"):
    validate(dataclasses.replace(config, best_metric="bits_per_token"))
  with pytest.raises(UserError, match=r"config.loss is .*must be of type Loss"):
    validate(dataclasses.replace(config, loss="cross-entropy"))


@pytest.mark.parametrize(
  ("make", "match"),
  [
    (lambda: NextToken(label_smoothing=1.0), r"label_smoothing must be in"),
    (lambda: NextToken(z_loss=-1.0), "z_loss must be 0 or more"),
    (lambda: NextToken(chunk_size=0), "chunk_size must be positive"),
    (lambda: Classification(pooling="max"), "pooling must be one of none,"),
    (lambda: Regression(error="cubic"), "error must be one of squared,"),
    (lambda: Distillation(temperature=0.0), "temperature must be positive"),
    (lambda: Distillation(share=2.0), r"share must be in \[0, 1\]"),
  ],
)
def test_wrong_options_are_named(make, match):
  with pytest.raises(ValueError, match=match):
    make()
