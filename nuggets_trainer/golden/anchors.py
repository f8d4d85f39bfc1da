"""Which pool rows become anchors: rows at random, or those nearest to k-means centroids."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from nuggets_trainer.golden.arrays import Ints


def random_anchors(num_rows: int, num_anchors: int, seed: int) -> Ints:
    """Choose rows at random, without repeats.

    Args:
        num_rows: number of rows to choose from.
        num_anchors: number of rows to choose.
        seed: seed of the choice.

    Returns:
        Row positions, `(num_anchors,)`, ascending.

    Raises:
        ValueError: if there are fewer rows than anchors.

    Example:
        >>> len(set(random_anchors(10, 4, seed=0).tolist()))
        4
    """
    _check_enough(num_rows, num_anchors)
    chosen = np.random.default_rng(seed).choice(num_rows, size=num_anchors, replace=False)
    return np.sort(chosen).astype(np.int64)


def kmeans_anchors(embeddings: npt.NDArray[np.float32], num_anchors: int, seed: int) -> Ints:
    """Choose the row nearest to each of `num_anchors` k-means centroids (paper, section 4.1).

    The nearest row is taken from the centroid's own cluster, so no row is chosen twice.

    Args:
        embeddings: one vector per row, `(n, d)`.
        num_anchors: number of clusters, and of anchors.
        seed: seed of the k-means initialisation.

    Returns:
        Row positions, `(num_anchors,)`, ascending.

    Raises:
        ValueError: if there are fewer rows than anchors, or fewer different ones.

    Example:
        >>> import numpy as np
        >>> kmeans_anchors(np.array([[0.0], [0.1], [0.2], [5.0]], dtype=np.float32), 2, seed=0).tolist()
        [1, 3]
    """
    from sklearn.cluster import KMeans  # importing it takes half a second
    from sklearn.exceptions import ConvergenceWarning

    _check_enough(len(embeddings), num_anchors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it tells of too few clusters: an error below
        kmeans = KMeans(n_clusters=num_anchors, n_init=1, random_state=seed).fit(embeddings)
    num_clusters = len(np.unique(kmeans.labels_))
    if num_clusters < num_anchors:
        raise ValueError(
            f"`num_anchors={num_anchors}` needs as many clusters, but k-means found only {num_clusters} in "
            f"{len(embeddings)} rows: too many rows are (nearly) equal. Lower `num_anchors` or remove duplicates."
        )
    distance = np.linalg.norm(embeddings - kmeans.cluster_centers_[kmeans.labels_], axis=1)
    chosen = []
    for cluster in range(num_anchors):
        members = np.flatnonzero(kmeans.labels_ == cluster)
        chosen.append(members[np.argmin(distance[members])])
    return np.sort(np.array(chosen, dtype=np.int64))


def _check_enough(num_rows: int, num_anchors: int) -> None:
    if num_rows < num_anchors:
        raise ValueError(
            f"`num_anchors` must be at most the number of usable pool rows ({num_rows:,}), got {num_anchors:,}. Lower "
            "`num_anchors`, or give `anchors`."
        )
