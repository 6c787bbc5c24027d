"""Whole networks, made from lists of layers. Their state is one pytree."""

from jaxmodels.models.backbone import Backbone
from jaxmodels.models.classifier import Classifier
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.models.lora import LoRA, without_lora
from jaxmodels.models.shared_block import SharedBlock
from jaxmodels.models.sizing import count_parameters, equal_width
from jaxmodels.models.vector_model import VectorModel
from jaxmodels.models.vision import ImageClassifier

__all__ = [
  "Backbone",
  "Classifier",
  "ImageClassifier",
  "LanguageModel",
  "LoRA",
  "SharedBlock",
  "VectorModel",
  "count_parameters",
  "equal_width",
  "without_lora",
]


def __dir__() -> list[str]:
  return __all__
