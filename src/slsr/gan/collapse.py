"""Whether a trained generator collapsed: its images cover too few of the real ones, or repeat each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from slsr.gan.generator import Generator
from slsr.gan.images import ClusteredImages, evenly
from slsr.gan.networks import draw_images, draw_noise
from slsr.params.gan import Gan
from slsr.quality.assessment import Alarm, Measured, assess, find_alarms
from slsr.quality.imagenet import imagenet
from slsr.quality.measures import NEIGHBORS

CHECKED_IMAGES, REAL_IMAGES = 256, 1000
OF_CHECK = 3  # the second number of the seed of the noise that is checked; `attempts` has the others


@dataclass(frozen=True)
class CollapseCheck:
    """A generator's images of one cluster, measured in the ImageNet feature space.

    The measures are None if the cluster has too few images to measure them.
    """

    cluster: int
    attempt: int
    coverage: float | None
    duplicates: float | None
    collapsed: bool


@dataclass(frozen=True)
class CollapseDetector:
    """Checks generators against the real images of their clusters and the limits in `settings.collapse`."""

    images: ClusteredImages
    settings: Gan
    device: torch.device

    def check(self, generator: Generator, cluster: int, attempt: int) -> CollapseCheck:
        """Draw images of a cluster, and measure them against the real ones; the generator ends on the CPU."""
        real = evenly(self.images.of(cluster), REAL_IMAGES)
        count = min(CHECKED_IMAGES, len(real) // 2)  # the measures use no more
        if count <= NEIGHBORS:
            return CollapseCheck(cluster, attempt, None, None, False)
        noise = draw_noise((self.settings.seed, OF_CHECK, cluster, attempt, 0), count, self.settings.latent)
        conditional = generator.description.clusters > 0
        drawn = draw_images(generator.to(self.device), noise, cluster if conditional else None)
        generator.cpu()
        known, found = (imagenet(pixels, self.device) for pixels in (real, drawn))
        measured = assess(known, found, ["coverage", "duplicates"], self.settings.seed)
        values = {name: None if one.value is None else round(one.value, 6) for name, one in measured.items()}
        return CollapseCheck(cluster, attempt, **values, collapsed=bool(self._alarms(values)))

    def describe(self, check: CollapseCheck) -> str:
        """Say which measures of a check are beyond their limits."""
        found = " and ".join(
            f"{alarm.measure} {alarm.value:.3f} ({'below' if alarm.value < alarm.limit else 'above'} {alarm.limit:g})"
            for alarm in self._alarms({"coverage": check.coverage, "duplicates": check.duplicates})
        )
        return f"cluster {check.cluster}: the generator collapsed, attempt {check.attempt}: {found}"

    def _alarms(self, values: Mapping[str, float | None]) -> list[Alarm]:
        limits = {"coverage": self.settings.collapse.coverage, "duplicates": self.settings.collapse.duplicates}
        return find_alarms({name: Measured(value, None, None, None) for name, value in values.items()}, limits)
