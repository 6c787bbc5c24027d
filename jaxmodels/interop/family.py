"""What a family of published models says about itself."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flax.linen as nn

from jaxmodels.interop.config import Config
from jaxmodels.interop.defaults import explicit
from jaxmodels.interop.rules import Rule, ignored, same
from jaxmodels.models import LanguageModel

__all__ = ["Family", "embedding_rules", "mixer_of", "mlp_of"]


@dataclasses.dataclass(frozen=True)
class Family:
  """A family of models of one public implementation.

  Attributes:
    name: The name, that of its file.
    model_types: The values of `model_type` in its `config.json`; none if its
      files lack that key.
    architecture: The class name that goes into a written `config.json`.
    read: Makes a model from a config; it reads every key that matters.
    write: Makes the values of a config from a model.
    rules: The rules between tensors and parameters of a model.
    kinds: The classes of mixers that its models have.
    rename: Pairs of a regular expression and its replacement: other names that
      published files have for the same tensors. Names of rules stay.
    marks: Keys of which a config has at least one, where `model_type` is not
      enough to tell families apart.
    skip: Regular expressions of the names of tensors that are no part of the
      language model, such as those that read images.
  """

  name: str
  model_types: tuple[str, ...]
  architecture: str
  read: Callable[[Config], LanguageModel]
  write: Callable[[LanguageModel], dict[str, Any]]
  rules: Callable[[LanguageModel], Iterable[Rule]]
  kinds: tuple[type[nn.Module], ...]
  rename: tuple[tuple[str, str], ...] = ()
  marks: tuple[str, ...] = ()
  skip: tuple[str, ...] = ()

  def matches(self, config: Config) -> bool:
    """Whether a config belongs to this family."""
    marked = not self.marks or any(key in config for key in self.marks)
    if "model_type" in config:
      return marked and config["model_type"] in self.model_types
    return marked and not self.model_types


def embedding_rules(
  model: LanguageModel,
  table: str = "model.embed_tokens.weight",
  readout: str = "lm_head.weight",
) -> Iterator[Rule]:
  """The rules of the embedding and, if it is not tied, of the readout."""
  yield same(table, "embedding/table")
  if model.tie_embeddings:
    yield ignored(readout)
  else:
    yield same(readout, "embedding/readout")


def mixer_of(model: LanguageModel, layer: int) -> Any:
  """The mixer of a layer, with all of its fields and no default sizes."""
  return explicit(model.blocks()[layer].mixer.module)


def mlp_of(model: LanguageModel, layer: int) -> Any:
  """The channel mixer of a layer, or None."""
  mlp = model.blocks()[layer].mlp
  return None if mlp is None else explicit(mlp.module)
