"""Devices, processes, resumable state and seeds: nothing about re-identification."""
