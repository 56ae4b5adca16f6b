"""Each dvc.yaml names every module that a stage imports, however deep, and no other: else DVC serves stale results."""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
FACE = SOURCE / "slsr/__init__.py"  # names for other programs, loaded when asked for; no stage asks
FILES = {name: yaml.safe_load((ROOT / name).read_text())["stages"] for name in ("dvc.yaml", "studies/dvc.yaml")}
STAGES = sorted((file, stage) for file, stages in FILES.items() for stage in stages)
NAMES = sorted({stage for _, stage in STAGES})


def module_file(module: str) -> Path | None:
    path = SOURCE.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def imported_modules(file: Path) -> frozenset[str]:
    """Every module of the package that a file names in an import, inside functions too."""
    if file == FACE:
        return frozenset()
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports hide what is imported"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {name for name in found if name.split(".")[0] == "slsr" and module_file(name)}
    parents = {name.rsplit(".", depth)[0] for name in modules for depth in range(1, name.count(".") + 1)}
    return frozenset(modules | parents)


@cache
def has_code(file: Path) -> bool:
    if file == FACE:
        return False
    body = ast.parse(file.read_text()).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


@cache
def imports_of(stage: str) -> set[str]:
    """Files of the package that running a stage can load, relative to the root."""
    waiting, seen = {f"slsr.stages.{stage}"}, set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        waiting |= imported_modules(module_file(module)) - seen
    return {str(module_file(module).relative_to(ROOT)) for module in seen if has_code(module_file(module))}


def test_the_face_of_the_package_can_change_no_stage():
    """Why it is no dependency: it loads nothing by itself, and no module of the package takes a name from it."""
    loaded = "import sys, slsr; print(*[name for name in sys.modules if name.startswith(('slsr', 'torch', 'numpy'))])"
    command = [sys.executable, "-c", loaded]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["slsr"]
    taken = {
        (str(file), alias.name)
        for file in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "slsr"
        for alias in node.names
        if not module_file(f"slsr.{alias.name}")
    }
    assert taken == set()


def body_of(file: str, stage: str) -> dict:
    return FILES[file][stage].get("do", FILES[file][stage])


@pytest.mark.parametrize(("file", "stage"), STAGES)
def test_a_stage_lists_exactly_what_it_imports(file, stage):
    paths = [path.removeprefix("../../") for path in body_of(file, stage)["deps"]]
    listed = {path for path in paths if path.startswith("src/")}
    needed = imports_of(stage)
    assert needed - listed == set(), f"imported by {stage}, missing from its deps in {file}"
    assert listed - needed == set(), f"in the deps of {stage} in {file}, but not imported"


LOAD_EACH = """
import importlib, json, sys
def ours(): return sorted(name for name in sys.modules if name.split(".")[0] == "slsr")
loaded = {}
for stage in sys.argv[1:]:
    for name in ours():
        del sys.modules[name]
    importlib.import_module(f"slsr.stages.{stage}")
    loaded[stage] = ours()
print(json.dumps(loaded))
"""


@pytest.fixture(scope="module")
def loaded_by_stage() -> dict[str, list[str]]:
    """The modules of the package that importing each stage, from nothing, really loads."""
    command = [sys.executable, "-c", LOAD_EACH, *NAMES]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("stage", NAMES)
def test_what_python_loads_is_what_the_source_says(stage, loaded_by_stage):
    """The static reading above misses nothing that an import of the stage really loads."""
    assert f"slsr.stages.{stage}" in loaded_by_stage[stage]
    files = {module_file(module) for module in loaded_by_stage[stage]}
    assert {str(file.relative_to(ROOT)) for file in files if has_code(file)} <= imports_of(stage)


@pytest.mark.parametrize(("file", "stage"), STAGES)
def test_a_stage_says_what_it_is_for(file, stage):
    assert len(body_of(file, stage)["desc"]) > 20


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(name, *sorted(imports_of(name)), sep="\n      - ")
