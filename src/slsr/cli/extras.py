"""Which extra of the package a command needs, for users who did not install all of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# The extras of pyproject.toml: the modules that each adds, and the extras on which it builds.
MODULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tables": ("pyarrow",),
        "data": ("PIL",),
        "cuhk03": ("h5py",),
        "train": ("torch", "torchvision", "timm", "safetensors", "sklearn", "matplotlib"),
        "pipeline": ("dvc", "dvc_data", "dvc_objects", "dvclive", "packaging"),
        "ssh": ("dvc_ssh",),
        "s3": ("dvc_s3",),
        "search": ("faiss",),
        "explore": ("flask", "waitress"),
        "export": ("onnx", "onnxscript", "onnxruntime"),
    }
)
BUILT_ON: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "tables": (),
        "data": ("tables",),
        "cuhk03": ("data",),
        "train": ("data",),
        "pipeline": ("train",),
        "ssh": ("pipeline",),
        "s3": ("pipeline",),
        "search": ("data",),
        "explore": ("pipeline",),
        "export": ("train",),
    }
)
# The extra with which a command does all that it can; `pipeline` for commands that are not listed.
EXTRA_OF_COMMAND: Mapping[str, str] = MappingProxyType(
    {
        "data": "data",
        "embed": "train",
        "explore": "explore",
        "export": "export",
        "index": "search",
        "sample": "data",
        "score": "tables",
        "search": "search",
        "transfer": "train",
    }
)


def includes(extra: str, other: str) -> bool:
    """Tell whether an extra is another one, or builds on it.

    >>> includes("train", "tables"), includes("tables", "train")
    (True, False)
    """
    return extra == other or any(includes(one, other) for one in BUILT_ON[extra])


def describe_missing(module: str, command: str) -> str:
    """Say which package a command lacks, and what installs it.

    The extra is that of the command, so that one installation is enough, unless this one does not have the module.
    """
    owner = next((extra for extra, modules in MODULES.items() if module in modules), None)
    if owner is None:
        return f"`slsr {command}` needs the package {module}, which is not installed; install it"
    extra = EXTRA_OF_COMMAND.get(command, "pipeline")
    chosen = extra if includes(extra, owner) else owner
    return (
        f"`slsr {command}` needs the package {module}, which is not installed; in the clone, run pip install "
        f"'.[{chosen}]', or `make env` for everything"
    )
