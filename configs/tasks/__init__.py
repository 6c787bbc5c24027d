"""Configs of synthetic tasks, one per file."""
