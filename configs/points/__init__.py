"""Configs of point clouds: classes of clouds and of points."""
