"""A study: the parameters that it varies, its seeds and its regularizers.

A study is a file in studies/ (the tables of the paper are there), or what a command line says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator
from ruamel.yaml.error import YAMLError

from slsr.errors import InputError
from slsr.experiments.seeds import SeedsOf, seed_overrides
from slsr.labels.regularizers import committed_names, regularizer_named
from slsr.params.base import Block, Seed
from slsr.params.reading import parse_yaml, read_yaml, validated

STUDIES = Path("studies")
PIPELINE_FILE = "dvc"  # studies/dvc.yaml has stages, not a study
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
REGULARIZERS_KEY = "studies.regularizers"
STEPS_KEY = "train.steps"
# What names of experiments call these parameters; others have the last part of their key.
SHORT = {"train.backbone": "", "train.epochs": "e", "cluster.k": "k", "generate.images": "n"}


class Study(Block):
    """What a study runs: every combination of the values in `vary`, with every seed.

    Attributes
    ----------
    vary : the values of each parameter, by its key in params.yaml
    seeds : the seeds of every combination
    seeds_of : `training`: a seed sets `train.seed`; `pipeline`: it sets the seeds of every stage
    regularizers : the regularizers that every experiment trains and evaluates
    steps : `equal`: all regularizers of an experiment are trained for as many steps, under one schedule, as one with
        generated images has in `train.epochs`; `as-given`: as the parameters say
    """

    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    seeds: list[Seed] = Field([1, 2, 3, 4, 5], min_length=1)
    seeds_of: SeedsOf = "training"
    regularizers: list[str] = Field(default_factory=committed_names, min_length=1)
    steps: Literal["as-given", "equal"] = "as-given"

    @model_validator(mode="after")
    def lists_are_sensible(self) -> Self:
        for key, values in {**self.vary, "seeds": self.seeds, "regularizers": self.regularizers}.items():
            if len({str(value) for value in values}) < len(values):
                raise ValueError(f"{key} {values} has a value twice; list each value once")
        for key in (*seed_overrides(0, self.seeds_of), REGULARIZERS_KEY):
            if key in self.vary:
                raise ValueError(f"vary has {key}, which `seeds` or `regularizers` set; remove it from vary")
        if self.steps == "equal" and STEPS_KEY in self.vary:
            raise ValueError(f"vary has {STEPS_KEY}, which `steps: equal` sets; remove one of the two")
        for name in self.regularizers:
            regularizer_named(name)  # an error if there is none
        return self


@dataclass(frozen=True)
class Setting:
    """What one experiment of a study changes in params.yaml."""

    label: str
    overrides: Mapping[str, Any]


def numbers(text: str, option: str) -> list[int]:
    """Parse `1-5`, `1,3,7` or a mixture, in the order given.

    >>> numbers("1-3,7", "--seeds")
    [1, 2, 3, 7]

    Raises
    ------
    InputError
        The text is something else.
    """
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if ends is None or (ends[2] and int(ends[2]) < int(ends[1])):
            raise InputError(f"{option} {text!r}: give numbers and ranges such as 1-5 or 1,3,7")
        found += range(int(ends[1]), int(ends[2] or ends[1]) + 1)
    return found


def names(text: str) -> list[str]:
    """Split `none,lsro` into a list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def values_of_parameters(texts: Iterable[str]) -> dict[str, list[Any]]:
    """Parse `key=a,b,c` into the values of each parameter; a value that is itself a list has brackets.

    >>> values_of_parameters(["cluster.k=2,3", "cluster.sweep=[2,3]"])
    {'cluster.k': [2, 3], 'cluster.sweep': [[2, 3]]}

    Raises
    ------
    InputError
        A text has another form, or a key is given twice.
    """
    found: dict[str, list[Any]] = {}
    for text in texts:
        key, _, listed = text.partition("=")
        try:
            values = parse_yaml(f"[{listed}]")
        except YAMLError:
            values = []
        if not key or not values:
            raise InputError(f"-S {text!r}: give a parameter and its values, such as -S cluster.k=2,3,4")
        if key in found:
            raise InputError(f"-S {text!r}: {key} is given twice; give all its values at once")
        found[key] = values
    return found


def study_names(root: Path) -> list[str]:
    """List the studies that have a file in studies/."""
    return sorted(path.stem for path in (root / STUDIES).glob("*.yaml") if path.stem != PIPELINE_FILE)


def read_study(root: Path, name: str, options: Mapping[str, Any]) -> tuple[str, Study]:
    """Read a study from its file and let options replace what the file says, or make a study of options alone.

    `name` is the path of a file, the name of a file in studies/ without `.yaml`, or the name of a new study. `options`
    are fields of `Study`. The answer is the name, with which the names of experiments begin, and the study.

    Raises
    ------
    InputError
        The file does not exist or is not valid, or a new study has neither parameters to vary nor seeds.
    """
    path = Path(name) if name.endswith(".yaml") else STUDIES / f"{name}.yaml"
    in_file = read_yaml(root / path) if (root / path).is_file() else None
    if in_file is None and (path == Path(name) or not {"vary", "seeds"} & options.keys()):
        known = f"choose one of {', '.join(found)}, or " if (found := study_names(root)) else ""
        raise InputError(f"study {name!r}: no file {path}; {known}give -S or --seeds for a new study")
    if not NAME.fullmatch(path.stem):
        raise InputError(f"study {name!r}: experiments are named after it; use letters, digits, - and _ only")
    of_file = validated(Study, in_file or {}, str(path), see="docs/experiments.md")
    values = {**of_file.model_dump(), **options, "vary": {**of_file.vary, **options.get("vary", {})}}
    return path.stem, validated(Study, values, f"study {path.stem}", see="docs/experiments.md")


def settings_of(study: Study, sweep: Sequence[int]) -> list[Setting]:
    """List the settings of a study: each combination of values, with each seed.

    A number of clusters that `sweep`, the `cluster.sweep` of params.yaml, does not have is added to it.
    """
    found = []
    for values in product(*study.vary.values()):
        overrides = dict(zip(study.vary, values, strict=True))
        k, swept = overrides.get("cluster.k"), overrides.get("cluster.sweep", sweep)
        if isinstance(k, int) and k not in swept:
            overrides["cluster.sweep"] = sorted([*swept, k])
        labels = [_label(key, value) for key, value in zip(study.vary, values, strict=True)]
        labels += ["equal"] if study.steps == "equal" else []
        for seed in study.seeds:
            label = "-".join([*labels, f"{'seed' if study.seeds_of == 'training' else 'pipeline'}{seed}"])
            found.append(Setting(label, overrides | seed_overrides(seed, study.seeds_of)))
    return found


def _label(key: str, value: Any) -> str:
    """Name a parameter and its value, for the name of a git reference."""
    return re.sub(r"(?:[^A-Za-z0-9._+-]|\.{2,})+", "_", f"{SHORT.get(key, key.rpartition('.')[2])}{value}")
