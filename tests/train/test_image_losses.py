"""Losses of images beside their definitions, image by image."""

import jax
import numpy as np

from train.losses import Reconstruction, Segmentation

RNG = np.random.default_rng(0)


def test_dice_counts_pixels_of_each_class():
  logits = RNG.normal(size=(4, 5, 5, 3)).astype(np.float32)
  targets = RNG.integers(0, 3, (4, 5, 5)).astype(np.int32)
  targets[1] = np.minimum(targets[1], 1)  # Without class 2.
  logits[1, ..., 2] = -9
  targets[2], logits[2, ..., 0] = 0, 9  # Without a shape.
  weights = np.array([1, 2, 0.5, 0], np.float32)
  loss = Segmentation(dice_weight=0.5)
  batch = {"targets": targets, "weights": weights}
  found = loss.means(jax.jit(loss.sums)(logits, batch))
  exact = np.exp(logits.astype(np.float64))
  chances = exact / exact.sum(-1, keepdims=True)
  dice, total = [], []
  for i in range(4):
    guess, here, soft = logits[i].argmax(-1), [], []
    for c in (1, 2):
      a, b, p = guess == c, targets[i] == c, chances[i, ..., c]
      soft.append((2 * (p * b).sum() + 1) / (p.sum() + b.sum() + 1))
      if a.any() or b.any():
        here.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    dice.append(np.mean(here) if here else 1.0)
    picked = np.take_along_axis(chances[i], targets[i][..., None], -1)
    total.append(-np.log(picked).mean() + 0.5 * (1 - np.mean(soft)))
  np.testing.assert_allclose(found["dice"], np.average(dice, weights=weights))
  np.testing.assert_allclose(
    found["loss"], np.average(total, weights=weights), rtol=1e-5
  )


def test_auroc_is_that_of_all_pairs_of_all_batches():
  loss, sums = Reconstruction(), jax.jit(Reconstruction().sums)
  labels = RNG.integers(0, 2, (2, 6)).astype(np.float32)
  batches, ranks, outputs = [], [], []
  for own in labels:
    fine, coarse = (RNG.normal(size=(2, 6, n, 4)) for n in (8, 2))
    pairs = [(x[0], x[0] + 0.5 * x[1]) for x in (fine, coarse)]
    logits = RNG.normal(size=(6, 3)).astype(np.float32)
    ranks += [
      sum(
        1
        - np.sum(a * b, -1)
        / np.linalg.norm(a, axis=-1)
        / np.linalg.norm(b, axis=-1)
        for a, b in ((a[i], b[i]),)
      ).mean()
      for a, b in pairs
      for i in range(6)
    ]
    pairs = [tuple(y.astype(np.float32) for y in x) for x in pairs]
    outputs.append({"logits": logits, "features": pairs})
    targets = np.where(own > 0, 9, RNG.integers(0, 3, 6)).astype(np.int32)
    batches.append(
      {
        "targets": targets,
        "anomalous": own,
        "weights": np.ones(6, np.float32),
      }
    )
  score = np.reshape(ranks, (2, 2, 6)).mean(1).ravel()
  flag = labels.ravel() > 0
  wanted = np.mean(score[flag][:, None] > score[~flag])
  parts = [sums(o, b) for o, b in zip(outputs, batches, strict=True)]
  found = loss.means(jax.tree.map(np.add, *parts))
  # Two scores may be in one bin.
  np.testing.assert_allclose(found["auroc"], wanted, atol=0.02)
  assert found["targets"] == np.count_nonzero(~flag)
  # Anomalous images have no part in the loss.
  swapped = {**outputs[0], "logits": outputs[0]["logits"] + 0}
  swapped["logits"][labels[0] > 0] = 7
  assert sums(swapped, batches[0])["loss"] == parts[0]["loss"]
