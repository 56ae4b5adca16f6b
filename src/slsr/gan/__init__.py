"""Generators of images: networks, training, checks and pictures."""
