"""Trains one config with many values and seeds: `python -m train.sweep`."""
