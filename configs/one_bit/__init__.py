"""Configs of language models with weights of one bit."""
