"""The page as a client without a browser sees it: what is on it, and what hostile requests get."""

import html
import io
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from builders import enormous_png
from explored import GALLERY_LABELS, QUERY_LABELS, person
from PIL import Image

from slsr.embedding.encoder import load_encoder
from slsr.explore import uploads
from slsr.explore.app import create_app
from slsr.explore.exhibit import find_query
from slsr.explore.image_table import thumbnail
from slsr.explore.security import Doors
from slsr.explore.uploads import MAXIMUM_BYTES, displayed_name
from slsr.retrieval import Labels, evaluate_distances, rerank

SAME = {"Origin": "http://localhost"}


def send(client, content, name="me.png", headers=SAME, **fields):
    fields["picture"] = (io.BytesIO(content), name)
    return client.post("/upload", data=fields, headers=headers, content_type="multipart/form-data")


def thin_png():
    buffer = io.BytesIO()
    Image.new("L", (100_000, 1)).save(buffer, "PNG")
    return buffer.getvalue()


def text_of(answer):
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", answer.text)))


def cards(answer, side):
    """Gallery rows of a panel in order, with their verdicts."""
    found = re.findall(rf'<li class="card (\w*)"[^>]*>\s*<a id="{side}-(\d+)"', answer.text)
    return [(int(row), verdict) for verdict, row in found]


@pytest.mark.parametrize(
    "address",
    [
        "/pick/q",
        "/pick/q?order=hardest-0&find=3&camera=1&page=9999",
        "/pick/g?page=2",
        "/pick/q?order=loss-0-1&by=rank",
        "/search?query=q3",
        "/search?query=g7&left=1-reranked&right=0-plain&depth=50&maps=activation",
        "/search?query=t5&maps=similarity",
        "/search?query=x1&right=off",
        "/clusters",
        "/clusters?cluster=1",
        "/generated",
        "/generated?cluster=1&page=1",
        "/about",
    ],
)
def test_every_page_comes_with_its_headers_and_without_inline_code(client, address):
    answer = client.get(address)
    assert answer.status_code == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:|https?://", answer.text)


def test_every_picture_of_a_page_is_there(client):
    for address in ("/search?query=q3&maps=similarity", "/pick/g", "/clusters", "/generated"):
        sources = re.findall(r'<img src="([^"]+)"', client.get(address).text)
        assert len(sources) > 10
        for source in {html.unescape(source) for source in sources[:: len(sources) // 6]}:
            answer = client.get(source)
            assert answer.status_code == 200
            assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
            assert Image.open(io.BytesIO(answer.data)).format == "JPEG"
            again = client.get(source, headers={"If-None-Match": answer.headers["ETag"]})
            assert (again.status_code, again.data) == (304, b"")


def test_the_start_leads_to_the_queries(client):
    assert client.get("/").headers["Location"] == "/pick/q"


@pytest.mark.parametrize("row", range(len(QUERY_LABELS)))
def test_both_panels_show_what_evaluate_finds(client, exhibit, row):
    answer = client.get(f"/search?query=q{row}&depth=100")
    model = exhibit.models[0]
    (people, cameras), (others, other_cameras) = np.array(QUERY_LABELS).T, np.array(GALLERY_LABELS).T
    labels = Labels(people, others, cameras, other_cameras)
    plain = 2 - 2 * model.query_features @ model.gallery_features.T
    reranked = rerank(model.query_features, model.gallery_features)
    for side, distances in (("left", plain), ("right", reranked)):
        shown = cards(answer, side)
        found = evaluate_distances(distances, labels)
        ranks = [rank for rank, (_, verdict) in enumerate(shown, start=1) if verdict == "right"]
        assert ranks == found.ranks_of(row).tolist()
        precision = found.average_precision_trapezoid[row]
        assert f"First right match at rank {ranks[0]}; " in text_of(answer)
        assert f"average precision {precision:.3f}" in text_of(answer)
        assert all(GALLERY_LABELS[place][0] != -1 and GALLERY_LABELS[place] != QUERY_LABELS[row] for place, _ in shown)
    assert "Left out by the protocol: 4 of this person from the query's own camera and 12 junk" in text_of(answer)


def test_two_models_stand_side_by_side(client, exhibit):
    answer = client.get("/search?query=q2&left=0-plain&right=1-plain&depth=100")
    for side, model in zip(("left", "right"), exhibit.models, strict=True):
        shown = [row for row, _ in cards(answer, side)]
        similarity = model.gallery_features @ model.query_features[2]
        assert sorted(similarity[shown], reverse=True) == pytest.approx(similarity[shown].tolist(), abs=1e-6)
    assert "SLSR plain" in text_of(answer)
    assert "baseline plain" in text_of(answer)


UNJUDGED = {
    "t": "The people of the training images are not in the gallery, so no match is right or wrong.",
    "x": "A generated image shows no real person, so no match is right or wrong.",
    "g": "No labels to judge by.",
}


def test_images_without_labels_are_ranked_and_not_judged(client):
    for key in ("t3", "x3", "g60", "g50"):  # training, generated, junk, distractor
        answer = client.get(f"/search?query={key}&right=off&depth=100")
        shown = cards(answer, "left")
        assert {verdict for _, verdict in shown} == {"", "junk"}
        assert len(shown) == len(GALLERY_LABELS) - key.startswith("g")
        assert UNJUDGED[key[0]] in text_of(answer)


def test_a_gallery_image_is_a_query_like_any_other(client):
    shown = cards(client.get("/search?query=g0&right=off&depth=100"), "left")
    assert 0 not in [row for row, _ in shown]
    assert sum(verdict == "right" for _, verdict in shown) == 8


NEVER = float("nan")
# The rank of the first right match and the average precision of each query, by two models; the last query has no match.
MEASURED = [
    [(1, 0.9), (4, 0.2), (1, 0.5), (2, 0.6), (1, 1.0), (9, 0.1), (3, 0.3), (NEVER, NEVER)],
    [(1, 0.4), (1, 0.8), (1, 0.5), (2, 0.9), (7, 0.2), (2, 0.3), (1, 0.7), (NEVER, NEVER)],
]


@pytest.fixture
def measured(exhibit):
    models = [replace(model, measures=np.array(values)) for model, values in zip(exhibit.models, MEASURED, strict=True)]
    return create_app(replace(exhibit, models=models)).test_client()


@pytest.mark.parametrize(
    ("address", "order", "note"),
    [
        ("order=hardest-0", [5, 1, 6, 2, 3, 0, 4, 7], "AP 0.100"),
        ("order=hardest-1&by=rank", [4, 3, 5, 0, 1, 2, 6, 7], "rank 7"),
        ("order=gain-0-1", [4, 0, 2, 5, 3, 6, 1, 7], "+0.80\n0.20→1.00"),
        ("order=loss-0-1", [1, 6, 3, 5, 2, 0, 4, 7], "-0.60\n0.80→0.20"),
        ("order=gain-0-1&by=rank", [4, 0, 2, 3, 6, 1, 5, 7], "rank\n7 → 1"),
        ("order=loss-0-1&by=rank", [5, 1, 6, 0, 2, 3, 4, 7], "rank\n2 → 9"),
    ],
)
def test_queries_in_order_of_how_well_models_rank(measured, address, order, note):
    text = measured.get(f"/pick/q?{address}").text
    shown = [int(row) for row in re.findall(r'href="/search\?query=q(\d+)&amp;left=(?:[01]-plain)', text)]
    assert shown == order
    notes = re.findall(r'<span class="note">([^<]*)</span>', text)
    assert html.unescape(notes[0]) == note
    assert notes[-1] == "no right match"


def test_a_query_of_an_order_opens_the_models_that_it_is_about(measured):
    for order, rankings in (("hardest-1", "left=1-plain"), ("loss-0-1", "left=0-plain&amp;right=1-plain")):
        link = f"/search?query=q1&amp;{rankings}&amp;order={order}&amp;by=precision"
        assert f'href="{link}"' in measured.get(f"/pick/q?order={order}").text


def test_previous_and_next_follow_the_order_that_a_query_was_picked_from(measured):
    """The order of the losses of model 0 is 1, 6, 3, 5, 2, 0, 4, 7."""
    key, seen = "q1", []
    while key:
        answer = measured.get(f"/search?query={key}&order=loss-0-1&depth=50")
        seen.append(int(key[1:]))
        assert f"{len(seen)} of 8, in this order" in text_of(answer)
        assert '<a href="/pick/q?page=1&amp;order=loss-0-1&amp;by=precision">Queries</a>' in answer.text
        after = re.search(
            r'id="next"[^>]*href="/search\?query=(q\d)&amp;[^"]*depth=50&amp;order=loss-0-1&amp;', answer.text
        )
        key = after.group(1) if after else None
    assert seen == [1, 6, 3, 5, 2, 0, 4, 7]
    assert "2 of 8 ← Previous" in text_of(measured.get("/search?query=q1"))
    assert measured.get("/search?query=q1&order=best").status_code == 400


def test_the_strip_shows_each_model(client, exhibit):
    text = text_of(client.get("/pick/q"))
    for model in exhibit.models:
        first, precision = model.measures.T
        assert f"{model.name} {100 * np.mean(first == 1):.1f} % {100 * np.mean(precision):.1f} %" in text
    assert "How accurate the models are" not in client.get("/pick/g").text


def test_the_strip_counts_gains_and_losses_against_the_baseline(measured):
    answer = measured.get("/pick/q")
    assert "2 better , 4 worse" in text_of(answer)
    links = re.findall(r'href="(/pick/q\?order=[^"]*)">\d', answer.text)
    assert links == ["/pick/q?order=gain-0-1", "/pick/q?order=loss-0-1"]


def test_the_baseline_is_never_called_none(client):
    for address in ("/pick/q", "/search?query=q1&left=1-plain", "/about"):
        text = text_of(client.get(address))
        assert "baseline" in text
        assert not re.search(r"\b[Nn]one\b", text)


def test_a_page_says_where_it_is(client):
    for address, current in (
        ("/pick/q", "Queries"),
        ("/pick/g", "Gallery"),
        ("/clusters", "Clusters"),
        ("/generated", "Generated"),
    ):
        assert f'aria-current="page">{current}</a>' in client.get(address).text
    for key, section, back in (
        ("q3", "Queries", "/pick/q?page=1"),
        ("g70", "Gallery", "/pick/g?page=2"),
        ("t60", "Clusters", "/clusters?cluster=1"),
        ("x55", "Generated", "/generated?cluster=1"),
    ):
        answer = client.get(f"/search?query={key}")
        assert f'aria-current="true">{section}</a>' in answer.text
        crumbs = re.search(r'<nav class="crumbs".*?</nav>', answer.text, re.DOTALL).group()
        assert f'<a href="{back}">{section}</a>' in crumbs
        assert client.get(back).text.count(f'/search?query={key}"') == 1


def test_all_ranks_of_right_matches_are_listed(client):
    answer = client.get("/search?query=q2&right=off&depth=100")
    ranks = [rank for rank, (_, verdict) in enumerate(cards(answer, "left"), start=1) if verdict == "right"]
    assert f"Right matches at ranks {', '.join(map(str, ranks))}." in text_of(answer)


def test_generated_images_show_their_labels(client):
    text = text_of(client.get("/generated?cluster=0"))
    assert "50 images" in text
    assert "ids 11, 12, 0.500 each" in text
    assert "id 13, 1.000 each" in text_of(client.get("/generated?cluster=1"))


def test_clusters_show_sizes_people_and_silhouettes(client):
    text = text_of(client.get("/clusters?cluster=0"))
    assert "Cluster 0 48 Cluster 1 24" in text
    assert "48 images of 2 identities" in text
    assert "2 (used) 0.250 0.500" in text


def test_members_of_a_cluster_begin_at_its_centroid(client, place):
    features = np.load(place.sources.train_features)
    own = features[48:]
    distances = np.linalg.norm(own - own.mean(axis=0), axis=1)
    shown = [int(row) for row in re.findall(r"query=t(\d+)", client.get("/clusters?cluster=1").text)]
    assert sorted(shown) == list(range(48, 72))
    assert distances[np.array(shown) - 48].tolist() == sorted(distances)


def test_the_quality_of_all_generated_images_and_of_a_cluster(client):
    whole = text_of(client.get("/generated"))
    assert "70 generated images are compared with 72 real images. They are recognizable, but poorer" in whole
    assert "Alarm: collapse (few different images): coverage is 0.150, below the limit 0.2 (ImageNet space)." in whole
    assert "KID (kernel distance) 0.254 real 0.001; lower is better" in whole
    assert "coverage 0.150 [0.960] 0.350 [0.970]" in whole
    one = text_of(client.get("/generated?cluster=1"))
    assert "20 generated images are compared with 24 real images. There is no verdict" in one
    assert "There is no alarm." in one
    assert "All 70 ⚠ , 1 alarm Cluster 0 50 Cluster 1 20" in one


def test_the_nearest_training_image_is_shown_below_each_generated_one(client, place, exhibit):
    """Beside a search over the features of the pixels that the encoder gets, without the mirrored image."""
    encoder = load_encoder(place.sources.encoder, "cpu", flip=False)
    tables = (exhibit.shelves[letter].table for letter in "xt")
    generated, train = (encoder.embed(list(table.iterate())) for table in tables)
    similarity = generated @ train.T
    text = client.get("/generated?page=2").text
    found = re.findall(
        r'<img src="/image/t/(\d+).jpg[^>]*>\s*<span class="note">nearest real image: id (\d+) \(([\d.]+)\)',
        text,
    )
    assert len(found) == 10
    for row, (nearest, identity, shown) in enumerate(found, start=60):
        assert similarity[row, int(nearest)] == pytest.approx(similarity[row].max(), abs=1e-6)
        assert float(shown) == pytest.approx(similarity[row].max(), abs=0.0051)
        assert exhibit.shelves["t"].table.identities[int(nearest)] == int(identity)


def test_a_saved_ranking_has_the_images_and_marks_of_the_page(client):
    address = "query=q3&left=0-plain&right=1-reranked&depth=50"
    answer = client.get(f"/search/ranking.html?{address}")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="ranking-0002_c2_3.html"'
    shown = client.get(f"/search?{address}")
    expected = [verdict for side in ("left", "right") for _, verdict in cards(shown, side)]
    assert re.findall(r'<figure class="(right|wrong)">', answer.text) == expected
    assert answer.text.count("data:image/jpeg;base64,") == len(expected) + 2
    assert "Query: identity 2, camera 2 – 0002_c2_3.png" in text_of(answer)
    assert "SLSR, plain" in text_of(answer)
    assert "baseline, re-ranked" in text_of(answer)
    for summary in re.findall(r"First right match at rank [^.]*\.", text_of(shown)):
        assert summary in text_of(answer)
    assert not re.search(r"<script|https?://|src=\"/", answer.text)
    assert answer.data == client.get(f"/search/ranking.html?{address}").data


def test_an_upload_is_saved_under_a_harmless_name(client):
    location = send(client, person(2, 4), "é/x y<i>.png").headers["Location"]
    answer = client.get(location.replace("/search", "/search/ranking.html"))
    assert answer.headers["Content-Disposition"] == 'attachment; filename="ranking-x-y-i.html"'
    assert "<i>" not in answer.text
    assert 'class="right"' not in answer.text


def test_enlarged_images_have_the_resolution_of_the_table(client):
    for key, size in (("q3", (20, 40)), ("t3", (20, 40))):
        large = re.search(r'<figure class="query" data-large="([^"]+)"', client.get(f"/search?query={key}").text).group(
            1
        )
        assert Image.open(io.BytesIO(client.get(html.unescape(large)).data)).size == size


def picture_of(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "gray").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("size", "hint"), [((60, 40), True), ((40, 60), False), ((50, 50), False)])
def test_an_upload_is_said_to_get_a_ranking_whatever_it_is(client, size, hint):
    text = text_of(client.get(send(client, picture_of(*size)).headers["Location"]))
    assert "Any picture gets a ranking" in text
    assert ("This picture is wider than tall." in text) == hint
    assert "Any picture gets a ranking" not in client.get("/search?query=q3").text


@pytest.mark.parametrize(("content", "status"), [(b"no image", 400), (bytes(MAXIMUM_BYTES + 1), 413)])
@pytest.mark.parametrize(
    ("page", "kept"),
    [
        (
            "/pick/q?order=gain-0-1&by=rank&find=c1",
            ['value="gain-0-1" selected', 'value="rank" selected', 'value="c1"'],
        ),
        ("/pick/g?camera=2", ["<option selected>2<", "<h1>Gallery</h1>"]),
        (
            "/search?query=q3&left=1-plain&depth=50",
            ['value="1-plain" selected', "<option selected>50<", "0002_c2_3.png"],
        ),
    ],
)
def test_a_wrong_file_keeps_the_page_and_the_choices(client, page, kept, content, status):
    form = re.search(r'action="(/upload[^"]*)"', client.get(page).text).group(1)
    data = {"picture": (io.BytesIO(content), "me.png")}
    answer = client.post(html.unescape(form), data=data, headers=SAME, content_type="multipart/form-data")
    assert answer.status_code == status
    for part in kept:
        assert part in answer.text
    problem = re.search(r'<p class="error" id="picture-problem" role="alert" data-status>(.*?)</p>', answer.text).group(
        1
    )
    assert ("not an image" if status == 400 else "larger than 20 MB") in problem
    assert re.search(r'<input id="picture"[^>]*aria-describedby="picture-problem', answer.text)


def test_an_upload_is_ranked_as_the_library_ranks_it(client, exhibit):
    content = person(2, 1234)
    answer = send(client, content)
    assert answer.status_code == 303
    page = client.get(answer.headers["Location"] + "&right=0-reranked&depth=100")
    model = exhibit.models[0]
    feature = model.encoder.embed([content])[0]
    similarity = model.gallery_features @ feature
    shown = [row for row, _ in cards(page, "left")]
    np.testing.assert_allclose(similarity[shown], np.sort(similarity)[::-1], atol=1e-6)
    queries = np.concatenate([model.query_features, feature[None]])
    distances = rerank(queries, model.gallery_features).rows(np.array([len(queries) - 1]))[0]
    reranked = [row for row, _ in cards(page, "right")]
    np.testing.assert_allclose(distances[reranked], np.sort(distances), atol=1e-5)
    picture = client.get(re.search(r'<img src="(/image/u/[^"]+)"', page.text).group(1))
    assert (picture.mimetype, picture.headers["Cache-Control"]) == ("image/jpeg", "no-store")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", "not an image"),
        (b"#!/bin/sh\nrm -rf /\n", "not an image"),
        (b"\x80\x04\x95pickle", "not an image"),
        (person(1, 1)[:60], "does not decode"),
        (enormous_png(), "more than 50,000,000 pixels"),
        (enormous_png(100_000, 100_000), "more than 50,000,000 pixels"),
        (thin_png(), "100000x1 pixels; crop it to the person, at most 65,535 pixels a side"),
    ],
)
def test_hostile_uploads_are_refused_in_one_line(client, exhibit, content, message):
    kept = len(exhibit.uploads)
    answer = send(client, content, "<b>bad</b>.png")
    assert answer.status_code == 400
    assert message in text_of(answer)
    assert "<b>bad" not in answer.text
    assert "Traceback" not in answer.text
    assert len(exhibit.uploads) == kept


def test_too_large_an_upload_is_refused(client):
    answer = send(client, bytes(MAXIMUM_BYTES + 1))
    assert answer.status_code == 413
    assert "larger than 20 MB" in text_of(answer)


@pytest.mark.parametrize("data", [{}, {"picture": "text"}])
def test_an_upload_without_a_picture(client, data):
    answer = client.post("/upload", data=data, headers=SAME, content_type="multipart/form-data")
    assert answer.status_code == 400
    assert "no picture was chosen" in text_of(answer)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/", "picture"),
        ("a\x00b\r\n\u202egpj.exe", "abgpj.exe"),
        ("x" * 500, "x" * 60),
        ("..", ".."),
    ],
)
def test_a_file_name_is_shown_and_never_used(client, tmp_path, monkeypatch, name, shown):
    monkeypatch.chdir(tmp_path)
    assert displayed_name(name) == shown
    answer = send(client, person(1, 1), name)
    assert answer.status_code == 303 or "\x00" in name
    assert list(tmp_path.iterdir()) == []


def test_uploads_are_not_written_to_the_disk(client, monkeypatch):
    import tempfile

    def refuse(*arguments, **options):
        raise AssertionError("a temporary file")

    for name in ("SpooledTemporaryFile", "TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    monkeypatch.setattr("werkzeug.formparser.SpooledTemporaryFile", refuse)
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 10**6
    assert send(client, buffer.getvalue()).status_code == 303


def test_old_uploads_are_forgotten(client):
    first = send(client, person(1, 1)).headers["Location"]
    assert client.get(first).status_code == 200
    for number in range(32):
        send(client, person(2, number))
    answer = client.get(first)
    assert answer.status_code == 400
    assert "no longer kept" in text_of(answer)


def test_a_picture_taken_with_the_camera_on_its_side_is_turned(client, exhibit):
    upright = Image.open(io.BytesIO(person(3, 1)))
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    key = re.search(r"query=(u\w+)", send(client, buffer.getvalue()).headers["Location"]).group(1)
    assert np.array_equal(np.asarray(find_query(exhibit, key).image()), np.asarray(upright))


def test_table_images_are_shown_upright_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(buffer, "JPEG", exif=exif)
    assert Image.open(io.BytesIO(thumbnail(buffer.getvalue(), "x"))).size == (20, 40)


def test_uploads_are_decoded_one_at_a_time(exhibit, monkeypatch):
    inside, most, really = [], [], uploads.read_upload

    def read(content, name):
        inside.append(name)
        most.append(len(inside))
        time.sleep(0.05)
        image = really(content, name)
        inside.pop()
        return image

    monkeypatch.setattr(uploads, "read_upload", read)
    app = create_app(exhibit)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda number: send(app.test_client(), person(1, number)), range(6)))
    assert [answer.status_code for answer in answers] == [303] * 6
    assert most == [1] * 6


def test_an_upload_that_fails_does_not_block_the_next(client):
    assert send(client, b"no image").status_code == 400
    assert send(client, person(1, 1)).status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_uploads_from_elsewhere_are_refused(client, exhibit, headers):
    kept = len(exhibit.uploads)
    answer = send(client, person(1, 1), headers=headers)
    assert answer.status_code == 403
    assert answer.text.startswith("refused: ")
    assert len(exhibit.uploads) == kept


@pytest.mark.parametrize("address", ["/", "/image/q/0.jpg", "/static/explore.js", "/nowhere"])
def test_another_host_name_gets_nothing(client, address):
    answer = client.get(address, headers={"Host": "evil.example:8008"})
    assert answer.status_code == 403
    assert answer.text.startswith("refused: the host")
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


def test_other_pages_cannot_embed_an_image(client):
    strange = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
    assert client.get("/image/q/0.jpg", headers=strange).status_code == 403
    assert client.get("/image/q/0.jpg").headers["Cross-Origin-Resource-Policy"] == "same-origin"


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/search", 404),
        ("/search?query=q999", 404),
        ("/search?query=q-1", 404),
        ("/search?query=z1", 404),
        ("/search?query=q²", 404),
        ("/search?query=" + "q1" * 5000, 404),
        ("/search?query=u123", 400),
        ("/search?query=q1&left=9-plain", 400),
        ("/search?query=q1&right=../etc", 400),
        ("/search?query=q1&depth=100000000", 400),
        ("/search?query=q1&maps=<script>", 400),
        ("/pick/q?page=x", 400),
        ("/pick/q?camera=1e9", 400),
        ("/pick/q?order=hardest-7", 400),
        ("/pick/q?order=gain-0-0", 400),
        ("/pick/q?by=recall", 400),
        ("/pick/q?order=" + "9" * 5000, 400),
        ("/pick/q?camera=" + "9" * 5000, 400),
        ("/clusters?cluster=-" + "9" * 5000, 400),
        ("/image/q/" + "9" * 5000 + ".jpg", 404),
        ("/map/similarity/" + "9" * 5000 + "/q1/g1.jpg", 404),
        ("/pick/u", 404),
        ("/clusters?cluster=7", 404),
        ("/image/q/99.jpg", 404),
        ("/image/q/../../../etc/passwd", 404),
        ("/image/u/..%2f..%2fpasswd.jpg", 404),
        ("/image/u/nothing.jpg", 404),
        ("/static/../app.py", 404),
        ("/static/%2e%2e/app.py", 404),
        ("/map/similarity/9/q1/g1.jpg", 404),
        ("/map/similarity/0/q1/g999.jpg", 404),
        ("/map/gradient/0/q1/g1.jpg", 404),
        ("/clusters/figure.png", 404),
        ("/upload", 405),
    ],
)
def test_addresses_that_the_page_does_not_make(client, address, status):
    answer = client.get(address)
    assert answer.status_code == status
    assert "<script>" not in answer.text
    assert "Traceback" not in answer.text
    assert 'role="alert"' in answer.text


def test_servers_beside_each_other_have_cookies_of_their_own(exhibit):
    """A browser sends a cookie to every port of a host."""
    names = []
    for token in ("s3cret", "0ther", "s3cret"):
        answer = create_app(exhibit, Doors(token=token)).test_client().get(f"/?token={token}")
        names.append(answer.headers["Set-Cookie"].split("=")[0])
    assert names[0] == names[2] != names[1]
    assert "s3cret" not in names[0]


def test_the_token_is_asked_for_once(exhibit):
    client = create_app(exhibit, Doors(token="s3cret")).test_client()
    assert client.get("/about").status_code == 403
    assert client.get("/about?token=wrong").status_code == 403
    answer = client.get("/about?token=s3cret")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert client.get("/about").status_code == 200
    strange = client.get("//evil.example/?token=s3cret")
    assert "evil" not in strange.headers.get("Location", "")
