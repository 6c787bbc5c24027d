"""Whole networks, made from lists of layers. Their state is one pytree."""

from jaxmodels.models import covariances
from jaxmodels.models.backbone import Backbone
from jaxmodels.models.gaussian_process import GaussianProcess
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.models.lora import LoRA, without_lora
from jaxmodels.models.matrix_product import MatrixProduct
from jaxmodels.models.operator import Operator
from jaxmodels.models.shared_block import SharedBlock
from jaxmodels.models.sizing import count_parameters, equal_width

__all__ = [
  "Backbone",
  "GaussianProcess",
  "LanguageModel",
  "LoRA",
  "MatrixProduct",
  "Operator",
  "SharedBlock",
  "count_parameters",
  "covariances",
  "equal_width",
  "without_lora",
]


def __dir__() -> list[str]:
  return __all__
