"""Experiments as a user runs them: `dvc exp`, its queue, `slsr study` and `slsr compare`, with real git and DVC."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from math import ceil

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

FIXED = ("prepare", "train_encoder", "extract_features", "cluster", "train_gan", "generate")


@pytest.fixture(scope="module")
def project(tiny_run):
    """The tiny run, committed, so that experiments have a baseline."""
    tiny_run.run("git", "config", "user.name", "t")
    tiny_run.run("git", "config", "user.email", "t@example.org")
    tiny_run.run("git", "add", "--all")
    tiny_run.run("git", "commit", "--quiet", "--allow-empty", "--message", "tiny")
    return tiny_run


def experiments(project) -> dict[str, str]:
    lines = project.run("git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").stdout.splitlines()
    found = (re.fullmatch(r"(\w+) refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/(.+)", line) for line in lines)
    return {match[2]: match[1] for match in found if match}


def show(project, name: str, path: str) -> str:
    return project.run("git", "show", f"{experiments(project)[name]}:{path}").stdout


def stages_run(text: str) -> set[str]:
    return set(re.findall(r"^Running stage '(.+)'", text, re.MULTILINE))


@pytest.fixture(scope="module")
def study(project):
    """Two seeds of the regularizers' study; the folder's own params.yaml is seed 1."""
    before = (project.folder / "params.yaml").read_bytes()
    done = project.slsr("study", "regularizers", "--seeds", "1-2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project.folder / "params.yaml").read_bytes() == before, "the workspace stays as it is"
    return done.stdout


def names_of(project, prefix: str) -> list[str]:
    return sorted(name for name in experiments(project) if name.startswith(prefix))


def test_another_seed_trains_and_evaluates_and_nothing_else(study, project):
    assert len(names_of(project, "regularizers-")) == 2
    legs = {f"{stage}@{name}" for stage in ("train", "evaluate") for name in ("none", "lsro", "slsr")}
    assert stages_run(study) == legs | {"floors", "report"}, "floors and report are cheap and belong to the seed"


def test_a_study_given_again_runs_nothing_and_with_more_seeds_those_alone(study, project):
    again = project.slsr("study", "regularizers", "--seeds", "1-2")
    assert again.returncode == 0, again.stderr
    assert "2 experiments, 2 of them finished" in again.stdout
    assert stages_run(again.stdout) == set()
    more = project.slsr("study", "regularizers", "--seeds", "1-3", "--dry-run").stdout.splitlines()
    assert [line for line in more if "dvc exp run" in line and "train.seed=3" in line] == more[:1]
    assert len(more) == 2


def test_the_metrics_of_an_experiment_are_its_own(study, project):
    two = next(name for name in names_of(project, "regularizers-") if "-seed2-" in name)
    assert yaml.safe_load(show(project, two, "params.yaml"))["train"]["seed"] == 2
    lock = yaml.safe_load(show(project, two, "dvc.lock"))["stages"]
    assert lock["report"]["params"]["params.yaml"]["train"]["seed"] == 2


def per_query(project, name: str, regularizer: str) -> list[list[int]]:
    lock = yaml.safe_load(show(project, name, "dvc.lock"))["stages"][f"evaluate@{regularizer}"]["outs"]
    digest = next(out["md5"] for out in lock if out["path"].endswith("per_query.parquet"))
    rows = pq.read_table(project.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]).to_pylist()
    return [row["ranks"] for row in rows if row["ranking"] == "single_query" and row["ranks"]]


def test_the_table_says_what_the_experiments_measured(study, project):
    done = project.slsr("compare", "--csv", "t.csv", "--markdown", "t.md", "--plot", "t.png")
    assert done.returncode == 0, done.stderr
    rows = {row["regularizer"]: row for row in csv.DictReader((project.folder / "t.csv").read_text().splitlines())}
    assert list(rows) == ["none", "lsro", "slsr"]
    first = {
        regularizer: [
            np.array([ranks[0] == 1 for ranks in per_query(project, name, regularizer)], float)
            for name in names_of(project, "regularizers-")
        ]
        for regularizer in rows
    }
    real = json.loads((project.folder / "metrics/dataset.json").read_text())["splits"]["train"]["images"]
    for regularizer, row in rows.items():
        assert row["seeds"] == "1 2"
        means = [one.mean() for one in first[regularizer]]
        assert float(row["rank1_mean"]) == pytest.approx(np.mean(means))
        assert float(row["rank1_deviation"]) == pytest.approx(np.std(means, ddof=1))
        if regularizer != "none":
            expected = np.mean([a - b for a, b in zip(first[regularizer], first["none"], strict=True)])
            assert float(row["rank1_difference"]) == pytest.approx(expected)
            low, high = (float(row[f"rank1_difference_{side}"]) for side in ("low", "high"))
            assert low - 1e-9 <= expected <= high + 1e-9
        assert "published_rank1" not in row, "the sample has no published row"
        train = yaml.safe_load((project.folder / "params.yaml").read_text())["train"]
        images = real + (24 if regularizer != "none" else 0)
        assert int(row["steps"]) == train["epochs"] * ceil(images / train["batch_size"])
        assert bool(row["unequal"]) == (int(row["steps"]) != int(rows["none"]["steps"]))
    recorded = [
        json.loads(show(project, name, "metrics/generated.json"))["overall"]["handcrafted"]["density"]["value"]
        for name in names_of(project, "regularizers-")
    ]
    assert float(rows["slsr"]["generated_handcrafted_density"]) == pytest.approx(np.mean(recorded))
    assert (project.folder / "t.md").read_text() == done.stdout
    assert (project.folder / "t.png").read_bytes().startswith(b"\x89PNG")
    for name in ("t.csv", "t.md", "t.png"):
        (project.folder / name).unlink()


def test_saved_results_give_the_same_table_without_the_cache(study, project):
    saved = project.slsr("compare", "--save", "saved")
    assert saved.returncode == 0, saved.stderr
    assert len(list((project.folder / "saved").glob("*.json"))) == 6, "three networks of two seeds"
    cache = project.folder / ".dvc/cache"
    hidden = cache.rename(cache.with_name("hidden"))
    again = project.slsr("compare", "saved", "--markdown", "saved.md")
    hidden.rename(cache)
    assert again.returncode == 0, again.stderr
    assert again.stdout == saved.stdout
    assert "| SLSR | 2 |" in re.sub(" +", " ", (project.folder / "saved.md").read_text())
    shutil.rmtree(project.folder / "saved")
    (project.folder / "saved.md").unlink()


def test_a_study_that_was_killed_goes_on(study, project):
    """`kill -9` of the study and all that it started, in the middle of a training.

    After the table of the last study, because it becomes the last one.
    """
    command = [sys.executable, "-c", "import sys; sys.path.insert(0, 'src'); from slsr.cli.main import main; main()"]
    command += ["study", "regularizers", "--regularizers", "none", "--seeds", "4"]
    with subprocess.Popen(
        command,
        cwd=project.folder,
        env=project.environment() | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        for line in running.stdout:
            if line.startswith("Running stage 'train@none'"):
                break
        os.killpg(running.pid, signal.SIGKILL)
    assert names_of(project, "regularizers-seed4") == []
    again = project.slsr(*command[3:])
    assert again.returncode == 0, again.stdout + again.stderr
    assert stages_run(again.stdout) == {"train@none", "evaluate@none"}
    assert len(names_of(project, "regularizers-seed4")) == 1
    for name in names_of(project, "regularizers-seed4"):
        project.run("dvc", "exp", "remove", name)


def test_a_result_that_the_cache_lacks_is_named_with_its_remedy(study, project):
    name = next(one for one in names_of(project, "regularizers-") if "-seed2-" in one)
    lock = yaml.safe_load(show(project, name, "dvc.lock"))["stages"]["evaluate@slsr"]["outs"]
    digest = next(out["md5"] for out in lock if out["path"].endswith("per_query.parquet"))
    file = project.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    hidden = file.rename(file.with_suffix(".hidden"))
    done = project.slsr("compare", name)
    hidden.rename(file)
    assert done.returncode == 2
    assert "artifacts/evaluate/slsr/per_query.parquet" in done.stderr
    assert f"dvc exp pull REMOTE {name}" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_workspace_compares_too_and_an_unknown_name_is_refused(study, project):
    done = project.slsr("compare", "workspace", "regularizers-*seed2*")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^baseline \(none\) +2 ", done.stdout, re.MULTILINE)
    for name in ("absent", "absent-*"):
        refused = project.slsr("compare", name)
        assert refused.returncode == 2
        assert name in refused.stderr


def test_show_diff_and_plots_tell_two_experiments_apart(study, project):
    one, two = names_of(project, "regularizers-")
    columns = "Experiment|^(none|lsro|slsr)\\.(rank1|map_trapezoid)$|train\\.seed"
    shown = project.run("dvc", "exp", "show", "--csv", "--drop", ".*", "--keep", columns).stdout
    rows = {row["Experiment"]: row for row in csv.DictReader(shown.splitlines())}
    assert rows[two]["train.seed"] == "2"
    own = np.mean([ranks[0] == 1 for ranks in per_query(project, two, "slsr")])
    assert float(rows[two]["slsr.rank1"]) == pytest.approx(own)
    assert not [key for key in rows[two] if key.startswith("multi") or "optimizer" in key]
    difference = json.loads(project.run("dvc", "exp", "diff", "--json", one, two).stdout)
    assert difference["params"]["params.yaml"] == {"train.seed": {"old": 1, "new": 2, "diff": 1}}
    project.run("dvc", "plots", "diff", one, two, "--out", "dvc_plots")
    page = (project.folder / "dvc_plots" / "index.html").read_text()
    assert one in page
    assert two in page
    assert "#0072B2" in page, "the template of .dvc/plots"


def test_an_experiment_of_one_leg_lists_its_own_numbers(study, project):
    """They were the parent's when `report`, which such an experiment does not run, wrote the metrics."""
    options = ("-S", "train.seed=7", "-S", "train.epochs=1", "-S", "train.optimizer.learning_rate=1e-6")
    project.run("dvc", "exp", "run", "--temp", "--name", "oneleg", *options, "evaluate@none")
    read = "import dvc.api, json; print(json.dumps([dvc.api.metrics_show(rev='oneleg'), dvc.api.exp_show()]))"
    metrics, rows = json.loads(project.run(sys.executable, "-c", read).stdout.splitlines()[-1])
    own = np.mean([ranks[0] == 1 for ranks in per_query(project, "oneleg", "none")])
    assert metrics["none"]["rank1"] == pytest.approx(own)
    row = next(row for row in rows if row["Experiment"] == "oneleg")
    parent = next(row for row in rows if row["rev"] != "workspace" and not row["Experiment"])
    assert row["none.rank1"] == metrics["none"]["rank1"]
    assert row["none.map_trapezoid"] != parent["none.map_trapezoid"], "a network that learned nothing ranks otherwise"
    listed = [key for key in row if key.partition(".")[0] in ("quality", "none", "lsro", "slsr")]
    assert len(listed) == 14
    project.run("dvc", "exp", "remove", "oneleg")


def test_the_winner_becomes_a_branch_and_the_workspace(study, project):
    two = next(name for name in names_of(project, "regularizers-") if "-seed2-" in name)
    project.run("dvc", "exp", "branch", two, "winner")
    assert yaml.safe_load(project.run("git", "show", "winner:params.yaml").stdout)["train"]["seed"] == 2
    project.run("dvc", "exp", "apply", two)
    assert yaml.safe_load((project.folder / "params.yaml").read_text())["train"]["seed"] == 2
    assert project.stages_run() == [], "its results came with it"
    project.run("git", "checkout", "--force", "--quiet", ".")
    project.run("dvc", "checkout", "--force")


def test_a_queued_grid_runs_on_the_device_that_its_worker_was_given(study, project):
    """`CUDA_VISIBLE_DEVICES=3 dvc queue start` reaches the stages of the experiments that this worker takes."""
    stage = project.folder / "src" / "slsr" / "stages" / "report.py"
    original = stage.read_text()
    # The run of a stage is not to depend on the device; this edit lets the test see it.
    stage.write_text(
        original.replace(
            '    log.info("wrote %s: %s", METRICS,',
            '    device = __import__("os").environ.get("CUDA_VISIBLE_DEVICES")\n'
            '    write_json(METRICS / "dataset.json", {"device": device})\n'
            '    log.info("wrote %s: %s", METRICS,',
        )
    )
    assert stage.read_text() != original
    project.run("dvc", "exp", "run", "--queue", "--name", "queued", "-S", "evaluate.ranked_list.depth=3,5", "report")
    stage.write_text(original)
    project.run("env", "CUDA_VISIBLE_DEVICES=3", "dvc", "queue", "start", "--jobs", "1")
    wait_for_queue(project)
    names = names_of(project, "queued")
    assert len(names) == 2, project.run("dvc", "queue", "status").stdout
    for name in names:
        assert json.loads(show(project, name, "metrics/dataset.json")) == {"device": "3"}
    depths = [yaml.safe_load(show(project, one, "params.yaml"))["evaluate"]["ranked_list"]["depth"] for one in names]
    assert sorted(depths) == [3, 5]


def wait_for_queue(project, seconds: int = 900) -> None:
    for _ in range(seconds // 5):
        if not re.search(r"\b(Queued|Running)\b", project.run("dvc", "queue", "status").stdout):
            return
        time.sleep(5)
    raise AssertionError(project.run("dvc", "queue", "status").stdout)


def test_a_study_in_the_queue_waits_there_once(study, project):
    first = project.slsr("study", "baseline", "--regularizers", "none", "--seeds", "8-9", "--queue")
    again = project.slsr("study", "baseline", "--regularizers", "none", "--seeds", "8-9", "--queue")
    status = project.run("dvc", "queue", "status").stdout
    project.run("dvc", "queue", "remove", "--all")
    assert first.returncode == again.returncode == 0, first.stderr + again.stderr
    assert len(re.findall(r"baseline-seed[89]-\w+\s.*Queued", status)) == 2
    assert "2 experiments, 2 of them finished or queued" in again.stdout


def test_an_experiment_runs_the_code_of_its_own_checkout(study, project):
    """`dvc exp run --temp` works in a temporary checkout; an editable install must not shadow its package."""
    stage = project.folder / "src" / "slsr" / "stages" / "report.py"
    original = stage.read_text()
    stage.write_text(
        original.replace(
            '    log.info("wrote %s: %s", METRICS,',
            '    write_json(METRICS / "dataset.json", {"marker": __file__})\n    log.info("wrote %s: %s", METRICS,',
        )
    )
    assert stage.read_text() != original
    project.run("dvc", "exp", "run", "--temp", "--name", "marked", "report")
    stage.write_text(original)
    marker = json.loads(show(project, "marked", "metrics/dataset.json"))["marker"]
    assert marker.endswith("src/slsr/stages/report.py")
    assert str(project.folder / "src") not in marker, "the code of the main checkout ran"
    assert "marker" not in json.loads((project.folder / "metrics" / "dataset.json").read_text())


def table_of_last_study(project, *options: str) -> list[dict[str, str]]:
    done = project.slsr("compare", *options, "--csv", "t.csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((project.folder / "t.csv").read_text().splitlines()))
    (project.folder / "t.csv").unlink()
    return rows


def rows_of_last_study(project, regularizer: str, *options: str) -> list[dict[str, str]]:
    """Of one regularizer: an experiment with the workspace's own seed has the workspace's results of all of them."""
    return [row for row in table_of_last_study(project, *options) if row["regularizer"] == regularizer]


def test_without_the_quality_of_its_images_a_study_is_compared_all_the_same(study, project):
    names = names_of(project, "regularizers-seed")
    recorded = yaml.safe_load(show(project, names[0], "dvc.lock"))["stages"]["generate"]["outs"]
    digest = next(out["md5"] for out in recorded if out["path"].endswith("quality.json"))
    cached = project.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    aside = cached.rename(project.folder / "aside")
    try:
        done = project.slsr("compare", *names)
    finally:
        aside.rename(cached)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^SLSR +\d", done.stdout, re.MULTILINE)
    assert "quality of all generated images" not in " ".join(done.stdout.split())
    assert "without the quality of its generated images" in done.stderr
    assert "quality of all generated images" in " ".join(project.slsr("compare", *names).stdout.split())


def test_a_study_of_clusters_shares_what_a_number_of_clusters_does_not_change(study, project):
    """Table 2: K x N. One cluster is not in the sweep of params.yaml, and is added for its experiments."""
    values = ["-S", "train.backbone=resnet18", "-S", "cluster.k=2,1", "-S", "generate.images=24,36"]
    done = project.slsr("study", "table2", *values, "--seeds", "1", "--regularizers", "slsr")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = re.split(r"^\[\d/4\] ", done.stdout, flags=re.MULTILINE)[1:]
    legs = {"train@slsr", "evaluate@slsr"}
    assert [stages_run(one) for one in runs[1:]] == [
        {"generate"} | legs,
        {"cluster", "train_gan", "generate"} | legs,
        {"generate"} | legs,
    ]
    rows = rows_of_last_study(project, "slsr")
    assert [(row["cluster.k"], row["generate.images"]) for row in rows] == [
        (k, n) for k in ("1", "2") for n in ("24", "36")
    ]
    assert {row["cluster.sweep"] for row in rows} == {"[2, 3]", "[1, 2, 3]"}


def test_a_study_over_seeds_of_the_pipeline_moves_every_stage(study, project):
    arguments = ["--seeds", "1-2", "--seeds-of", "pipeline", "--regularizers", "none,slsr"]
    done = project.slsr("study", "regularizers", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"train_encoder", "cluster", "train_gan", "generate", "train@slsr"} <= stages_run(done.stdout)
    assert "slsr compare --seeds-of pipeline" in done.stdout
    for name in ("none", "slsr"):
        assert [row["seeds"] for row in rows_of_last_study(project, name, "--seeds-of", "pipeline")] == ["1 2"]
    assert [row["seeds"] for row in rows_of_last_study(project, "slsr")] == ["1", "2"]
    mixed = project.slsr("compare", *names_of(project, "regularizers-seed"), "--seeds-of", "pipeline")
    assert mixed.returncode == 2
    assert "both with" in mixed.stderr
