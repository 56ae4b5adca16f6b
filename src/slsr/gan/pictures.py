"""Pictures of a generator's training: sheets and an animation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slsr.gan.attempts import Attempt
from slsr.gan.images import ClusteredImages, evenly
from slsr.gan.loop import CLUSTERS_IN_FRAME, IMAGES_IN_FRAME, preview_noise
from slsr.gan.networks import draw_images
from slsr.images.decoding import Pixels
from slsr.reporting.sheets import Panel, draw_panels

PREVIEWS, COLUMNS, PROGRESS_ROWS = 32, 16, 9


@dataclass(frozen=True)
class Pictures:
    """Images of one cluster: real ones, ones generated from fixed noise, and ones generated after each epoch shown.

    Attributes
    ----------
    frames : pairs of an epoch and uint8 [8, H, W, 3]
    seen : how many real images the training has seen
    """

    real: Pixels
    preview: Pixels
    frames: list[tuple[int, Pixels]]
    seen: int


def pictures_of(attempt: Attempt, images: ClusteredImages) -> dict[int, Pictures]:
    """Return the pictures of an attempt, for those of its clusters that are among the first."""
    trained = attempt.trained
    noise = preview_noise(attempt.seed, PREVIEWS, trained.generator.description.latent)
    conditional = attempt.cluster is None
    clusters = range(int(images.clusters.max()) + 1) if attempt.cluster is None else [attempt.cluster]
    return {
        cluster: Pictures(
            evenly(images.of(cluster), PREVIEWS),
            draw_images(trained.generator, noise, cluster if conditional else None),
            [(frame.epoch, frame.pixels[cluster if conditional else 0]) for frame in trained.frames],
            trained.epochs[-1].images,
        )
        for cluster in clusters
        if cluster < CLUSTERS_IN_FRAME
    }


def draw_sheets(folder: Path, cluster: int, pictures: Pictures) -> None:
    """Draw two sheets: the last generated images above real ones, and a row of images for each epoch shown."""
    title = f"cluster {cluster}: generated from fixed noise after {pictures.frames[-1][0]} epochs"
    panels = [Panel(f"{title}, {pictures.seen:,} images seen", pictures.preview)]
    draw_panels(folder / f"preview_{cluster}.png", [*panels, Panel(f"cluster {cluster}: real", pictures.real)], COLUMNS)
    count = len(pictures.frames)
    chosen = sorted({round(number) for number in np.linspace(0, count - 1, min(count, PROGRESS_ROWS))})
    rows = [
        Panel(f"cluster {cluster}, the same noise after epoch {pictures.frames[number][0]}", pictures.frames[number][1])
        for number in chosen
    ]
    real = Panel(f"cluster {cluster}: real", evenly(pictures.real, IMAGES_IN_FRAME))
    draw_panels(folder / f"progress_{cluster}.png", [*rows, real], IMAGES_IN_FRAME)


def animation(shown: Mapping[int, Pictures]) -> list[list[Panel]]:
    """Return frames with one row per cluster: images generated from fixed noise on the left, real ones on the right."""
    count = max(len(pictures.frames) for pictures in shown.values())
    frames: list[list[Panel]] = []
    for number in range(count):
        frames.append([])
        for cluster, pictures in sorted(shown.items()):
            epoch, generated = pictures.frames[(number + 1) * len(pictures.frames) // count - 1]
            beside = np.full_like(generated, 255)
            real = evenly(pictures.real, IMAGES_IN_FRAME)
            beside[: len(real)] = real
            caption = f"cluster {cluster}: left, from fixed noise after epoch {epoch}; right, real"
            frames[-1].append(Panel(caption, np.concatenate([generated, beside])))
    return frames
