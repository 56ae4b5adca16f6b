"""Semi-supervised person re-identification with sparse label smoothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slsr.embedding.encoder import LoadedEncoder, load_encoder

__version__ = "0.1.0"
__all__ = ["LoadedEncoder", "__version__", "load_encoder"]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Import a public name when a program asks for it, so that `import slsr` alone does not load torch."""
    if name not in __all__:
        raise AttributeError(f"module 'slsr' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("slsr.embedding.encoder"), name)
