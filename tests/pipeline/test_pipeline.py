"""The pipeline as a user runs it: real git, real DVC, in a temporary clone."""

import csv
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import safe_open

from slsr.labels.regularizers import committed_names

pytestmark = pytest.mark.pipeline

ROOT = Path(__file__).parents[2]

REGULARIZERS = committed_names()


def edit_params(project, text: str, replacement: str) -> None:
    path = project.folder / "params.yaml"
    before = path.read_text()
    assert before.count(text) == 1, text
    path.write_text(before.replace(text, replacement))


def flat(values, prefix: str = "") -> dict:
    if not isinstance(values, dict):
        return {prefix[:-1]: values}
    return {key: leaf for name, value in values.items() for key, leaf in flat(value, f"{prefix}{name}.").items()}


def test_a_clone_has_the_sample_without_a_server(fresh_clone):
    fresh_clone.run("dvc", "pull", "data.dvc")
    assert (fresh_clone.folder / "data" / "slsr-sample.zip").stat().st_size < 4_000_000


def test_params_are_those_of_the_sample_preset(fresh_clone):
    before = (fresh_clone.folder / "params.yaml").read_text()
    done = fresh_clone.slsr("preset", "sample")
    assert done.returncode == 0, done.stderr
    assert (fresh_clone.folder / "params.yaml").read_text() == before


def test_data_of_a_user_is_never_pushed(fresh_clone, tmp_path):
    """`push: false` keeps archives out of every remote, the one inside the repository first."""
    fresh_clone.run("dvc", "pull", "data.dvc")
    (fresh_clone.folder / "data" / "licensed.zip").write_bytes(b"people" * 1000)
    fresh_clone.run("dvc", "add", "data")
    out = yaml.safe_load((fresh_clone.folder / "data.dvc").read_text())["outs"][0]
    assert out["remote"] == "seed"
    assert out["push"] is False
    remote = tmp_path / "remote"
    fresh_clone.run("dvc", "remote", "add", "--default", "elsewhere", str(remote))
    store = sorted(path.name for path in (fresh_clone.folder / ".dvcstore").rglob("*"))
    fresh_clone.run("dvc", "push")
    fresh_clone.run("dvc", "push", "--remote", "elsewhere", "data.dvc")
    fresh_clone.run("dvc", "push", "--remote", "seed", "data.dvc")
    assert sorted(path.name for path in (fresh_clone.folder / ".dvcstore").rglob("*")) == store
    assert not [path for path in remote.rglob("*") if path.is_file()]
    fresh_clone.run("dvc", "remote", "remove", "elsewhere")
    fresh_clone.run("git", "checkout", "data.dvc")
    fresh_clone.run("dvc", "checkout", "--force", "data.dvc")


def test_every_stage_wrote_what_it_says(tiny_run):
    lock = yaml.safe_load((tiny_run.folder / "dvc.lock").read_text())["stages"]
    legs = [f"{stage}@{name}" for stage in ("train", "evaluate") for name in REGULARIZERS]
    single = ["prepare", "train_encoder", "extract_features", "cluster", "train_gan", "generate", "floors", "report"]
    assert sorted(lock) == sorted(single + legs)
    for stage in lock.values():
        for out in stage["outs"]:
            assert (tiny_run.folder / out["path"]).exists(), out["path"]


def test_rows_fit_together(tiny_run):
    artifacts = tiny_run.folder / "artifacts"
    train = pq.read_table(artifacts / "prepared" / "train.parquet")
    features = np.load(artifacts / "features" / "train.npy", allow_pickle=False)
    assignments = pq.read_table(artifacts / "clusters" / "assignments.parquet")
    assert features.shape == (len(train), 512)
    assert assignments.column("name").equals(train.column("name"))
    assert sorted(set(train.column("label").to_pylist())) == list(range(8))


def test_generated_images_carry_the_sparse_label_of_their_cluster(tiny_run):
    artifacts = tiny_run.folder / "artifacts"
    assignments = pq.read_table(artifacts / "clusters" / "assignments.parquet").to_pylist()
    seen = Counter((row["cluster"], row["label"]) for row in assignments)
    members = {
        cluster: [label for (c, label), n in sorted(seen.items()) if c == cluster and n >= 6] for cluster in (0, 1)
    }
    assert any(len(labels) < 8 for labels in members.values()), "every label is uniform: nothing sparse is tested"
    generated = pq.read_table(artifacts / "generated" / "images.parquet").to_pylist()
    assert len(generated) == 24
    for row in generated:
        assert row["label_index"] == members[row["cluster"]]
        np.testing.assert_allclose(row["label_weight"], 1 / len(members[row["cluster"]]), rtol=1e-6)


def test_the_runs_differ(tiny_run):
    """LSRO and SLSR saw other targets than each other and than the baseline."""
    weights = []
    for name in REGULARIZERS:
        with safe_open(tiny_run.folder / "artifacts" / "train" / name / "model.safetensors", framework="np") as file:
            weights.append(file.get_tensor("head.4.weight"))
    assert not np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[1], weights[2])


def test_the_metrics_of_dvc_are_those_of_the_stages(tiny_run):
    listed = json.loads(tiny_run.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    expected = {}
    for name in REGULARIZERS:
        folder = f"artifacts/evaluate/{name}"
        metrics = json.loads((tiny_run.folder / folder / "metrics.json").read_text())
        plain, reranked = metrics["single_query"], metrics["single_query_rerank"]
        numbers = {key: plain[key] for key in ("rank1", "map_trapezoid")}
        numbers |= {f"rerank_{key}": reranked[key] for key in ("rank1", "map_trapezoid")}
        expected[f"{folder}/summary.json"] = {"data": {name: numbers}}
    quality = json.loads((tiny_run.folder / "artifacts/generated/quality.json").read_text())["overall"]["imagenet"]
    generated = {"kid": quality["kernel"]["value"], "coverage": quality["coverage"]["value"]}
    expected["artifacts/generated/summary.json"] = {"data": {"quality": generated}}
    assert listed == expected


def test_report_prints_what_evaluate_measured(tiny_run):
    metrics = json.loads((tiny_run.folder / "artifacts/evaluate/slsr/metrics.json").read_text())["single_query"]
    assert json.loads((tiny_run.folder / "metrics/slsr.json").read_text())["single_query"] == metrics
    report = (tiny_run.folder / "metrics/report.md").read_text()
    assert f"{100 * metrics['map_trapezoid']:.1f} [" in report
    for name in ("floor: color histogram", "floor: network before training", "baseline (none)", "LSRO", "SLSR"):
        assert re.search(rf"^\| {re.escape(name)} +\|", report, re.MULTILINE), name


def test_a_second_repro_runs_nothing(tiny_run):
    assert tiny_run.stages_run() == []


def slow(stage):
    return pytest.param(stage, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "stage",
    [
        "report",
        *map(slow, ("prepare", "train_encoder", "extract_features", "cluster", "train_gan")),
        *map(slow, ("generate", "train@slsr", "floors", "evaluate@slsr")),
    ],
)
def test_a_stage_run_again_writes_the_same_bytes_and_reads_listed_parameters_only(tiny_run, stage):
    name, *arguments = stage.split("@")
    recorder = ROOT / "tests" / "pipeline" / "run_recorded.py"
    done = tiny_run.run("env", "PYTHONPATH=src", sys.executable, str(recorder), name, *arguments)
    assert tiny_run.run("dvc", "status", "--json").stdout.strip() == "{}"
    listed = flat(yaml.safe_load((tiny_run.folder / "dvc.lock").read_text())["stages"][stage]["params"]["params.yaml"])
    read = json.loads(done.stdout.splitlines()[-1])
    undeclared = [key for key in read if not any(key == one or key.startswith(f"{one}.") for one in listed)]
    assert undeclared == [], f"{stage} reads parameters that dvc.yaml does not list"


def test_one_parameter_concerns_exactly_the_stages_that_need_it(tiny_run):
    edit_params(tiny_run, "k2: 3", "k2: 4")
    changed = json.loads(tiny_run.run("dvc", "status", "--json").stdout)
    assert sorted(changed) == [f"evaluate@{name}" for name in sorted(REGULARIZERS)]
    edit_params(tiny_run, "k2: 4", "k2: 3")


@pytest.mark.slow
def test_one_parameter_runs_what_needs_it_and_its_old_value_runs_nothing_twice(tiny_run):
    edit_params(tiny_run, "k2: 3", "k2: 4")
    evaluated = [f"evaluate@{name}" for name in REGULARIZERS]
    assert sorted(tiny_run.stages_run()) == sorted([*evaluated, "report"])
    edit_params(tiny_run, "k2: 4", "k2: 3")
    assert tiny_run.stages_run() == ["report"]  # the others come from the run cache; git keeps the report


def test_what_concerns_generated_images_leaves_the_baseline_alone(tiny_run):
    edit_params(tiny_run, "  weight: 1.0 ", "  weight: 0.5 ")
    changed = json.loads(tiny_run.run("dvc", "status", "--json").stdout)
    assert sorted(changed) == ["train@lsro", "train@slsr"]
    edit_params(tiny_run, "  weight: 0.5 ", "  weight: 1.0 ")


def test_the_other_regularizers_are_stages_on_demand(tiny_run):
    def stages():
        return tiny_run.run("dvc", "stage", "list", "--name-only", "studies/dvc.yaml").stdout.split()

    assert stages() == []
    edit_params(tiny_run, "  regularizers: [] ", "  regularizers: [mprl, lsr] ")
    names = [name.removeprefix("studies/dvc.yaml:") for name in stages()]
    assert names == ["train@mprl", "train@lsr", "evaluate@mprl", "evaluate@lsr"]
    assert tiny_run.stages_run("--dry") == [], "a plain repro leaves them alone"
    edit_params(tiny_run, "  regularizers: [mprl, lsr] ", "  regularizers: [] ")
    assert tiny_run.run("dvc", "status", "--json").stdout.strip() == "{}"


@pytest.mark.slow
def test_a_study_is_an_experiment_that_runs_what_it_needs_and_is_shared_whole(copied_run, tmp_path):
    project, folder = copied_run, copied_run.folder
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--allow-empty", "--message", "run")
    project.run("dvc", "remote", "add", "--default", "elsewhere", str(tmp_path / "remote"))
    target, choice = "studies/dvc.yaml:evaluate@mprl", "studies.regularizers=[mprl]"
    done = project.run("dvc", "exp", "run", target, "-S", choice, "-S", "train.seed=2")
    ran = [line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")]
    assert ran == ["studies/dvc.yaml:train@mprl", target]
    lock = yaml.safe_load((folder / "studies" / "dvc.lock").read_text())["stages"]
    assert sorted(lock) == ["evaluate@mprl", "train@mprl"]
    read = {key for of_file in lock["train@mprl"]["params"].values() for key in of_file}
    assert read == {"generated", "image", "lsr", "pseudo_labels", "train"}
    stale = json.loads(project.run("dvc", "status", "--json").stdout)
    assert not [name for name in stale if name.startswith("studies")], "the others' seed has changed, not theirs"
    module = folder / "src" / "slsr" / "datasets" / "collection.py"
    original = module.read_text()
    module.write_text(original + "\n")
    refused = project.slsr("compare", "workspace")
    module.write_text(original)
    assert refused.returncode == 2
    assert re.search(r"left out evaluate@mprl.*prepare: src/slsr/datasets: changed since the run", refused.stderr)
    metrics = (folder / "artifacts" / "evaluate" / "mprl" / "metrics.json").read_bytes()
    project.run("dvc", "push")
    shutil.rmtree(folder / "artifacts")
    shutil.rmtree(folder / ".dvc" / "cache")
    project.run("dvc", "pull")
    assert (folder / "artifacts" / "evaluate" / "mprl" / "metrics.json").read_bytes() == metrics

    project.run("git", "checkout", "--quiet", "params.yaml", "dvc.lock")
    (folder / "studies" / "dvc.lock").unlink()
    project.run("dvc", "checkout")
    assert project.run("dvc", "status", "--json").stdout.strip() == "{}"
    target, choice = "studies/dvc.yaml:evaluate@lsr", "studies.regularizers=[lsr]"
    project.run("dvc", "exp", "run", "--queue", target, "-S", choice, "-S", "train.seed=1,2")
    project.run("dvc", "exp", "run", "--run-all")
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    found = [one for state in shown for one in state["experiments"] or []]
    assert len(found) == 3, "mprl, and lsr twice"
    compared = project.slsr("compare", "*", "--baseline", "lsr", "--csv", str(tmp_path / "t.csv"))
    assert compared.returncode == 0, compared.stderr
    rows = {row["regularizer"]: row for row in csv.DictReader((tmp_path / "t.csv").read_text().splitlines())}
    assert rows["lsr"]["seeds"] == "1 2"
    assert rows["mprl"]["seeds"] == "2"
    assert float(rows["mprl"]["rank1_mean"]) == pytest.approx(json.loads(metrics)["single_query"]["rank1"])


def test_lost_outputs_come_back_from_the_cache_without_running(tiny_run):
    shutil.rmtree(tiny_run.folder / "artifacts")
    assert tiny_run.stages_run() == []
    assert (tiny_run.folder / "artifacts/train/slsr/model.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("batch_size: 32", "batch_size: 1"), "batch_size: 1 is not allowed"),
        (("  k: 2 ", "  k: 7 "), "lacks the chosen k 7"),
        (("archive: slsr-sample.zip", "archive: absent.zip"), "absent.zip"),
    ],
)
def test_a_mistake_ends_with_one_message_and_leaves_outputs_alone(tiny_run, change, message):
    table = tiny_run.folder / "artifacts" / "prepared" / "train.parquet"
    if not table.exists():
        tiny_run.run("dvc", "checkout")
    before, text = table.read_bytes(), (tiny_run.folder / "params.yaml").read_text()
    assert change[0] in text
    (tiny_run.folder / "params.yaml").write_text(text.replace(*change, 1))
    done = tiny_run.slsr("prepare")
    (tiny_run.folder / "params.yaml").write_text(text)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert table.read_bytes() == before
