"""The networks of persons: backbones, heads, initial weights and checkpoint files."""
