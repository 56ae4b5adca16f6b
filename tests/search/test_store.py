"""An index on disk: kept whole through interruptions, refused where it does not belong."""

import json
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
from trained import ORIGIN, drawn_features, named

from slsr.embedding.files import Origin, read_features, write_features
from slsr.errors import InputError
from slsr.search import kinds, store
from slsr.search.kinds import KINDS

GALLERY, MORE, QUERIES = (drawn_features(count, seed=seed) for seed, count in enumerate((600, 50, 5)))
SIZES = {"flat": 40, "hnsw": 300, "ivf-pq": 600}


def exact(gallery, count):
    return np.argsort(-(QUERIES @ gallery.T), axis=1, kind="stable")[:, :count]


def content(folder):
    """Every file of an index but its lock."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.name != store.LOCK}


@pytest.fixture(params=KINDS)
def built(request, tmp_path):
    """Folder and gallery of an index of each kind."""
    gallery = GALLERY[: SIZES[request.param]]
    store.build(tmp_path / "index", ORIGIN, [named(gallery)], kind=request.param)
    return tmp_path / "index", gallery


def test_what_was_built_is_found_again(built):
    folder, gallery = built
    index = store.open_index(folder)
    scores, rows = index.search(QUERIES, 5)
    found = np.mean([np.isin(one, other).mean() for one, other in zip(rows, exact(gallery, 5), strict=True)])
    assert found >= (1 if index.kind == "flat" else 0.9)
    np.testing.assert_allclose(scores, (QUERIES[:, None] * gallery[rows]).sum(axis=2), atol=2e-3)
    assert index.names.column("name")[7].as_py() == "image-7"
    assert index.names.column("identity")[27].as_py() == 7
    assert index.origin == ORIGIN
    np.testing.assert_allclose(index.features[np.array([3, 1])], gallery[[3, 1]], atol=1e-3)


def test_more_than_there_are_is_all_there_are(built):
    folder, gallery = built
    scores, rows = store.open_index(folder).search(QUERIES, 10**6)
    assert scores.shape == rows.shape == (5, len(gallery))


def test_what_is_added_is_found_and_adding_again_adds_nothing(built):
    folder, gallery = built
    grown, known = store.add(folder, ORIGIN, [named(MORE, "more")])
    assert (len(grown), known) == (len(gallery) + 50, 0)
    _, rows = grown.search(MORE[:5], 1)
    assert rows[:, 0].tolist() == [len(gallery) + number for number in range(5)]
    assert grown.names.column("name")[int(rows[3, 0])].as_py() == "more-3"
    before = content(folder)
    again, known = store.add(folder, ORIGIN, [named(MORE, "more")])
    assert (len(again), known) == (len(grown), 50)
    assert content(folder) == before


def test_a_flat_index_that_grew_is_the_one_built_at_once(tmp_path):
    store.build(tmp_path / "grown", ORIGIN, [named(GALLERY)])
    store.add(tmp_path / "grown", ORIGIN, [named(MORE, "more")])
    store.build(tmp_path / "whole", ORIGIN, [named(GALLERY), named(MORE, "more")])
    grown, whole = (store.open_index(tmp_path / name).search(QUERIES, 20) for name in ("grown", "whole"))
    np.testing.assert_array_equal(grown, whole)


def test_a_known_name_with_another_feature_is_refused(built):
    folder, _ = built
    before = content(folder)
    with pytest.raises(InputError, match="image-0 is there with another feature"):
        store.add(folder, ORIGIN, [named(MORE)])
    assert content(folder) == before


@pytest.mark.parametrize("other", [Origin("b" * 64, True, "b"), Origin("a" * 64, False, "a")])
def test_features_of_another_model_are_refused(built, other):
    folder, _ = built
    before = content(folder)
    with pytest.raises(InputError, match="need one model"):
        store.add(folder, other, [named(MORE, "more")])
    assert content(folder) == before


def test_an_index_is_replaced_only_when_asked_to(built):
    folder, _ = built
    before = content(folder)
    with pytest.raises(InputError, match="--force"):
        store.build(folder, ORIGIN, [named(MORE)])
    assert content(folder) == before
    assert len(store.build(folder, ORIGIN, [named(MORE)], force=True)) == 50
    assert sorted(path.name for path in folder.iterdir()) == [store.LOCK, "generation-2", store.MANIFEST]


def test_what_is_no_index_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for force in (True, False):
        with pytest.raises(InputError, match="something else"):
            store.build(tmp_path / "mine", ORIGIN, [named(MORE)], force=force)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="something else"):
        store.build(tmp_path / "file", ORIGIN, [named(MORE)])
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def _photos(folder):
    """Somebody's pictures, in folders with the names of numbers and of generations."""
    for name in ("0001/a.jpg", "2024/b.jpg", "generation-1/c.jpg", "generation-2/index.faiss/d.jpg"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text("years of work")


@pytest.mark.parametrize("kept", [["0001"], ["generation-1"], ["generation-2"], []])
@pytest.mark.parametrize("manifest", [None, '{"version": 1, "name": "a web page"}', "[]", "{", "[" * 100_000])
@pytest.mark.parametrize("force", [True, False])
def test_folders_with_numbers_for_names_are_somebody_elses(tmp_path, kept, manifest, force):
    folder = tmp_path / "photos"
    _photos(folder)
    for path in folder.iterdir():
        if kept and path.name not in kept:
            shutil.rmtree(path)
    if manifest is not None:
        (folder / store.MANIFEST).write_text(manifest)
    before = content(folder)
    with pytest.raises(InputError, match="something else"):
        store.build(folder, ORIGIN, [named(MORE)], force=force)
    assert content(folder) == before
    assert not (folder / store.LOCK).exists()


def test_folders_put_into_an_index_stay(tmp_path):
    folder = tmp_path / "index"
    store.build(folder, ORIGIN, [named(MORE)])
    for name in ("0001", "generation-8"):
        (folder / name).mkdir()
        (folder / name / "a.jpg").write_text("years of work")
    (folder / "generation-7").symlink_to(folder / "0001")
    store.add(folder, ORIGIN, [named(GALLERY[:40], "gallery")])
    store.build(folder, ORIGIN, [named(MORE)], force=True)
    names = [".lock", "0001", "generation-10", "generation-7", "generation-8", "manifest.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert (folder / "generation-8" / "a.jpg").read_text() == (folder / "0001" / "a.jpg").read_text() == "years of work"


@pytest.mark.parametrize("name", ["generation-1/index.faiss", ".lock", ".manifest.json.partial"])
def test_what_a_killed_first_build_left_is_built_over(tmp_path, name):
    path = tmp_path / "index" / name
    path.parent.mkdir(parents=True)
    path.write_text("half")
    assert len(store.build(tmp_path / "index", ORIGIN, [named(MORE)])) == 50


def _damaged(key, value):
    def damage(manifest):
        return manifest | {key: value}

    return damage


DAMAGES = {
    "half": lambda manifest: "{",
    "nothing": lambda manifest: "",
    "no text": lambda manifest: "\udcff",
    "a list": lambda manifest: [],
    "version alone": lambda manifest: {"version": 1},
    "older": _damaged("version", 1),
    "files": _damaged("files", []),
    "sizes": _damaged("files", {"index.faiss": "many"}),
    "generation": _damaged("generation", "../other"),
    "no such generation": _damaged("generation", 7),
    "kind": _damaged("kind", "lsh"),
    "recall": _damaged("recall", {"at_10": "good", "effort": 0, "sample": 0}),
    "model": _damaged("model", {"fingerprint": 3, "flip": True, "model": "x"}),
    "built_for": _damaged("built_for", None),
    "images": _damaged("images", 49),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_manifest_is_mended_as_its_message_says(tmp_path, damage):
    folder = tmp_path / "index"
    store.build(folder, ORIGIN, [named(MORE)])
    path = folder / store.MANIFEST
    damaged = damage(json.loads(path.read_text()))
    text = damaged if isinstance(damaged, str) else json.dumps(damaged)
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    before = content(folder)
    for change in (store.open_index, lambda folder: store.add(folder, ORIGIN, [named(GALLERY, "gallery")])):
        with pytest.raises(InputError, match=f"build it anew with .* -o {folder} --force") as caught:
            change(folder)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="--force builds it anew"):
        store.build(folder, ORIGIN, [named(MORE)])
    assert content(folder) == before
    assert len(store.build(folder, ORIGIN, [named(GALLERY[:40])], force=True)) == 40
    assert sorted(item.name for item in folder.iterdir()) == [store.LOCK, "generation-2", store.MANIFEST]


def test_a_damaged_index_is_kept_until_its_successor_is_whole(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    store.build(folder, ORIGIN, [named(MORE)])
    (folder / store.MANIFEST).write_text("{")
    before = content(folder)
    with monkeypatch.context() as patched:
        patched.setattr(store.faiss, "write_index", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.build(folder, ORIGIN, [named(MORE)], force=True)
    assert content(folder) == before
    assert len(store.build(folder, ORIGIN, [named(MORE)], force=True)) == 50


STEPS = ("write_index", "write_table", "write_json", "_remove")


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("change", ["add", "build"])
def test_an_interruption_at_any_step_leaves_a_whole_index(tmp_path, monkeypatch, step, change):
    folder = tmp_path / "index"
    store.build(folder, ORIGIN, [named(GALLERY[:40])])

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    def make_change():
        if change == "add":
            return len(store.add(folder, ORIGIN, [named(MORE, "more")])[0])
        return len(store.build(folder, ORIGIN, [named(MORE, "more")], force=True))

    place = {"write_index": store.faiss, "write_table": store.pq}.get(step, store)
    with monkeypatch.context() as patched:
        patched.setattr(place, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_change()
    whole = {"add": 90, "build": 50}[change]
    assert len(store.open_index(folder)) == (whole if step == "_remove" else 40)
    assert make_change() == whole
    assert len(list(folder.glob("generation-*"))) == 1


def test_a_first_build_that_was_interrupted_can_be_done_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(store, "write_json", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.build(tmp_path / "index", ORIGIN, [named(MORE)])
    with pytest.raises(InputError, match="no index"):
        store.open_index(tmp_path / "index")
    assert len(store.build(tmp_path / "index", ORIGIN, [named(MORE)])) == 50


def _add_for_ever(folder):
    for number in range(10**6):
        store.add(folder, ORIGIN, [named(drawn_features(10, seed=number), f"added-{number}")])


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(tmp_path):
    """SIGKILL while images are added: the index opens, and holds a whole number of additions, no fewer than before."""
    folder = tmp_path / "index"
    store.build(folder, ORIGIN, [named(GALLERY)])
    random, size = np.random.default_rng(0), 600
    context = multiprocessing.get_context("fork")
    for attempt in range(30):
        process = context.Process(target=_add_for_ever, args=(folder,))
        process.start()
        time.sleep(random.uniform(0.02, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        index = store.open_index(folder)
        assert len(index) >= size, f"attempt {attempt}"
        assert (len(index) - 600) % 10 == 0
        assert len(index.names) == len(index)
        size = len(index)
    assert size > 600


def test_two_changes_at_once_are_not_let_in(tmp_path):
    folder = tmp_path / "index"
    store.build(folder, ORIGIN, [named(GALLERY[:40])])
    with store._only_writer(folder), pytest.raises(InputError, match="another process is changing this index"):
        store.add(folder, ORIGIN, [named(MORE, "more")])
    assert len(store.open_index(folder)) == 40


def test_a_reader_that_was_overtaken_reads_the_successor(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    store.build(folder, ORIGIN, [named(GALLERY[:40])])
    read, overtaken = store._read_manifest, []

    def manifest_then_change(path):
        manifest = read(path)
        if not overtaken:
            overtaken.append(True)
            store.add(folder, ORIGIN, [named(MORE, "more")])
        return manifest

    monkeypatch.setattr(store, "_read_manifest", manifest_then_change)
    assert len(store.open_index(folder)) == 90


@pytest.mark.parametrize("name", [store.INDEX_FILE, store.NAMES_FILE, store.FEATURES_FILE])
@pytest.mark.parametrize("damage", ["cut", "overwritten", "gone"])
def test_a_damaged_index_is_refused_in_one_line(tmp_path, name, damage):
    folder = tmp_path / "index"
    store.build(folder, ORIGIN, [named(GALLERY)], kind="ivf-pq")
    path = folder / "generation-1" / name
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-9] if damage == "cut" else b"\0" * 300 + whole[300:])
    with pytest.raises(InputError, match="anew") as caught:
        store.open_index(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_folders_and_versions_are_no_index(tmp_path):
    with pytest.raises(InputError, match="no such index"):
        store.open_index(tmp_path / "missing")
    with pytest.raises(InputError, match="a folder, but no index"):
        store.open_index(tmp_path)
    (tmp_path / store.MANIFEST).write_text(json.dumps({"version": 99}))
    with pytest.raises(InputError, match=r"of this version .*name another folder"):
        store.open_index(tmp_path)


def test_names_that_stand_twice_are_refused(tmp_path):
    with pytest.raises(InputError, match="'image-0'"):
        store.build(tmp_path / "index", ORIGIN, [named(MORE), named(GALLERY[:1])])
    assert not (tmp_path / "index").exists()


def test_dimensions_that_differ_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"\[16, 24\]"):
        store.build(tmp_path / "index", ORIGIN, [named(MORE), named(drawn_features(9, 24), "x")])
    store.build(tmp_path / "index", ORIGIN, [named(MORE)])
    with pytest.raises(InputError, match="24"):
        store.add(tmp_path / "index", ORIGIN, [named(drawn_features(9, 24), "x")])
    with pytest.raises(InputError, match="16"):
        store.open_index(tmp_path / "index").search(drawn_features(9, 24), 3)


def test_mapped_files_are_built_from_and_added(tmp_path):
    for name, features in (("gallery", GALLERY), ("more", MORE)):
        write_features(tmp_path / f"{name}.npz", ORIGIN, {"gallery": [named(features, name)]})
    gallery, more = (read_features(tmp_path / f"{name}.npz") for name in ("gallery", "more"))
    index = store.build(tmp_path / "index", ORIGIN, [gallery, more], kind="ivf-pq")
    np.testing.assert_allclose(index.features, np.concatenate([GALLERY, MORE]), atol=1e-3)
    assert isinstance(index.full, np.memmap)


def test_an_index_that_outgrew_its_kind_says_so(tmp_path, monkeypatch):
    index = store.build(tmp_path / "index", ORIGIN, [named(GALLERY[:40])])
    assert store.advice(index) is None
    monkeypatch.setattr(kinds, "FLAT_UP_TO", 39)
    assert "build it anew" in store.advice(index)
    coded = store.build(tmp_path / "coded", ORIGIN, [named(GALLERY)], kind="ivf-pq")
    assert store.advice(coded) is None
    monkeypatch.setattr(store, "REBUILD_AT", 0.5)
    assert "learned for 600" in store.advice(coded)
