"""What is kept on disk between two starts, and when it is not believed."""

import numpy as np
import pytest
from explored import QUERY_LABELS, use_tiny_backbone, write_table

from slsr.embedding import load_encoder
from slsr.errors import InputError
from slsr.explore.exhibit import Sources, find_query, model_names, open_exhibit
from slsr.explore.features import cached_features, cached_measures, cached_neighbours
from slsr.explore.gallery import ImageTable
from slsr.retrieval import Labels, evaluate


@pytest.fixture
def encoder(place, monkeypatch):
    use_tiny_backbone(monkeypatch)
    return load_encoder(place.sources.models[0], "cpu")


@pytest.fixture
def table(tmp_path):
    return ImageTable(write_table(tmp_path / "query.parquet", QUERY_LABELS))


def only_file(folder):
    (path,) = folder.iterdir()
    return path


def test_features_are_those_of_embed_and_read_the_second_time(encoder, table, tmp_path, monkeypatch):
    first = cached_features(tmp_path / "cache", encoder, table, "m")
    np.testing.assert_allclose(first, encoder.embed(list(table.iterate())), atol=1e-6)
    monkeypatch.setattr(type(encoder), "stream", None)  # nothing may be computed but the first few
    monkeypatch.setattr(type(encoder), "embed", lambda self, images: first[: len(list(images))])
    assert cached_features(tmp_path / "cache", encoder, table, "m").tobytes() == first.tobytes()


def test_another_model_or_table_has_features_of_its_own(place, encoder, table, tmp_path):
    cache = tmp_path / "cache"
    one = cached_features(cache, encoder, table, "m")
    other = cached_features(cache, load_encoder(place.sources.models[1], "cpu"), table, "n")
    assert not np.allclose(one, other)
    shuffled = ImageTable(write_table(tmp_path / "other.parquet", QUERY_LABELS[::-1]))
    cached_features(cache, encoder, shuffled, "m")
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["code", "cut", "pickle", "shape"])
def test_what_the_cache_holds_is_not_believed_blindly(encoder, table, tmp_path, damage):
    cache = tmp_path / "cache"
    right = cached_features(cache, encoder, table, "m")
    path = only_file(cache)
    if damage == "code":
        np.save(path, np.roll(right, 1, axis=1))  # as if another version of the code had embedded them
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "pickle":
        np.save(path, np.array([{"evil": 1}], dtype=object), allow_pickle=True)
    else:
        np.save(path, right[:-1])
    assert cached_features(cache, encoder, table, "m").tobytes() == right.tobytes()
    assert np.load(only_file(cache)).tobytes() == right.tobytes()


def test_an_image_that_does_not_decode_is_named_and_nothing_is_kept(encoder, tmp_path):
    path = write_table(tmp_path / "t.parquet", QUERY_LABELS, more=lambda row: {"image": b"x"} if row == 6 else {})
    with pytest.raises(InputError, match=r"0004_c1_6\.png: not an image"):
        cached_features(tmp_path / "cache", encoder, ImageTable(path), "m")
    assert not (tmp_path / "cache").exists()


def test_neighbours_and_measures_are_kept_too(exhibit, place, tmp_path):
    model, said = exhibit.models[0], []
    sides = (model.query_features, model.gallery_features)
    tables = [cached_neighbours(tmp_path, *sides, said.append) for _ in range(2)]
    assert said == ["comparing 80 images with one another for re-ranking"]
    for part in ("nearest", "distances", "furthest"):
        assert getattr(tables[0], part).tobytes() == getattr(tables[1], part).tobytes()
    for path in tmp_path.glob("*-nearest.npy"):
        np.save(path, np.load(path) + 1000)
    again = cached_neighbours(tmp_path, *sides, said.append)
    assert again.nearest.tolist() == tables[0].nearest.tolist()
    query, gallery = exhibit.table("q"), exhibit.table("g")
    labels = Labels(query.identities, gallery.identities, query.cameras, gallery.cameras)
    measures = [cached_measures(tmp_path, *sides, labels, said.append) for _ in range(2)]
    found = evaluate(*sides, labels)
    assert measures[0].tolist() == measures[1].tolist()
    assert measures[0][:, 0].tolist() == found.first_rank.tolist()
    assert measures[0][:, 1].tolist() == found.average_precision_trapezoid.tolist()
    assert exhibit.models[0].headline == pytest.approx(
        ((found.first_rank == 1).mean(), found.average_precision_trapezoid.mean())
    )


def test_queries_that_nobody_in_the_gallery_matches_have_no_measures(exhibit, tmp_path):
    model = exhibit.models[0]
    count = len(model.gallery_features)
    labels = Labels(np.full(8, 7), np.arange(count) + 100, np.ones(8, int), np.full(count, 2))
    assert cached_measures(tmp_path, model.query_features, model.gallery_features, labels, print) is None


def test_keys_of_queries(exhibit):
    assert find_query(exhibit, "q3").identity == QUERY_LABELS[3][0]
    assert (find_query(exhibit, "t3").identity, find_query(exhibit, "x3").identity) == (None, None)
    for key in ("", "q", "q8", "q-1", "q 1", "qq", "z1", "u", "unothing"):
        assert find_query(exhibit, key) is None
    for key in ("g5", "t5", "x5"):
        query = find_query(exhibit, key)
        for model in exhibit.models:
            embedded = model.encoder.embed([exhibit.table(key[0]).encoded(5)])[0]
            np.testing.assert_allclose(query.features(model), embedded, atol=1e-6)


def test_models_get_short_names_of_their_own(tmp_path):
    files = ["a/slsr/model.safetensors", "b/slsr/model.safetensors", "b/best.safetensors"]
    assert model_names([tmp_path / file for file in files]) == ["slsr (1)", "slsr (2)", "best"]


def test_clusters_of_other_images_are_refused(place, tmp_path):
    sources = Sources(train=place.sources.query, clusters=place.sources.clusters)
    with pytest.raises(InputError, match="its 72 images are not the 8 of"):
        open_exhibit(sources, tmp_path, "cpu", print)


def test_clusters_and_generated_images_can_be_shown_without_a_model(place, tmp_path):
    from slsr.explore.app import create_app

    sources = Sources(train=place.sources.train, clusters=place.sources.clusters, generated=place.sources.generated)
    client = create_app(open_exhibit(sources, tmp_path, "cpu", print)).test_client()
    assert client.get("/").headers["Location"] == "/clusters"
    assert client.get("/clusters").status_code == client.get("/generated").status_code == 200
    assert client.get("/about").status_code == 200
    assert "/search" not in client.get("/clusters").text
    for address in ("/pick/q", "/pick/g", "/search?query=t1"):
        assert client.get(address).status_code == 404


def test_a_gallery_without_labels_is_ranked_without_marks(place, tmp_path, monkeypatch):
    import pyarrow.parquet as pq

    from slsr.explore.app import create_app

    use_tiny_backbone(monkeypatch)
    table = pq.read_table(place.sources.gallery).drop_columns(["identity", "camera"])
    pq.write_table(table, tmp_path / "bare.parquet")
    sources = Sources(models=place.sources.models[:1], gallery=tmp_path / "bare.parquet")
    client = create_app(open_exhibit(sources, tmp_path / "cache", "cpu", print)).test_client()
    assert client.get("/").headers["Location"] == "/pick/g"
    page = client.get("/search?query=g4&depth=100").text
    assert page.count('<li class="card ">') == 2 * 71
    assert "verdict" not in page


def test_nothing_to_show_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="nothing to show: no model"):
        open_exhibit(Sources(), tmp_path, "cpu", print)
    with pytest.raises(InputError, match="no gallery to search in"):
        open_exhibit(Sources(models=[tmp_path]), tmp_path, "cpu", print)
