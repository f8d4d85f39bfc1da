"""Which pool rows become anchors. Knows no scores, no model and no text: indices and vectors."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt


def random_anchors(num_rows: int, num_anchors: int, seed: int) -> npt.NDArray[np.int64]:
    """Choose `num_anchors` of `num_rows` positions at random, without repeats, sorted.

    Raises:
        ValueError: if there are fewer rows than anchors.

    Example:
        >>> len(set(random_anchors(10, 4, seed=0).tolist()))
        4
    """
    _check_enough(num_rows, num_anchors)
    chosen = np.random.default_rng(seed).choice(num_rows, size=num_anchors, replace=False)
    return np.sort(chosen).astype(np.int64)


def kmeans_anchors(embeddings: npt.NDArray[np.float32], num_anchors: int, seed: int) -> npt.NDArray[np.int64]:
    """Choose the row nearest to each of `num_anchors` k-means centroids, sorted (paper, section 4.1).

    The nearest row is looked for inside the centroid's own cluster, so that no row is chosen twice.

    Args:
        embeddings: one vector per row, `(n, d)`.
        num_anchors: number of clusters, and of anchors.
        seed: of the k-means initialisation.

    Returns:
        Row positions, `(num_anchors,)`, ascending.

    Raises:
        ValueError: if there are fewer (distinct) rows than anchors.
    """
    from sklearn.cluster import KMeans  # half a second to import; only this path needs it
    from sklearn.exceptions import ConvergenceWarning

    _check_enough(len(embeddings), num_anchors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer clusters than asked for: an error below
        kmeans = KMeans(n_clusters=num_anchors, n_init=1, random_state=seed).fit(embeddings)
    num_clusters = len(np.unique(kmeans.labels_))
    if num_clusters < num_anchors:
        raise ValueError(
            f"k-means finds only {num_clusters} clusters in {len(embeddings)} rows, fewer than the {num_anchors} "
            "anchors asked for: too many rows are (nearly) equal. Lower `num_anchors` or remove duplicates."
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
            f"`num_anchors={num_anchors}` anchors cannot be chosen from {num_rows} usable pool rows. Lower "
            "`num_anchors`, or give `anchors`."
        )
