"""Configs of the literature's small tasks, one per file."""
