"""What may import what, and what each stage depends on.

Each dvc.yaml covers every module that a stage imports, however deep, else DVC serves stale results; and names nothing
that is not reached. Rooms import downwards, without circles.
"""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from slsr.params.file import Params

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


def covers(listed: str, file: str) -> bool:
    """Whether a dependency is this file, or a room that the file lies in."""
    return file == listed or file.startswith(f"{listed}/")


@pytest.mark.parametrize(("file", "stage"), STAGES)
def test_what_a_stage_imports_lies_under_its_dependencies_and_each_is_reached(file, stage):
    listed = {path for path in body_of(file, stage)["deps"] if path.startswith("src/")}
    needed = imports_of(stage)
    missing = {module for module in needed if not any(covers(one, module) for one in listed)}
    assert missing == set(), f"imported by {stage}, under none of its deps in {file}"
    idle = {one for one in listed if not any(covers(one, module) for module in needed)}
    assert idle == set(), f"in the deps of {stage} in {file}, but nothing below is imported"
    assert not [one for one in listed for other in listed if one != other and covers(one, other)], "listed twice"


@pytest.mark.parametrize("stage", NAMES)
def test_the_signature_of_a_stage_is_its_list_of_parameters(stage):
    """`run(dataset: Dataset, ...)` takes the blocks of params.yaml that dvc.yaml names for it, whole or in part."""
    run = importlib.import_module(f"slsr.stages.{stage}").run
    blocks = [name for name in inspect.signature(run).parameters if name in Params.model_fields]
    named = set()
    for file in FILES:
        if stage in FILES[file]:
            legs = FILES[file][stage].get("foreach")
            knobs = {leg["knobs"] for leg in legs.values()} if isinstance(legs, dict) else set()
            named |= {key.split(".")[0] for key in body_of(file, stage)["params"] if not key.startswith("$")} | knobs
    assert set(blocks) == named
    for name in blocks:
        assert inspect.signature(run, eval_str=True).parameters[name].annotation is Params.model_fields[name].annotation


# What each room may import: those further down. Within a line the arrows between rooms make no circle.
LAYERS = [
    {"cli"},
    {"stages", "experiments", "explore", "search"},
    {"gan", "evaluation", "training", "embedding", "quality", "reporting"},
    {"datasets", "images", "models", "runtime", "project"},
    {"params"},
    {"labels", "clustering", "retrieval", "sample", "files", "errors", "markdown"},
]
ROOMS = set().union(*LAYERS)


def room_of(module: str) -> str:
    return module.split(".")[1]


def arrows() -> set[tuple[str, str]]:
    """Imports between rooms, those inside functions too, with the modules that make them."""
    found = set()
    for file in SOURCE.rglob("*.py"):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        own = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if file == FACE or own == "slsr.__main__":
            continue
        found |= {(own, module) for module in imported_modules(file) if module.count(".") > 0}
    return found


def test_the_root_holds_rooms_and_no_loose_furniture():
    entries = [path for path in (SOURCE / "slsr").iterdir() if path.name not in {"__pycache__", "py.typed"}]
    folders = {path.name for path in entries if path.is_dir()}
    files = {path.stem for path in entries if path.is_file()}
    assert len(folders) <= 22 and len(files) <= 5
    assert folders | files == ROOMS | {"__init__", "__main__"}
    assert {path.stem for path in (SOURCE / "slsr/stages").glob("*.py")} == {*NAMES, "paths", "__init__"}


def test_no_arrow_points_up():
    depth = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    up = sorted((own, used) for own, used in arrows() if depth[room_of(used)] < depth[room_of(own)])
    assert up == []
    into_stages = {own for own, used in arrows() if room_of(used) == "stages" and room_of(own) not in ("stages", "cli")}
    assert into_stages == set(), "nothing but the commands imports stages"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of a graph, or nothing."""
    state: dict[str, int] = {}

    def visit(node: str, path: list[str]) -> list[str]:
        if state.get(node) == 2:
            return []
        if state.get(node) == 1:
            return path[path.index(node) :]
        state[node] = 1
        for following in sorted(graph.get(node, ())):
            if found := visit(following, [*path, following]):
                return found
        state[node] = 2
        return []

    return next((found for node in sorted(graph) if (found := visit(node, [node]))), [])


def test_no_circle_of_rooms_or_modules():
    rooms: dict[str, set[str]] = {}
    modules: dict[str, set[str]] = {}
    for own, used in arrows():
        if room_of(own) != room_of(used):
            rooms.setdefault(room_of(own), set()).add(room_of(used))
        if not f"{own}.".startswith(f"{used}."):  # every module belongs to its package
            modules.setdefault(own, set()).add(used)
    assert circle(rooms) == []
    assert circle(modules) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"], "a circle is found where there is one"


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
