"""Whole networks, made from lists of layers. Their state is one pytree."""

from jaxmodels.models import covariances
from jaxmodels.models.anomaly import AnomalyDetector
from jaxmodels.models.backbone import Backbone
from jaxmodels.models.classifier import Classifier
from jaxmodels.models.gaussian_process import GaussianProcess
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.models.lora import LoRA, without_lora
from jaxmodels.models.matrix_product import MatrixProduct
from jaxmodels.models.operator import Operator
from jaxmodels.models.points import (
  LocalNormPooling,
  PointClassifier,
  TokenChannel,
)
from jaxmodels.models.policy import (
  ActorCritic,
  Feedback,
  RecurrentPolicy,
  episode_ids,
)
from jaxmodels.models.separation import GatedAttention, Separator
from jaxmodels.models.series import Forecaster, InvertedForecaster
from jaxmodels.models.series_classifier import SeriesClassifier
from jaxmodels.models.shared_block import SharedBlock
from jaxmodels.models.sizing import count_parameters, equal_width, state_bytes
from jaxmodels.models.tabular import TabularModel
from jaxmodels.models.u_shape import Convolutions, UNet
from jaxmodels.models.vector_model import VectorModel
from jaxmodels.models.vision import ImageClassifier
from jaxmodels.models.voxels import SpatialDescriptor, VoxelClassifier

__all__ = [
  "ActorCritic",
  "AnomalyDetector",
  "Backbone",
  "Classifier",
  "Convolutions",
  "Feedback",
  "Forecaster",
  "GatedAttention",
  "GaussianProcess",
  "ImageClassifier",
  "InvertedForecaster",
  "LanguageModel",
  "LoRA",
  "LocalNormPooling",
  "MatrixProduct",
  "Operator",
  "PointClassifier",
  "RecurrentPolicy",
  "Separator",
  "SeriesClassifier",
  "SharedBlock",
  "SpatialDescriptor",
  "TabularModel",
  "TokenChannel",
  "UNet",
  "VectorModel",
  "VoxelClassifier",
  "count_parameters",
  "covariances",
  "episode_ids",
  "equal_width",
  "state_bytes",
  "without_lora",
]


def __dir__() -> list[str]:
  return __all__
