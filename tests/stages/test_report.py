"""The report: well-formed tables that say what the stages measured, and differences that a loop confirms."""

import copy
import re

import numpy as np
import pytest
from PIL import Image

from slsr.evaluation.per_query import PER_QUERY, write_per_query
from slsr.files import METRICS, read_json, write_bytes, write_json
from slsr.images.tables import table_writer
from slsr.markdown import table
from slsr.params.file import run_with_blocks, validate_params
from slsr.reporting.run_report import Report, ReportParameters, render
from slsr.reporting.titles import RANKINGS, RETRIEVAL_MEASURES, title_of
from slsr.retrieval import Evaluation, Labels, both_directions, headline
from slsr.stages import report
from slsr.stages.paths import CLUSTERS, EVALUATED, FACTS, FLOORS, GENERATED, TRAINED

RUNS = ["none", "lsro", "slsr"]
QUERIES, GALLERY = 9, 40
PEOPLE = [3, 3, 3, 4, 5, 5, 6, 6, 7]


def ranks_of(run, ranking):
    """For each query, the ranks of its right matches; the last two queries have none."""
    generator = np.random.default_rng([RUNS.index(run), len(ranking)])
    lists = [sorted(generator.choice(GALLERY, generator.integers(1, 5), replace=False) + 1) for _ in range(QUERIES - 2)]
    return [[int(rank) for rank in one] for one in lists] + [[], []]


def measured(lists):
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])])
    evaluation = Evaluation(
        offsets, np.array([rank for one in lists for rank in one], np.int32), GALLERY, np.array(PEOPLE)
    )
    return headline(evaluation, resamples=100, seed=1) | {"queries_without_match": evaluation.excluded}


FACTS_VALUE = {
    "evaluation": {"cameras": "known"},
    "splits": {
        name: {"images": 1000 + number, "identities": 10 + number}
        for number, name in enumerate(("gallery", "multi_query", "query", "train", "validation"))
    },
}
CLUSTERS_VALUE = {
    "chosen_k": 3,
    "rule": "fixed",
    "silhouette_images": 5032,
    "sweep": [
        {"k": 1, "silhouette_full_dimension": None, "silhouette_two_components": None, "inertia": 3.0},
        {"k": 2, "silhouette_full_dimension": 0.5175, "silhouette_two_components": -0.25, "inertia": 2.0},
        {"k": 3, "silhouette_full_dimension": 0.7003, "silhouette_two_components": 0.5, "inertia": 1.0},
    ],
    "make_up": {
        "images": [5000, 30, 2],
        "identities": [12, 7, 2],
        "cameras": [{"1": 2}, {"1": 3}, {"2": 1}],
        "straddling_identities": 4,
        "training_identities": 13,
        "purity": 0.98765,
    },
}


def measure(value, reference):
    return {"value": value, "deviation": None, "reference": reference, "reference_deviation": None}


def alarm(kind, cluster, value, name="coverage", space="encoder", limit=0.5):
    return {"alarm": kind, "cluster": cluster, "limit": limit, "measure": name, "space": space, "value": value}


QUALITY_VALUE = {
    "discriminator_saw": None,
    "overall": {
        "cluster": None,
        "generated": 1200,
        "real": 394,
        "verdict": "recognizable, but poorer",
        "imagenet": {"kernel": measure(0.9, -0.001), "coverage": measure(0.5, 0.98)},
        "handcrafted": {
            "kernel": measure(2.64, -0.003),
            "coverage": measure(0.125, 0.97),
            "density": measure(1.5, None),
        },
        "encoder": {"kernel": measure(4.4, -0.004), "coverage": measure(None, 0.9)},
    },
    "clusters": [{"verdict": "not usable"}, {"verdict": None}, {"verdict": "not usable"}],
    "cluster_consistency": {"value": 0.55, "reference": 0.999, "clusters": [0.5]},
    "label_support": {
        "overall": {
            "slsr": {"value": 0.4567, "chance": 0.3333, "reference": 0.9876},
            "slsr-nearest": {"value": 0.6543, "chance": 0.0456, "reference": 0.8765},
        }
    },
    "alarms": [],
}


@pytest.fixture
def project(tmp_path, monkeypatch, values):
    """Everything that the stage reads, of two ways of ranking."""
    monkeypatch.chdir(tmp_path)
    values["evaluate"]["bootstrap"]["resamples"] = 100
    write_json(FACTS, FACTS_VALUE)
    write_json(CLUSTERS / "silhouette.json", CLUSTERS_VALUE)
    write_json(GENERATED / "quality.json", QUALITY_VALUE)
    write_json(FLOORS / "metrics.json", {name: {"single_query": measured(ranks_of("none", "floor"))} for name in FLOOR})
    for run in RUNS:
        lists = {ranking: ranks_of(run, ranking) for ranking in ("multi_query", "single_query")}
        write_json(EVALUATED / run / "metrics.json", {ranking: measured(one) for ranking, one in lists.items()})
        with table_writer(EVALUATED / run / "per_query.parquet", PER_QUERY) as rows:
            for ranking, of_queries in lists.items():
                for number, ranks in enumerate(of_queries):
                    row = dict.fromkeys(PER_QUERY.names) | {"ranking": ranking, "name": f"{number}", "ranks": ranks}
                    rows.append(row | {"identity": PEOPLE[number]})
        curve = "rank,multi_query,single_query\n1,0.5,0.25\n2,0.75,0.5\n"
        write_bytes(EVALUATED / run / "cmc.csv", curve.encode())
        written = TRAINED / run / "curves" / "plots" / "metrics" / "train" / "loss.tsv"
        write_bytes(written, b"step\tloss\n1\t3.5\n2\t3.25\n")
    return validate_params(values, "params.yaml")


def test_the_curves_are_those_of_the_validation_that_was_used(project, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "draw_curves", lambda path, panels, x: drawn.append(panels))
    run_with_blocks(report.run, project)
    assert [*drawn[0]] == ["training loss"]
    for quantity in ("rank1", "map_trapezoid"):
        path = TRAINED / "slsr" / "curves" / "plots" / "metrics" / "validation" / f"{quantity}.tsv"
        write_bytes(path, f"step\t{quantity}\n2\t0.25\n4\t0.5\n".encode())
    run_with_blocks(report.run, project)
    curves = drawn[2]
    assert [*curves] == ["training loss", "validation rank-1", "validation mAP"]
    assert [values.tolist() for values in curves["validation mAP"]["slsr"]] == [[2, 4], [0.25, 0.5]]


FLOOR = ["untrained", "color_histogram"]


def tables_of(text):
    """Heading above each table, and its cells; fails on a table that is not well-formed."""
    found, heading, lines = [], None, text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if line.startswith("|") and not lines[number - 1].startswith("|"):
            assert lines[number - 1] == "", "a table needs an empty line before it"
            end = next((n for n in range(number, len(lines)) if not lines[n].startswith("|")), len(lines))
            assert end == len(lines) or lines[end] == "", "and one after it"
            rows = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in lines[number:end]]
            assert len(rows) >= 3
            assert len({len(row) for row in rows}) == 1, f"rows of unequal length below {heading}"
            assert all(re.fullmatch(":?-{3,}:?", cell) for cell in rows[1])
            assert all(cell for row in rows[2:] for cell in row), "an empty cell"
            assert all(rows[0][1:]), "an empty heading"
            found.append((heading, [rows[0], *rows[2:]]))
    return found


def test_the_report_says_what_was_measured(project):
    run_with_blocks(report.run, project)
    text = (METRICS / "report.md").read_text(encoding="utf-8")
    headings = [line.lstrip("# ") for line in text.splitlines() if line.startswith("## ")]
    with_table = ["Single query", "Multi-query", "Differences", "Clusters", "Generated images"]
    assert headings == [*with_table[:3], "Training", *with_table[3:], "Pictures of people"]
    tables = tables_of(text)
    assert [heading for heading, _ in tables] == with_table
    shown = re.findall(r"\]\((.+?)\)", text)
    assert shown == ["cmc.png", "curves.png", "silhouettes.png"], "git has no other picture, and a link would be broken"
    for name in (EVALUATED / "lsro" / "ranked_lists_rerank.png", GENERATED / "sheet.png"):
        assert f"`{name}`" in text
    single, multi = tables[0][1], tables[1][1]
    assert [row[0] for row in single[1:]] == [title_of(name) for name in ("color_histogram", "untrained", *RUNS)]
    assert [row[0] for row in multi[1:]] == [title_of(name) for name in RUNS]
    assert single[0] == ["", *RETRIEVAL_MEASURES.values()]
    for run, row in zip(RUNS, single[3:], strict=True):
        lists = [ranks for ranks in ranks_of(run, "single_query") if ranks]
        rank1 = 100 * np.mean([ranks[0] == 1 for ranks in lists])
        precision = 100 * np.mean([np.mean([(i + 1) / rank for i, rank in enumerate(ranks)]) for ranks in lists])
        for column, value in (("rank-1", rank1), ("mAP (standard)", precision)):
            shown, low, high = re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", row[single[0].index(column)]).groups()
            assert float(shown) == pytest.approx(value, abs=0.0501)
            assert float(low) <= float(shown) <= float(high)
    assert (
        f"{QUERIES - 2} queries of 4 people, {GALLERY} gallery images; 2 queries without a correct match are left out."
        in text
    )
    assert "1,003 train, 1,004 validation, 1,002 query, 1,000 gallery, 1,001 multi-query images" in text
    assert "13 training identities" in text
    assert "nan" not in text.lower()


def test_differences_are_those_of_a_loop_over_queries(project):
    run_with_blocks(report.run, project)
    comparison = read_json(METRICS / "comparison.json")
    rows = dict(tables_of((METRICS / "report.md").read_text(encoding="utf-8")))["Differences"][1:]
    shown = {row[0]: row[1:] for row in rows}
    for second, first in (("lsro", "none"), ("slsr", "none"), ("slsr", "lsro")):
        for ranking in ("single_query", "multi_query"):
            pairs = zip(ranks_of(second, ranking), ranks_of(first, ranking), strict=True)
            expected = np.mean([(a[0] == 1) - (b[0] == 1) for a, b in pairs if a])
            found = comparison[f"{second}_minus_{first}"][ranking]["rank1"]
            assert found["difference"] == pytest.approx(expected)
            low, high = found["ci95"]
            assert low - 1e-9 <= found["difference"] <= high + 1e-9
            assert 0 < found["p"] <= 1
            cell = shown[f"{title_of(second)} - {title_of(first)}, {RANKINGS[ranking].lower()}"][0]
            assert float(cell.split(" ")[0]) == pytest.approx(100 * expected, abs=0.0501)
    assert len(rows) == 6


def test_differences_of_single_gallery_shot(project):
    """The stage pairs people whose queries stand in two directions."""
    features, labels = (
        np.random.default_rng(0).normal(size=(24, 4)),
        Labels(*[np.arange(24) // 2] * 2, *[np.arange(24) % 2] * 2),
    )
    expected = {}
    for number, run in enumerate(RUNS):
        moved = (
            features
            + np.random.default_rng(number + 1).normal(0, 0.3, (24, 4))
            + 2 * labels.query_identities[:, None] % 7
        )
        found = both_directions(moved, moved, labels)
        expected[run] = found.cmc(1)[0]
        write_json(EVALUATED / run / "metrics.json", {"single_gallery_shot": headline(found, resamples=100)})
        sides = [str(row) for row in range(24)], labels.query_identities, labels.query_cameras
        write_per_query(EVALUATED / run / "per_query.parquet", {"single_gallery_shot": found}, *sides)
        write_bytes(EVALUATED / run / "cmc.csv", b"rank,single_gallery_shot\n1,0.5\n2,0.75\n")
    write_json(FLOORS / "metrics.json", {"untrained": {"single_gallery_shot": headline(found, resamples=100)}})
    run_with_blocks(report.run, project)
    rows = dict(tables_of((METRICS / "report.md").read_text(encoding="utf-8")))["Differences"]
    assert rows[0] == ["this run only", "rank-1"]
    comparison = read_json(METRICS / "comparison.json")
    for row, pair in zip(rows[1:], ("lsro_minus_none", "slsr_minus_none", "slsr_minus_lsro"), strict=True):
        second, first = pair.split("_minus_")
        difference = comparison[pair]["single_gallery_shot"]["rank1"]
        assert difference["difference"] == pytest.approx(expected[second] - expected[first])
        assert difference["ci95"][0] <= difference["difference"] <= difference["ci95"][1]
        assert float(row[1].split(" ")[0]) == pytest.approx(100 * difference["difference"], abs=0.0501)


def test_what_git_keeps_is_what_the_stages_wrote(project):
    run_with_blocks(report.run, project)
    assert {path.name for path in METRICS.iterdir()} == {
        *(f"{name}.json" for name in (*RUNS, "dataset", "floors", "clusters", "generated", "comparison")),
        "cmc.png",
        "curves.png",
        "silhouettes.png",
        "report.md",
    }
    for run in RUNS:
        assert (METRICS / f"{run}.json").read_bytes() == (EVALUATED / run / "metrics.json").read_bytes()
    assert read_json(METRICS / "clusters.json") == CLUSTERS_VALUE
    for name in ("cmc", "curves", "silhouettes"):
        with Image.open(METRICS / f"{name}.png") as picture:
            picture.load()
    before = {path: path.read_bytes() for path in METRICS.iterdir()}
    run_with_blocks(report.run, project)
    assert {path: path.read_bytes() for path in METRICS.iterdir()} == before


def built(values, **changes):
    runs = {run: {"single_query": measured(ranks_of(run, "single_query"))} for run in RUNS}
    parts = {
        "dataset": FACTS_VALUE,
        "floors": {},
        "clusters": CLUSTERS_VALUE,
        "generated": QUALITY_VALUE,
        "runs": runs,
        "comparison": {},
    }
    params = validate_params(values, "params.yaml")
    return render(
        Report(
            parameters=ReportParameters(params.dataset, params.image, params.encoder, params.train, params.generate),
            **copy.deepcopy(parts | changes),
        )
    )


def test_clusters_and_silhouettes_are_percentages(values):
    text = built(values)
    rows = dict(tables_of(text))["Clusters"][1:]
    assert rows == [["1", "-", "-"], ["2", "51.75 %", "-25.00 %"], ["3 (used)", "70.03 %", "50.00 %"]]
    assert "5,000 images of 12 identities, 30 images of 7 identities, 2 images of 2 identities." in text
    assert "4 of 13 identities have images in several clusters; purity 0.988." in text
    assert "drawn at random" not in text
    sampled = built(values, clusters=CLUSTERS_VALUE | {"silhouette_images": 1000})
    assert "Silhouettes are computed from 1,000 images drawn at random." in sampled


@pytest.mark.parametrize(
    ("block", "key", "other"),
    [
        (None, None, None),
        ("dataset", "name", "dukemtmc"),
        ("encoder", "backbone", "densenet121"),
        ("encoder", "weights", "none"),
        ("image", "height", 192),
        ("make_up", "training_identities", 750),
    ],
)
def test_table_1_of_the_paper_is_shown_only_for_silhouettes_of_its_data_and_network(values, block, key, other):
    make_up = CLUSTERS_VALUE["make_up"] | {"training_identities": 751}
    values["encoder"] |= {"backbone": "resnet50", "weights": "imagenet"}
    values["image"] |= {"height": 224, "resize_height": 256}
    if block is not None:
        (make_up if block == "make_up" else values[block])[key] = other
    text = built(values, clusters=CLUSTERS_VALUE | {"make_up": make_up})
    (header, *rows) = dict(tables_of(text))["Clusters"]
    if block is None:
        assert header[3] == "published, two principal components (Table 1)"
        assert [row[3] for row in rows] == ["-", "51.75 %", "70.03 %"]
    else:
        assert len(header) == 3
    assert ("is not a target" in text) == (block is None)


def test_measures_of_generated_images_are_shown_with_their_references(values):
    text = built(values)
    rows = {row[0]: row[1:] for row in dict(tables_of(text))["Generated images"]}
    assert rows[""] == ["ImageNet space", "handcrafted space", "encoder space"]
    assert rows["KID (kernel distance)"] == ["0.900 [-0.001]", "2.640 [-0.003]", "4.400 [-0.004]"]
    assert rows["coverage"] == ["0.500 [0.980]", "0.125 [0.970]", "-"]
    assert rows["density"] == ["-", "1.500", "-"]
    assert "recall" not in rows
    overall = QUALITY_VALUE["overall"]
    encoder = overall["encoder"] | {"frechet_of_encoder_features": measure(0.25, 0.0625)}
    large = dict(tables_of(built(values, generated=QUALITY_VALUE | {"overall": overall | {"encoder": encoder}})))
    assert [row[1:] for row in large["Generated images"] if "Frechet" in row[0]] == [["-", "-", "0.250 [0.062]"]]
    assert "1,200 generated images are compared with 394 real images" in text
    assert "55.0 % of the generated images" in text
    assert "45.7 % (real images: 98.8 %; chance: 33.3 %) is on the identities of its cluster" in text
    assert "65.4 % (real images: 87.6 %; chance: 4.6 %) on the identities of its nearest training images" in text
    assert "There is no alarm." in text


def test_the_verdict_on_generated_images_is_one_sentence_beside_their_sheet(values):
    text = built(values)
    (line,) = [line for line in text.splitlines() if "generated images are compared with" in line]
    assert "**They are recognizable, but poorer than real images: people can be seen" in line
    assert line.endswith("By cluster: 2 not usable.")
    assert "artifacts/generated/sheet.png" in text
    assert "EfficientNet-Lite1" not in text
    overall = QUALITY_VALUE["overall"]
    seen = overall | {"verdict": "not usable", "imagenet_lite1": {"kernel": measure(2.5, 0.001)}}
    text = built(values, generated=QUALITY_VALUE | {"discriminator_saw": "imagenet", "overall": seen})
    rows = {row[0]: row[1:] for row in dict(tables_of(text))["Generated images"]}
    assert rows["KID (kernel distance)"][:2] == ["0.900 [-0.001]", "2.500 [0.001]"]
    assert "**They are not usable: " in text
    assert "The discriminator saw features of the network" in text
    assert "EfficientNet-Lite1, measures the same images" in text


def test_alarms_are_gathered_by_kind(values):
    alarms = [
        alarm("collapse", None, 0.25),
        *(alarm("collapse", c, 0.1 * c) for c in range(9)),
        alarm("copying", 2, 0.9),
        *(alarm("unlike", c, 0.6, "kernel", limit=0.3 - 0.1 * c) for c in range(2)),
    ]
    text = built(values, generated=QUALITY_VALUE | {"alarms": alarms})
    assert "no alarm" not in text
    lines = [line for line in text.splitlines() if line.startswith("- **")]
    assert len(lines) == 3
    assert "coverage beyond 0.5 in all clusters together (0.250), cluster 0 (0.000), cluster 1 (0.100)" in lines[0]
    assert lines[0].endswith("and 2 more")
    assert lines[1].startswith("- **copying**")
    assert "cluster 2 (0.900)" in lines[1]
    assert "kernel beyond 0.2 to 0.3 in cluster 0 (0.600), cluster 1 (0.600)" in lines[2], "each has its own limit"


def test_a_difference_is_shown_as_that_of_one_run(values):
    def found(difference, p):
        return {"difference": difference, "ci95": [difference - 0.1, difference + 0.1], "p": p}

    both = {"rank1": found(0.015, 0.0304), "map_trapezoid": found(-0.2, 0.0002)}
    text = built(values, comparison={"slsr_minus_none": {"single_query": both}})
    rows = dict(tables_of(text))["Differences"][1:]
    title = "SLSR - baseline (none), single query"
    assert "This is one run, and nothing here is a finding" in text
    assert "significant" not in text
    assert "p = " not in text
    assert dict(tables_of(text))["Differences"][0] == ["this run only", "rank-1", "mAP (trapezoid)"]
    assert rows == [[title, "+1.5 [-8.5, +11.5]", "-20.0 [-30.0, -10.0]"]]


def test_one_person_has_no_interval_and_no_p(values):
    one = measured_of_one_person()
    found = {key: {"difference": 0.25, "ci95": None, "p": None} for key in ("rank1", "map_trapezoid")}
    runs = {run: {"single_query": one} for run in RUNS}
    text = built(values, runs=runs, comparison={"slsr_minus_none": {"single_query": found}})
    tables = dict(tables_of(text))
    assert tables["Differences"][1][1] == "+25.0 (one person: no interval)"
    assert tables["Single query"][-1][1] == f"{100 * one['rank1']:.1f} (one person: no interval)"


def measured_of_one_person():
    ranks = np.array([1, 3, 1], np.int32)
    return headline(Evaluation(np.arange(4), ranks, GALLERY, np.array([4, 4, 4])), resamples=100)


def test_single_gallery_shot_has_differences(values):
    ranks = (1, 5, 10, 20)
    one = {"queries": 100, "people": 50, "gallery": 100} | {f"rank{k}": k / 20 for k in ranks}
    one |= {f"rank{k}_ci95": [0.0, 1.0] for k in ranks}
    runs = {run: {"single_gallery_shot": one} for run in RUNS}
    pair = {f"rank{k}": {"difference": 0.02, "ci95": [0.01, 0.03], "p": 0.001} for k in ranks}
    comparison = {"slsr_minus_none": {"single_gallery_shot": pair}}
    text = built(values, runs=runs, floors={"untrained": {"single_gallery_shot": one}}, comparison=comparison)
    heading, rows = tables_of(text)[0]
    assert heading == RANKINGS["single_gallery_shot"]
    assert rows[0] == ["", "rank-1", "rank-5", "rank-10"]
    assert [row[0] for row in rows[1:]] == [title_of(name) for name in ("untrained", *RUNS)]
    header, row = dict(tables_of(text))["Differences"]
    assert header == ["this run only", "rank-1"]
    assert row[1] == "+2.0 [+1.0, +3.0]"


def test_a_table_is_markdown():
    assert table(["", "a"], [["x", "1"], ["y", "2"]]) == "|     |   a |\n| --- | --: |\n| x   |   1 |\n| y   |   2 |"
