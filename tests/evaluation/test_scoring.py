"""`slsr score`: what it writes, and one clear line for everything that can be wrong with its input."""

import json
import pickle
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from naive import clustered
from typer.testing import CliRunner

from slsr.cli.main import app
from slsr.datasets.collection import CAMERAS_UNKNOWN
from slsr.errors import InputError
from slsr.evaluation.per_query import MEASURES, read_queries
from slsr.evaluation.scoring import FEATURES, LABELS, score, score_file
from slsr.retrieval import Labels, evaluate, evaluate_reranked, headline

QUERY, GALLERY, TRUTH = clustered(30, 200, 8, noise=2.0)
ARRAYS = {
    "query_features": QUERY,
    "gallery_features": GALLERY,
    **{name: getattr(TRUTH, name) for name in LABELS},
}


@pytest.fixture
def features(tmp_path):
    """A function: write the arrays, with some changed or (None) left out; the path."""

    def write(**changes):
        path = tmp_path / "features.npz"
        np.savez(path, **{name: array for name, array in (ARRAYS | changes).items() if array is not None})
        return path

    return write


def refused(path, **options):
    choices = {"rerank": False, "normalize": True, "json_path": None, "per_query": None} | options
    with pytest.raises(InputError) as caught:
        score_file(path, **choices)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_numbers_are_those_of_the_functions(features, tmp_path):
    target, table = tmp_path / "out.json", tmp_path / "out.parquet"
    arguments = ["score", str(features()), "--rerank", "--json", str(target), "--per-query", str(table)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    plain, reranked = evaluate(QUERY, GALLERY, TRUTH), evaluate_reranked(QUERY, GALLERY, TRUTH)
    left_out = {"queries_without_match": plain.excluded}
    protocol = {"protocol": "cross-camera", "directions": "one"}
    numbers = headline(plain) | left_out | protocol | {"rerank": headline(reranked) | left_out}
    assert json.loads(target.read_text()) == numbers
    assert f"{100 * plain.means()['rank1']:.2f}" in result.output
    both = pq.read_table(table).to_pylist()
    for found, ranking in ((plain, "single_query"), (reranked, "single_query_rerank")):
        rows = [row for row in both if row["ranking"] == ranking]
        assert [row["name"] for row in rows] == [str(query) for query in range(30)]
        assert [row["identity"] for row in rows] == TRUTH.query_identities.tolist()
        assert [row["camera"] for row in rows] == TRUTH.query_cameras.tolist()
        assert [row["ranks"] for row in rows] == [found.ranks_of(query).tolist() for query in range(30)]
        for name in MEASURES:
            assert [row[name] for row in rows] == getattr(found, name).tolist()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_normalization_can_be_switched_off(features, tmp_path):
    target = tmp_path / "out.json"
    result = CliRunner().invoke(app, ["score", str(features()), "--no-normalize", "--json", str(target)])
    assert result.exit_code == 0, result.output
    found = json.loads(target.read_text())
    assert found["map_standard"] == evaluate(QUERY, GALLERY, TRUTH, normalize=False).means()["map_standard"]
    assert "rerank" not in found


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_precisions(features, tmp_path, dtype):
    target = tmp_path / "out.json"
    path = features(query_features=QUERY.astype(dtype), gallery_features=GALLERY.astype(dtype))
    score_file(path, rerank=False, normalize=True, json_path=target, per_query=None)
    assert json.loads(target.read_text())["map_standard"] == pytest.approx(
        evaluate(QUERY, GALLERY, TRUTH).means()["map_standard"], abs=0.02
    )


def test_queries_without_a_match_are_counted_and_null(features, tmp_path, caplog):
    identities = TRUTH.query_identities.copy()
    identities[[2, 5]] = 999
    target, table = tmp_path / "out.json", tmp_path / "out.parquet"
    path = features(query_identities=identities)
    score_file(path, rerank=False, normalize=True, json_path=target, per_query=table)
    found = json.loads(target.read_text())
    assert (found["queries"], found["queries_without_match"]) == (28, 2)
    assert "2 of 30 queries have no right match" in caplog.text
    row = pq.read_table(table).to_pylist()[2]
    assert (row["average_precision_standard"], row["inverse_negative_penalty"], row["ranks"]) == (None, None, [])


def test_the_table_of_queries_is_read_like_that_of_evaluate(features, tmp_path):
    """Also with identities that fit into 64 bits alone."""
    large = {name: getattr(TRUTH, name) + 2**40 for name in ("query_identities", "gallery_identities")}
    table = tmp_path / "out.parquet"
    score_file(features(**large), rerank=True, normalize=True, json_path=None, per_query=table)
    found = read_queries(table)
    assert list(found) == ["single_query", "single_query_rerank"]
    expected = (evaluate(QUERY, GALLERY, TRUTH), evaluate_reranked(QUERY, GALLERY, TRUTH))
    for one, other in zip(found.values(), expected, strict=True):
        assert one.means() == other.means()
        assert one.values.tolist() == other.query_values().values.tolist()
        assert one.people.tolist() == large["query_identities"].tolist()
        assert one.names == tuple(str(query) for query in range(30))
    assert pq.read_table(table)["identity"][0].as_py() == TRUTH.query_identities[0] + 2**40


def changed(name, row, value):
    array = ARRAYS[name].copy()
    array[row] = value
    return {name: array}


def changed_label(row, value):
    array = TRUTH.query_identities.astype(float)
    array[row] = value
    return {"query_identities": array}


SIDES = ("query", "gallery")
DISTANCES = {f"{side}_features": None for side in SIDES}  # left out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_cameras": None, "gallery_identities": None}, "no array gallery_identities, query_cameras; it holds"),
        ({"gallery_features": GALLERY[:, :3]}, "8 dimensions and gallery_features 3"),
        ({"query_features": QUERY[0]}, "query_features has shape [8]"),
        ({"gallery_features": GALLERY[:-1]}, "199 gallery images but 200"),
        ({"query_cameras": TRUTH.query_cameras[:-1]}, "query_identities holds 30 images and query_cameras 29"),
        (changed("query_features", 3, np.nan), "query_features holds NaN or infinite features in 1 of its rows (3)"),
        (changed("gallery_features", (4, 2), np.inf), "gallery_features holds NaN or infinite features in 1 of its"),
        (
            changed("gallery_features", slice(0, 12), 0),
            "zero vectors, which have no direction, in 12 of its rows (0, 1",
        ),
        ({name: ARRAYS[name][:0] for name in ARRAYS if name[0] == "g"}, "gallery_identities is empty"),
        ({name: ARRAYS[name][:0] for name in ARRAYS if name[0] == "q"}, "query_identities is empty"),
        ({"query_identities": TRUTH.query_identities + 500}, "none of the 30 queries has a right match"),
        ({"gallery_identities": TRUTH.gallery_identities * 0 - 1}, "none of the 30 queries has a right match"),
        ({"query_identities": TRUTH.query_identities + 0.5}, "query_identities is of type float64"),
        (changed_label(3, np.nan), "query_identities holds NaN in row 3, counted from 0; write a whole number"),
        (changed_label(0, np.inf), "query_identities holds infinity in row 0"),
        ({"query_features": QUERY.T}, "query_features has shape [8, 30] for 30 images: transposed?"),
        (DISTANCES | {"distances": np.ones((200, 30))}, "200 query images but 30 query identities; transposed, or"),
        (DISTANCES | {"distances": np.ones((200, 31))}, "200 query images but 30 query identities; give one"),
        (
            {"query_features": GALLERY, "gallery_features": QUERY},
            "200 query images but 30 query identities; transposed, or query and gallery exchanged?",
        ),
        (
            {f"{side}_identities": np.array([b"\xe9"] * len(ARRAYS[f"{side}_cameras"])) for side in SIDES},
            r"query_identities holds bytes that are not UTF-8 (b'\xe9'); write it as text",
        ),
        ({"query_identities": TRUTH.query_identities + 2.0**53}, "query_identities is of type float64"),
        ({"query_identities": TRUTH.query_identities.astype(str)}, "query_identities is of type <U"),
        ({"query_features": QUERY.astype(int)}, "query_features is of type int64"),
        ({"query_features": QUERY.astype(complex)}, "query_features is of type complex128"),
        ({"query_features": QUERY.astype(object)}, "query_features is not a plain array (Object arrays"),
    ],
)
def test_bad_arrays_are_named(features, changes, message):
    path = features(**changes)
    assert refused(path).startswith(f"{path}: ")
    assert message in refused(path)


def test_exit_code_and_message_of_the_command(features, monkeypatch, capsys):
    from slsr.cli import main as cli

    monkeypatch.setattr("sys.argv", ["slsr", "score", str(features(query_cameras=None))])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def with_members(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*FEATURES, *LABELS):
            archive.writestr(name + ".npy", content)


def huge_header():
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def test_files_that_are_no_npz(features, tmp_path):
    path = tmp_path / "bad.npz"
    assert "no such file" in refused(path)
    assert "no such file" in refused(tmp_path)
    for content in (b"", b"hello", features().read_bytes()[:4000]):
        path.write_bytes(content)
        assert "not an .npz file" in refused(path)
    damaged = bytearray(features().read_bytes())
    damaged[300:800] = bytes(500)
    path.write_bytes(damaged)
    assert "cannot be read (Bad CRC-32" in refused(path)
    with_members(path, b"no array")
    assert "query_features is not an array" in refused(path)
    with_members(path, huge_header())
    assert "does not fit into memory" in refused(path)


def test_nothing_is_unpickled(features, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    for trap in (np.array([Trap()] * 30, object), np.array(Trap(), object)):
        assert "is not a plain array" in refused(features(query_identities=trap))
    path = tmp_path / "pickle.npz"
    path.write_bytes(pickle.dumps(Trap()))
    assert "not an .npz file" in refused(path)
    with_members(path, pickle.dumps(Trap()))
    assert "query_features" in refused(path)
    assert not (tmp_path / "sprung").exists()


def test_outputs_are_checked_first(features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = features()
    assert "its folder does not exist" in refused(path, json_path=tmp_path / "no" / "out.json")
    assert "a folder" in refused(path, per_query=tmp_path)
    assert "this is the input" in refused(path, json_path=path)
    assert "both --json and --per-query" in refused(path, json_path=tmp_path / "a", per_query=tmp_path / "a")
    assert [found.name for found in tmp_path.iterdir()] == ["features.npz"]


def numbers_of(path, tmp_path, **options):
    target = tmp_path / "out.json"
    choices = {"rerank": False, "normalize": True, "json_path": target, "per_query": None} | options
    return json.loads(target.read_text()) if (text := score_file(path, **choices)) else text


def test_k1_of_few_images_is_cut_aloud(features, caplog):
    few = {name: array[:9] for name, array in ARRAYS.items()}
    path = features(**few | {"gallery_identities": TRUTH.query_identities[:9], "gallery_cameras": np.full(9, 77)})
    found = score(path, rerank=True).evaluations["single_query_rerank"]
    assert "--rerank: k1 is 20, but an image has only 17 others: these are used" in caplog.text
    expected = evaluate_reranked(QUERY[:9], GALLERY[:9], found_labels(path), k1=17)
    assert found.ranks.tolist() == expected.ranks.tolist()
    caplog.clear()
    score(features(), rerank=True)
    assert "k1" not in caplog.text


def found_labels(path):
    with np.load(path) as file:
        return Labels(*(file[name] for name in LABELS))


@pytest.mark.parametrize(
    "change",
    [
        lambda labels: labels.astype(np.float64),
        lambda labels: labels[None],
        lambda labels: labels.astype(np.float64)[:, None],
        lambda labels: np.array([f"id {label:02}" for label in labels]),
        lambda labels: np.array([f"é{label:02}".encode() for label in labels]),
    ],
    ids=["float64", "[1, N]", "float64 [N, 1]", "names", "names in UTF-8"],
)
def test_labels_as_other_tools_write_them(features, tmp_path, caplog, change):
    expected = numbers_of(features(), tmp_path)
    with caplog.at_level("INFO"):
        found = numbers_of(features(**{name: change(getattr(TRUTH, name)) for name in LABELS}), tmp_path)
    assert found == expected
    assert caplog.text.count("read as whole numbers, one per image: query_identities") == 1


def test_junk_and_distractors_keep_their_meaning_among_names(features, tmp_path):
    gallery = TRUTH.gallery_identities.copy()
    gallery[:40:2], gallery[1:40:2] = -1, 0
    names = {-1: "-1", 0: "0"}
    as_names = [
        np.array([names.get(one, f"p{one:02}") for one in side.tolist()]) for side in (TRUTH.query_identities, gallery)
    ]
    found = numbers_of(features(query_identities=as_names[0], gallery_identities=as_names[1]), tmp_path)
    assert found == numbers_of(features(gallery_identities=gallery), tmp_path)


@pytest.mark.parametrize("absent", [True, False])
def test_unknown_cameras_are_refused_until_accepted(features, tmp_path, absent):
    """They count as if every image had a camera of its own."""
    unknown = {
        f"{side}_cameras": None if absent else ARRAYS[f"{side}_cameras"] * 0 - 1 for side in ("query", "gallery")
    }
    message = refused(features(**unknown))
    assert "--cameras unknown" in message
    assert ("no array query_cameras, gallery_cameras" if absent else "unknown cameras (-1)") in message
    found = numbers_of(features(**unknown), tmp_path, cameras="unknown")
    own = {"query_cameras": np.zeros(30, int), "gallery_cameras": np.arange(1, 201)}
    assert found.pop("cameras") == "unknown"
    assert found == numbers_of(features(**own), tmp_path)
    assert "--cameras unknown, but the file has every camera" in refused(features(), cameras="unknown")
    result = CliRunner().invoke(app, ["score", str(features(**unknown)), "--cameras", "unknown"])
    assert " ".join(result.output.split()).endswith(CAMERAS_UNKNOWN)
    other = CliRunner().invoke(app, ["score", str(features()), "--cameras", "known"])
    assert "--cameras known: the only value is unknown" in str(other.exception)


def texts(labels, form):
    return np.array([form.format(label) for label in labels])


def test_names_are_numbered_as_in_a_table(features, tmp_path, caplog):
    """`0007` and `7` are one person, `cam1` and `1` one camera; an empty camera is unknown."""
    names = {
        "query_identities": texts(TRUTH.query_identities, "{:04}"),
        "gallery_identities": texts(TRUTH.gallery_identities, "{}").astype(bytes),
        "query_cameras": texts(TRUTH.query_cameras, "cam{}"),
        "gallery_cameras": texts(TRUTH.gallery_cameras, "{}"),
    }
    with caplog.at_level("INFO"):
        assert numbers_of(features(**names), tmp_path) == numbers_of(features(), tmp_path)
    assert "cameras that are written in two ways are one, for example cam2 and 2" in caplog.text
    names["gallery_cameras"] = np.where(TRUTH.gallery_cameras == 1, "", names["gallery_cameras"])
    unknown = np.where(TRUTH.gallery_cameras == 1, -1, TRUTH.gallery_cameras)
    assert numbers_of(features(**names), tmp_path, cameras="unknown") == numbers_of(
        features(gallery_cameras=unknown), tmp_path, cameras="unknown"
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("unknown", "gallery_identities, row 3: no identity ('unknown')"),
        (b"\xff", "gallery_identities holds bytes that"),
    ],
)
def test_names_that_say_no_identity_are_refused(features, value, message):
    gallery = TRUTH.gallery_identities.astype(type(value))
    gallery = gallery.astype(f"{gallery.dtype.kind}9")
    gallery[3] = value
    assert message in refused(features(query_identities=TRUTH.query_identities.astype(str), gallery_identities=gallery))


@pytest.mark.parametrize(("dtype", "bits"), [(np.float16, 11), (np.float32, 24)])
def test_floats_too_short_for_their_identities_are_refused(features, tmp_path, dtype, bits):
    """2**24 and 2**24 + 1 are one float32."""
    sides = {name: getattr(TRUTH, name) for name in ("query_identities", "gallery_identities")}
    top = max(side.max() for side in sides.values())
    exact = {name: (side + 2**bits - 1 - top).astype(dtype) for name, side in sides.items()}
    assert numbers_of(features(**exact), tmp_path) == numbers_of(features(), tmp_path)
    merged = {name: (side + 2**bits).astype(dtype) for name, side in sides.items()}
    assert f"query_identities is of type {np.dtype(dtype)}" in refused(features(**merged))
