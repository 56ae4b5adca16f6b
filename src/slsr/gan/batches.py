"""The images that each step of a training sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slsr.errors import InputError
from slsr.params.gan import Gan, GanBalance
from slsr.runtime.devices import to_device


def rows_of_clusters(clusters: NDArray[np.int32], title: str) -> list[NDArray[np.int64]]:
    """Return the rows of each cluster."""
    members = [np.flatnonzero(clusters == cluster) for cluster in range(int(clusters.max()) + 1)]
    for cluster, rows in enumerate(members):
        if len(rows) == 0:
            raise InputError(f"{title}: cluster {cluster} has no image; lower cluster.k, or use another cluster.seed")
    return members


@dataclass(frozen=True)
class Order:
    """The order in which a training sees its images.

    Parameters
    ----------
    count : of images
    clusters : int64 [N], the cluster of each image, for conditional networks
    members : the rows of each cluster, if clusters, rather than images, are seen equally often
    """

    count: int
    clusters: Tensor | None = None
    members: Sequence[NDArray[np.int64]] | None = None

    def batch(
        self, batch_size: int, seed: tuple[int, ...], step: int, device: torch.device
    ) -> tuple[Tensor, Tensor | None]:
        """Return the rows of a step's images on the device, and their clusters if there are clusters."""
        if self.members is not None:
            rows = torch.from_numpy(balanced_batch(self.members, batch_size, seed, step)[0])
        else:
            rows = torch.from_numpy(shuffled_batch(self.count, batch_size, seed, step))
        clusters = None if self.clusters is None else to_device(self.clusters[rows], device)
        return to_device(rows, device), clusters


def order_of(count: int, clusters: NDArray[np.int32] | None, balance: GanBalance, title: str) -> Order:
    """Return the order of images, or of those of conditional networks, whose clusters are seen equally often or not.

    Raises
    ------
    InputError
        A cluster has no image.
    """
    if clusters is None:
        return Order(count)
    members = rows_of_clusters(clusters, title)
    known = torch.from_numpy(clusters.astype(np.int64))
    return Order(count, known, members if balance == "clusters" else None)


def epoch_plan(images: int, settings: Gan) -> tuple[int, int]:
    """Return how many epochs against the discriminator a set of this many images gets, and the steps of an epoch."""
    steps = math.ceil(images / settings.batch_size)
    return max(settings.epochs, math.ceil(settings.minimum_steps / steps)), steps


def steps_behind(images: int, of_all: int, settings: Gan) -> int:
    """Return the steps against a discriminator behind the generator of a cluster of this many images, its parent's too.

    Parameters
    ----------
    of_all : the images of all clusters, from which the parent learns, or the one conditional generator
    """
    epochs, steps = epoch_plan(of_all if settings.kind == "conditional" else images, settings)
    return epochs * steps + settings.parent_epochs * math.ceil(of_all / settings.batch_size)


def shuffled_batch(count: int, batch_size: int, seed: tuple[int, ...], step: int) -> NDArray[np.int64]:
    """Return a step's indices below `count`: its part of an endless sequence of random permutations."""
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    passes, places = np.divmod(positions, count)
    parts = [_permutation(count, (*seed, int(number)))[places[passes == number]] for number in np.unique(passes)]
    return np.concatenate(parts)


def balanced_batch(
    members: Sequence[NDArray[np.int64]], batch_size: int, seed: tuple[int, ...], step: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a step's rows and their clusters: clusters come in shuffled rounds, and each gives its images in turn.

    Parameters
    ----------
    members : rows of each cluster
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    clusters = shuffled_batch(len(members), batch_size, (*seed, 0), step)
    rows = np.empty(batch_size, np.int64)
    for number, (position, cluster) in enumerate(zip(positions, clusters, strict=True)):
        visit, own = position // len(members), members[cluster]
        rows[number] = own[_permutation(len(own), (*seed, 1 + int(cluster), visit // len(own)))[visit % len(own)]]
    return rows, clusters


@lru_cache(maxsize=1024)
def _permutation(count: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))).permutation(count)
