"""Outputs of a revision, read from DVC's cache: files, and files in a folder."""

import hashlib
import json

import pytest

from slsr.errors import InputError
from slsr.project.revisions import WORKSPACE, Revision, cached_file


@pytest.fixture
def cache(tmp_path):
    """A function that puts a content into the cache of a new repository, and returns its hash."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("")

    def put(content: bytes, suffix: str = "") -> str:
        digest = hashlib.md5(content).hexdigest() + suffix
        path = tmp_path / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return digest

    return put


def entry(path, md5):
    return {"outs": [{"path": path, "md5": md5}]}


def test_a_file_of_a_folder_is_found_by_its_path_in_it(tmp_path, cache):
    files = {"metrics.json": cache(b"{}"), "plots/loss.tsv": cache(b"1 2")}
    listing = json.dumps([{"md5": md5, "relpath": name} for name, md5 in files.items()]).encode()
    here, stage = Revision(tmp_path, WORKSPACE, None), entry("a/curves", cache(listing, ".dir"))
    assert cached_file(here, stage, "a/curves", "metrics.json").read_bytes() == b"{}"
    assert cached_file(here, stage, "a/curves", "plots/loss.tsv").read_bytes() == b"1 2"
    with pytest.raises(InputError, match=r"workspace: dvc\.lock records no a/curves/other\.json; run `dvc repro`"):
        cached_file(here, stage, "a/curves", "other.json")
    with pytest.raises(InputError, match=r"records no b"):
        cached_file(here, stage, "b", "metrics.json")


def test_what_the_cache_lacks_is_named_with_its_remedy(tmp_path, cache):
    listing = json.dumps([{"md5": "0" * 32, "relpath": "metrics.json"}]).encode()
    here = Revision(tmp_path, WORKSPACE, None)
    with pytest.raises(InputError, match=r"a/curves \(md5 1{32}\.dir\) is not in DVC's cache; fetch it with"):
        cached_file(here, entry("a/curves", "1" * 32 + ".dir"), "a/curves", "metrics.json")
    with pytest.raises(InputError, match=r"a/curves/metrics\.json \(md5 0{32}\) is not in DVC's cache"):
        cached_file(here, entry("a/curves", cache(listing, ".dir")), "a/curves", "metrics.json")
