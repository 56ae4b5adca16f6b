"""Checking machine, packages, parameters, data and remotes."""
