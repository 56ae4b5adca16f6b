"""Presets: the defaults with differences, comments kept, and nobody's edits overwritten."""

import copy
import re
import shutil

import pytest
from ruamel.yaml import YAML
from tiny import DEFAULTS, ROOT

from slsr.errors import InputError
from slsr.params.file import load_params
from slsr.params.presets import preset_names, render_preset, write_preset

PRESETS = ROOT / "presets"
NAMES = preset_names(PRESETS)


def parse(text):
    return YAML(typ="safe", pure=True).load(text)


def merged(values, differences):
    """A naive deep merge."""
    result = copy.deepcopy(values)
    for key, value in differences.items():
        both_blocks = isinstance(value, dict) and isinstance(result[key], dict)
        result[key] = merged(result[key], value) if both_blocks else value
    return result


def comments(text):
    return [line.split("#", 1)[1].strip() for line in text.splitlines() if "#" in line]


def knob(line):
    """Key and value of a line, without its comment and spacing."""
    return line.split("#", 1)[0].strip()


@pytest.fixture
def folder(tmp_path):
    """A copy of the defaults and two presets, to be broken at will."""
    target = tmp_path / "presets"
    target.mkdir()
    for name in ("defaults", "market1501", "sample"):
        shutil.copy(PRESETS / f"{name}.yaml", target)
    return target


def write(folder, name, text):
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_the_defaults_with_its_differences(name):
    differences = parse((PRESETS / f"{name}.yaml").read_text(encoding="utf-8"))
    assert parse(render_preset(PRESETS, name)) == merged(DEFAULTS, differences)


@pytest.mark.parametrize("name", NAMES)
def test_every_comment_stays_and_only_changed_lines_change(name):
    text, defaults = render_preset(PRESETS, name), (PRESETS / "defaults.yaml").read_text(encoding="utf-8")
    # the first comment of each says which file it is
    body, of_defaults = (one.split("\ndataset:", 1)[1] for one in (text, defaults))
    assert comments(body) == comments(of_defaults)
    lines, lines_of_defaults = body.splitlines(), of_defaults.splitlines()
    assert len(lines) == len(lines_of_defaults)
    assert [line.split(":")[0] for line in lines] == [line.split(":")[0] for line in lines_of_defaults]
    untouched = [a == b for a, b in zip(lines, lines_of_defaults, strict=True) if knob(a) == knob(b)]
    assert all(untouched)
    assert f"presets/{name}.yaml" in text.split("\ndataset:", 1)[0]


def test_params_yaml_in_the_root_is_the_sample_preset():
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == render_preset(PRESETS, "sample"), "run `slsr preset`"


def test_names_are_sorted_without_the_defaults(folder):
    write(folder, "a-first", "train: {epochs: 1}")
    assert preset_names(folder) == ["a-first", "market1501", "sample"]


def test_a_new_preset_is_written(folder, tmp_path):
    write(folder, "mine", "cluster:\n  k: 2\n  sweep: [2, 8]\ntrain: {optimizer: {learning_rate: 1e-5}}\n")
    write_preset(folder, "mine", tmp_path / "params.yaml")
    params = load_params(tmp_path / "params.yaml")
    assert (params.cluster.k, params.cluster.sweep, params.train.optimizer.learning_rate) == (2, [2, 8], 1e-5)
    assert params.train.optimizer.momentum == DEFAULTS["train"]["optimizer"]["momentum"]


def test_an_unedited_file_gives_way_to_another_preset(folder, tmp_path):
    target = tmp_path / "params.yaml"
    for name in ("market1501", "sample", "market1501"):
        write_preset(folder, name, target)
        assert target.read_text(encoding="utf-8") == render_preset(folder, name)


@pytest.mark.parametrize("edit", ["value", "comment", "line ends", "not text"])
def test_an_edited_file_is_kept_unless_forced(folder, tmp_path, edit):
    target = tmp_path / "params.yaml"
    text = render_preset(folder, "sample")
    content = {
        "value": re.sub(r"epochs: \d+", "epochs: 77", text).encode(),
        "comment": (text + "# my note\n").encode(),
        "line ends": text.replace("\n", "\r\n").encode(),
        "not text": b"caf\xe9: 1",
    }[edit]
    assert content != text.encode()
    target.write_bytes(content)
    with pytest.raises(InputError, match="--force") as caught:
        write_preset(folder, "market1501", target)
    assert str(target) in str(caught.value)
    assert target.read_bytes() == content
    write_preset(folder, "market1501", target, force=True)
    assert target.read_text(encoding="utf-8") == render_preset(folder, "market1501")


def test_an_unknown_name_lists_the_presets(folder, tmp_path):
    for name in ("nosuch", "defaults", "../defaults"):
        with pytest.raises(InputError) as caught:
            write_preset(folder, name, tmp_path / "params.yaml", force=True)
        assert repr(name) in str(caught.value)
        assert "market1501, sample" in str(caught.value)
    assert not (tmp_path / "params.yaml").exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("trian: {epochs: 3}", ["trian", "no such key"]),
        ("train: {optimiser: {name: sgd}}", ["train.optimiser", "no such key"]),
        ("train: {optimizer: {lr: 3}}", ["train.optimizer.lr", "no such key"]),
        ("train: {epochs: many}", ["train.epochs", "'many'"]),
        ("train: 3", ["train", "3 is not allowed"]),
        ("cluster: {k: 9}", ["cluster", "k 9"]),
        ("- train", ["blocks"]),
        ("train", ["blocks"]),
        ("train: [", ["not valid YAML"]),
    ],
)
def test_a_broken_preset_is_named_and_nothing_is_written(folder, tmp_path, text, parts):
    write(folder, "broken", text)
    target = tmp_path / "params.yaml"
    target.write_text("before", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        write_preset(folder, "broken", target, force=True)
    assert str(folder / "broken.yaml") in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
    assert target.read_text(encoding="utf-8") == "before"


def test_a_broken_preset_does_not_stand_in_the_way_of_another(folder, tmp_path):
    write(folder, "zz-broken", "trian: {}\n")
    write_preset(folder, "sample", tmp_path / "params.yaml")
    assert load_params(tmp_path / "params.yaml").dataset.archive == "slsr-sample.zip"


def test_without_defaults_the_root_is_asked_for(folder):
    (folder / "defaults.yaml").unlink()
    with pytest.raises(InputError, match=r"defaults\.yaml: no such file; run this in the root"):
        render_preset(folder, "sample")


def test_an_empty_preset_is_the_defaults(folder):
    write(folder, "plain", "# nothing differs\n")
    assert parse(render_preset(folder, "plain")) == DEFAULTS
