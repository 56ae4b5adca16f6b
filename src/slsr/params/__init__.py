"""The schema of params.yaml, one file per block or group of blocks, and the presets."""
