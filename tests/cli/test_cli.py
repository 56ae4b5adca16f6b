"""The command line: exit codes, one message instead of a traceback, and nothing heavy for `--help`."""

import errno
import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from tiny import ROOT

from slsr.cli import stages
from slsr.errors import CheckFailed, InputError, Interrupted
from slsr.labels.regularizers import REGULARIZERS
from slsr.params import presets

STAGES = {
    "prepare": [],
    "train-encoder": [],
    "extract-features": [],
    "cluster": [],
    "train-gan": [],
    "generate": [],
    "floors": [],
    "train": ["slsr"],
    "evaluate": ["lsro"],
    "report": [],
}


@pytest.fixture
def slsr(run_slsr, monkeypatch, tmp_path):
    """A function: run a command in an empty folder; exit code, stdout, stderr. Logging is put back afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.getLogger("slsr"), "level", logging.NOTSET)
    return run_slsr


@pytest.fixture
def with_presets(tmp_path):
    shutil.copytree(ROOT / "presets", tmp_path / "presets")


@pytest.fixture(scope="module")
def rendered():
    return presets.render_preset(ROOT / "presets", "sample")


@pytest.fixture
def with_params(tmp_path, rendered):
    (tmp_path / "params.yaml").write_text(rendered, encoding="utf-8")


def raising(error):
    def stage(*arguments):
        raise error

    return stage


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("params.yaml: epochs: -1 is not allowed"), 2),
        (CheckFailed("the loss is nan in epoch 3"), 1),
        (Interrupted("interrupted in step 7; the same command goes on"), 130),
    ],
)
def test_an_error_is_one_message_and_an_exit_code(slsr, monkeypatch, error, code):
    monkeypatch.setattr(stages, "run_stage", raising(error))
    assert slsr("prepare") == (code, "", f"slsr: {error}\n")


def test_that_its_processes_were_interrupted_is_not_said_twice(slsr, monkeypatch, with_params):
    """They have said how to go on."""
    monkeypatch.setenv("SLSR_PROCESSES", "2")
    monkeypatch.setattr("slsr.runtime.launch.start_processes", lambda count, arguments: 130)
    assert slsr("train", "none") == (130, "", "")


def test_control_c_says_so(slsr, monkeypatch):
    monkeypatch.setattr(stages, "run_stage", raising(KeyboardInterrupt()))
    code, out, err = slsr("prepare")
    assert (code, out) == (130, "")
    assert err.strip() == "slsr: interrupted; nothing half-written was left behind"


def test_a_full_disk_is_said_and_the_old_file_stays(slsr, monkeypatch, with_presets):
    assert slsr("preset", "sample")[0] == 0
    before = Path("params.yaml").read_bytes()

    def full(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    code, out, err = slsr("preset", "market1501")
    assert (code, out) == (2, "")
    assert err.startswith("slsr: no space left on the disk")
    assert "params.yaml" in err
    assert len(err.splitlines()) == 1
    assert Path("params.yaml").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_without_a_file_name_is_said_too(slsr, monkeypatch, number):
    monkeypatch.setattr(stages, "run_stage", raising(OSError(number, "Error writing bytes to file")))
    code, _, err = slsr("cluster")
    assert code == 2
    assert err.startswith("slsr: no space left on the disk;")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EISDIR, errno.ENAMETOOLONG, errno.EIO])
def test_a_path_that_the_system_refuses_is_bad_input(slsr, monkeypatch, number):
    monkeypatch.setattr(stages, "run_stage", raising(OSError(number, os.strerror(number), "a" * 300)))
    code, _, err = slsr("prepare")
    assert code == 2
    assert err.count("\n") == 1
    assert os.strerror(number).lower() in err
    assert len(err) < 400


def test_a_failure_of_the_system_without_a_file_name_keeps_its_traceback(slsr, monkeypatch):
    monkeypatch.setattr(stages, "run_stage", raising(OSError(errno.EIO, "input/output error")))
    with pytest.raises(OSError, match="input/output"):
        slsr("prepare")


@pytest.mark.parametrize("error", [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
])  # fmt: skip
def test_no_memory_left_is_said_with_the_remedy(slsr, monkeypatch, error):
    monkeypatch.setattr(stages, "run_stage", raising(error))
    code, out, err = slsr("train-encoder")
    assert (code, out) == (2, "")
    assert err.startswith("slsr: out of memory (")
    assert "lower encoder.batch_size" in err
    assert len(err.splitlines()) == 1


def test_memory_that_the_host_really_does_not_have(slsr, monkeypatch):
    monkeypatch.setattr(stages, "run_stage", lambda *arguments: torch.empty(2**60))
    code, _, err = slsr("train", "none")
    assert code == 2
    assert err.startswith("slsr: out of memory (")
    assert "lower train.batch_size" in err
    assert len(err.splitlines()) == 1


def test_a_mistake_of_ours_keeps_its_traceback(slsr, monkeypatch):
    monkeypatch.setattr(stages, "run_stage", raising(RuntimeError("shapes do not match")))
    with pytest.raises(RuntimeError, match="shapes"):
        slsr("train-encoder")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_without_parameters_says_what_to_do(slsr, stage):
    code, out, err = slsr(stage, *STAGES[stage])
    assert (code, out) == (2, "")
    assert "params.yaml: no such file" in err
    assert "slsr preset" in err


@pytest.mark.parametrize("stage", STAGES)
def test_a_wrong_parameter_stops_every_stage_before_it_begins(slsr, monkeypatch, with_params, stage):
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(text.replace("  flip: true", "  flipp: true"), encoding="utf-8")
    monkeypatch.setattr(importlib, "import_module", raising(AssertionError("the stage was loaded")))
    code, out, err = slsr(stage, *STAGES[stage])
    assert (code, out) == (2, "")
    assert "evaluate.flipp: unknown key (value True)" in err
    assert "evaluate.flip: missing" in err


@pytest.mark.parametrize("stage", STAGES)
def test_a_network_that_cannot_be_stops_every_stage_before_it_begins(slsr, monkeypatch, with_params, stage):
    text = Path("params.yaml").read_text(encoding="utf-8")
    Path("params.yaml").write_text(re.sub(r"(?m)^  backbone: \w+", "  backbone: resnet17", text), encoding="utf-8")
    monkeypatch.setattr("slsr.params.file.run_with_blocks", lambda *_: pytest.fail("the stage began"))
    code, out, err = slsr(stage, *STAGES[stage])
    assert (code, out) == (2, "")
    assert err.startswith("slsr: encoder.backbone 'resnet17': unknown; did you mean ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("stage", STAGES)
def test_a_command_runs_the_stage_of_its_name_with_the_parameters(slsr, monkeypatch, with_params, stage):
    seen = []

    class Stage:
        @staticmethod
        def run(dataset):
            seen.append((dataset.archive,))

    class StageOfRegularizer:
        @staticmethod
        def run(dataset, regularizer):
            seen.append((dataset.archive, regularizer))

    def load(name):
        seen.append(name)
        return StageOfRegularizer if STAGES[stage] else Stage

    monkeypatch.setattr(importlib, "import_module", load)
    code, _, err = slsr(stage, *STAGES[stage])
    assert (code, err) == (0, "")
    assert seen == [f"slsr.stages.{stage.replace('-', '_')}", ("slsr-sample.zip", *STAGES[stage])]


@pytest.mark.parametrize("stage", STAGES)
def test_every_command_has_its_stage(stage):
    assert (ROOT / f"src/slsr/stages/{stage.replace('-', '_')}.py").is_file()


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_an_unknown_regularizer_lists_the_known_ones(slsr, stage):
    code, _, err = slsr(stage, "mixup")
    assert code == 2
    known = "none, lsr, lsro, slsr, slsr-weighted, slsr-nearest, one-hot, mprl"
    assert err == f"slsr: regularizer 'mixup': choose one of {known}\n"
    assert slsr(stage)[0] == 2


@pytest.mark.parametrize("stage", ["train", "evaluate"])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_every_regularizer_reaches_its_stage(slsr, monkeypatch, stage, name):
    seen = []
    monkeypatch.setattr(stages, "run_stage", lambda *arguments: seen.append(arguments))
    assert slsr(stage, name)[0] == 0
    assert seen == [(stage, name)]


def test_preset_lists_and_writes(slsr, with_presets):
    code, out, _ = slsr("preset")
    assert code == 0
    assert [line[2:].split()[0] for line in out.splitlines()] == presets.preset_names(Path("presets"))
    assert all(len(line[2:].split()) > 3 for line in out.splitlines()), "each has one line about it"
    code, out, err = slsr("preset", "sample")
    assert (code, err) == (0, "")
    assert out.startswith("wrote params.yaml from the preset sample;")
    assert "\n* sample " in slsr("preset")[1]
    Path("params.yaml").write_text("mine: 1\n", encoding="utf-8")
    code, _, err = slsr("preset", "sample")
    assert code == 2
    assert "--force" in err
    assert Path("params.yaml").read_text(encoding="utf-8") == "mine: 1\n"
    assert slsr("preset", "sample", "--force")[0] == 0
    assert Path("params.yaml").read_text(encoding="utf-8") == presets.render_preset(Path("presets"), "sample")


def test_preset_outside_of_the_project_says_so(slsr):
    code, _, err = slsr("preset", "sample")
    assert code == 2
    assert "preset 'sample'" in err


@pytest.mark.parametrize("arguments", [["--version"], ["-h"], ["study", "-h"], ["train", "none", "-h"]])
def test_version_and_short_help(slsr, arguments):
    code, out, err = slsr(*arguments)
    assert (code, err) == (0, "")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert out == f"slsr {declared}\n" if arguments == ["--version"] else "Usage:" in out


def test_the_package_lists_its_public_names_without_loading_them(tmp_path):
    done = run_python("import sys, slsr; print(*dir(slsr), 'torch' in sys.modules)", cwd=tmp_path)
    assert done.stdout.split() == ["LoadedEncoder", "__version__", "load_encoder", "False"]


@pytest.mark.parametrize("arguments", [["study", "x", "--seeds-of", "all"], ["compare", "--seeds-of", "all"]])
def test_a_choice_that_does_not_exist_is_refused_with_those_that_do(slsr, arguments):
    code, _, err = slsr(*arguments)
    assert code == 2
    assert "training" in err and "pipeline" in err


@pytest.mark.parametrize("command", ["score", "compare"])
def test_no_memory_left_outside_of_the_stages_names_no_parameter(command):
    assert "params.yaml" not in stages.memory_remedy(command)
    assert "cluster.sweep" in stages.memory_remedy("cluster")


def run_python(program, *arguments, cwd):
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=cwd)


HELP = """
import sys
import slsr, slsr.cli.main
sys.argv = ["slsr", "--help"]
try:
    slsr.cli.main.main()
except SystemExit as end:
    assert end.code == 0, end.code
print("LOADED", *(name for name in ("torch", "torchvision", "sklearn", "matplotlib", "pyarrow") if name in sys.modules))
"""


def test_help_loads_nothing_heavy_and_names_every_command(tmp_path):
    done = run_python(HELP, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text, loaded = done.stdout.split("LOADED")
    assert loaded.split() == []
    for command in [*STAGES, "preset", "sample"]:
        assert f" {command} " in text


def test_the_installed_command_ends_without_a_traceback(tmp_path):
    done = subprocess.run([sys.executable, "-m", "slsr", "cluster"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("slsr: params.yaml: no such file")
    assert len(done.stderr.splitlines()) == 1


def test_a_card_is_not_written_over_a_file_unasked(slsr, tmp_path):
    for name in ("dvc.yaml", "dvc.lock"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "metrics", tmp_path / "metrics")
    code, out, _ = slsr("card", "slsr")
    assert code == 0
    assert slsr("card", "slsr", "--out", "card.md") == (0, "wrote card.md\n", "")
    assert Path("card.md").read_text(encoding="utf-8") == out
    Path("card.md").write_text("mine", encoding="utf-8")
    assert slsr("card", "slsr", "--out", "card.md")[0] == 2
    assert Path("card.md").read_text(encoding="utf-8") == "mine"
    assert slsr("card", "slsr", "--out", "card.md", "--force")[0] == 0


def test_doctor_ends_with_1_where_something_stands_in_the_way(slsr, monkeypatch):
    from slsr.project.doctor import examine as doctor

    monkeypatch.setattr(doctor, "examine", lambda *arguments: [doctor.Finding("data", "problem", "gone", "fetch it")])
    code, out, err = slsr("doctor")
    assert code == 1
    assert "-> fetch it" in out
    assert err == "slsr: 1 problem: data\n"
    monkeypatch.setattr(doctor, "examine", lambda *arguments: [doctor.Finding("data", "ok", "there")])
    assert slsr("doctor")[0] == 0


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "utf-8"])
def test_what_an_encoding_lacks_is_replaced(tmp_path, encoding):
    """Bars of the survey, and a file name that is not UTF-8."""
    program = (
        "import sys, typer; from pathlib import Path; from slsr.cli import main, stages\n"
        "text = chr(0x2588) + ' ' + chr(0xDCFF) + ' done'\n"
        "stages.run_stage = lambda *_: (typer.echo(text), print(text, file=sys.stderr))\n"
        "sys.argv = ['slsr', 'prepare']; main.main()"
    )
    command = [sys.executable, "-c", program]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b" ? done\n")
    assert b"Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_failed_check(tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "slsr", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_share_that_is_gone_is_not_a_matter_of_permissions(slsr, monkeypatch, number):
    monkeypatch.setattr(stages, "run_stage", raising(OSError(number, os.strerror(number), "data/a.zip")))
    code, _, err = slsr("prepare")
    assert (code, "mount it again" in err, "permissions" in err) == (2, True, False)


def test_presets_are_listed_beside_parameters_of_another_encoding(slsr, with_presets):
    Path("params.yaml").write_bytes("# caf\u00e9\n".encode("latin-1"))
    assert slsr("preset")[0] == 0
