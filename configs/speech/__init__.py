"""Configs of speech: separation of voices."""
