"""How features are to be evaluated: a property of their data set, which a file of features carries.

An .npz file has it as the arrays `protocol` and `directions` and, if they are known, `dataset` and `split`, each of
one value. `cameras` is there, as `unknown`, if the camera of a test image is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from slsr.datasets.collection import TABLE_SUFFIX, Cameras, Directions, EvaluationProtocol, ProtocolName
from slsr.embedding.npz import array_names, read_arrays
from slsr.errors import InputError

ARRAYS = ("protocol", "directions", "dataset", "split", "cameras")
ALLOWED = {"protocol": get_args(ProtocolName), "directions": get_args(Directions), "cameras": get_args(Cameras)}


@dataclass(frozen=True)
class DataProtocol:
    """The protocol of a data set, and, if they are known, the name of the data set and the number of its split."""

    evaluation: EvaluationProtocol
    dataset: str | None = None
    split: int | None = None

    def arrays(self) -> dict[str, Any]:
        """Return the arrays of an .npz file, without what is unknown."""
        cameras = None if self.evaluation.cameras == "known" else self.evaluation.cameras
        values = (self.evaluation.protocol, self.evaluation.directions, self.dataset, self.split, cameras)
        return {name: value for name, value in zip(ARRAYS, values, strict=True) if value is not None}

    def __str__(self) -> str:
        both = self.evaluation.protocol == "single-gallery-shot"
        name = self.evaluation.protocol + (f", {_directions(self.evaluation.directions)}" if both else "")
        name += ", cameras unknown" if self.evaluation.cameras == "unknown" else ""
        data = f"{self.dataset or ''}{f' split {self.split}' if self.split else ''}".strip()
        return f"{name} ({data})" if data else name


def _directions(directions: str) -> str:
    return "both directions" if directions == "both" else "one direction"


def protocol_of_tables(tables: Iterable[Path]) -> DataProtocol | None:
    """Read the protocol that `prepare` wrote into facts.json beside image tables; None if there is no such file.

    Raises
    ------
    InputError
        A facts.json was not written by `prepare`, or two of them differ.
    """
    found: dict[DataProtocol, Path] = {}
    for table in tables:
        facts = table.with_name("facts.json")
        if table.suffix == TABLE_SUFFIX and facts.is_file():
            found.setdefault(_of_facts(facts), table)
    if len(found) > 1:
        first, second = list(found.items())[:2]
        raise InputError(
            f"{first[1]} is of {first[0]}, but {second[1]} is of {second[0]}; queries and gallery must be of one data "
            "set and split"
        )
    return next(iter(found), None)


def _of_facts(path: Path) -> DataProtocol:
    from slsr.datasets.facts import read_facts  # which reads images, and so needs more packages

    facts = read_facts(path)
    evaluation = facts["evaluation"]
    found = known_protocol(evaluation["protocol"], evaluation.get("directions"), evaluation.get("cameras", "known"))
    return DataProtocol(found, facts["dataset"], facts.get("split"))


def read_protocol(path: Path) -> DataProtocol | None:
    """Read the protocol of a file of features or distances; None if the file has none.

    Raises
    ------
    InputError
        The file cannot be read, or its protocol is not known.
    """
    present = array_names(path)
    arrays = read_arrays(path, tuple(name for name in ARRAYS if name in present))
    if "protocol" not in arrays:
        arrays.pop("cameras", None)  # then it may be an array of cameras
    for name, allowed in ALLOWED.items():
        if name in arrays and (arrays[name].shape != () or str(arrays[name]) not in allowed):
            raise InputError(f"{path}: array {name} must be one text, {' or '.join(allowed)}; write it again")
    if "protocol" not in arrays:
        return None
    if "split" in arrays and (arrays["split"].shape != () or arrays["split"].dtype.kind not in "iu"):
        raise InputError(f"{path}: array split must be one whole number; write it again")
    values = {name: array[()] for name, array in arrays.items()}
    known = {name: values[name].item() for name in ALLOWED if name in values}
    evaluation = known_protocol(known["protocol"], known.get("directions"), known.get("cameras", "known"))
    dataset, split = values.get("dataset"), values.get("split")
    return DataProtocol(evaluation, None if dataset is None else str(dataset), None if split is None else int(split))


def known_protocol(
    protocol: ProtocolName, directions: Directions | None, cameras: Cameras = "known"
) -> EvaluationProtocol:
    """Return a protocol; without `directions`, single-gallery-shot is evaluated in both, as VIPeR and CUHK03 are."""
    return EvaluationProtocol(protocol, directions or ("both" if protocol == "single-gallery-shot" else "one"), cameras)


def chosen_protocol(
    path: Path,
    protocol: ProtocolName | None,
    directions: Directions | None,
    cameras: Literal["unknown"] | None = None,
) -> tuple[DataProtocol, bool]:
    """Combine the protocol of a file with what a user asks for; the second value says whether either one names it.

    Without both, it is cross-camera. Cameras are unknown if the file or the user says so.

    Raises
    ------
    InputError
        The file and the user contradict each other, or a protocol has no directions.
    """
    in_file = read_protocol(path)
    if in_file is None:
        wanted = known_protocol(protocol or "cross-camera", directions, cameras or "known")
        if directions == "both" and wanted.protocol == "cross-camera":
            raise InputError(
                "--directions both: cross-camera has one direction; leave it out, or add --protocol single-gallery-shot"
            )
        return DataProtocol(wanted), protocol is not None
    asked = {"protocol": protocol, "directions": directions}
    for name, value in asked.items():
        own = getattr(in_file.evaluation, name)
        if value not in (None, own):
            raise InputError(
                f"{path}: {name} is {own} in the file, but --{name} is {value}; leave out --{name}, or correct the "
                f"array {name} if it is wrong"
            )
    if cameras is None:
        return in_file, True
    return replace(in_file, evaluation=replace(in_file.evaluation, cameras=cameras)), True
