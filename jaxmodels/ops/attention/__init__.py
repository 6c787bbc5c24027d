"""Causal softmax attention: the op, its tiles and its cache."""

from jaxmodels.ops.attention.attention import Cache, attention

__all__ = ["Cache", "attention"]
