"""Files appear whole or not at all, and what reads them says what is wrong with them."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from slsr.errors import InputError
from slsr.files import (
    read_json,
    read_npy,
    replaced_file,
    replaced_folder,
    require_readable,
    write_bytes,
    write_json,
    write_npy,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def half_written(path, content):
    with path.open("wb") as file:
        file.write(content[: len(content) // 2])
    raise OSError("the power went")


def test_bytes_are_written_into_a_new_folder(tmp_path):
    path = tmp_path / "a" / "b" / "file"
    write_bytes(path, b"content")
    assert path.read_bytes() == b"content"
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_bytes(path, b"new content"),
        lambda path: write_json(path, {"new": [1, 2, 3]}),
        lambda path: write_npy(path, np.arange(9)),
    ],
)
def test_a_crash_while_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(Path, "write_bytes", half_written)
    with pytest.raises(OSError, match="the power went"):
        write(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


WORDS = st.text('aé€"\\\n', max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(value=JSON)
def test_json_comes_back_as_it_went(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path) == value


def test_json_bytes_do_not_depend_on_the_order_of_keys(tmp_path):
    write_json(tmp_path / "one", {"b": 1, "a": {"d": 2, "c": 3}})
    write_json(tmp_path / "two", {"a": {"c": 3, "d": 2}, "b": 1})
    content = (tmp_path / "one").read_bytes()
    assert content == (tmp_path / "two").read_bytes()
    assert content.endswith(b"}\n")
    assert list(json.loads(content)) == ["a", "b"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_what_is_no_number_and_keeps_the_old_file(tmp_path, value):
    write_json(tmp_path / "file", 1)
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file", {"purity": value})
    assert read_json(tmp_path / "file") == 1


@pytest.mark.parametrize("content", [b"", b"{", b"{'a': 1}", b"\xff\xfe", b'{"a": 1} x'])
def test_broken_json_is_named(tmp_path, content):
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"facts\.json: not valid JSON .*dvc repro"):
        read_json(path)


@pytest.mark.parametrize("read", [read_json, read_npy])
def test_a_missing_file_says_how_to_make_it(tmp_path, read):
    with pytest.raises(InputError, match=r"missing\.x: no such file; run `dvc repro`.*`dvc pull`"):
        read(tmp_path / "missing.x")


@given(
    array=arrays.arrays(
        st.sampled_from([np.float32, np.int64, np.uint8, np.bool_]), arrays.array_shapes(min_dims=0, min_side=0)
    )
)
def test_arrays_come_back_as_they_went(tmp_path_factory, array):
    path = tmp_path_factory.mktemp("npy") / "array.npy"
    write_npy(path, array)
    back = read_npy(path)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(np.load(path), array)


def test_arrays_of_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        write_npy(tmp_path / "array.npy", np.array([{"a": 1}], dtype=object))
    assert names(tmp_path) == []


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


def test_a_pickle_is_not_executed(tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "features.npy"
    pickle.loads(pickle.dumps(Trap(marker)))
    assert marker.exists(), "the trap works"
    marker.unlink()
    with path.open("wb") as file:
        np.save(file, np.array([Trap(marker)], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not a plain"):
        read_npy(path)
    path.write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(InputError, match="not a plain"):
        read_npy(path)
    assert not marker.exists()


def test_what_is_no_array_is_refused(tmp_path):
    path = tmp_path / "features.npy"
    write_npy(path, np.arange(1000.0))
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:50], whole[:-8]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"features\.npy: not a plain \.npy array"):
            read_npy(path)
    with path.open("wb") as file:
        np.savez(file, a=np.arange(3))
    assert zipfile.is_zipfile(path)
    with pytest.raises(InputError, match="not a plain"):
        read_npy(path)


def test_a_folder_takes_the_place_of_the_old_one_whole(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "stale").write_text("old")
    with replaced_folder(folder) as building:
        (building / "fresh").write_text("new")
        assert names(folder) == ["stale"], "nothing is replaced before the end"
    assert names(folder) == ["fresh"]
    assert names(tmp_path) == ["out"]


def test_a_folder_appears_with_its_parents(tmp_path):
    with replaced_folder(tmp_path / "a" / "b") as building:
        (building / "file").write_text("x")
    assert names(tmp_path / "a") == ["b"]
    assert names(tmp_path / "a" / "b") == ["file"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_crash_leaves_the_old_folder_and_nothing_else(tmp_path, error):
    folder = tmp_path / "out"
    with replaced_folder(folder) as building:
        (building / "old").write_text("old")
    with pytest.raises(error), replaced_folder(folder) as building:
        (building / "half").write_text("half")
        raise error
    assert names(tmp_path) == ["out"]
    assert names(folder) == ["old"]


def test_a_crash_where_nothing_was_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), replaced_folder(tmp_path / "out"):
        raise RuntimeError
    assert names(tmp_path) == []


def test_what_a_killed_run_left_does_not_get_into_the_next(tmp_path):
    for leftover in (".out.partial", ".out.old"):
        (tmp_path / leftover).mkdir()
        (tmp_path / leftover / "junk").write_text("junk")
    with replaced_folder(tmp_path / "out") as building:
        assert names(building) == []
        (building / "file").write_text("x")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["file"]


def test_a_folder_that_another_process_writes_is_left_alone(tmp_path):
    """Or the second would clear away what the first has written so far, and the first publish the second's."""
    program = "import sys\nfrom pathlib import Path\nfrom slsr.files import replaced_folder\n"
    program += "with replaced_folder(Path('out')) as building:\n"
    program += "    (building / 'a').write_text('first')\n    print(flush=True)\n    sys.stdin.readline()\n"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        first.stdout.readline()
        with pytest.raises(InputError, match="out: another process is writing it"), replaced_folder(tmp_path / "out"):
            pass
        first.communicate("\n")
    assert first.returncode == 0
    assert (tmp_path / "out" / "a").read_text() == "first"
    with replaced_folder(tmp_path / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_that_another_process_writes_is_left_alone(tmp_path):
    path = tmp_path / "out"
    with replaced_file(path) as partial:
        partial.write_text("first")
        with pytest.raises(InputError, match="out: another process is writing it"), replaced_file(path):
            pass
    assert path.read_text() == "first"
    with pytest.raises(RuntimeError), replaced_file(path) as partial:
        partial.write_text("second")
        raise RuntimeError
    assert (names(tmp_path), path.read_text()) == (["out"], "first")
    (tmp_path / ".out.partial").write_text("left by a process that was killed, and longer than what follows")
    with replaced_file(path) as partial:
        partial.write_text("third")
    assert (names(tmp_path), path.read_text()) == (["out"], "third")


def test_what_a_killed_process_left_is_replaced(tmp_path):
    program = "import os\nfrom pathlib import Path\nfrom slsr.files import replaced_folder\n"
    program += "with replaced_folder(Path('out')) as building:\n"
    program += "    (building / 'a').write_text('half')\n    os.kill(os.getpid(), 9)\n"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path)
    assert (tmp_path / ".out.partial" / "a").exists()
    with replaced_folder(tmp_path / "out") as building:
        assert not list(building.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_that_may_not_be_listed_is_not_empty(tmp_path):
    """Asked by another user if the tests run as root, who may list every folder."""
    (tmp_path / "closed" / "below").mkdir(parents=True)
    (tmp_path / "closed" / "below").chmod(0)
    require_readable(tmp_path / "absent")
    tmp_path.chmod(0o755)
    child = os.fork()
    if child == 0:
        os.chdir(tmp_path)
        if os.getuid() == 0:
            os.setuid(65534)
        try:
            require_readable(Path("closed"))
        except PermissionError as error:
            os._exit(7 if error.filename == "closed/below" else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
