"""Which objects reach a remote: never an archive, and images of licensed data only where `share` says."""

import pytest
import yaml
from pipeline.conftest import ROOT
from projects import GENERATED, PICTURES, PREPARED, colleague, commit, files_below, matching, md5, outs_of, set_share

pytestmark = pytest.mark.remotes


def archives(project) -> set[str]:
    return {md5(path) for path in files_below(project.folder / "data")}


def push_in_every_way(project) -> None:
    """All the commands that a user may think of."""
    project.run("dvc", "push")
    project.run("dvc", "push", "--run-cache")
    project.run("dvc", "push", "--remote", "store")
    project.run("dvc", "push", "--remote", "store", "data.dvc")


def test_no_archive_reaches_any_remote(stand_in, store):
    store.configure(stand_in)
    (stand_in.folder / "data" / "licensed.zip").write_bytes(b"people" * 50_000)
    stand_in.run("dvc", "add", "--quiet", "data")
    commit(stand_in)
    push_in_every_way(stand_in)
    stand_in.run("dvc", "push", "--all-commits")
    sent = store.objects()
    assert len(archives(stand_in)) == 2
    assert not sent & archives(stand_in)
    assert set(outs_of(stand_in).values()) <= sent, "nothing was withheld but the archives: the test could not fail"
    listing = yaml.safe_load((stand_in.folder / "data.dvc").read_text())["outs"][0]["md5"]
    assert listing not in sent, "nor the names of the files in data/"


def test_images_of_licensed_data_stay_in_the_clone_by_default(stand_in, store):
    """As every preset but `sample` has it: `private` is this clone's own cache."""
    store.configure(stand_in)
    set_share(stand_in, "private", "private", "private")
    commit(stand_in)
    push_in_every_way(stand_in)
    withheld = matching(stand_in, PREPARED, GENERATED, PICTURES)
    sent = store.objects()
    assert not sent & withheld
    assert set(outs_of(stand_in).values()) - withheld <= sent


def test_images_go_where_share_says_and_nowhere_else(stand_in, store, remotes):
    """Generated images to everybody, the data set's own to the remote of those who hold the license."""
    store.configure(stand_in)
    licensed = remotes("folder", "licensed")
    stand_in.run("dvc", "remote", "modify", "--local", "private", "url", licensed.url)
    set_share(stand_in, "private", "private", None)
    commit(stand_in)
    stand_in.run("dvc", "push")
    withheld = matching(stand_in, PREPARED, PICTURES)
    assert not store.objects() & withheld
    assert store.objects() >= matching(stand_in, GENERATED)
    assert withheld <= licensed.objects()
    assert not licensed.objects() & (set(outs_of(stand_in).values()) - withheld)


def test_an_experiment_takes_no_withheld_image_along(stand_in, store, tmp_path):
    store.configure(stand_in)
    set_share(stand_in, "private", "private", "private")
    commit(stand_in)
    for name in ("prepared/train.parquet", "generated/images.parquet", "train/slsr/model.safetensors"):
        path = stand_in.folder / "artifacts" / name
        path.unlink()
        path.write_bytes(name.encode() * 100)
    stand_in.run("dvc", "commit", "--force", "--quiet")
    stand_in.run("dvc", "exp", "save", "--name", "another")
    stand_in.run("git", "init", "--quiet", "--bare", str(tmp_path / "team.git"))
    stand_in.run("git", "remote", "add", "team", str(tmp_path / "team.git"))
    stand_in.run("git", "push", "--quiet", "team", "HEAD:main")
    stand_in.run("dvc", "exp", "push", "team", "another")
    assert outs_of(stand_in)["artifacts/train/slsr/model.safetensors"] in store.objects()
    assert not store.objects() & matching(stand_in, PREPARED, GENERATED, PICTURES)


def test_a_licensed_colleague_gets_the_images_and_another_all_but_them(stand_in, remotes, tmp_path):
    store, licensed = remotes("folder"), remotes("folder", "licensed")
    store.configure(stand_in)
    stand_in.run("dvc", "remote", "modify", "--local", "private", "url", licensed.url)
    set_share(stand_in, "private", "private", "private")
    commit(stand_in)
    stand_in.run("dvc", "push")
    withheld = {path for path in outs_of(stand_in) if any(p.fullmatch(path) for p in (PREPARED, GENERATED, PICTURES))}

    with_license = colleague(stand_in, tmp_path / "with", store)
    with_license.run("dvc", "remote", "modify", "--local", "private", "url", licensed.url)
    with_license.run("dvc", "pull")
    assert outs_of(with_license) == outs_of(stand_in)

    without = colleague(stand_in, tmp_path / "without", store)
    done = without.run("dvc", "pull", check=False)
    assert done.returncode == 1
    assert "artifacts/prepared/train.parquet" in done.stderr
    there = {path for path in outs_of(stand_in) if (without.folder / path).is_file()}
    assert there == set(outs_of(stand_in)) - withheld
    without.run("dvc", "pull", "--allow-missing")


def test_every_preset_of_people_withholds_their_images():
    from slsr.params.presets import preset_names, render_preset

    shared = {
        name: set(yaml.safe_load(render_preset(ROOT / "presets", name))["share"].values())
        for name in preset_names(ROOT / "presets")
    }
    assert shared.pop("sample") == shared.pop("sample-scratch") == {None}
    assert shared
    assert set.union(*shared.values()) == {"private"}
