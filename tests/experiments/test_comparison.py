"""Groups, baselines, differences and tables, from networks made by hand."""

import csv
from dataclasses import replace

import numpy as np
import pytest

from slsr.errors import InputError
from slsr.experiments.comparison import (
    ExperimentComparison,
    baseline_of,
    compare_networks,
    difference,
    group_by_settings,
)
from slsr.experiments.networks import EvaluatedNetwork, Training
from slsr.experiments.seeds_and_people import crossed_mean
from slsr.experiments.tables import draw_comparison, render_csv, render_markdown, varying_settings
from slsr.reporting.published import NOTE, published
from slsr.retrieval import QueryValues

COMMON = {"dataset.archive": "a.zip", "train.backbone": "resnet18", "code:src/slsr/labels/distributions.py": "1"}
GENERATED = {"cluster.k": 3, "generate.images": 24}
NAMES = tuple("abcdef")
PEOPLE = np.array([7, 7, 8, 9, 9, 9])


def network(regularizer, seed, settings=(), values=None, experiment="e"):
    if values is None:
        values = np.random.default_rng([len(regularizer), seed]).random(6)
    extra = GENERATED if regularizer != "none" else {}
    metrics = {"queries": 6, "gallery": 9}
    for key in ("rank1", "map_trapezoid"):
        metrics |= {key: float(np.mean(values)), f"{key}_ci95": [0.0, 1.0]}
    settings = COMMON | extra | dict(settings)
    both = np.stack([np.asarray(values, float)] * 2, axis=1)
    found = QueryValues(both, ("rank1", "map_trapezoid"), PEOPLE, names=NAMES)
    return EvaluatedNetwork(experiment, regularizer, seed, settings, metrics, found)


def rank1_of(one):
    """Its value for every query."""
    return one.values.of("rank1").values[:, 0]


def compared(rows, stand_beside=None):
    found = []
    for row in rows:
        other = baseline_of(row, rows, "none")
        pairs = {m: difference(row, other, m, 500, 1) for m in ("rank1", "map_trapezoid")} if other is not row else {}
        found.append({m: one for m, one in pairs.items() if one is not None})
    beside = stand_beside or [None] * len(rows)
    return ExperimentComparison("single_query", "none", ["rank1", "map_trapezoid"], rows, found, beside)


def test_networks_that_differ_only_in_their_seed_are_one_group():
    networks = [
        network("slsr", 2),
        network("none", 1),
        network("slsr", 1),
        network("slsr", 1, {"cluster.k": 4}),
        network("none", 1),
    ]
    rows = group_by_settings(networks)
    assert [(row.regularizer, row.seeds) for row in rows] == [("slsr", [1, 2]), ("none", [1]), ("slsr", [1])]


def test_one_seed_with_two_results_is_refused():
    with pytest.raises(InputError, match="one and two: slsr with seed 1"):
        group_by_settings(
            [network("slsr", 1, values=[0] * 6, experiment="one"), network("slsr", 1, values=[1] * 6, experiment="two")]
        )


def test_a_baseline_without_generated_images_stands_for_every_k_but_not_for_another_backbone():
    networks = [network("none", 1), network("none", 1, {"train.backbone": "resnet50"})]
    networks += [network("slsr", 1, {"cluster.k": k}) for k in (2, 3)] + [
        network("slsr", 1, {"train.backbone": "resnet50"})
    ]
    networks += [network("slsr", 1, {"code:src/slsr/labels/distributions.py": "2"})]
    rows = group_by_settings(networks)
    found = [baseline_of(row, rows, "none") for row in rows[2:]]
    assert found == [rows[0], rows[0], rows[1], None]


def test_a_difference_pairs_the_seeds_that_both_have():
    rows = group_by_settings(
        [network("none", seed) for seed in (1, 2, 4)] + [network("slsr", seed) for seed in (1, 2, 3)]
    )
    found = difference(rows[1], rows[0], "rank1", 500, 1)
    expected = np.mean([rank1_of(rows[1].networks[i]) - rank1_of(rows[0].networks[i]) for i in (0, 1)])
    assert found.seeds == [1, 2]
    assert found.both.mean == pytest.approx(expected)
    assert found.people.difference == pytest.approx(expected)


def gathered(made, names, against=None, seeds_of="training"):
    """Compare the networks of these experiments."""
    networks = [one for name in names for one in made[name]]
    controls = None if against is None else [one for name in against for one in made[name]]
    return compare_networks(networks, "single_query", "none", controls, resamples=500, seeds_of=seeds_of)


def test_a_stated_baseline_is_every_rows_whatever_its_settings():
    """That of more epochs: the methods and the baseline of fewer epochs are all measured by it, pair by pair."""
    longer = {f"longer{seed}": [network("none", seed, {"train.epochs": 18})] for seed in (1, 2)}
    made = longer | {
        f"e{seed}": [network(name, seed, {"train.epochs": 12}) for name in ("none", "slsr")] for seed in (1, 2)
    }
    found = gathered(made, ["e1", "e2"], list(longer))
    assert [(row.regularizer, row.settings["train.epochs"]) for row in found.groups] == [
        ("none", 12),
        ("none", 18),
        ("slsr", 12),
    ]
    assert found.against is found.groups[1]
    assert not found.differences[1]
    for number, name in ((0, "none"), (2, "slsr")):
        of_row = [one for seed in (1, 2) for one in made[f"e{seed}"] if one.regularizer == name]
        gain = np.mean([rank1_of(of_row[i]) - rank1_of(made[f"longer{i + 1}"][0]) for i in (0, 1)])
        assert found.differences[number]["rank1"].both.mean == pytest.approx(gain)
    usual = gathered(made, [*made])
    assert usual.against is None
    assert [bool(one) for one in usual.differences] == [False, False, True]


def test_the_table_says_that_a_baseline_was_stated():
    made = {"longer": [network("none", 1, {"train.epochs": 18}, experiment="longer")], "e": [network("slsr", 1)]}
    made["e"] += [network("none", 1, {"train.epochs": 12})]
    text = render_markdown(gathered(made, ["e"], ["longer"]))
    assert "rank-1 - baseline (none), epochs 18 |" in text
    assert "Differences are to longer, whatever else differs in the row." in text
    assert "Differences are to" not in render_markdown(gathered(made, ["e", "longer"]))


def table_rows(text):
    """The cells of the first table below its head, by the name of the row."""
    lines = text[text.index("\n\n|") :].strip().splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[: lines.index("")]]
    return {row[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}


def trained_for(**lengths):
    """The baseline and SLSR, two seeds each, trained for these steps and summed rates."""
    return {
        f"e{seed}": [replace(network(name, seed), training=Training(*lengths[name])) for name in ("none", "slsr")]
        for seed in (1, 2)
    }


@pytest.mark.parametrize(
    ("none", "slsr", "mark"),
    [
        ((156, 0.1), (228, 0.1), "(unequal steps: 228 vs 156)"),
        ((98_298, 169.3), (98_280, 335.7), "(unequal summed rate: 335.7 vs 169.3)"),
        ((156, 0.1), (228, 0.2), "(unequal steps: 228 vs 156, summed rate: 0.2 vs 0.1)"),
    ],
)
def test_a_row_that_was_trained_for_longer_than_its_baseline_says_so(none, slsr, mark):
    made = trained_for(none=none, slsr=slsr)
    found = gathered(made, [*made])
    text = render_markdown(found)
    rows = table_rows(text)
    assert rows["SLSR"]["rank-1 - baseline (none)"].endswith(mark)
    assert rows["SLSR"]["mAP - baseline (none)"].endswith(mark)
    assert "unequal" not in "".join(rows["baseline (none)"].values())
    assert [row["steps"] for row in rows.values()] == [f"{none[0]:,}", f"{slsr[0]:,}"]
    assert text.count(mark) == 4, "in both tables"
    assert "A difference marked `unequal`" in text
    of_csv = {row["regularizer"]: row for row in csv.DictReader(render_csv(found).splitlines())}
    assert (of_csv["slsr"]["steps"], float(of_csv["slsr"]["rate_sum"])) == (str(slsr[0]), slsr[1])
    assert f"({of_csv['slsr']['unequal']})" == mark
    assert of_csv["none"]["unequal"] == ""


def test_trainings_of_one_length_have_no_mark():
    """258 epochs with the schedule scaled by hand are 98,298 steps and 334.2: equal within 1 %."""
    for none in ((98_280, 335.7), (98_298, 334.2)):
        made = trained_for(none=none, slsr=(98_280, 335.7))
        assert "unequal" not in render_markdown(gathered(made, [*made]))


def test_a_stated_baseline_marks_every_row_that_differs_from_it():
    made = trained_for(none=(156, 0.1), slsr=(228, 0.2))
    made["longer"] = [replace(network("none", 1, {"train.epochs": 18}), training=Training(234, 0.2))]
    made["short"] = [replace(network("none", 1, {"train.epochs": 12}), training=Training(156, 0.1))]
    found = gathered(made, ["e1", "short"], ["longer"])
    assert dict(zip([(one.regularizer, one.settings.get("train.epochs")) for one in found.groups], found.unequal,
                    strict=True)) == {
        ("none", None): "unequal steps: 156 vs 234, summed rate: 0.1 vs 0.2",
        ("none", 12): "unequal steps: 156 vs 234, summed rate: 0.1 vs 0.2",
        ("none", 18): "",
        ("slsr", None): "unequal steps: 228 vs 234",
    }  # fmt: skip


def test_without_curves_in_the_cache_the_length_is_said_to_be_unknown():
    made = trained_for(none=(156, 0.1), slsr=(228, 0.2))
    made = {name: [one, replace(two, training=None)] for name, (one, two) in made.items()}
    rows = table_rows(render_markdown(gathered(made, [*made])))
    assert [row["steps"] for row in rows.values()] == ["156", "-"]
    assert "(length of training unknown)" in str(rows)
    assert "unequal" not in str(rows)


def of_the_whole_pipeline(generator_seeds):
    return {
        f"e{seed}": [network("none", seed), network("slsr", seed, {"gan.seed": other, "encoder.seed": other})]
        for seed, other in generator_seeds.items()
    }


def test_networks_with_generators_of_their_own_are_one_row_where_that_is_asked_for():
    made = of_the_whole_pipeline({1: 1, 2: 2, 3: 3})
    apart = gathered(made, [*made])
    assert [(row.regularizer, row.seeds) for row in apart.groups[1:]] == [("slsr", [seed]) for seed in (1, 2, 3)]
    assert "encoder, clusters and generators stay the same" in render_markdown(apart)
    together = gathered(made, [*made], seeds_of="pipeline")
    assert [(row.regularizer, row.seeds) for row in together.groups] == [("none", [1, 2, 3]), ("slsr", [1, 2, 3])]
    gain = np.mean([rank1_of(made[name][1]) - rank1_of(made[name][0]) for name in made])
    assert together.differences[1]["rank1"].both.mean == pytest.approx(gain)
    assert "Each seed has its own encoder, clusters, generators" in render_markdown(together)


def test_a_stated_baseline_of_the_whole_pipeline_and_an_experiment_under_two_names():
    made = of_the_whole_pipeline({1: 1, 2: 2, 3: 3})
    made |= {f"longer{seed}": [network("none", seed, {"train.epochs": 18})] for seed in (1, 2)}
    made = {name: [replace(one, settings={"train.epochs": 12} | dict(one.settings)) for one in networks]
            for name, networks in made.items()}  # fmt: skip
    made["again"] = made["e2"]
    found = gathered(made, ["e1", "e2", "e3", "again"], ["longer1", "longer2"], "pipeline")
    assert [(row.regularizer, row.settings["train.epochs"], row.seeds) for row in found.groups] == [
        ("none", 12, [1, 2, 3]),
        ("none", 18, [1, 2]),
        ("slsr", 12, [1, 2, 3]),
    ]
    assert found.against is found.groups[1]
    gain = np.mean([rank1_of(made[f"e{s}"][1]) - rank1_of(made[f"longer{s}"][0]) for s in (1, 2)])
    assert found.differences[2]["rank1"].both.mean == pytest.approx(gain)


def test_a_spread_that_leaves_generators_out_is_not_called_the_whole_pipelines():
    made = of_the_whole_pipeline({1: 1, 2: 1})
    with pytest.raises(InputError, match=r"gan\.seed 1|encoder\.seed 1"):
        gathered(made, [*made], seeds_of="pipeline")


def test_a_stated_baseline_is_one():
    made = {"a": [network("none", 1, {"train.epochs": 18})], "b": [network("none", 1, {"train.epochs": 12})]}
    made["c"] = [network("slsr", 1)]
    with pytest.raises(InputError, match="2 rows of 'none'"):
        gathered(made, ["c"], ["a", "b"])
    with pytest.raises(InputError, match="0 rows of 'none'"):
        gathered(made, ["a"], ["c"])


def quality(kernel, alarms=0, reference="reference"):
    measured = {"kernel": {"value": kernel, reference: 0.0}, "coverage": {"value": None, reference: None}}
    return {"overall": {"handcrafted": measured, "encoder": measured}, "alarms": [{}] * alarms}


def quality_table(text):
    """The words above it, and its rows of cells."""
    tail = text[text.index("The quality of all generated images") :].splitlines()
    return tail[0], [[cell.strip() for cell in line.strip("| ").split("|")] for line in tail[4:]]


def test_the_quality_of_generated_images_stands_once_for_the_rows_that_share_them():
    networks = [
        replace(network(name, seed), quality=quality(0.1 * seed, 2)) for name in ("lsro", "slsr") for seed in (1, 2)
    ]
    networks += [replace(network("mprl", 1), quality=quality(0.5)), network("none", 1), network("one-hot", 1)]
    comparison = compared(group_by_settings(networks))
    said, rows = quality_table(render_markdown(comparison))
    assert [row[:3] for row in rows] == [["LSRO; SLSR", "2", "0.15 ± 0.07 [0.00]"], ["MPRL", "1", "0.50 [0.00]"]]
    assert [row[-1] for row in rows] == ["4", "0"]
    assert rows[0][3] == "-", "a measure without a value"
    assert said.endswith("The cache does not have it for one-hot.")
    written = {row["regularizer"]: row for row in csv.DictReader(render_csv(comparison).splitlines())}
    assert float(written["slsr"]["generated_handcrafted_kernel"]) == pytest.approx(0.15)
    assert written["none"]["generated_handcrafted_kernel"] == ""
    assert "The quality of all generated images" not in render_markdown(
        compared(group_by_settings([network("none", 1)]))
    )


def test_results_of_an_earlier_version_are_compared_with_new_ones():
    """Their references are called `floor`."""
    of_both = [quality(0.1), quality(0.2, reference="floor")]
    networks = [replace(network("slsr", seed), quality=one) for seed, one in zip((1, 2), of_both, strict=True)]
    _, rows = quality_table(render_markdown(compared(group_by_settings([network("none", 1), *networks]))))
    assert [row[:3] for row in rows] == [["SLSR", "2", "0.15 ± 0.07 [0.00]"]]


def test_seeds_that_share_one_set_of_images_are_no_repeats_of_it():
    """Rows of other numbers of seeds still share it; a set that is measured once has no deviation."""
    one = quality(0.48, 4)
    networks = [replace(network("lsro", seed), quality=one) for seed in (1, 2, 3)]
    networks += [replace(network("slsr", seed), quality=one) for seed in (1, 2)]
    _, rows = quality_table(render_markdown(compared(group_by_settings([network("none", 1), *networks]))))
    assert [(row[0], row[1], row[2], row[-1]) for row in rows] == [("LSRO; SLSR", "1", "0.48 [0.00]", "4")]


def test_quality_that_the_cache_has_in_part_is_left_out_everywhere():
    networks = [
        replace(network("slsr", 1), quality=quality(0.1)),
        network("slsr", 2),
        replace(network("lsro", 1), quality=quality(0.2)),
    ]
    comparison = compared(group_by_settings([network("none", 1), *networks]))
    said, rows = quality_table(render_markdown(comparison))
    assert [row[0] for row in rows] == ["LSRO"]
    assert said.endswith("The cache does not have it for SLSR.")
    written = {row["regularizer"]: row for row in csv.DictReader(render_csv(comparison).splitlines())}
    assert written["slsr"]["generated_handcrafted_kernel"] == ""


def refused(other):
    """The message with which a difference to the baseline is refused."""
    rows = group_by_settings([network("none", 1, experiment="one"), replace(other, experiment="two")])
    with pytest.raises(InputError, match="one and two") as caught:
        difference(rows[1], rows[0], "rank1", 500, 1)
    return str(caught.value)


def test_other_queries_or_people_are_no_pair():
    other = network("slsr", 1)
    assert "differ in names: query 5 has f and g" in refused(
        replace(other, values=replace(other.values, names=tuple("abcdeg")))
    )
    people = replace(other.values, people=np.array([7, 7, 8, 9, 9, 10]))
    assert "differ in people: query 5 has 9 and 10" in refused(replace(other, values=people))
    fewer = QueryValues(other.values.values[:5], other.values.keys, PEOPLE[:5], names=NAMES[:5])
    assert "6 and 5 queries" in refused(replace(other, values=fewer))


def test_what_makes_two_tests_different_is_named():
    assert "dataset.split (null and 2)" in refused(network("slsr", 1, {"dataset.split": 2}))
    assert "dataset.archive (a.zip and b.zip)" in refused(network("slsr", 1, {"dataset.archive": "b.zip"}))
    both = refused(network("slsr", 1, {"dataset.protocol": "np", "dataset.split": 3}))
    assert "dataset.protocol (null and np), dataset.split (null and 3)" in both
    other = network("slsr", 1)
    larger = replace(other, metrics=dict(other.metrics) | {"gallery": 1200})
    assert "the number of gallery images (9 and 1,200)" in refused(larger)


def test_a_stated_baseline_of_another_split_is_refused():
    made = {"other": [network("none", 1, {"dataset.split": 2}, experiment="other")], "e": [network("slsr", 1)]}
    with pytest.raises(InputError, match=r"other and e: they differ in dataset\.split \(2 and null\)"):
        gathered(made, ["e"], ["other"])


def test_one_person_has_no_interval():
    networks = [network(name, seed) for name in ("none", "slsr") for seed in (1, 2)]
    alone = [replace(one, values=replace(one.values, people=PEOPLE * 0)) for one in networks]
    comparison = compared(group_by_settings(alone))
    text = render_markdown(comparison)
    assert "one person: no interval" in text
    assert "nan" not in text.lower()
    assert comparison.groups[0].interval("rank1") is None
    line = list(csv.DictReader(render_csv(comparison).splitlines()))[1]
    assert line["rank1_difference_people"]
    assert line["rank1_difference_people_low"] == line["rank1_difference_people_p"] == ""


def test_queries_of_one_person_count_together():
    """The interval over seeds and people is that of one pseudovalue per person, whose mean is the mean over queries."""
    networks = [network("none", seed) for seed in (1, 2, 3)]
    group = group_by_settings(networks)[0]
    table = np.zeros((3, 3))
    for row, one in enumerate(networks):
        values = rank1_of(one)
        for column, person in enumerate((7, 8, 9)):
            own = values[person == PEOPLE]
            table[row, column] = values.mean() + len(own) * 3 / 6 * (own.mean() - values.mean())
        assert table[row].mean() == pytest.approx(values.mean())
    assert group.interval("rank1") == pytest.approx(crossed_mean(table, (0, 1)).ci95)


def test_numbers_of_the_csv_are_plain_and_lists_stay_lists():
    rows = group_by_settings([network("slsr", 1, {"generate.images": n, "cluster.sweep": [2, n]}) for n in (1200, 24)])
    written = list(csv.DictReader(render_csv(compared([*rows, *group_by_settings([network("none", 1)])])).splitlines()))
    assert [row["generate.images"] for row in written[:2]] == ["1200", "24"]
    assert [row["cluster.sweep"] for row in written[:2]] == ["[2, 1200]", "[2, 24]"]


def test_varying_settings_name_what_differs():
    networks = [
        network("none", 1),
        network("slsr", 1),
        network("slsr", 1, {"generate.images": 1200, "code:src/slsr/labels/distributions.py": "2"}),
    ]
    columns = varying_settings(group_by_settings(networks))
    assert columns["generate.images"] == ["-", "24", "1,200"]
    assert len(set(columns["code"])) == 2
    assert set(columns) == {"generate.images", "code"}


def test_markdown_and_csv_say_the_same(tmp_path):
    rows = group_by_settings([network(name, seed) for name in ("none", "slsr") for seed in (1, 2, 3)])
    comparison = compared(rows)
    lines = list(csv.DictReader(render_csv(comparison).splitlines()))
    text = render_markdown(comparison)
    value = 100 * float(lines[1]["rank1_difference"])
    assert f"| {value:+.1f} [{100 * float(lines[1]['rank1_difference_low']):+.1f}" in text
    deviation = np.std([row.metrics["rank1"] for row in rows[0].networks], ddof=1)
    assert f"{100 * float(lines[0]['rank1_mean']):.1f} ± {100 * deviation:.1f}" in text
    assert "paired bootstrap over people with all their queries" in text
    assert NOTE not in text
    draw_comparison(tmp_path / "plot.png", comparison)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_one_seed_has_no_interval_over_seeds():
    text = render_markdown(compared(group_by_settings([network("none", 1), network("slsr", 1)])))
    assert "one seed: no interval" in text


FULL = {
    "dataset.name": "market1501",
    "train.backbone": "densenet121",
    "train.weights": "imagenet",
    "image.height": 256,
    "cluster.k": 3,
    "generate.images": 12000,
}
SIZES = {"queries": 3368, "queries_without_match": 0, "gallery": 19732}


def test_a_published_row_stands_beside_its_own_setting_alone():
    found = published("slsr", "single_query", FULL, SIZES)
    assert (found.rank1, found.map_trapezoid) == pytest.approx((0.9243, 0.7908))
    for change in ({"train.weights": "none"}, {"image.height": 64}, {"cluster.k": 4}, {"train.backbone": "resnet18"}):
        assert published("slsr", "single_query", FULL | change, SIZES) is None
    assert published("slsr", "single_query", FULL, SIZES | {"queries": 125, "gallery": 483}) is None
    assert published("mprl", "single_query", FULL, SIZES) is None


def test_table_2_is_published_for_every_number_of_clusters_and_images():
    """Corners of the printed table; single query without re-ranking has its best setting alone."""
    for k, images, row in ((2, 12000, (0.9341, 0.9015)), (3, 12000, (0.9382, 0.9020)), (4, 36000, (0.9227, 0.8855))):
        settings = FULL | {"cluster.k": k, "generate.images": images}
        found = published("slsr", "single_query_rerank", settings, SIZES)
        assert (found.rank1, found.map_trapezoid) == pytest.approx(row)
    for change in ({"cluster.k": 5}, {"generate.images": 6000}, {"train.backbone": "resnet50"}, {"image.height": 64}):
        assert published("slsr", "single_query_rerank", FULL | change, SIZES) is None


def test_a_published_row_comes_with_what_it_is_worth(tmp_path):
    rows = group_by_settings([network("none", 1), network("slsr", 1)])
    comparison = compared(rows, [None, published("slsr", "single_query", FULL, SIZES)])
    text = render_markdown(comparison)
    assert "92.43 / 79.08 (Ainam et al.)" in text
    assert NOTE in text
    assert csv.DictReader(render_csv(comparison).splitlines()).fieldnames[-1] == "published_source"
    draw_comparison(tmp_path / "plot.png", comparison)
