"""The schema of params.yaml, one file per block, and the presets."""
