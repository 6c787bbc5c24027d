"""Plans a run on a TPU slice without the slice."""
