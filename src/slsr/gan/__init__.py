"""Generators of images: networks, training, checks for collapse, and pictures."""
