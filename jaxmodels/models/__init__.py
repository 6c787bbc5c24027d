"""Whole networks, made from lists of layers. Their state is one pytree."""

from jaxmodels.models.backbone import Backbone
from jaxmodels.models.language_model import LanguageModel

__all__ = ["Backbone", "LanguageModel"]


def __dir__() -> list[str]:
  return __all__
