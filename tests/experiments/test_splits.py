"""Several splits as one row: means, deviations, and paired differences with the corrected t interval."""

import csv
import math

import numpy as np
import pytest
from scipy import stats

from slsr.errors import InputError
from slsr.experiments.networks import EvaluatedNetwork
from slsr.experiments.splits import compare_over_splits, corrected_mean
from slsr.experiments.tables import draw_comparison, render_csv, render_markdown
from slsr.retrieval import QueryValues

TRAINING, TESTED = 8, 4


def half_of(split):
    """The people of a split's test half, of twelve."""
    return np.sort(np.random.default_rng(split).permutation(12)[:TESTED])


def network(regularizer, split, seed=1, lift=0.0, people=None, settings=()):
    """A network with one value per person and direction, which depends on the person, the split and the seed."""
    people = half_of(split) if people is None else people
    draws = np.random.default_rng([split, seed, len(regularizer)])
    values = np.tile(0.3 + 0.02 * people, 2) + lift + 0.05 * draws.random(2 * TESTED)
    found = QueryValues(values[:, None], ("rank1",), np.tile(people, 2), np.repeat([0, 1], TESTED))
    metrics = {"queries": 2 * TESTED, "gallery": 2 * TESTED, "rank1": found.means()["rank1"], "rank1_ci95": [0, 1]}
    chosen = {"dataset.split": split, "dataset.name": "viper", "train.backbone": "resnet18"} | dict(settings)
    return EvaluatedNetwork(f"{regularizer}{split}", regularizer, seed, chosen, metrics, found, None, TRAINING)


def both(splits, seeds=(1,)):
    return [
        network(name, split, seed, lift)
        for split in splits
        for seed in seeds
        for name, lift in (("none", 0), ("slsr", 0.1 + 0.01 * split))
    ]


def by_hand(values, share):
    """Mean and interval of the corrected resampled t-test, from its formula."""
    n, mean = len(values), sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    reach = stats.t.ppf(0.975, n - 1) * math.sqrt((1 / n + share) * variance)
    return mean, (mean - reach, mean + reach)


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_one_row_for_all_splits_and_a_paired_difference(seeds):
    networks = both(range(1, 6), seeds)
    found = compare_over_splits(networks, "single_gallery_shot", "none")
    assert [(group.regularizer, group.splits, group.size) for group in found.groups] == [
        ("none", [1, 2, 3, 4, 5], 5),
        ("slsr", [1, 2, 3, 4, 5], 5),
    ]
    means = {}
    for one in networks:
        means.setdefault((one.regularizer, one.settings["dataset.split"]), []).append(one.metrics["rank1"])
    of_splits = {key: sum(values) / len(values) for key, values in means.items()}
    slsr, none = ([of_splits[name, split] for split in range(1, 6)] for name in ("slsr", "none"))
    np.testing.assert_allclose(found.groups[1].measured("rank1"), slsr)
    assert found.groups[1].interval("rank1") == pytest.approx(by_hand(slsr, TESTED / TRAINING)[1])
    mean, interval = by_hand([one - other for one, other in zip(slsr, none, strict=True)], TESTED / TRAINING)
    difference = found.differences[1]["rank1"].both
    assert difference.mean == pytest.approx(mean)
    assert difference.ci95 == pytest.approx(interval)
    assert not found.differences[0]


def test_p_and_interval_agree():
    """The interval touches 0 where p is 0.05."""
    values = np.array([0.01, 0.03, 0.02, 0.05, 0.04])
    low = corrected_mean(values, 1.0).ci95[0]
    assert corrected_mean(values - low, 1.0).p == pytest.approx(0.05)
    without_spread = corrected_mean(np.full(4, 0.2), 1.0, (-1, 1))
    assert (without_spread.ci95, without_spread.p) == ((-1, 1), 1.0), "no spread is no knowledge of the error"
    assert corrected_mean(values, 1.0, (0, 1)).ci95[0] == 0


def test_the_interval_covers_other_people_where_the_plain_t_interval_does_not():
    """632 people with a difference each, ten random halves: the truth is the mean of the population, 0."""
    random = np.random.default_rng(0)
    covered = {1.0: 0, 0.0: 0}
    for _ in range(600):
        people = random.standard_normal(632)
        halves = np.array([random.permutation(people)[:316].mean() for _ in range(10)])
        for share in covered:
            low, high = corrected_mean(halves, share).ci95
            covered[share] += low <= 0 <= high
    assert 0.93 < covered[1.0] / 600 < 0.97
    assert covered[0.0] / 600 < 0.7


def test_tables_show_splits(tmp_path):
    found = compare_over_splits(both(range(1, 4)), "single_gallery_shot", "none")
    text = render_markdown(found)
    assert "| splits |" in text and "between splits" in text and "Nadeau and Bengio" in text
    assert "bootstrap over people" not in text
    rows = list(csv.DictReader(render_csv(found).splitlines()))
    assert [row["splits"] for row in rows] == ["1 2 3"] * 2
    assert float(rows[1]["rank1_mean"]) == pytest.approx(found.groups[1].measured("rank1").mean())
    assert float(rows[1]["rank1_deviation"]) == pytest.approx(found.groups[1].measured("rank1").std(ddof=1))
    assert float(rows[1]["rank1_difference"]) == pytest.approx(found.differences[1]["rank1"].mean)
    draw_comparison(tmp_path / "s.png", found)
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_other_settings_are_other_rows_and_one_baseline_can_stand_for_all():
    wide = [network("slsr", split, lift=0.2, settings={"train.backbone": "resnet50"}) for split in (1, 2)]
    networks = [*both((1, 2)), *wide]
    plain = compare_over_splits(networks, "single_gallery_shot", "none")
    assert [bool(one) for one in plain.differences] == [False, True, False]
    against = [one for one in networks if one.regularizer == "none"]
    named = compare_over_splits(networks, "single_gallery_shot", "none", against)
    assert named.differences[2]["rank1"].mean == pytest.approx(0.2, abs=0.06)


def test_what_cannot_be_compared_over_splits():
    alone = compare_over_splits(both([1]), "single_gallery_shot", "none")
    assert alone.groups[0].interval("rank1") is None
    assert not alone.differences[1]
    rows = [line for line in render_markdown(alone).splitlines() if line.startswith("|")]
    assert rows[-1].endswith(" - |")
    without = [network("none", 1, settings={"dataset.split": None})]
    with pytest.raises(InputError, match=r"none1: dataset.split is null, .* leave out --over splits"):
        compare_over_splits(without, "single_query", "none")
    mixed = [network("none", 1), network("slsr", 1, people=np.arange(4)), *both([2])]
    with pytest.raises(InputError, match=r"none1 and slsr1: .* differ in people"):
        compare_over_splits(mixed, "single_gallery_shot", "none")
