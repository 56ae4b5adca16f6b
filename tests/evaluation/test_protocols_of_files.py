"""The protocol of the data goes with the features, and `slsr score` follows it; files of other tools."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from builders import market_files, params, picture, viper_files, write_zip
from naive import naive_directions, naive_gallery_shot, naive_measures, naive_ranks, squared_distances
from trained import write_model
from typer.testing import CliRunner

from slsr.cli.main import app
from slsr.datasets.collection import CAMERAS_UNKNOWN
from slsr.embedding.encoder import load_encoder
from slsr.embedding.protocol import read_protocol
from slsr.errors import InputError
from slsr.evaluation.per_query import read_queries
from slsr.evaluation.scoring import LABELS, score
from slsr.evaluation.transfer import read_evaluation_set, transfer
from slsr.params.file import run_with_blocks
from slsr.retrieval import Labels
from slsr.stages import prepare

RANKS = (1, 5, 10, 20)


def two_cameras(people=5, images=2, seed=0):
    """Features, identities and cameras of people whom two cameras saw, several times each."""
    random = np.random.default_rng(seed)
    identities, cameras = np.repeat(np.arange(1, people + 1), 2 * images), np.tile(np.repeat([1, 2], images), people)
    centers = random.standard_normal((people + 1, 6))
    return centers[identities] + random.standard_normal((len(identities), 6)), identities, cameras


FEATURES, IDENTITIES, CAMERAS = two_cameras()
EVERY = np.arange(len(FEATURES))
FIRST, SECOND = np.flatnonzero(CAMERAS == 1), np.flatnonzero(CAMERAS == 2)
SYMMETRIC = np.sqrt(squared_distances(FEATURES))


def labels_of(query, gallery):
    return Labels(IDENTITIES[query], IDENTITIES[gallery], CAMERAS[query], CAMERAS[gallery])


def arrays(query, gallery, kind, **others):
    """A file of features, or of their distances, of some images as queries and others as the gallery."""
    named = {name: getattr(labels_of(query, gallery), name) for name in LABELS}
    if kind == "distances":
        return named | {"distances": SYMMETRIC[np.ix_(query, gallery)]} | others
    return named | {"query_features": FEATURES[query], "gallery_features": FEATURES[gallery]} | others


@pytest.fixture
def write(tmp_path):
    def of(*sides, kind="features", **others):
        path = tmp_path / "f.npz"
        np.savez(path, **arrays(*sides, kind, **others))
        return path

    return of


def run(*arguments):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("kind", ["features", "distances"])
@pytest.mark.parametrize("sides", [(EVERY, EVERY), (FIRST, SECOND)], ids=["one set", "a camera each"])
def test_both_directions_are_the_mean_over_every_gallery(write, tmp_path, kind, sides):
    """With a camera each, the second direction is the transpose."""
    path, target = write(*sides, kind=kind, protocol="single-gallery-shot"), tmp_path / "out.json"
    text = run("score", path, "--json", target)
    expected = naive_directions(SYMMETRIC, labels_of(EVERY, EVERY), 20)
    found = json.loads(target.read_text())
    for rank in RANKS:
        assert found[f"rank{rank}"] == pytest.approx(expected[rank - 1], abs=1e-12)
        low, high = found[f"rank{rank}_ci95"]
        assert low - 1e-9 <= found[f"rank{rank}"] <= high + 1e-9
    assert 0.2 < found["rank1"] < 1
    assert (found["protocol"], found["directions"], found["queries"]) == ("single-gallery-shot", "both", 20)
    assert text.startswith("single-gallery-shot, both directions: 20 queries")
    assert f"{100 * expected[0]:.2f}" in text
    assert not [key for key in found if "map" in key or "minp" in key]
    assert "map" not in text


@pytest.mark.parametrize("kind", ["features", "distances"])
def test_one_direction_is_the_mean_over_every_gallery(write, kind):
    path = write(FIRST, SECOND, kind=kind)
    found = score(path, protocol="single-gallery-shot", directions="one").evaluations["single_gallery_shot"]
    expected = naive_gallery_shot(SYMMETRIC[np.ix_(FIRST, SECOND)], labels_of(FIRST, SECOND), 20)
    np.testing.assert_allclose(found.matched, expected, atol=1e-12)
    means = found.query_values().means()
    assert means["rank1"] == pytest.approx(np.mean(expected, axis=0)[0])


def test_distances_are_ranked_like_features(write):
    """Cross-camera, with every measure from loops."""
    path = write(FIRST, EVERY, kind="distances")
    found = score(path)
    assert found.protocol.evaluation.protocol == "cross-camera"
    ranks = naive_ranks(SYMMETRIC[np.ix_(FIRST, EVERY)], labels_of(FIRST, EVERY))
    expected = np.mean([naive_measures(one) for one in ranks], axis=0)
    means = found.evaluations["single_query"].query_values().means()
    for key, value in zip(("rank1", "map_trapezoid", "map_standard", "minp"), expected, strict=True):
        assert means[key] == pytest.approx(value, abs=1e-12)
    whole = score(write(FIRST, EVERY, kind="distances", protocol="cross-camera"))
    assert whole.evaluations["single_query"].ranks.tolist() == found.evaluations["single_query"].ranks.tolist()


def test_the_table_of_queries_has_both_directions(write, tmp_path):
    target = tmp_path / "q.parquet"
    path = write(FIRST, SECOND, kind="distances")
    run("score", path, "--protocol", "single-gallery-shot", "--per-query", target)
    rows = pq.read_table(target).to_pylist()
    turned = labels_of(SECOND, FIRST)
    expected = [
        *naive_gallery_shot(SYMMETRIC[np.ix_(FIRST, SECOND)], labels_of(FIRST, SECOND), 20),
        *naive_gallery_shot(SYMMETRIC[np.ix_(SECOND, FIRST)], turned, 20),
    ]
    assert [row["name"] for row in rows] == [*map(str, range(10)), *(f"gallery {row}" for row in range(10))]
    assert [row["direction"] for row in rows] == [0] * 10 + [1] * 10
    assert [row["identity"] for row in rows] == [*IDENTITIES[FIRST], *IDENTITIES[SECOND]]
    assert [row["camera"] for row in rows] == [1] * 10 + [2] * 10
    for rank in RANKS:
        np.testing.assert_allclose([row[f"rank{rank}"] for row in rows], [one[rank - 1] for one in expected])
    means = read_queries(target)["single_gallery_shot"].means()
    assert means["rank1"] == pytest.approx(naive_directions(SYMMETRIC, labels_of(EVERY, EVERY), 20)[0])


@pytest.mark.parametrize(
    ("others", "options", "message"),
    [
        ({"protocol": "single-gallery-shot"}, {"protocol": "cross-camera"}, "protocol is single-gallery-shot in the f"),
        ({"protocol": "cross-camera"}, {"protocol": "single-gallery-shot"}, "but --protocol is single-gallery-shot;"),
        ({"protocol": "single-gallery-shot", "directions": "one"}, {"directions": "both"}, "directions is one in the"),
        ({}, {"directions": "both"}, "--directions both: cross-camera has one direction"),
        ({"protocol": "market"}, {}, "array protocol must be one text, cross-camera or single-gallery-shot"),
        ({"protocol": ["cross-camera"]}, {}, "array protocol must be one text"),
        ({"protocol": "single-gallery-shot", "directions": "up"}, {}, "array directions must be one text, one or both"),
        ({"protocol": "cross-camera", "cameras": "two"}, {}, "array cameras must be one text, known or unknown"),
        ({"protocol": "cross-camera", "split": "two"}, {}, "array split must be one whole number"),
        ({"protocol": "single-gallery-shot"}, {"rerank": True}, "--rerank: single-gallery-shot is evaluated without"),
    ],
)
def test_what_contradicts_the_file_is_refused(write, others, options, message):
    path = write(EVERY, EVERY, **others)
    with pytest.raises(InputError) as caught:
        score(path, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_agree_with_the_file_are_taken(write):
    path = write(EVERY, EVERY, protocol="single-gallery-shot", directions="one")
    agreeing = score(path, protocol="single-gallery-shot", directions="one")
    plain = score(path)
    assert agreeing.protocol == plain.protocol
    np.testing.assert_array_equal(*(one.evaluations["single_gallery_shot"].matched for one in (agreeing, plain)))


@pytest.mark.parametrize(
    ("others", "options", "message"),
    [
        ({}, {"rerank": True}, "re-ranking also needs the distances within the queries"),
        ({}, {"normalize": False}, "--no-normalize: no effect on distances"),
        ({"gallery_features": FEATURES}, {}, "holds distances and gallery_features"),
        ({"distances": SYMMETRIC[:, :-1]}, {}, "19 gallery images but 20 gallery identities"),
        ({"distances": SYMMETRIC[0]}, {}, "distances have shape [20]"),
        ({"distances": SYMMETRIC * 1j}, {}, "distances is of type complex128"),
        ({"distances": SYMMETRIC + np.where(EVERY == 3, np.nan, 0)}, {}, "contain NaN or infinity"),
        ({"distances": SYMMETRIC[:, :-1], "protocol": "single-gallery-shot"}, {}, "19 gallery images but 20"),
        ({"distances": SYMMETRIC * np.nan, "protocol": "single-gallery-shot"}, {}, "contain NaN or infinity"),
    ],
)
def test_distances_that_cannot_be_scored_are_refused(write, others, options, message):
    path = write(EVERY, EVERY, kind="distances", **others)
    with pytest.raises(InputError) as caught:
        score(path, **options)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_second_direction_needs_exactly_one_other_camera(write):
    cameras = CAMERAS[SECOND].copy()
    cameras[:4] = 3
    with pytest.raises(InputError, match=r"all queries are from camera 1; .* the gallery has 2 others"):
        score(write(FIRST, SECOND, gallery_cameras=cameras), protocol="single-gallery-shot")


def test_data_that_looks_like_single_gallery_shot_is_pointed_out(write, caplog):
    score(write(EVERY, EVERY))
    assert "give --protocol single-gallery-shot" in caplog.text
    caplog.clear()
    score(write(EVERY, EVERY), protocol="cross-camera")
    score(write(FIRST, SECOND))
    assert not caplog.text


@pytest.fixture
def project(tmp_path, monkeypatch, tiny_backbone):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model.safetensors")
    return tmp_path


def prepared(name, files, **others):
    write_zip(prepare.DATA / f"{name}.zip", files)
    chosen = {"name": name, "archive": f"{name}.zip", "validation": "none", **others}
    run_with_blocks(prepare.run, params(chosen))


TABLES = ("artifacts/prepared/gallery.parquet", "--query", "artifacts/prepared/query.parquet")


def test_embed_and_score_evaluate_viper_as_the_pages_say(project):
    """The pages' two commands give the CMC of VIPeR's protocol, in both directions, and no mAP."""
    prepared("viper", viper_files(8), split=3)
    run("embed", "model.safetensors", *TABLES, "-o", "f.npz")
    text = run("score", "f.npz", "--json", "out.json")
    assert text.startswith("single-gallery-shot, both directions (viper split 3): 8 queries")
    found = json.loads((project / "out.json").read_text())
    assert (found["dataset"], found["split"]) == ("viper", 3)
    with np.load("f.npz") as file:
        labels = Labels(*(file[name] for name in LABELS))
        np.testing.assert_array_equal(file["query_features"], file["gallery_features"])
        expected = naive_directions(squared_distances(file["query_features"]), labels, 20)
    assert [found[f"rank{rank}"] for rank in RANKS] == pytest.approx([expected[rank - 1] for rank in RANKS])
    measured = transfer(load_encoder("model.safetensors"), read_evaluation_set(project / "artifacts/prepared"))
    for rank in RANKS:
        assert measured.metrics["single_gallery_shot"][f"rank{rank}"] == pytest.approx(found[f"rank{rank}"])


def test_a_file_of_market_says_so(project):
    prepared("market1501", market_files())
    run("embed", "model.safetensors", *TABLES, "-o", "f.npz")
    assert str(read_protocol(project / "f.npz")) == "cross-camera (market1501)"
    with pytest.raises(InputError, match="protocol is cross-camera in the file"):
        score(project / "f.npz", protocol="single-gallery-shot")


def test_tables_of_two_splits_are_not_embedded_together(project):
    prepared("viper", viper_files(8), split=3)
    (project / "artifacts/prepared").rename(project / "other")
    prepared("viper", viper_files(8), split=4)
    arguments = ["embed", "model.safetensors", TABLES[0], "--query", "other/query.parquet", "-o", "f.npz"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, InputError)
    assert "viper split 4" in str(result.exception) and "viper split 3" in str(result.exception)
    assert not (project / "f.npz").exists()


def test_tables_without_facts_are_embedded_with_a_warning(project):
    prepared("viper", viper_files(8), split=3)
    (project / "artifacts/prepared/facts.json").unlink()
    result = CliRunner().invoke(app, ["embed", "model.safetensors", *TABLES, "-o", "f.npz"])
    assert result.exit_code == 0
    assert "no facts.json beside the tables" in result.stderr
    assert read_protocol(project / "f.npz") is None


def test_a_file_whose_cameras_are_unknown_says_so(project):
    """`prepare` accepted it; `score` needs no option, and marks text and JSON. Without the word, it refuses."""
    places = [f"train/{who}/a" for who in (1, 2)] + [f"query/{who}/q" for who in (3, 4)]
    places += [f"gallery/{who}/{number}" for who in (3, 4, 5) for number in range(2)]
    prepared("folder", {f"{place}.jpg": picture(number) for number, place in enumerate(places)}, cameras="unknown")
    text = run("embed", "model.safetensors", *TABLES, "-o", "f.npz")
    assert "the cameras of 8 images are unknown (-1); `slsr score` marks the numbers" in text
    assert str(read_protocol(project / "f.npz")) == "cross-camera, cameras unknown (folder)"
    text = run("score", "f.npz", "--json", "out.json")
    assert text.startswith("cross-camera, cameras unknown (folder): 2 queries")
    assert " ".join(text.split()).endswith(CAMERAS_UNKNOWN)
    assert json.loads((project / "out.json").read_text())["cameras"] == "unknown"
    assert run("score", "f.npz", "--cameras", "unknown") == text
    with np.load("f.npz") as file:
        np.savez("g.npz", **{name: file[name] for name in file.files if name != "cameras"})
    with pytest.raises(InputError, match=r"g.npz: unknown cameras \(-1\).*--cameras unknown"):
        score(project / "g.npz")


def test_unknown_cameras_have_no_directions(write):
    path = write(FIRST, SECOND, query_cameras=np.full(10, -1), protocol="single-gallery-shot", cameras="unknown")
    with pytest.raises(InputError, match="both directions are those between two cameras; give --directions one"):
        score(path)


def test_cameras_of_a_file_without_protocol_are_another_array(write):
    assert score(write(FIRST, SECOND, cameras=CAMERAS)).protocol.evaluation.cameras == "known"


def test_the_variant_of_published_halves(project):
    """`split_file` goes from params.yaml to the tables, and its splits are not limited to ten."""
    (project / "splits").mkdir()
    half = [7, 2, 8, 5]
    (project / "splits/halves.txt").write_text("".join(f"{' '.join([str(row)] * 12)}\n" for row in half))
    prepared("viper", viper_files(8), split=12, split_file="halves.txt")
    tested = set(pq.read_table("artifacts/prepared/query.parquet")["identity"].to_pylist())
    assert tested == set(half)
    facts = json.loads((project / "artifacts/prepared/facts.json").read_text())
    assert facts["split"] == 12
    assert facts["notes"] == ["the halves are those of split 12 in halves.txt"]
