"""Configs of image tasks: classes, anomalies and segments."""
