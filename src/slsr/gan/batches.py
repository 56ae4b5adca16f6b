"""The images that each step of a training sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slsr.errors import InputError
from slsr.params.gan import Gan
from slsr.runtime.devices import to_device


def rows_of_clusters(clusters: NDArray[np.int32], title: str) -> list[NDArray[np.int64]]:
    """Return the rows of each cluster."""
    members = [np.flatnonzero(clusters == cluster) for cluster in range(int(clusters.max()) + 1)]
    for cluster, rows in enumerate(members):
        if len(rows) == 0:
            raise InputError(f"{title}: cluster {cluster} has no image; lower cluster.k, or use another cluster.seed")
    return members


def step_batch(
    count: int,
    members: Sequence[NDArray[np.int64]] | None,
    batch_size: int,
    seed: tuple[int, ...],
    step: int,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """Return the rows of a step's images on the device, and their clusters if `members` are given."""
    if members is None:
        return to_device(torch.from_numpy(shuffled_batch(count, batch_size, seed, step)), device), None
    rows, clusters = (torch.from_numpy(each) for each in balanced_batch(members, batch_size, seed, step))
    return to_device(rows, device), to_device(clusters, device)


def epoch_plan(images: int, settings: Gan) -> tuple[int, int]:
    """Return how many epochs a set of this many images gets, and how many steps each epoch has."""
    steps = math.ceil(images / settings.batch_size)
    return max(settings.epochs, math.ceil(settings.minimum_steps / steps)), steps


def steps_behind(images: int, of_all: int, settings: Gan) -> int:
    """Return the steps behind the generator of a cluster of this many images, those of its parent included.

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
