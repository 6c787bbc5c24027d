"""The table of a model's parameters."""

import jax
import jax.numpy as jnp

from train.parameters import parameter_table


def test_the_table_lists_every_parameter():
  params = {
    "dense": {
      "kernel": jnp.zeros((3, 5)),
      "bias": jax.ShapeDtypeStruct((5,), jnp.bfloat16),
    },
    "scale": jnp.zeros(()),
  }
  rows = parameter_table(params).splitlines()
  assert [row.split() for row in rows if "/" in row or "scale" in row] == [
    ["dense/bias", "5", "bfloat16", "5"],
    ["dense/kernel", "3", "x", "5", "float32", "15"],
    ["scale", "scalar", "float32", "1"],
  ]
  assert rows[-1] == "21 parameters in 3 arrays, 0.00 MB"
  assert len({len(row) for row in rows[:-1]}) == 1


def stack(layers):
  block = {"kernel": jnp.zeros((30, 40)), "bias": jnp.zeros(40)}
  params = {f"block_{i}": {"mixer": block} for i in range(layers)}
  params["block_1"] = {"mixer": {**block, "kernel": jnp.zeros((30, 41))}}
  return {"model": params, "head": jnp.zeros((40, 1000))}


def test_a_long_model_shows_repeated_layers_once():
  table = parameter_table(stack(24))
  rows = [row.split("  ") for row in table.splitlines()]
  cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
  assert cells[2:-2] == [
    ["head", "40 x 1000", "float32", "40,000"],
    ["24 x model/block_*/mixer/bias", "40", "float32", "960"],
    ["23 x model/block_*/mixer/kernel", "30 x 40", "float32", "27,600"],
    ["model/block_1/mixer/kernel", "30 x 41", "float32", "1,230"],
  ]
  total = 40_000 + 960 + 27_600 + 1_230
  megabytes = total * 4 / 1e6
  assert cells[-1] == [f"{total:,} parameters in 49 arrays, {megabytes:.2f} MB"]


def test_a_short_model_shows_every_layer():
  assert "block_2/mixer/kernel" in parameter_table(stack(3))


def test_the_table_is_never_too_wide():
  params = {"a_very_long_name_" * 9: {"the_end_of_it": jnp.zeros((12, 34))}}
  table = parameter_table(params)
  assert max(map(len, table.splitlines())) == 100
  assert "it  12 x 34  float32    408" in table
  assert "…" in table
