"""Linear-time sequence models in JAX: one recurrence, every form."""
