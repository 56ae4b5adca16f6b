"""The page as a client without a browser sees it: what is on it, and what hostile requests get."""

import html
import io
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from builders import enormous_png
from explored import GALLERY_LABELS, QUERY_LABELS, person
from PIL import Image

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
    found = re.findall(rf'<li class="card (\w*)">\s*<a id="{side}-(\d+)"', answer.text)
    return [(int(row), verdict) for verdict, row in found]


@pytest.mark.parametrize(
    "address",
    [
        "/pick/q",
        "/pick/q?order=0&find=3&camera=1&page=9999",
        "/pick/g?page=2",
        "/search?query=q3",
        "/search?query=g7&left=1-reranked&right=0-plain&depth=50&maps=activation",
        "/search?query=t5&maps=similarity",
        "/search?query=x1&right=none",
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
    assert "baseline (none) plain" in text_of(answer)


def test_images_without_labels_are_ranked_and_not_judged(client):
    for key in ("t3", "x3", "g60", "g50"):  # training, generated, junk, distractor
        answer = client.get(f"/search?query={key}&right=none&depth=100")
        shown = cards(answer, "left")
        assert {verdict for _, verdict in shown} == {"", "junk"}
        assert len(shown) == len(GALLERY_LABELS) - key.startswith("g")
        assert "No labels to judge by." in text_of(answer)


def test_a_gallery_image_is_a_query_like_any_other(client):
    shown = cards(client.get("/search?query=g0&right=none&depth=100"), "left")
    assert 0 not in [row for row, _ in shown]
    assert sum(verdict == "right" for _, verdict in shown) == 8


def test_the_hardest_queries_come_first(client, exhibit):
    text = client.get("/pick/q?order=1").text
    order = [int(row) for row in re.findall(r'href="/search\?query=q(\d+)"', text)]
    precision = exhibit.models[1].measures[:, 1]
    assert len(order) == len(QUERY_LABELS)
    assert precision[order].tolist() == sorted(precision)


def test_generated_images_show_their_labels(client):
    text = text_of(client.get("/generated?cluster=0"))
    assert "50 images" in text
    assert "labels 0, 1, 0.500 each" in text
    assert "label 2, 1.000 each" in text_of(client.get("/generated?cluster=1"))


def test_clusters_show_sizes_people_and_silhouettes(client):
    text = text_of(client.get("/clusters?cluster=0"))
    assert "Cluster 0 48 Cluster 1 24" in text
    assert "48 images of 2 identities" in text
    assert "2 (used) 0.250 0.500" in text


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
        ("/pick/q?order=7", 400),
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
