"""Slow, simple versions of the formulas, with loops, to which the tests compare."""

import itertools

import numpy as np

from slsr.retrieval import Labels


def naive_ranks(distances, labels):
    """For each query, rank the remaining gallery, nearest first, ties in gallery order."""
    everything = []
    for query, row in enumerate(distances):
        identity, camera = labels.query_identities[query], labels.query_cameras[query]
        left = [
            image
            for image in range(len(row))
            if labels.gallery_identities[image] != -1
            and not (labels.gallery_identities[image] == identity and labels.gallery_cameras[image] == camera)
        ]
        ranked = sorted(left, key=lambda image: (row[image], image))
        everything.append([i + 1 for i, image in enumerate(ranked) if labels.gallery_identities[image] == identity])
    return everything


def naive_gallery_shot(distances, labels, depth):
    """The CMC of each query [Q, depth] over every gallery of one image per identity; NaN without a right match."""
    everything = []
    for query, row in enumerate(distances):
        identity, camera = labels.query_identities[query], labels.query_cameras[query]
        images = {}
        for image, other in enumerate(labels.gallery_identities):
            if other != -1 and not (other == identity and labels.gallery_cameras[image] == camera):
                images.setdefault(other, []).append(image)
        if identity not in images:
            everything.append([np.nan] * depth)
            continue
        ranks = []
        for gallery in itertools.product(*images.values()):
            ranked = sorted(gallery, key=lambda image: (row[image], image))
            ranks.append(1 + [labels.gallery_identities[image] for image in ranked].index(identity))
        everything.append([sum(rank <= k for rank in ranks) / len(ranks) for k in range(1, depth + 1)])
    return everything


def naive_directions(distances, labels, depth):
    """The mean CMC of both directions between two cameras; `distances` are symmetric, of one set of images."""
    means = []
    for camera in sorted(set(labels.query_cameras.tolist())):
        query, gallery = labels.query_cameras == camera, labels.gallery_cameras != camera
        own = Labels(
            labels.query_identities[query],
            labels.gallery_identities[gallery],
            labels.query_cameras[query],
            labels.gallery_cameras[gallery],
        )
        found = naive_gallery_shot(distances[query][:, gallery], own, depth)
        means.append(np.nanmean(found, axis=0))
    return np.mean(means, axis=0)


def naive_measures(ranks):
    """Compute rank-1, AP trapezoid, AP standard and inverse negative penalty of one query."""
    count = len(ranks)
    trapezoid = standard = 0.0
    for i, rank in enumerate(ranks, start=1):
        standard += i / rank / count
        before = (i - 1) / (rank - 1) if rank > 1 else 1.0
        trapezoid += (i / rank + before) / 2 / count
    return float(ranks[0] == 1), trapezoid, standard, count / ranks[-1]


def squared_distances(features, normalize=True):
    """Compute the squared Euclidean distances of all features, in float64."""
    x = features.astype(np.float64)
    if normalize:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.stack([((x - one) ** 2).sum(axis=1) for one in x])


def dense_rerank(query, gallery, k1=20, k2=6, lambda_=0.3, normalize=True):
    """Re-rank by k-reciprocal encoding with sets and dense matrices, in float64."""
    d = squared_distances(np.concatenate([query, gallery]), normalize)
    images, queries = len(d), len(query)
    nearest = np.argsort(d, axis=1, kind="stable")
    d = d / d.max(axis=1, keepdims=True)

    def reciprocal(i, k):
        return {j for j in nearest[i, :k].tolist() if i in nearest[j, :k]}

    half = [reciprocal(i, k1 // 2 + 1) for i in range(images)]
    v = np.zeros((images, images))
    for i in range(images):
        own = reciprocal(i, k1 + 1)
        expanded = set(own)
        for j in own:
            if len(half[j] & own) > 2 / 3 * len(half[j]):
                expanded |= half[j]
        members = sorted(expanded)
        v[i, members] = np.exp(-d[i, members]) / np.exp(-d[i, members]).sum()
    v = np.stack([v[nearest[i, :k2]].mean(axis=0) for i in range(images)])
    jaccard = [1 - np.minimum(one, v[queries:]).sum(1) / np.maximum(one, v[queries:]).sum(1) for one in v[:queries]]
    return (1 - lambda_) * np.stack(jaccard) + lambda_ * d[:queries, queries:]


def clustered(queries, gallery, dimensions, seed=0, noise=1.0, dtype=np.float32):
    """Draw features around one center per identity, and their labels."""
    random = np.random.default_rng(seed)
    identities = random.integers(0, max(2, (queries + gallery) // 20), queries + gallery)
    centers = random.standard_normal((identities.max() + 1, dimensions))
    features = centers[identities] + noise * random.standard_normal((queries + gallery, dimensions))
    cameras = random.integers(0, 4, queries + gallery)
    labels = Labels(identities[:queries], identities[queries:], cameras[:queries], cameras[queries:])
    return features[:queries].astype(dtype), features[queries:].astype(dtype), labels
