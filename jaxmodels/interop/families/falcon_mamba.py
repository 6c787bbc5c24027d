"""FalconMamba: `FalconMambaForCausalLM` of transformers.

Zuo et al. 2024, arXiv:2410.05355: Mamba with an RMSNorm without a scale after
the projections to the step, B and C.
"""

from typing import Any

from jaxmodels.interop.config import Config
from jaxmodels.interop.families import mamba
from jaxmodels.interop.family import Family, mixer_of
from jaxmodels.mixers import Mamba
from jaxmodels.models import LanguageModel


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  config.ignore("use_falcon_mambapy")
  return mamba.read(
    config,
    step_norms="unscaled",
    norm_epsilon=config.get("mixer_rms_eps", 1e-6),
  )


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  epsilon = mixer_of(model, 0).norm_epsilon
  return {**mamba.write(model), "mixer_rms_eps": epsilon}


FAMILY = Family(
  name="falcon_mamba",
  model_types=("falcon_mamba",),
  architecture="FalconMambaForCausalLM",
  read=read,
  write=write,
  rules=mamba.rules,
  kinds=(Mamba,),
)
