import errno
import os
import stat
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import pytest
from builders import encrypt, market_files, picture, write_folder, write_zip

from slsr.datasets.archive import copy_out, count_ignored, open_archive
from slsr.errors import InputError
from slsr.images.listing import (
    BROKEN,
    CIRCULAR,
    HIDDEN,
    LINKED,
    PACKED,
    SPECIAL,
    UNNAMED,
    UNNAMED_IMAGES,
    UNREAD,
    UNUSED,
    described,
    shown,
)

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
    with pytest.raises(InputError, match=r"a\.zip: not a zip file but a web page"), open_archive(path):
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


def test_names_of_other_systems(tmp_path):
    """Backslashes of Windows, `./` of tar, UTF-8 without its flag as macOS writes it, decomposed characters."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name in ("b\\1.jpg", "./b/2.jpg", unicodedata.normalize("NFD", "b/é.jpg")):
            entry = zipfile.ZipInfo("x")
            entry.filename = name
            packed.writestr(entry, name.encode())
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = -1
        while (start := content.find(signature, start + 1)) >= 0:
            content[start + offset + 1] &= ~0x08  # the flag that says the name is UTF-8
    path.write_bytes(content)
    with open_archive(path) as archive:
        assert list(archive.sizes) == ["b/1.jpg", "b/2.jpg", "b/é.jpg"]
        assert archive.read("b/1.jpg") == b"b\\1.jpg"
        copy_out(archive, "b/2.jpg", tmp_path / "copied")
    assert (tmp_path / "copied").read_bytes() == b"./b/2.jpg"


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"", r"an empty file \(0 bytes\)"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive; only zip can be read"),
        (b"Rar!\x1a\x07", "a rar archive; only zip can be read"),
        (b"a.txt".ljust(257, b"\0") + b"ustar", "a tar archive; only zip can be read: unpack it and use the folder"),
    ],
)
def test_what_is_no_zip_is_named(tmp_path, start, message):
    path = tmp_path / "a.zip"
    path.write_bytes(start)
    with pytest.raises(InputError, match=message), open_archive(path):
        pass


def test_links_are_followed_and_what_is_left_out_is_named(tmp_path):
    write_folder(tmp_path / "elsewhere", {"2/g.jpg": b"x"})
    folder = write_folder(
        tmp_path / "own", {"b/1.jpg": b"x", "b/.hidden.jpg": b"x", "b/._1.jpg": b"x", ".old/a.jpg": b"x"}
    )
    (folder / "a").symlink_to(tmp_path / "elsewhere")
    (folder / "b/one.jpg").symlink_to(tmp_path / "elsewhere/2/g.jpg")
    (folder / "b/gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (folder / "b/self.jpg").symlink_to(folder / "b/self.jpg")
    (folder / "b/up").symlink_to(folder)
    os.mkfifo(folder / "b/pipe.jpg")
    with open_archive(folder) as archive:
        assert list(archive.sizes) == ["a/2/g.jpg", "b/1.jpg", "b/one.jpg"]
        assert archive.left_out == {
            HIDDEN: [".old", "b/.hidden.jpg"],
            BROKEN: ["b/gone.jpg", "b/self.jpg"],
            SPECIAL: ["b/pipe.jpg"],
            CIRCULAR: ["b/up/"],
        }


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "own", {"b/1.jpg": b"x", "c/1.jpg": b"x"})
    original = os.scandir

    def scandir(place):
        if str(place).endswith("/b"):
            raise PermissionError(errno.EACCES, "Permission denied", str(place))
        return original(place)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=r"own/b: cannot be read \(Permission denied\)"), open_archive(folder):
        pass


def test_unused_files_are_sorted_by_what_a_user_must_know(tmp_path):
    files = {
        "a/1.JPG": b"x",
        "a/2.heic": b"x",
        "a/3.avif": b"x",
        "more.tar.gz": b"x",
        "readme.txt": b"x",
        "a/.h.png": b"x",
        "LICENSE": b"x",
        "a/5": b"x",
    }
    with open_archive(write_zip(tmp_path / "a.zip", files)) as archive:
        kinds = count_ignored(archive, set())
    assert kinds == {
        HIDDEN: ["a/.h.png"],
        UNUSED: ["a/1.JPG"],
        UNREAD: ["a/2.heic", "a/3.avif"],
        PACKED: ["more.tar.gz"],
        UNNAMED: ["LICENSE", "a/5"],
        "*.txt": ["readme.txt"],
    }
    assert sorted(described(kinds)) == sorted(
        [
            "left out: 1 hidden images or folders, for example a/.h.png",
            "left out: 1 images that are in no part of the data set, for example a/1.JPG",
            "left out: 2 files in a format that is not read (convert them to PNG or JPEG), for example a/2.heic",
            "left out: 1 archives inside (unpack them), for example more.tar.gz",
            "left out: 2 files without an ending, for example LICENSE",
        ]
    )


@pytest.mark.parametrize("packed", [True, False])
def test_images_without_an_ending_are_told_as_images(tmp_path, packed):
    files = {"LICENSE": b"x", "a/1": picture(1), "a/2": picture(2)}
    source = write_zip(tmp_path / "a.zip", files) if packed else write_folder(tmp_path / "a", files)
    with open_archive(source) as archive:
        kinds = count_ignored(archive, set())
    assert kinds == {UNNAMED_IMAGES: ["a/1", "LICENSE", "a/2"]}
    assert described(kinds) == [
        "left out: 3 files without an ending, images among them (add .jpg or .png to their names), for example a/1"
    ]


def test_links_in_a_zip_are_told_as_links(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a/1.jpg": b"x"})
    link = zipfile.ZipInfo("a/2.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(link, "1.jpg")
    with open_archive(path) as archive:
        assert list(archive.sizes) == ["a/1.jpg"]
        assert archive.left_out == {LINKED: ["a/2.jpg"]}


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    folder = write_folder(tmp_path / "own", {"b/1.jpg": b"x"})
    Path(os.fsdecode(os.fsencode(folder / "b") + b"/2_\xff.jpg")).write_bytes(b"x")
    with (
        pytest.raises(InputError, match=r"own: the name b'b/2_\\xff\.jpg' is not UTF-8; rename the file"),
        open_archive(folder),
    ):
        pass


def test_a_line_break_in_a_name_does_not_break_the_line():
    assert described({UNUSED: ["a/1\n2.jpg"]}) == [
        r"left out: 1 images that are in no part of the data set, for example 'a/1\n2.jpg'"
    ]
    assert shown("a b/é.jpg") == "a b/é.jpg"
    assert shown(os.fsdecode(b"\xff.jpg")) == r"'\udcff.jpg'"
