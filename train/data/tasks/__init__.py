"""Synthetic tasks; each tests one ability of a model."""
