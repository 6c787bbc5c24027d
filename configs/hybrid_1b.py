"""A hybrid of 1.3B parameters and sequences of 32k tokens, for 256 chips.

python -m train.plan configs/hybrid_1b.py --topology v5e:16x16
python -m train.plan configs/hybrid_1b.py --topology h100:4x8

No chip has run it. Compiled for 256 TPU v5e chips, 32 groups of 8 that share
every sequence, a step of 1M tokens needs 11.1 of a chip's 15.75 GiB: 0.5 of
parameters and moments, 10.4 of gathered parameters, gradients and activations.
Its 8.7e15 model flops take 0.17 s at the chips' peak; the compiler expects
1.35e9 cycles, without the kernels of the delta rule. Compilation took four
minutes of one core.

Compiled for 32 H100 GPUs, 4 groups of 8, it needs 60.4 of a GPU's 79.1 GiB, and
launches 13,794 kernels per step on each.
"""

import jax.numpy as jnp

from jaxmodels.models import LanguageModel
from train.config import AdamW, Config, Mesh
from train.data import Text


def get_config() -> Config:
  """Three layers of the gated delta rule to one of sliding attention."""
  return Config(
    model=LanguageModel(
      vocab_size=257,
      width=2048,
      depth=24,
      mixers=("gated_deltanet",) * 3 + ("sliding_attention",),
      mixer_options={
        "gated_deltanet": {"heads": 16},
        "sliding_attention": {"heads": 16, "window": 2048},
      },
      mlp_options={"hidden": 5632},
      scan_layers=True,
      remat="full",
      dtype=jnp.bfloat16,
    ),
    data=Text(length=32_768),
    optimizer=AdamW(learning_rate=3e-4, warmup_steps=1000),
    steps=100_000,
    batch_size=32,
    mesh=Mesh(fsdp=-1, sequence=8),
  )
