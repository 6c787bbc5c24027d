"""A hybrid of 1.3B parameters, for a TPU slice."""

import jax.numpy as jnp

from jaxmodels.models import LanguageModel
from train.config import Config, Mesh, Optimizer
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
    optimizer=Optimizer(learning_rate=3e-4, warmup_steps=1000),
    steps=100_000,
    batch_size=32,
    mesh=Mesh(fsdp=-1, sequence=8),
  )
