"""What is kept on disk between two starts, and when it is not believed."""

from pathlib import Path

import numpy as np
import pytest
from explored import GALLERY_LABELS, QUERY_LABELS, use_tiny_backbone, write_table

from slsr.embedding.encoder import load_encoder
from slsr.errors import InputError
from slsr.explore.cache import cached_features, cached_measures, cached_neighbors, unreadable_rows
from slsr.explore.exhibit import Sources, find_query, model_names, open_exhibit
from slsr.explore.image_table import ImageTable
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


def broken(path, labels, *rows):
    return write_table(path, labels, more=lambda row: {"image": b"x"} if row in rows else {})


def test_strictly_an_image_that_does_not_decode_is_named_and_nothing_is_kept(encoder, tmp_path):
    table = ImageTable(broken(tmp_path / "t.parquet", QUERY_LABELS, 6))
    with pytest.raises(InputError, match=r"0004_c1_6\.png: not an image"):
        cached_features(tmp_path / "cache", encoder, table, "m", strict=True)
    assert not (tmp_path / "cache").exists()


def test_images_that_do_not_decode_have_no_feature_the_second_time_neither(encoder, tmp_path, monkeypatch):
    table, cache = ImageTable(broken(tmp_path / "t.parquet", QUERY_LABELS, 0, 6)), tmp_path / "cache"
    first = cached_features(cache, encoder, table, "m")
    assert unreadable_rows(first).tolist() == [0, 6]
    readable = [row for row in range(8) if row not in (0, 6)]
    expected = encoder.embed([table.encoded(row) for row in readable])
    np.testing.assert_allclose(first[readable], expected, atol=1e-6)
    computed = []
    stream = type(encoder).stream

    def counted(*arguments, **options):
        if options.get("unreadable"):  # the whole table, not the first few images
            computed.append(1)
        return stream(*arguments, **options)

    monkeypatch.setattr(type(encoder), "stream", counted)
    assert cached_features(cache, encoder, table, "m").tobytes() == first.tobytes()
    with pytest.raises(InputError, match=r"0001_c1_0\.png: not an image"):
        cached_features(cache, encoder, table, "m", strict=True)
    assert computed == []
    first[6] = first[4] = -np.inf  # as if a version of the code that could not read it had written the cache
    np.save(only_file(cache), first)
    assert unreadable_rows(cached_features(cache, encoder, table, "m")).tolist() == [0, 6]
    assert computed == [1]


def test_a_network_that_gives_no_numbers_is_not_taken_for_unreadable_images():
    assert unreadable_rows(np.array([[np.nan, 1], [np.inf, 0], [0, 0], [-np.inf, -np.inf]], np.float32)).tolist() == [3]


def test_a_gallery_goes_without_the_images_that_do_not_decode(place, tmp_path, monkeypatch):
    from slsr.explore.app import create_app

    use_tiny_backbone(monkeypatch)
    rows, said = (2, 17, 71), []
    gallery, query = broken(tmp_path / "g.parquet", GALLERY_LABELS, *rows), place.sources.query
    sources = Sources(models=place.sources.models, gallery=gallery, query=query)
    shown = open_exhibit(sources, tmp_path / "cache", "cpu", said.append)
    table, whole = shown.table("g"), ImageTable(gallery)
    kept = [row for row in range(72) if row not in rows]
    assert said[0].startswith(
        f"{gallery}: left out 3 of 72 images, which cannot be read; the first: 0001_c1_2.png: not"
    )
    assert (len(table), table.names) == (69, [whole.names[row] for row in kept])
    assert table.identities.tolist() == whole.identities[kept].tolist()
    assert [table.encoded(row) for row in range(69)] == list(table.iterate()) == [whole.encoded(row) for row in kept]
    assert table.fingerprint != whole.fingerprint  # pictures of other rows are under these addresses
    for model in shown.models:
        np.testing.assert_allclose(model.gallery_features, model.encoder.embed(table.iterate()), atol=1e-6)
    client = create_app(shown).test_client()
    assert "3 more cannot be read and are left out" in client.get("/about").text
    for row in range(69):
        assert client.get(f"/image/g/{row}.jpg").status_code == 200
    assert client.get("/search?query=q1&depth=200").status_code == 200
    with pytest.raises(InputError, match=r"0001_c1_2\.png: not an image"):
        open_exhibit(sources, tmp_path / "cache", "cpu", said.append, strict=True)


def test_a_gallery_of_which_nothing_decodes_is_refused(place, tmp_path, monkeypatch):
    use_tiny_backbone(monkeypatch)
    gallery = broken(tmp_path / "g.parquet", QUERY_LABELS, *range(8))
    with pytest.raises(InputError, match=r"g\.parquet: none of its 8 images can be read; the first: 0001_c1_0\.png"):
        open_exhibit(Sources(models=place.sources.models, gallery=gallery), tmp_path / "cache", "cpu", print)


def test_generated_images_are_left_out_with_their_labels(place):
    whole = ImageTable(place.sources.generated)
    rest = whole.without(np.array([0, 49])).without(np.array([0]))
    kept = [row for row in range(70) if row not in (0, 1, 49)]
    assert (len(rest), rest.left_out) == (67, 3)
    assert rest.clusters.tolist() == whole.clusters[kept].tolist()
    assert [rest.sparse_label(row) for row in range(67)] == [whole.sparse_label(row) for row in kept]
    assert list(rest.iterate()) == [whole.encoded(row) for row in kept]


def test_neighbors_and_measures_are_kept_too(exhibit, place, tmp_path):
    model, said = exhibit.models[0], []
    sides = (model.query_features, model.gallery_features)
    tables = [cached_neighbors(tmp_path, *sides, said.append) for _ in range(2)]
    assert said == ["comparing 80 images with one another for re-ranking"]
    for part in ("nearest", "distances", "furthest"):
        assert getattr(tables[0], part).tobytes() == getattr(tables[1], part).tobytes()
    for path in tmp_path.glob("*-nearest.npy"):
        np.save(path, np.load(path) + 1000)
    again = cached_neighbors(tmp_path, *sides, said.append)
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
    assert model_names([tmp_path / file for file in files]) == ["SLSR (1)", "SLSR (2)", "best"]


def test_a_model_that_links_to_the_cache_of_dvc_keeps_its_name(tmp_path, monkeypatch):
    stored, link = tmp_path / "cache/files/md5/3f/86a1", tmp_path / "train/slsr/model.safetensors"
    for file in (stored, link):
        file.parent.mkdir(parents=True)
    stored.write_bytes(b"weights")
    link.symlink_to(stored)
    assert model_names([link]) == ["SLSR"]
    monkeypatch.chdir(link.parent)
    assert model_names([Path("model.safetensors")]) == ["SLSR"]


def test_clusters_of_other_images_are_refused(place, tmp_path):
    sources = Sources(train=place.sources.query, clusters=place.sources.clusters)
    with pytest.raises(InputError, match="its 72 images are not the 8 images of"):
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
    assert page.count('<li class="card "') == 2 * 71
    assert "verdict" not in page


def test_nothing_to_show_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="nothing to show: no model"):
        open_exhibit(Sources(), tmp_path, "cpu", print)
    with pytest.raises(InputError, match="no gallery to search in"):
        open_exhibit(Sources(models=[tmp_path]), tmp_path, "cpu", print)
