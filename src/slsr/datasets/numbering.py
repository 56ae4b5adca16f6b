"""Identities and cameras as people write them: whole numbers keep their values, names are numbered."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from slsr.datasets.collection import DISTRACTOR, JUNK, LARGEST_CAMERA, LARGEST_IDENTITY

WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,18})(\.0*)?")
SPECIAL = {str(JUNK): JUNK, str(DISTRACTOR): DISTRACTOR}
CAMERA_WORD = re.compile(r"(?P<word>[a-z]*)[ _-]*(?P<number>[0-9]{1,5})", re.IGNORECASE)

# Identity, in some data sets clothes, then camera: Market-1501, DukeMTMC-reID, CUHK03-NP, and others named like them.
NAME_WITH_CAMERA = re.compile(r"(-1|\d+)(_\d+)?_c(?P<camera>\d+)(s\d+)?[_.].+", re.IGNORECASE)
NAME_OF_MSMT17 = re.compile(r"\d+_\d+_(?P<camera>\d+)_\d+(morning|noon|afternoon)_.+", re.IGNORECASE)
NAME_WITH_WORD = re.compile(r"(.*[^a-z])?cam(era)?[ _-]?(?P<camera>\d+)([^0-9].*)", re.IGNORECASE)


class Numbers(NamedTuple):
    """The number of each name, and what a user should know about it, if anything."""

    of: Mapping[str, int]
    notes: Sequence[str]


def plain(name: str) -> str:
    """Write a whole number without leading zeros and without `.0`, so that `0007`, `7` and `7.0` are one name."""
    found = WHOLE_NUMBER.fullmatch(name.strip())
    return str(int(found[1])) if found else name.strip()


def number_identities(names: Iterable[str]) -> Numbers:
    """Number identities.

    Whole numbers keep their values, if all names are whole numbers that a table can hold. Otherwise all names are
    numbered from 1, numbers first; -1 (junk) and 0 (distractor) always keep their meaning.
    """
    return _number(names, "identities", LARGEST_IDENTITY, SPECIAL)


def number_cameras(names: Iterable[str]) -> Numbers:
    """Number cameras: `cam2` and `2` are 2; other names are numbered from 1."""
    names = list(dict.fromkeys(names))
    found = {name: CAMERA_WORD.fullmatch(name) for name in names}
    words = {match["word"].lower() for match in found.values() if match}
    if len(words) == 1 and words != {""} and all(found.values()):
        return Numbers({name: int(match["number"]) for name, match in found.items() if match}, [])
    return _number(names, "cameras", LARGEST_CAMERA, {})


def camera_in_name(name: str) -> int | None:
    """Read the camera from the name of an image, such as `0002_c1s1_000451_03.jpg`; None if it has none."""
    for pattern in (NAME_WITH_CAMERA, NAME_OF_MSMT17, NAME_WITH_WORD):
        if (match := pattern.fullmatch(name)) and int(match["camera"]) <= LARGEST_CAMERA:
            return int(match["camera"])
    return None


def _number(names: Iterable[str], what: str, largest: int, special: Mapping[str, int]) -> Numbers:
    keys = {name: plain(name) for name in names}
    values = {key: int(key) for key in keys.values() if WHOLE_NUMBER.fullmatch(key)}
    distinct = set(keys.values())
    if len(values) == len(distinct) and all(value <= largest for value in values.values()):
        return Numbers({name: values[key] for name, key in keys.items()}, _merged(keys, what))
    ordered = sorted(distinct - set(special), key=lambda key: (key not in values, values.get(key, 0), key))
    numbers = {key: number for number, key in enumerate(ordered, start=1)} | dict(special)
    note = f"{what} are numbered from 1: {ordered[0]} is 1, {ordered[-1]} is {len(ordered)}"
    return Numbers({name: numbers[key] for name, key in keys.items()}, [note, *_merged(keys, what)])


def _merged(keys: Mapping[str, str], what: str) -> list[str]:
    """Say if two names, such as `7` and `0007`, are one number."""
    first: dict[str, str] = {}
    for name, key in keys.items():
        if first.setdefault(key, name) != name:
            return [f"{what} that are written in two ways are one, for example {first[key]} and {name}"]
    return []
