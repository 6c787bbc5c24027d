"""Configs of time series: forecasts and classes."""
