"""Train one generator a cluster."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from slsr.files import replaced_folder, write_bytes
from slsr.images.decoding import Pixels
from slsr.models.dcgan import save_generator
from slsr.params import Gan, Params
from slsr.sheets import Panel, draw_panels
from slsr.stages.clustered import ClusteredImages, load_clustered
from slsr.stages.paths import GAN
from slsr.training.curves import curves
from slsr.training.gan import GanEpoch, Networks, TrainedGan, train_gan
from slsr.training.launch import prepare_device

log = logging.getLogger(__name__)

# What the second number of a seed stands for: the GAN of a cluster, or their common parent.
OF_CLUSTER, OF_PARENT = range(2)
PREVIEWS, COLUMNS = 32, 16
CURVES_SHOWN = 12


def run(params: Params) -> None:
    """Read the train table and the assignments, write `artifacts/gan/`.

    cluster_<c>.safetensors, preview_<c>.png, statistics.jsonl (one line an epoch; cluster null is the common parent),
    curves/ (of the first clusters).
    """
    settings = params.gan
    device = prepare_device(settings.precision, settings.deterministic)
    images = load_clustered(settings.height, settings.width)
    with replaced_folder(GAN) as folder:
        epochs: dict[int | None, list[GanEpoch]] = {}
        for cluster, trained in _train_all(images, settings, device):
            epochs[cluster] = trained.epochs
            if cluster is not None:
                save_generator(folder / f"cluster_{cluster}.safetensors", trained.generator, {"cluster": cluster})
                _draw_preview(folder / f"preview_{cluster}.png", cluster, images.of(cluster), trained)
        _write_statistics(folder / "statistics.jsonl", epochs)
        _write_curves(folder / "curves", epochs)
    log.info("wrote %s: %d generators of %dx%d images", GAN, len(epochs), settings.height, settings.width)


def _train_all(images: ClusteredImages, settings: Gan, device: torch.device) -> Iterator[tuple[int | None, TrainedGan]]:
    """The parent (None) where there is one, then each cluster's."""
    start: Networks | None = None
    if settings.parent_epochs:
        parent = settings.model_copy(update={"epochs": settings.parent_epochs, "minimum_steps": 0})
        trained = train_gan(images.pixels, parent, (settings.seed, OF_PARENT, 0), device, "all clusters")
        start = trained.networks
        _log_training("all clusters", len(images.pixels), trained)
        yield None, trained
    for cluster in range(int(images.clusters.max()) + 1):
        pixels = images.of(cluster)
        trained = train_gan(pixels, settings, (settings.seed, OF_CLUSTER, cluster), device, f"cluster {cluster}", start)
        _log_training(f"cluster {cluster}", len(pixels), trained)
        yield cluster, trained


def _log_training(title: str, images: int, trained: TrainedGan) -> None:
    last = trained.epochs[-1]
    log.info(
        "%s: %s images, %d epochs, loss %.2f (discriminator), %.2f (generator), D(real) %.2f, D(generated) %.2f",
        *(title, f"{images:,}", last.number, last.discriminator_loss, last.generator_loss, last.real, last.fake),
    )


def _draw_preview(path: Path, cluster: int, real: Pixels, trained: TrainedGan) -> None:
    shown = real[np.unique(np.linspace(0, len(real) - 1, PREVIEWS).astype(int))]
    last = trained.epochs[-1]
    title = f"cluster {cluster}: generated from fixed noise after {last.number} epochs, {last.images:,} images seen"
    draw_panels(path, [Panel(title, trained.preview), Panel(f"cluster {cluster}: real", shown)], COLUMNS)


def _write_statistics(path: Path, epochs: Mapping[int | None, Sequence[GanEpoch]]) -> None:
    lines = [json.dumps({"cluster": cluster} | asdict(epoch)) for cluster, each in epochs.items() for epoch in each]
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def _write_curves(folder: Path, epochs: Mapping[int | None, Sequence[GanEpoch]]) -> None:
    """One curve a cluster and quantity; runs of different length share the axis of epochs."""
    shown = [(cluster, each) for cluster, each in epochs.items() if cluster is None or cluster < CURVES_SHOWN]
    with curves(folder) as log_step:
        for number in range(max(len(each) for _, each in shown)):
            values: dict[str, float | None] = {}
            for cluster, each in shown:
                name = "all_clusters" if cluster is None else f"cluster_{cluster}"
                epoch = asdict(each[number]) if number < len(each) else {}
                for quantity in ("discriminator_loss", "generator_loss", "real", "fake"):
                    values[f"{name}/{quantity}"] = epoch.get(quantity)
            log_step(values)
