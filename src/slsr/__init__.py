"""Semi-supervised person re-identification with sparse label smoothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slsr.embedding.encoder import LoadedEncoder, load_encoder

__all__ = ["LoadedEncoder", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Load the library face when it is asked for: `import slsr` alone loads no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'slsr' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("slsr.embedding.encoder"), name)
