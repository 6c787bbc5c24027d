"""Whole networks, made from lists of layers. Their state is one pytree."""

from jaxmodels.models.backbone import Backbone
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.models.sizing import count_parameters, equal_width

__all__ = ["Backbone", "LanguageModel", "count_parameters", "equal_width"]


def __dir__() -> list[str]:
  return __all__
