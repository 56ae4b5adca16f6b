"""Paths and headings that several groups of commands share."""

from pathlib import Path

PARAMS = Path("params.yaml")
PRESETS = Path("presets")
STAGES = "Stages of the pipeline (run them with `dvc repro`)"
TOOLS = "Tools"
USE = "Using a trained model"
