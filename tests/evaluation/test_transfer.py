"""A model on another data set: the numbers of `evaluate` and `score`, from tables or from the archive."""

import json

import numpy as np
import pytest
from builders import market_files, params, picture, viper_files, write_folder, write_zip
from trained import write_model

from slsr.datasets.collection import CAMERAS_UNKNOWN
from slsr.embedding.encoder import load_encoder
from slsr.embedding.sources import find_images
from slsr.embedding.stream import embed_into, origin_of
from slsr.errors import InputError
from slsr.evaluation.scoring import score
from slsr.evaluation.transfer import PUBLISHED, as_json, read_evaluation_set, render, transfer
from slsr.params.file import run_with_blocks
from slsr.stages import prepare

pytestmark = pytest.mark.usefixtures("tiny_backbone")

RERANK = PUBLISHED.rerank.model_copy(update={"k1": 5, "k2": 2})
SETTINGS = PUBLISHED.model_copy(update={"rerank": RERANK})


@pytest.fixture
def encoder(tmp_path):
    return load_encoder(write_model(tmp_path / "model.safetensors"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Market-1501 in small, as an archive and prepared."""
    monkeypatch.chdir(tmp_path)
    write_zip(tmp_path / "data" / "market.zip", market_files())
    run_with_blocks(prepare.run, params({"name": "market1501", "archive": "market.zip"}))
    return tmp_path


def test_tables_and_archive_give_the_same(project, encoder):
    from_tables, from_archive = (
        read_evaluation_set(path) for path in (project / "artifacts/prepared", project / "data/market.zip")
    )
    tables, archive = (transfer(encoder, data, SETTINGS) for data in (from_tables, from_archive))
    assert from_tables.dataset == from_archive.dataset == "market1501"
    assert dict(from_tables.protocol) == dict(from_archive.protocol)
    assert tables.metrics == archive.metrics
    assert set(tables.metrics) == {"single_query", "single_query_rerank", "multi_query", "multi_query_rerank"}


def test_the_numbers_are_those_of_score(project, encoder):
    measured = transfer(encoder, read_evaluation_set(project / "artifacts/prepared"), SETTINGS)
    sides = {side: find_images([f"artifacts/prepared/{side}.parquet"]) for side in ("gallery", "query")}
    embed_into(project / "f.npz", encoder, origin_of(encoder, project / "model.safetensors"), sides)
    scored = score(project / "f.npz").evaluations["single_query"].means()
    found = measured.metrics["single_query"]
    for key, value in scored.items():
        assert found[key] == pytest.approx(value, abs=1e-9)
        low, high = found[f"{key}_ci95"]
        assert low - 1e-9 <= found[key] <= high + 1e-9


def test_json_and_table_say_what_was_measured(project, encoder):
    data = read_evaluation_set(project / "artifacts/prepared")
    measured = transfer(encoder, data, SETTINGS)
    written = json.loads(json.dumps(as_json(encoder, data, measured, SETTINGS), allow_nan=False))
    assert written["model"] == {
        "fingerprint": encoder.fingerprint,
        "backbone": "resnet18",
        "trained_identities": 5,
    }
    assert written["settings"]["rerank"]["k1"] == 5
    assert written["metrics"]["single_query"]["queries"] == 4
    curve = written["cmc"]["single_query"]
    assert curve[0] == written["metrics"]["single_query"]["rank1"]
    assert curve == sorted(curve)
    text = render(data, measured)
    assert text.startswith("market1501: 4 queries of 2 people, 8 gallery images")
    titles = {"rank1": "rank-1", "map_trapezoid": "mAP (trapezoid)", "map_standard": "mAP (standard)"}
    for key, title in titles.items():
        line = next(line for line in text.splitlines() if line.startswith(f"| {title} "))
        assert f"{100 * written['metrics']['single_query'][key]:.2f}" in line


def test_a_data_set_with_another_protocol(tmp_path, encoder):
    archive = write_folder(tmp_path / "viper", viper_files())
    data = read_evaluation_set(archive, split=3)
    assert data.dataset == "viper split 3"
    measured = transfer(encoder, data)
    assert set(measured.metrics) == {"single_gallery_shot"}
    assert "map_standard" not in measured.metrics["single_gallery_shot"]
    assert "rank-1" in render(data, measured)
    others = read_evaluation_set(archive, split=4)
    assert others.query.names != data.query.names


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    files = market_files()
    name = next(name for name in files if "bounding_box_test/0001" in name)
    with pytest.raises(InputError, match=name.rsplit("/", 1)[1]):
        read_evaluation_set(write_zip(tmp_path / "m.zip", files | {name: b"no image"}))


def test_what_is_no_data_set_is_refused(project, encoder):
    with pytest.raises(InputError, match="no such file or folder"):
        read_evaluation_set(project / "missing.zip")
    with pytest.raises(InputError, match="--split"):
        read_evaluation_set(project / "artifacts/prepared", split=1)
    with pytest.raises(InputError, match="none of the data sets"):
        read_evaluation_set(write_folder(project / "other", {"a.txt": b"x"}))
    cross = {"protocol": "cross-camera"}
    for facts in (
        {"dataset": "x", "evaluation": {"protocol": "nonsense", "multi_query": False}},
        {},
        {"evaluation": None},
        {"dataset": "x", "evaluation": cross},
        {"evaluation": cross | {"multi_query": True}},
    ):
        (project / "artifacts/prepared/facts.json").write_text(json.dumps(facts))
        with pytest.raises(InputError, match=r"facts.json"):
            read_evaluation_set(project / "artifacts/prepared")


def test_features_without_mirrored_images_need_an_encoder_without(project, encoder):
    data = read_evaluation_set(project / "artifacts/prepared")
    settings = SETTINGS.model_copy(update={"flip": False})
    with pytest.raises(InputError, match=r"evaluate.flip"):
        transfer(encoder, data, settings)
    plain = load_encoder(project / "model.safetensors", flip=False)
    found = transfer(plain, data, settings).metrics["single_query"]["map_standard"]
    assert np.isfinite(found)


def test_published_settings_are_the_defaults(values):
    defaults = values["evaluate"] | {"batch_size": PUBLISHED.batch_size}
    assert PUBLISHED.model_dump() == defaults


TEST_ONLY = {name: content for name, content in market_files().items() if "train" not in name}


@pytest.mark.parametrize("form", ["market1501", "folder", "table"])
def test_a_test_set_needs_no_training_images(tmp_path, encoder, form):
    """The numbers are those of the whole archive; `prepare` still refuses it."""
    images = [name.removeprefix("Market/") for name in TEST_ONLY if "/query/" in name or "_test/" in name]
    rows = []
    for name in images:
        folder, _, file = name.partition("/")
        identity, camera = int(file[: file.index("_")]), int(file[file.index("_c") + 2])
        rows.append(("query" if folder == "query" else "gallery", identity, camera, TEST_ONLY[f"Market/{name}"]))
    rows = [row for row in rows if form == "market1501" or row[1] > 0]  # folders have no number for junk
    if form == "market1501":
        files = TEST_ONLY
    elif form == "folder":
        files = {
            f"{split}/{identity}/{camera}/{n}.jpg": content for n, (split, identity, camera, content) in enumerate(rows)
        }
    else:
        files = {f"{n}.jpg": row[3] for n, row in enumerate(rows)}
        lines = [f"{n}.jpg,{identity},{camera},{split}" for n, (split, identity, camera, _) in enumerate(rows)]
        files["people.csv"] = "\n".join(["path,identity,camera,split", *lines]).encode()
    archive = write_zip(tmp_path / "data" / "t.zip", files)
    measured = transfer(encoder, read_evaluation_set(archive), SETTINGS).metrics["single_query"]
    whole = transfer(encoder, read_evaluation_set(write_zip(tmp_path / "m.zip", market_files())), SETTINGS)
    kept = [key for key in measured if "ci95" not in key and (form == "market1501" or key == "queries")]
    assert {key: measured[key] for key in kept} == {key: whole.metrics["single_query"][key] for key in kept}


def test_prepare_still_needs_training_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_zip(tmp_path / "data" / "t.zip", TEST_ONLY)
    with pytest.raises(InputError, match="no train images; train, query and gallery all need images"):
        run_with_blocks(prepare.run, params({"name": "market1501", "archive": "t.zip"}))


def test_published_halves_choose_the_test_people(tmp_path):
    archive, halves = write_folder(tmp_path / "viper", viper_files()), tmp_path / "halves.txt"
    halves.write_text("".join(f"{' '.join([str(row)] * 11)}\n" for row in (2, 3, 5, 8)))
    data = read_evaluation_set(archive, split=11, halves=halves)
    assert data.dataset == "viper split 11 of halves.txt"
    assert set(data.query.identities) == {2, 3, 5, 8}
    with pytest.raises(InputError, match=r"--split-file .* only VIPeR has such files, but .* is market1501"):
        read_evaluation_set(write_zip(tmp_path / "m.zip", market_files()), halves=halves)
    with pytest.raises(InputError, match="split 11, but name: viper has the splits 1 to 10"):
        read_evaluation_set(archive, split=11)


def without_cameras():
    places = [("train", 1, "a"), ("train", 2, "a"), ("query", 3, "q"), ("query", 4, "q")]
    places += [("gallery", who, f"g{number}") for who in (3, 4, 5) for number in range(2)]
    return {f"{part}/{who}/{name}.jpg": picture(number) for number, (part, who, name) in enumerate(places)}


def test_unknown_cameras_are_accepted_aloud_and_marked(tmp_path, encoder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_folder(tmp_path / "data/own", without_cameras())
    with pytest.raises(InputError, match=r"nothing says the camera of 8 test images of 8.*--cameras unknown accepts"):
        read_evaluation_set(path)
    data = read_evaluation_set(path, cameras="unknown")
    measured = transfer(encoder, data, SETTINGS)
    assert as_json(encoder, data, measured, SETTINGS)["protocol"]["cameras"] == "unknown"
    assert {found["cameras"] for found in measured.metrics.values()} == {"unknown"}
    assert render(data, measured).splitlines()[-1] == CAMERAS_UNKNOWN
    run_with_blocks(prepare.run, params({"name": "folder", "archive": "own", "cameras": "unknown"}))
    sides = {side: find_images([f"artifacts/prepared/{side}.parquet"]) for side in ("gallery", "query")}
    assert sum(source.unknown_cameras for source in sides.values()) == 8
    embed_into(tmp_path / "f.npz", encoder, origin_of(encoder, tmp_path / "model.safetensors"), sides)
    with pytest.raises(InputError, match=r"unknown cameras \(-1\).*--cameras unknown"):
        score(tmp_path / "f.npz")
    scored = score(tmp_path / "f.npz", cameras="unknown").evaluations["single_query"]
    assert scored.means()["rank1"] == measured.metrics["single_query"]["rank1"]
    assert scored.matches.tolist() == [2, 2], "every gallery image of the query's identity"


def test_without_cameras_the_image_of_a_query_in_the_gallery_is_refused(tmp_path):
    files = without_cameras()
    files["gallery/3/copy.jpg"] = files["query/3/q.jpg"]
    with pytest.raises(InputError, match=r"the image query/3/q\.jpg is in the gallery too"):
        read_evaluation_set(write_folder(tmp_path / "own", files), cameras="unknown")


def test_known_cameras_are_not_called_unknown(project):
    with pytest.raises(InputError, match="--cameras unknown, but the camera of every test image is known"):
        read_evaluation_set(project / "data/market.zip", cameras="unknown")


def test_prepared_folders_give_the_numbers_of_the_archive(project, encoder):
    """The same images in the folders that many programs make of Market-1501, with the cameras in the names."""
    parts = {
        "bounding_box_train": "train_all",
        "bounding_box_test": "gallery",
        "query": "query",
        "gt_bbox": "multi-query",
    }
    files = {}
    for name, content in market_files("").items():
        folder, _, image = name.rpartition("/")
        if folder in parts and image.endswith(".jpg"):
            files[f"{parts[folder]}/{image.split('_')[0]}/{image}"] = content
    files |= {name.replace("train_all", "train"): content for name, content in files.items() if "train_all" in name}
    found = transfer(encoder, read_evaluation_set(write_folder(project / "pytorch", files)), SETTINGS)
    expected = transfer(encoder, read_evaluation_set(project / "data/market.zip"), SETTINGS)
    assert set(found.metrics) == set(expected.metrics)
    for ranking, numbers in expected.metrics.items():
        assert {key: found.metrics[ranking][key] for key in ("queries", "gallery", "rank1")} == {
            key: numbers[key] for key in ("queries", "gallery", "rank1")
        }
        assert found.metrics[ranking]["map_trapezoid"] == pytest.approx(numbers["map_trapezoid"], abs=1e-9)


def test_k1_is_cut_to_the_images_that_there_are(project, encoder, caplog):
    data = read_evaluation_set(project / "data/market.zip")
    others = len(data.query.names) + len(data.gallery.names) - 1
    rerank = {k1: PUBLISHED.model_copy(update={"rerank": RERANK.model_copy(update={"k1": k1})}) for k1 in (20, others)}
    cut, most = (transfer(encoder, data, settings).metrics for settings in rerank.values())
    assert cut == most
    assert f"evaluate.rerank.k1 is 20, but an image has only {others} others: these are used" in caplog.text


def test_how_an_archive_is_understood_is_said(tmp_path, caplog):
    """Two spellings of a camera are named, and images that are not read."""
    files = {f"gallery/{who}/{camera}/{who}.jpg": picture(who) for who in (1, 2) for camera in ("1", "2")}
    files |= {f"query/{who}/cam1/{who}.jpg": picture(9 + who) for who in (1, 2)} | {"other/x.jpg": picture(7)}
    with caplog.at_level("INFO"):
        data = read_evaluation_set(write_folder(tmp_path / "own", files))
    assert data.query.cameras.tolist() == [1, 1]
    assert "cameras that are written in two ways are one, for example 1 and cam1" in caplog.text
    assert "left out: 1 " in caplog.text
