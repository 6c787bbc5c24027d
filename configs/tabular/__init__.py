"""Configs of tables."""
