"""LoRA: low-rank changes of a frozen model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from jaxmodels.models import LanguageModel
from jaxmodels.models.lora import FROZEN, LoRA, without_lora

MODEL = LanguageModel(
  vocab_size=17, width=12, depth=2, mixers=(("gla", {"heads": 2}),),
  scan_layers=True,
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 17, (2, 6))


def drawn():
  """A LoRA, its variables, and a B that is not zero."""
  lora = LoRA(MODEL, rank=3, alpha=6.0)
  variables = jax.jit(lora.init)(jax.random.key(0), TOKENS)
  rng = np.random.default_rng(1)
  b = jax.tree.map(
    lambda x: rng.standard_normal(x.shape).astype(np.float32),
    variables["params"]["lora_b"],
  )
  return lora, variables, b


def test_the_model_starts_unchanged_and_changes_by_the_product():
  lora, variables, b = drawn()
  inner = variables[FROZEN]["base"]
  plain, _ = jax.jit(MODEL.apply)(inner, TOKENS)
  apply = jax.jit(lora.apply)
  np.testing.assert_array_equal(apply(variables, TOKENS)[0], plain)
  a = variables["params"]["lora_a"]
  changed = {**variables, "params": {"lora_a": a, "lora_b": b}}
  path = "backbone/repeats/block_0/mixer/value/kernel"
  model, merged = without_lora(lora, changed)
  kernel, a, b, found = (
    flatten_dict(tree, sep="/")[path]
    for tree in (inner["params"], a, b, merged["params"])
  )
  assert a.shape == (2, 12, 3) and b.shape == (2, 3, 12)
  wanted = [
    np.float64(w) + 6 / 3 * np.float64(x) @ np.float64(y)
    for w, x, y in zip(kernel, a, b, strict=True)
  ]
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
    apply(changed, TOKENS)[0], jax.jit(model.apply)(merged, TOKENS)[0],
    rtol=1e-5, atol=1e-5,
  )  # fmt: skip
  # The table of tokens and the norms are no targets.
  for key in ("embedding", "norm"):
    old, new = (
      p["params"].get(key, p["params"]["backbone"].get(key))
      for p in (inner, merged)
    )
    jax.tree.map(np.testing.assert_array_equal, new, old)


def test_frozen_parts_are_no_parameters():
  lora = LoRA(MODEL, rank=3, alpha=6.0, frozen_a=True)
  shapes = jax.eval_shape(lora.init, jax.random.key(0), TOKENS)
  assert set(shapes["params"]) == {"lora_b"}
  assert set(shapes[FROZEN]) == {"base", "lora_a"}


@pytest.mark.slow
def test_narrow_weights_change_by_less_than_their_rounding():
  """A change below the rounding of bfloat16 counts until it is saved."""
  model = MODEL.clone(param_dtype=jnp.bfloat16)
  lora = LoRA(model, rank=3, targets=("*/value/kernel",))
  variables = jax.jit(lora.init)(jax.random.key(0), TOKENS)
  params = jax.tree.map(lambda x: 1e-4 + x, variables["params"])
  before, after = (
    jax.jit(lora.apply)({**variables, "params": p}, TOKENS)[0]
    for p in (variables["params"], params)
  )
  assert np.abs(before - after).max() > 0


def test_no_matrix_is_an_error():
  for fields in ({"targets": ("*/kernle",)}, {"rank": 12}):
    lora = LoRA(MODEL, **fields)
    with pytest.raises(ValueError, match="LoRA: no matrix of the model has"):
      jax.eval_shape(lora.init, jax.random.key(0), TOKENS)


@pytest.mark.slow
def test_parts_of_a_call_and_losses_are_those_of_the_model():
  model = MODEL.clone(
    mlp=("sparse_moe", {"experts": 3, "hidden": 4}), scan_layers=False
  )
  lora = LoRA(model, rank=3)
  variables = jax.jit(lora.init)(jax.random.key(0), TOKENS)

  @jax.jit
  def run(variables, inner):
    whole, sown = lora.apply(variables, TOKENS, mutable=["losses"])
    x, _ = lora.apply(variables, TOKENS, method="features")
    logits = lora.apply(variables, x, method="logits")
    plain, wanted = model.apply(inner, TOKENS, mutable=["losses"])
    return whole[0], logits, plain[0], sown["losses"]["base"], wanted["losses"]

  whole, logits, plain, sown, wanted = run(variables, variables[FROZEN]["base"])
  np.testing.assert_allclose(whole, plain, rtol=1e-6, atol=1e-7)
  np.testing.assert_allclose(logits, plain, rtol=1e-6, atol=1e-7)
  assert jax.tree.leaves(wanted)
  jax.tree.map(np.testing.assert_array_equal, sown, wanted)
