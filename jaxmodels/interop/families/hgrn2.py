"""HGRN2: `HGRN2ForCausalLM` of flash-linear-attention.

Qin et al. 2024, arXiv:2404.07904.
"""

from collections.abc import Iterator
from typing import Any

from jaxmodels.interop import fla, fla_mixers
from jaxmodels.interop import rules as r
from jaxmodels.interop.config import Config, FolderError
from jaxmodels.interop.family import Family, mixer_of
from jaxmodels.mixers import HGRN2, SoftmaxAttention
from jaxmodels.models import LanguageModel

# That of the mixer's norm in fla, whatever its config says.
_EPSILON = 1e-5


def read(config: Config) -> LanguageModel:
  """The model of a config."""
  width = config.get("hidden_size", 2048)
  heads, key_width = _sizes(config, width)
  mixer = HGRN2(
    width,
    heads=heads,
    key_width=key_width,
    lower_bounds=config.get("use_lower_bound", True),
    kernel_width=fla_mixers.kernel_width(config),
    norm_scale=fla_mixers.norm_scale(config),
    norm_epsilon=_EPSILON,
  )
  return fla.read_stack(config, mixer)


def _sizes(config: Config, width: int) -> tuple[int, int]:
  """H and K: the key `num_heads` counts only if `expand_ratio` is null."""
  heads, key_width = config.get("num_heads"), config.get("expand_ratio", 128)
  if key_width is None and heads:
    key_width = width // heads
  if not key_width or key_width > width or width % (width // key_width):
    raise FolderError(
      f"{config.where}: expand_ratio must be at most hidden_size = {width}, "
      f"and num_heads a divisor, got {key_width} and {heads}"
    )
  return width // key_width, key_width


def write(model: LanguageModel) -> dict[str, Any]:
  """The config of a model."""
  return fla.write_stack(model, _write_mixer)


def _write_mixer(mixer: HGRN2) -> dict[str, Any]:
  return {
    "conv_size": mixer.kernel_width or 4,
    "elementwise_affine": mixer.norm_scale,
    "expand_ratio": mixer.key_width,
    "num_heads": mixer.heads,
    "use_lower_bound": mixer.lower_bounds,
    "use_short_conv": mixer.kernel_width is not None,
  }


def rules(model: LanguageModel) -> Iterator[r.Rule]:
  """The rules of the whole model."""
  yield from fla.stack_rules(model, _mixer_rules)
  mixers = (mixer_of(model, i) for i in range(model.depth))
  if any(isinstance(m, HGRN2) and m.lower_bounds for m in mixers):
    yield r.same("model.lower_bounds", "backbone/shared_lower_bounds")


def _mixer_rules(theirs: str, ours: str, mixer: HGRN2) -> Iterator[r.Rule]:
  names = {"q": "query", "f": "forget", "i": "input"}
  yield from fla_mixers.projections(theirs, ours, names, mixer.kernel_width)
  if mixer.norm_scale:
    yield r.same(f"{theirs}.g_norm.weight", f"{ours}/norm/scale")
  yield from r.dense(f"{theirs}.o_proj", f"{ours}/output")


FAMILY = Family(
  name="hgrn2",
  model_types=("hgrn2",),
  architecture="HGRN2ForCausalLM",
  read=read,
  write=write,
  rules=rules,
  kinds=(HGRN2, SoftmaxAttention),
)
