"""A trained network measured."""
