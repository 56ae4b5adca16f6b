"""embed, index, search, export and transfer as they are typed, good and bad input alike."""

import base64
import io
import json
import logging
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import picture
from PIL import Image
from trained import write_model

from slsr.cli import main as cli
from slsr.embedding.encoder import LoadedEncoder, load_encoder
from slsr.evaluation.measures import Images
from slsr.images.tables import LABELED, table_writer
from slsr.search.store import open_index

pytestmark = pytest.mark.usefixtures("tiny_backbone")


@pytest.fixture
def slsr(run_slsr, monkeypatch, tmp_path):
    """A function: run a command in a folder with a model, another, and images; exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("slsr"), "level", logging.NOTSET)
    write_model(tmp_path / "model" / "model.safetensors")
    write_model(tmp_path / "other.safetensors", seed=1)
    (tmp_path / "shots").mkdir()
    for number in range(30):
        (tmp_path / f"shots/{number:02d}.jpg").write_bytes(picture(number))
    return run_slsr


def write_table(path, count, camera=1):
    with table_writer(path, LABELED) as table:
        for number in range(count):
            row = {"image": picture(number), "name": f"c{camera}-{number}", "identity": number % 5 + 1}
            table.append(row | {"camera": camera})
    return path


@pytest.fixture
def index(slsr):
    assert slsr("embed", "model", "shots", "-o", "gallery.npz")[0] == 0
    assert slsr("index", "gallery.npz", "-o", "index")[0] == 0
    return slsr


def refused(result, *words, code=2):
    """One line on stderr that has the words, and nothing on stdout."""
    found, out, err = result
    assert (found, out) == (code, ""), err
    assert err.startswith("slsr: ")
    assert len(err.splitlines()) == 1, err
    for word in words:
        assert word in err


def test_embed_writes_what_the_library_computes(slsr):
    code, out, _ = slsr("embed", "model", "shots", "-o", "gallery.npz")
    assert (code, out) == (0, "wrote gallery.npz: features of 30 gallery images, 16 dimensions\n")
    expected = load_encoder("model").embed(sorted(Path("shots").iterdir()))
    with np.load("gallery.npz") as arrays:
        np.testing.assert_allclose(arrays["gallery_features"], expected, atol=1e-6)
        assert arrays["gallery_names"].tolist() == [f"shots/{number:02d}.jpg" for number in range(30)]


def test_embedded_tables_are_what_score_reads(slsr):
    write_table(Path("gallery.parquet"), 20, camera=2)
    write_table(Path("query.parquet"), 6)
    assert slsr("embed", "model", "gallery.parquet", "--query", "query.parquet", "-o", "test.npz")[0] == 0
    code, out, _ = slsr("score", "test.npz")
    assert code == 0
    assert out.startswith("cross-camera: 6 queries of 5 people, 20 gallery images")
    with np.load("test.npz") as arrays:
        gallery = Images.read(Path("gallery.parquet"))
        assert arrays["gallery_names"].tolist() == gallery.names
        np.testing.assert_array_equal(arrays["gallery_identities"], gallery.identities)


def test_unreadable_images_are_counted_or_fatal(slsr):
    Path("shots/07.jpg").write_bytes(b"no image")
    Path("shots/zz.png").write_bytes(b"")
    code, out, err = slsr("embed", "model", "shots", "-o", "gallery.npz")
    assert (code, out) == (0, "wrote gallery.npz: features of 29 gallery images, 16 dimensions\n")
    assert "skipped: shots/07.jpg: not an image" in err
    assert "skipped 2 unreadable images of 31" in err
    refused(slsr("embed", "model", "shots", "-o", "strict.npz", "--strict"), "shots/07.jpg")
    for path in Path("shots").iterdir():
        path.write_bytes(b"no image")
    code, out, err = slsr("embed", "model", "shots", "-o", "none.npz")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "slsr: none.npz: not written, because no gallery image could be read"
    assert len(err.splitlines()) < 10
    assert sorted(path.name for path in Path().glob("*.npz")) == ["gallery.npz"]
    assert not list(Path().glob(".*partial"))


def test_a_file_that_is_there_is_replaced_only_when_asked_to(slsr):
    Path("mine.npz").write_text("mine")
    Path("mine.onnx").write_text("mine")
    refused(slsr("embed", "model", "shots", "-o", "mine.npz"), "mine.npz", "--force")
    refused(slsr("export", "model", "-o", "mine.onnx"), "mine.onnx", "--force")
    assert Path("mine.npz").read_text() == Path("mine.onnx").read_text() == "mine"
    assert slsr("embed", "model", "shots", "-o", "mine.npz", "--force")[0] == 0


def test_search_finds_an_image_in_its_gallery(index):
    code, out, err = index("search", "index", "shots/03.jpg", "shots/11.jpg", "-k", "3", "--json", "found.json")
    assert (code, err) == (0, "")
    found = json.loads(Path("found.json").read_text())
    for query in found["queries"]:
        assert len(query["matches"]) == 3
        assert query["matches"][0]["name"] == query["name"]
        assert query["matches"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert out.splitlines()[0] == "shots/03.jpg"
    assert out.splitlines()[2].split() == ["1", "1.0000", "-", "-", "shots/03.jpg"]


PICTURE = re.compile(r'<img src="data:image/jpeg;base64,([^"]+)"')


def test_search_writes_a_page_with_its_pictures(index):
    """The first image of each list is the query itself; nothing but the page is needed to see it."""
    code, out, err = index("search", "index", "shots/03.jpg", "shots/11.jpg", "-k", "3", "--html", "found.html")
    assert (code, err) == (0, "")
    assert out.endswith("wrote found.html: the pictures of 2 queries and of their ranked lists\n")
    page = Path("found.html").read_text(encoding="utf-8")
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    images = [base64.b64decode(found) for found in PICTURE.findall(page)]
    assert len(images) == page.count("<img") == 2 * (1 + 3)
    for place, number in ((0, 3), (4, 11)):
        assert images[place] == images[place + 1]
        shown = np.asarray(Image.open(io.BytesIO(images[place])), float)
        original = np.asarray(Image.open(io.BytesIO(picture(number))).convert("RGB"), float)
        assert np.abs(shown - original).mean() < 6
    refused(index("search", "index", "shots/03.jpg", "--html", "found.html"), "found.html", "--force")
    assert Path("found.html").read_text(encoding="utf-8") == page
    assert index("search", "index", "shots/03.jpg", "-k", "1", "--html", "found.html", "--force")[0] == 0
    assert Path("found.html").read_text(encoding="utf-8").count("<img") == 2


def test_a_page_of_images_that_were_moved_needs_their_place(index):
    Path("shots").rename("moved")
    code, out, err = index("search", "index", "gallery.npz", "-k", "1", "--html", "found.html")
    assert (code, Path("found.html").exists()) == (2, False)
    assert out.count("1.0000") == 30, "the lists are printed before"
    assert "no such image (30 are missing); name the folder" in err
    assert index("search", "index", "gallery.npz", "-k", "1", "--html", "found.html", "--images", "moved")[0] == 0
    assert Path("found.html").read_text(encoding="utf-8").count("<img") == 60


def test_a_page_of_labeled_tables_marks_right_and_wrong(slsr):
    write_table(Path("gallery.parquet"), 20, camera=2)
    write_table(Path("query.parquet"), 6)
    assert slsr("embed", "model", "gallery.parquet", "-o", "g.npz")[0] == 0
    assert slsr("index", "g.npz", "-o", "index")[0] == 0
    asked = ["search", "index", "query.parquet", "-k", "20", "--html", "found.html"]
    assert slsr(*asked, "--images", "gallery.parquet")[0] == 0
    page = Path("found.html").read_text(encoding="utf-8")
    assert page.count("✓ right") == 6 * 4, "4 of the 20 images show each of the 5 people"
    assert page.count("✗ wrong") == 6 * 16


def test_search_reranks(index):
    code, out, _ = index("search", "index", "shots/03.jpg", "--rerank", "--json", "found.json", "-k", "5")
    assert code == 0
    matches = json.loads(Path("found.json").read_text())["queries"][0]["matches"]
    distances = [match["distance"] for match in matches]
    assert distances == sorted(distances)
    assert "distance" in out


def test_search_takes_embedded_queries_without_a_model(index):
    Path("model/model.safetensors").unlink()
    code, out, _ = index("search", "index", "gallery.npz", "-k", "1")
    assert code == 0
    assert out.count("1.0000") == 30
    refused(index("search", "index", "shots/01.jpg"), "index", "--model")


@pytest.mark.parametrize(("spoil", "words"), [(np.nan, "length nan"), (5.0, "length 5")])
def test_embedded_queries_of_another_length_are_refused(index, spoil, words):
    with np.load("gallery.npz") as arrays:
        values = dict(arrays)
    values["gallery_features"] = values["gallery_features"].copy()
    values["gallery_features"][3] *= spoil
    np.savez("spoilt.npz", **values)
    refused(index("search", "index", "spoilt.npz"), "spoilt.npz", "shots/03.jpg", words, "slsr embed")


def test_fewer_images_than_asked_for_are_said(index, monkeypatch):
    """An approximate index does not look everywhere."""
    from slsr.search import store

    original = store.Index.search

    def near_only(self, queries, depth):
        scores, rows = original(self, queries, depth)
        rows[:, 4:] = -1
        return scores, rows

    assert index("search", "index", "shots/03.jpg", "-k", "100")[2] == "", "all there are"
    monkeypatch.setattr(store.Index, "search", near_only)
    code, out, err = index("search", "index", "shots/03.jpg", "-k", "10")
    assert code == 0
    assert len(out.splitlines()) == 2 + 4
    assert err.startswith("warning: only 4 of the 10 images of -k were found for some query")


def test_another_model_is_refused_by_its_fingerprint(index):
    refused(
        index("search", "index", "shots", "--model", "other.safetensors"), "index", "other.safetensors", "one model"
    )
    assert index("embed", "other.safetensors", "shots", "-o", "other.npz")[0] == 0
    refused(index("search", "index", "other.npz"), "one model")
    refused(index("index", "other.npz", "-o", "index", "--add"), "one model")
    refused(index("index", "gallery.npz", "other.npz", "-o", "both"), "other.npz", "gallery.npz")
    assert not Path("both").exists()
    assert index("embed", "model", "shots", "-o", "plain.npz", "--no-flip")[0] == 0
    refused(index("search", "index", "plain.npz"), "without mirrored images")
    assert len(open_index(Path("index"))) == 30


def test_adding_twice_adds_once(index):
    Path("more").mkdir()
    Path("more/new.jpg").write_bytes(picture(99))
    assert index("embed", "model", "more", "shots/00.jpg", "-o", "more.npz")[0] == 0
    for expected in ("added 1 images; 1 were there already", "added 0 images; 2 were there already"):
        code, out, _ = index("index", "more.npz", "-o", "index", "--add")
        assert code == 0
        assert out.splitlines()[0] == expected
    assert index("search", "index", "more/new.jpg", "-k", "1")[1].endswith("more/new.jpg\n")


def test_queries_that_cannot_be_read(index):
    Path("shots/bad.jpg").write_bytes(b"no image")
    code, out, err = index("search", "index", "shots/bad.jpg", "shots/00.jpg", "-k", "1")
    assert code == 0
    assert out.startswith("shots/00.jpg\n")
    assert "skipped 1 unreadable queries of 2" in err
    code, out, err = index("search", "index", "shots/bad.jpg")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "slsr: none of the 1 queries can be read"
    refused(index("search", "index", "shots/bad.jpg", "shots/00.jpg", "--strict"), "shots/bad.jpg")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["embed", "model", "missing", "-o", "x.npz"], ["missing", "no such file or folder"]),
        (["embed", "shots", "shots", "-o", "x.npz"], ["shots", "model.safetensors"]),
        (["embed", "model", "shots", "-o", "x.npy"], ["x.npy", ".npz"]),
        (["embed", "model", "shots", "-o", "nowhere/x.npz"], ["nowhere/x.npz", "folder does not exist"]),
        (["embed", "model", "shots", "-o", "x.npz", "--device", "tpu"], ["'tpu'", "cpu"]),
        (["index", "gallery.npz", "-o", "index"], ["index", "--add", "--force"]),
        (["index", "gallery.npz", "-o", "shots"], ["shots", "something else"]),
        (["index", "gallery.npz", "-o", "new", "--kind", "lsh"], ["lsh", "hnsw"]),
        (["index", "gallery.npz", "-o", "new", "--kind", "ivf-pq"], ["30 images", "flat"]),
        (["index", "gallery.npz", "-o", "index", "--add", "--force"], ["--force"]),
        (["index", "gallery.npz", "-o", "new", "--add"], ["new", "no such index"]),
        (["index", "missing.npz", "-o", "new"], ["missing.npz", "no such file"]),
        (["index", "shots/00.jpg", "-o", "new"], ["shots/00.jpg", ".npz"]),
        (["search", "shots", "shots"], ["shots", "is a folder; an index is one file"]),
        (["search", "index", "missing.jpg"], ["missing.jpg"]),
        (["search", "index", "gallery.npz", "shots"], [".npz", "alone"]),
        (["search", "index", "shots/00.jpg", "--rerank", "--candidates", "5"], ["--candidates 5"]),
        (["search", "index", "shots/00.jpg", "--json", "nowhere/x.json"], ["nowhere/x.json"]),
        (["search", "index", "shots/00.jpg", "--json", "/proc/x.json"], ["/proc", "no file can be created"]),
        (["embed", "model", "shots", "-o", "/proc/x.npz"], ["/proc", "no file can be created"]),
        (["export", "model", "-o", "/proc/x.onnx"], ["/proc", "no file can be created"]),
        (["index", "gallery.npz", "-o", "/proc/index"], ["/proc", "no file can be created"]),
        (["index", "gallery.npz", "-o", "shots/00.jpg/index"], ["shots/00.jpg", "not a directory"]),
        (["index", "gallery.npz", "-o", "index", "--add", "--kind", "flat"], ["--kind", "--add"]),
        (["index", "gallery.npz", "-o", "index", "--add", "--memory", "1"], ["--memory", "--add"]),
        (["index", "gallery.npz", "-o", "index", "--add", "--recall", "0.9"], ["--recall", "--add"]),
        (["index", "gallery.npz", "-o", "new", "--kind", "flat", "--memory", "1"], ["--memory", "--kind flat"]),
        (["index", "gallery.npz", "-o", "new", "--kind", "flat", "--recall", "0.9"], ["--recall", "--kind flat"]),
        (["index", "gallery.npz", "-o", "new", "--kind", "hnsw", "--memory", "1"], ["--memory", "--kind hnsw"]),
        (["search", "index", "gallery.npz", "--model", "model"], ["--model", ".npz"]),
        (["search", "index", "gallery.npz", "--device", "auto"], ["--device", ".npz"]),
        (["search", "index", "gallery.npz", "--batch-size", "8"], ["--batch-size", ".npz"]),
        (["search", "index", "gallery.npz", "--strict"], ["--strict", ".npz"]),
        (["search", "index", "shots/00.jpg", "--candidates", "100"], ["--candidates", "--rerank"]),
        (["export", "model", "-o", "x"], ["x", "suffix", ".onnx", ".pt"]),
        (["export", "model", "-o", "x.engine"], ["x.engine", ".onnx", ".pt"]),
        (["export", "missing.safetensors", "-o", "x.onnx"], ["missing.safetensors"]),
        (["export", "model", "-o", "model/model.safetensors", "--force"], ["model/model.safetensors", ".onnx"]),
        (["search", "index", "shots/00.jpg", "--json", "shots/00.jpg"], ["shots/00.jpg", ".json"]),
        (["transfer", "model", "shots", "--json", "shots/00.jpg"], ["shots/00.jpg", ".json"]),
        (["transfer", "model", "missing.zip"], ["missing.zip"]),
        (["transfer", "model", "shots"], ["shots", "data sets"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(index, arguments, words):
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    refused(index(*arguments), *words)
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    assert not Path("new").exists()


def test_a_damaged_index_is_built_again_as_the_message_says(index):
    whole = Path("index").read_bytes()
    Path("index").write_bytes(whole[: len(whole) // 2])
    refused(index("search", "index", "shots/00.jpg"), "index: a damaged index", "slsr index", "--force")
    assert index("index", "gallery.npz", "-o", "index", "--force")[0] == 0
    assert len(open_index(Path("index"))) == 30


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal: a shell's background job, `make test &`, is started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_half_written(slsr, monkeypatch, interruptible, number):
    stream, partials = LoadedEncoder.stream, []

    def signaled(*arguments, **options):
        yield from stream(*arguments, **options)
        partials.extend(Path().glob(".*partial"))
        signal.raise_signal(number)  # in this thread: one sent to the process may be taken by another, and come late
        yield [], np.empty((0, 16), np.float32)

    monkeypatch.setattr(LoadedEncoder, "stream", signaled)
    before = signal.getsignal(signal.SIGTERM)
    refused(slsr("embed", "model", "shots", "-o", "gallery.npz"), "interrupted", code=130)
    assert partials
    assert not [*Path().glob(".*partial"), *Path().glob("*.npz")]
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_suffix_chooses_the_format_and_export_says_how_close_it_is(slsr):
    code, out, err = slsr("export", "model", "-o", "network.pt")
    assert (code, err) == (0, "")
    assert out.startswith("wrote network.pt: cosine similarity to the model's own features at least 0.99999")
    torch.jit.load("network.pt")


REFUSED_EARLY = """
import sys
from slsr.cli import main
for line in sys.argv[1:]:
    sys.argv = ["slsr", *line.split()]
    try:
        main.main()
    except SystemExit as end:
        assert end.code == 2, line
    assert "torch" not in sys.modules, line
"""


def test_paths_and_suffixes_are_refused_before_torch_is_loaded(slsr):
    lines = [
        "embed missing shots -o x.npz",
        "embed model missing -o x.npz",
        "embed model shots -o x.npy",
        "embed shots/00.jpg shots -o x.npz",
        "export missing -o x.onnx",
        "export model -o x.engine",
        "export model -o missing/x.onnx",
        "transfer missing shots",
        "transfer model missing.zip",
        "transfer model shots --json x.txt",
        "transfer model shots --params missing.yaml",
    ]
    result = subprocess.run([sys.executable, "-c", REFUSED_EARLY, *lines], capture_output=True, text=True, check=False)
    assert (result.returncode, len(result.stderr.splitlines())) == (0, len(lines)), result.stderr


def test_transfer_prints_a_table_and_writes_json(slsr, tmp_path):
    from builders import market_files, write_zip

    write_zip(tmp_path / "market.zip", market_files())
    Path("params.yaml").write_text((cli_presets() / "defaults.yaml").read_text().replace("k1: 20", "k1: 5"))
    code, out, _ = slsr("transfer", "model", "market.zip", "--params", "params.yaml", "--json", "numbers.json")
    assert code == 0
    assert out.startswith("market1501: 4 queries")
    assert json.loads(Path("numbers.json").read_text())["settings"]["rerank"]["k1"] == 5


def cli_presets():
    return Path(__file__).parents[2] / "presets"


@pytest.mark.parametrize("command", ["embed", "search"])
def test_memory_that_runs_out_names_the_batch_size(slsr, monkeypatch, command):
    def exhausted():
        raise MemoryError

    monkeypatch.setattr(cli, "_run_app", exhausted)
    refused(slsr(command, "x"), "out of memory", "--batch-size")
