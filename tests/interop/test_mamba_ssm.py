"""The layout of mamba_ssm and that of transformers are the same model."""

import json

import jax
import numpy as np
import pytest

from jaxmodels import interop
from tests.interop.families.mamba_ssm import TINY
from tests.interop.test_families import drawn


@pytest.mark.parametrize(
  ("values", "family"), [(TINY[0], "mamba"), (TINY[1], "mamba2")]
)
def test_a_folder_changes_its_layout(values, family, tmp_path):
  first, second = tmp_path / "first", tmp_path / "second"
  first.mkdir()
  (first / "config.json").write_text(json.dumps(values))
  model = interop.read_model(first)
  assert model.vocab_size == 56  # A multiple of 8.
  interop.save(first, model, drawn(model), family="mamba_ssm")
  model, variables = interop.load(first)
  interop.save(second, model, variables, family=family)
  again, others = interop.load(second)
  assert interop.read_model(second).mixers == model.mixers
  tokens = np.arange(20).reshape(2, 10)
  np.testing.assert_array_equal(
    jax.jit(model.apply)(variables, tokens)[0],
    jax.jit(again.apply)(others, tokens)[0],
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"attn_layer_idx": [1]}, r"attn_layer_idx is \[1\], but only \[\]"),
    ({"d_intermediate": 8}, "d_intermediate is 8"),
    ({"ssm_cfg": {"layer": "S4"}}, "layer must be Mamba1 or Mamba2, got 'S4'"),
    ({"ssm_cfg": {"d_states": 3}}, "ssm_cfg: unknown key 'd_states'"),
  ],
)
def test_what_is_not_supported_is_named(change, message, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps(TINY[0] | change))
  with pytest.raises(interop.FolderError, match=message):
    interop.read_model(tmp_path)
