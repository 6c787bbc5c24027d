"""Models on small real data, against simple baselines; one command each."""
