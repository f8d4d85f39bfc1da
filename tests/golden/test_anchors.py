"""Anchors are chosen without repeats, by seed, and k-means anchors are the rows nearest to the centroids."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from nuggets_trainer.golden.anchors import kmeans_anchors, random_anchors


def clouds(num_clouds: int, rows_each: int, seed: int, width: float = 0.3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    centers = generator.normal(size=(num_clouds, 6)) * 5
    rows = np.repeat(centers, rows_each, axis=0) + generator.normal(size=(num_clouds * rows_each, 6)) * width
    return rows[generator.permutation(len(rows))].astype(np.float32)


@pytest.mark.parametrize("num_anchors", [1, 7, 50])
def test_random_anchors_are_different_rows_in_order(num_anchors):
    chosen = random_anchors(50, num_anchors, seed=3)
    assert chosen.dtype == np.int64
    assert len(set(chosen.tolist())) == num_anchors
    assert chosen.tolist() == sorted(chosen.tolist())
    assert chosen.min() >= 0 and chosen.max() < 50


def test_random_anchors_depend_on_the_seed_alone():
    assert random_anchors(1000, 20, 5).tolist() == random_anchors(1000, 20, 5).tolist()
    assert random_anchors(1000, 20, 5).tolist() != random_anchors(1000, 20, 6).tolist()


def test_random_anchors_reach_every_row():
    seen = {i for seed in range(60) for i in random_anchors(10, 2, seed).tolist()}
    assert seen == set(range(10))


@pytest.mark.parametrize(
    "choose", [lambda n, m: random_anchors(n, m, 0), lambda n, m: kmeans_anchors(clouds(1, n, 0), m, 0)]
)
def test_fewer_rows_than_anchors_are_refused(choose):
    with pytest.raises(
        ValueError, match=r"`num_anchors`.*usable pool rows \(5\), got 6\. Lower `num_anchors`.*`anchors`"
    ):
        choose(5, 6)
    assert choose(5, 5).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(4))
def test_kmeans_anchors_are_nearest_to_centroids(seed):
    rows = clouds(4, 12, seed, width=2.0)  # clusters that overlap
    num_anchors = 7
    kmeans = KMeans(n_clusters=num_anchors, n_init=1, random_state=seed).fit(rows)
    expected = []
    for cluster, center in enumerate(kmeans.cluster_centers_):
        members = [i for i in range(len(rows)) if kmeans.labels_[i] == cluster]
        expected.append(min(members, key=lambda i: float(((rows[i] - center) ** 2).sum())))
    assert kmeans_anchors(rows, num_anchors, seed).tolist() == sorted(expected)


def test_well_separated_clouds_give_one_anchor_each():
    rows = clouds(5, 10, seed=1)
    chosen = kmeans_anchors(rows, 5, seed=0)
    # Within a cloud rows are under 4 apart, between clouds over 4: the nearest chosen row tells the cloud.
    nearest = np.linalg.norm(rows[:, None] - rows[chosen][None], axis=2)
    assert np.bincount(nearest.argmin(axis=1)).tolist() == [10] * 5
    assert nearest.min(axis=1).max() < 4


def test_kmeans_anchors_depend_on_the_seed_alone():
    rows = clouds(6, 20, seed=2, width=3.0)
    assert kmeans_anchors(rows, 8, 1).tolist() == kmeans_anchors(rows, 8, 1).tolist()
    assert len({tuple(kmeans_anchors(rows, 8, seed).tolist()) for seed in range(6)}) > 1


def test_anchors_leave_the_global_generator_alone():
    rows = clouds(3, 10, seed=2)
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    kmeans_anchors(rows, 3, 0)
    random_anchors(10, 3, 0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_duplicate_rows_give_different_anchors():
    rows = np.repeat(clouds(1, 4, seed=3), 5, axis=0)
    chosen = kmeans_anchors(rows, 4, seed=0)
    assert len(np.unique(rows[chosen], axis=0)) == 4
    message = r"`num_anchors=5` needs .* only 4 in 20 rows: .*Lower `num_anchors` or remove duplicates"
    with pytest.raises(ValueError, match=message):
        kmeans_anchors(rows, 5, seed=0)


def test_nearly_equal_rows_give_anchors_or_an_error():
    """Equal rows that are embedded in different batches differ in their last bits.

    K-means then finds fewer clusters than asked for (with a ConvergenceWarning of scikit-learn), and a cluster without
    members has no nearest row.
    """
    for seed in range(6):
        generator = np.random.default_rng(seed)
        rows = np.repeat(clouds(1, 6, seed), 5, axis=0) + 3
        rows = (rows * (1 + generator.choice([0, 1e-7, -1e-7, 2e-7], rows.shape))).astype(np.float32)
        assert len(np.unique(rows, axis=0)) > 12
        assert len(set(kmeans_anchors(rows, 5, seed).tolist())) == 5
        try:
            chosen = kmeans_anchors(rows, 12, seed)
        except ValueError as error:
            assert "`num_anchors=12` needs as many clusters" in str(error)  # either outcome is right
        else:
            assert len(set(chosen.tolist())) == 12
