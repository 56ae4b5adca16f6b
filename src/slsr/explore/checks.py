"""What `slsr explore` refuses before it loads torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slsr.embedding.checkpoint_file import check_encoder
from slsr.errors import InputError
from slsr.explore.image_table import check_table


def check_shown(
    models: Sequence[Path], gallery: Path | None, train: Path | None, clusters: Path | None, generated: Path | None
) -> None:
    """Refuse files of which nothing can be shown.

    Raises
    ------
    InputError
        There is nothing to show, or there are models and no gallery.
    """
    if models and gallery is None:
        raise InputError("no gallery to search in; name an image table with --gallery, or run `dvc repro`")
    if not models and generated is None and (clusters is None or train is None):
        raise InputError(
            "nothing to show: no model, clusters or generated images under artifacts/; run `dvc repro` or `dvc "
            "pull`, or name a MODEL and a --gallery"
        )


def check_files(models: Sequence[Path], tables: Sequence[Path]) -> None:
    """Refuse models and image tables of another kind, without reading weights or images.

    Raises
    ------
    InputError
        One is missing, or is no encoder or no image table.
    """
    for model in models:
        check_encoder(model)
    for table in tables:
        check_table(table)
