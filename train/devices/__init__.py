"""Devices and processes: the mesh, the strategies, starting and stopping."""
