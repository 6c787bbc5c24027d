"""Causal softmax attention: op, tiles and cache; attention to neighbours."""

from jaxmodels.ops.attention import neighbors
from jaxmodels.ops.attention.attention import Cache, attention

__all__ = ["Cache", "attention", "neighbors"]
