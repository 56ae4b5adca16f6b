"""Run one stage in the current folder and print, as JSON, every parameter that it read."""

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slsr.params.base import Block
from slsr.params.file import Params, load_params, run_with_blocks


def name_blocks(block: Block, prefix: str, names: dict[int, str]) -> dict[int, str]:
    names[id(block)] = prefix
    for field in type(block).model_fields:
        value = block.__dict__[field]
        if isinstance(value, Block):
            name_blocks(value, f"{prefix}{field}.", names)
    return names


@contextmanager
def recording(params: Params) -> Iterator[set[str]]:
    """The keys that are read of `params` within the block."""
    names = name_blocks(params, "", {})
    read: set[str] = set()
    original = Block.__getattribute__

    def recorded(self, name):
        value = original(self, name)
        prefix = names.get(id(self))
        if prefix is not None and name == "model_dump":
            read.update(f"{prefix}{field}" for field in type(self).model_fields)
        elif prefix is not None and name in type(self).model_fields and not isinstance(value, Block):
            read.add(f"{prefix}{name}")
        return value

    Block.__getattribute__ = recorded
    try:
        yield read
    finally:
        Block.__getattribute__ = original


def main() -> None:
    stage, *arguments = sys.argv[1:]
    params = load_params(Path("params.yaml"))
    with recording(params) as read:
        run_with_blocks(importlib.import_module(f"slsr.stages.{stage}").run, params, *arguments)
    print(json.dumps(sorted(read)))


if __name__ == "__main__":
    main()
