"""A trained network applied to images: features for stages, commands and programs."""
