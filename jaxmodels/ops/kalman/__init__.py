"""Kalman filter and smoother: the ops, their algebra, and their scans."""

from jaxmodels.ops.kalman.gaussian import Gaussian
from jaxmodels.ops.kalman.kalman import kalman_filter, kalman_smoother

__all__ = ["Gaussian", "kalman_filter", "kalman_smoother"]
