"""Softmax attention: op, tiles and cache; latent, and to neighbours."""

from jaxmodels.ops.attention import latent, neighbors
from jaxmodels.ops.attention.attention import Cache, attention

__all__ = ["Cache", "attention", "latent", "neighbors"]
