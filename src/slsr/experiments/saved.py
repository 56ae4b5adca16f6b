"""Results of experiments as small files of numbers that git can keep, for machines that share no cache of DVC."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from slsr.errors import InputError
from slsr.evaluation.per_query import read_queries
from slsr.experiments.networks import EvaluatedNetwork, NetworkFiles, Training, read_networks
from slsr.files import read_json, replaced_file, write_json
from slsr.project.revisions import Revision, find_revisions

PER_QUERY = ".per_query.parquet"


def save_networks(networks: Sequence[NetworkFiles], folder: Path) -> list[Path]:
    """Write the numbers of every network (`slsr.experiments.networks.files_of`); return the JSON files.

    `<experiment>.<regularizer>.json` has parameters, hashes of data and code, measures for every way of ranking, steps,
    and the quality of the generated images; the table beside it has the ranks and average precisions of every query.
    Names of images are left out, so the folder can be published where images and models cannot. A network that the
    folder already has is left as it is.

    Raises
    ------
    InputError
        There is no network, or the folder has other measures or settings under the name of one.
    """
    if not networks:
        raise InputError(f"{folder}: there is no network to save; name experiments, commits or `workspace`")
    folder.mkdir(parents=True, exist_ok=True)
    return [_save(files, folder) for files in networks]


def _save(files: NetworkFiles, folder: Path) -> Path:
    path = folder / f"{files.experiment.replace('/', '-')}.{files.regularizer}.json"
    content = _as_json(files)
    if path.exists():
        known = read_json(path)
        if differing := [key for key in ("seed", "settings", "metrics") if known.get(key) != content[key]]:
            raise InputError(
                f"{path}: has another network of this name ({' and '.join(differing)} differ); name another folder"
            )
    table = path.with_suffix(PER_QUERY)
    if not table.exists():
        _write_without_names(files.per_query, table)
    if not path.exists():
        write_json(path, content)
    return path


def _write_without_names(source: Path, target: Path) -> None:
    """Copy the table of queries without the names of images."""
    table = pq.read_table(source)
    place = table.schema.get_field_index("name")
    without = table.set_column(place, table.schema.field(place), pa.nulls(len(table), pa.string()))
    with replaced_file(target) as partial:
        pq.write_table(without, partial, compression="zstd")


def _as_json(files: NetworkFiles) -> dict[str, Any]:
    quality = files.quality
    content = {
        "experiment": files.experiment,
        "regularizer": files.regularizer,
        "seed": files.seed,
        "settings": dict(files.settings),
        "metrics": read_json(files.metrics),
        "quality": None if quality is None else {key: one for key, one in quality.items() if key != "clusters"},
        "training_people": files.training_people,
        "training": None if files.training is None else list(files.training),
    }
    loaded: dict[str, Any] = json.loads(json.dumps(content))
    return loaded


def read_saved(folder: Path, ranking: str) -> list[EvaluatedNetwork]:
    """Read what `save_networks` wrote, for one way of ranking.

    Raises
    ------
    InputError
        The folder has no saved network, a file of a network is missing, or it was not measured by this way of ranking.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(f"{folder}: has no saved results; `slsr compare EXPERIMENT --save {folder}` writes them")
    return [_read(path, ranking) for path in paths]


def _read(path: Path, ranking: str) -> EvaluatedNetwork:
    content = read_json(path)
    try:
        metrics, training = content["metrics"], content["training"]
        network = EvaluatedNetwork(
            content["experiment"],
            content["regularizer"],
            content["seed"],
            content["settings"],
            metrics.get(ranking, {}),
            None,
            content["quality"],
            content["training_people"],
            None if training is None else Training(*training),
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not a result that `slsr compare --save` wrote ({error!r})") from error
    if not network.metrics:
        raise InputError(f"{path}: has no {ranking}; choose --ranking of {', '.join(metrics)}")
    table = path.with_suffix(PER_QUERY)
    if not table.exists():
        again = f"slsr compare {network.experiment} --save {path.parent}"
        raise InputError(f"{table}: no such file; `{again}` writes it again")
    values = read_queries(table).get(ranking)
    return replace(network, values=None if values is None else replace(values, names=None))


class ResultSources(NamedTuple):
    """Where networks are read from: experiments and other revisions, and folders of saved results."""

    revisions: Sequence[Revision]
    folders: Sequence[Path]

    def read(self, ranking: str) -> list[EvaluatedNetwork]:
        """Read the networks of all of them; errors are those of `read_networks` and `read_saved`."""
        found = read_networks(self.revisions, ranking) if self.revisions else []
        return found + [network for folder in self.folders for network in read_saved(folder, ranking)]


def find_sources(root: Path, names: Sequence[str]) -> ResultSources:
    """Find what names stand for: a folder of saved results, or else experiments and other revisions.

    Raises
    ------
    InputError
        As `find_revisions`; a folder without saved results is taken for a revision.
    """
    folders = [name for name in names if (os.sep in name and (root / name).is_dir()) or _has_results(root / name)]
    others = [name for name in names if name not in folders]
    return ResultSources(find_revisions(root, others) if others else [], [root / name for name in folders])


def _has_results(folder: Path) -> bool:
    return any(folder.glob(f"*{PER_QUERY}"))


def without_names(networks: Sequence[EvaluatedNetwork]) -> list[EvaluatedNetwork]:
    """Leave out the names of queries, so that networks can be paired with saved ones by the order of the queries."""
    return [
        network if network.values is None else replace(network, values=replace(network.values, names=None))
        for network in networks
    ]
