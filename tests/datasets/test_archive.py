import tarfile
import zipfile

import pytest
from builders import encrypt, market_files, write_folder, write_zip

from slsr.datasets.archive import copy_out, open_archive
from slsr.errors import InputError

FILES = {"b/2.jpg": b"two", "a.txt": b"one", "b/1.jpg": b"three"}
LITTER = {"__MACOSX/b/._1.jpg": b"x", "b/.DS_Store": b"x"}


@pytest.mark.parametrize("kind", ["folder", "stored", "deflated"])
def test_zip_and_folder_read_alike(tmp_path, kind):
    if kind == "folder":
        path = write_folder(tmp_path / "a", FILES | LITTER)
    else:
        path = write_zip(tmp_path / "a.zip", FILES | LITTER, 0 if kind == "stored" else zipfile.ZIP_DEFLATED)
    with open_archive(path) as archive:
        assert list(archive.sizes.items()) == [("a.txt", 3), ("b/1.jpg", 5), ("b/2.jpg", 3)]
        assert {name: archive.read(name) for name in archive.sizes} == FILES
        copy_out(archive, "b/1.jpg", tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == b"three"


@pytest.mark.parametrize("name", ["../a.jpg", "b/../../a.jpg", "/etc/a.jpg", "..\\a.jpg", "C:\\a.jpg", "C:a.jpg"])
def test_entry_that_leaves_the_folder_is_refused(tmp_path, name):
    path = write_zip(tmp_path / "a.zip", FILES | {name: b"x"})
    with pytest.raises(InputError, match=r"a\.zip.*leaves the archive's folder"), open_archive(path):
        pass


def test_no_zip(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match=r"a\.zip: not a zip file"), open_archive(path):
        pass


@pytest.mark.parametrize(
    ("name", "mode", "kind"),
    [("a.tar.gz", "w:gz", "gzip"), ("a.tar.bz2", "w:bz2", "bzip2"), ("a.tar.xz", "w:xz", "xz")],
)
def test_other_archives_are_named(tmp_path, name, mode, kind):
    with tarfile.open(tmp_path / name, mode):
        pass
    with (
        pytest.raises(InputError, match=f"{name}: a {kind} archive; only zip can be read"),
        open_archive(tmp_path / name),
    ):
        pass


def test_missing(tmp_path):
    with pytest.raises(InputError, match=r"a\.zip: no such file"), open_archive(tmp_path / "a.zip"):
        pass


def test_half_a_zip(tmp_path):
    path = write_zip(tmp_path / "a.zip", market_files())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a\.zip: the zip is cut off.*download it again"), open_archive(path):
        pass


def test_password(tmp_path):
    path = encrypt(write_zip(tmp_path / "a.zip", FILES))
    with pytest.raises(InputError, match=r"a\.zip: protected by a password"), open_archive(path):
        pass


def test_damaged_entry_is_named(tmp_path):
    path = write_zip(tmp_path / "a.zip", FILES)
    path.write_bytes(path.read_bytes().replace(b"three", b"thrEE"))
    with open_archive(path) as archive, pytest.raises(InputError, match=r"b/1\.jpg: damaged in the zip"):
        archive.read("b/1.jpg")
    with open_archive(path) as archive, pytest.raises(InputError, match=r"b/1\.jpg is damaged in the zip"):
        copy_out(archive, "b/1.jpg", tmp_path / "copied")


def test_unknown_packing_method(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"x"})
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x01\x02") + 10] = 9
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.jpg is compressed by method 9"), open_archive(path):
        pass


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_twice(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"x"})
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr("a.jpg", b"y")
    with pytest.raises(InputError, match=r"contains a\.jpg twice"), open_archive(path):
        pass
