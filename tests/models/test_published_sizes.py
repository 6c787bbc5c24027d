"""Models of published sizes have the published numbers of parameters."""

import jax
import jax.numpy as jnp
import pytest

from jaxmodels.models import LanguageModel

_WIDE_VALUES = {"heads": 6, "key_width": 256, "value_width": 512}
_RWKV7 = {"head_width": 64, "decay_rank": 64, "rate_rank": 64}
_RWKV7 |= {"value_rank": 16, "gate_rank": 128}
_CHANNEL_MIX = ("rwkv_channel_mix", {"hidden": 8192})

# The mixer and its options, vocabulary, width, depth, the channel mixer or the
# hidden width of its gate, and the number of parameters: that of the published
# model of 340M or 7B, or of the default configuration of flash-linear-attention
# (1.3B). The last number is how many more ours has, with the reason.
SIZES = {
  "gla 340M": ("gla", {}, 32000, 1024, 24, 2816, 374_475_776, 0),
  "delta_net 340M": (
    "delta_net", {"heads": 8}, 32000, 1024, 24, 2816, 374_362_112, 0,
  ),
  "gla 1.3B": ("gla", {}, 32000, 2048, 24, 5632, 1_365_514_240, 0),
  "delta_net 1.3B": (
    "delta_net", {"heads": 16}, 32000, 2048, 24, 5632, 1_365_677_056, 0,
  ),
  "gated_deltanet 1.3B": (
    "gated_deltanet", _WIDE_VALUES, 32000, 2048, 21, 5632, 1_387_348_732, 0,
  ),
  "delta_product 1.3B, one step": (
    "delta_product", _WIDE_VALUES | {"steps": 1}, 32000, 2048, 21, 5632,
    1_387_090_432, 0,
  ),
  "hgrn2 1.3B": (
    "hgrn2", {"heads": 16}, 32000, 2048, 24, 5632, 1_364_396_032, 0,
  ),
  "gated_slot 1.3B": (
    "gated_slot", {"slots": 64}, 32000, 2048, 24, 5632, 1_376_929_792, 0,
  ),
  "mesa 1.3B": ("mesa", {"heads": 16}, 32000, 2048, 24, 5632, 1_366_316_800, 0),
  "mamba3 1.3B": ("mamba3", {}, 32000, 2048, 48, "none", 1_387_122_688, 0),
  # A norm with scale and bias per channel, not with a scale per head channel.
  "retnet 1.3B": (
    "retnet", {"heads": 8}, 32000, 2048, 24, 2816, 1_351_727_104,
    24 * (2 * 4096 - 512),
  ),
  # The bias of the norm over each head.
  "xLSTM 7B": (
    "mlstm", {"heads": 8}, 50304, 4096, 32, 10944, 6_865_424_896, 32 * 4096,
  ),
  # The first layer has parameters for a value that only later layers read,
  # without the norm of the embeddings, which the first layer has there.
  "rwkv7 1.3B": (
    "rwkv7", _RWKV7, 32000, 2048, 24, _CHANNEL_MIX, 1_366_644_736,
    (2 * 16 + 1) * 2048 - 2 * 2048,
  ),
  # The convolutions and the gates of each memory.
  "mixture_of_memories 1.6B": (
    "mixture_of_memories", {"key_width": 256, "value_width": 256}, 32000, 2048,
    24, 5632, 1_618_419_904, 24 * (4 * 2 * 4 * 1024 + 2 * 16),
  ),
}  # fmt: skip
FAST = ("gla 340M", "delta_net 340M")


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name in SIZES
  ],
)
def test_the_number_of_parameters(name):
  mixer, options, vocabulary, width, depth, mlp, wanted, more = SIZES[name]
  found = count(mixer, options, vocabulary, width, depth, mlp)
  assert found == wanted + more
  assert more < 0.01 * wanted


@pytest.mark.slow
def test_kda_differs_by_its_output_gate():
  """Ours has full rank without a bias, theirs rank 128 with a bias."""
  found = count("kda", {"heads": 16}, 32000, 2048, 24, 5632)
  ours, theirs = 2048 * 2048, 2 * 128 * 2048 + 2048
  assert found - 24 * (ours - theirs) == 1_390_941_568


def count(mixer, options, vocabulary, width, depth, mlp):
  """The parameters of a language model whose logits have their own table."""
  norm = "layer" if mixer == "rwkv7" else "rms"
  model = LanguageModel(
    vocabulary, width, depth, ((mixer, options),),
    mlp=("gated_mlp", {"hidden": mlp}) if isinstance(mlp, int) else mlp,
    tie_embeddings=False, scan_layers=True, norm=norm,
  )  # fmt: skip
  tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
