"""Synthetic tasks that ask one thing of a model."""
