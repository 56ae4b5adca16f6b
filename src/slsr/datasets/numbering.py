"""Identities and cameras as people write them: whole numbers keep their values, names are numbered."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from slsr.datasets.collection import DISTRACTOR, JUNK, LARGEST_CAMERA, LARGEST_IDENTITY, UNKNOWN_CAMERA

WHOLE_NUMBER = re.compile(r"([+-]?[0-9]{1,18})(\.0*)?")
SPECIAL = {str(JUNK): JUNK, str(DISTRACTOR): DISTRACTOR}
CAMERA_WORD = re.compile(r"((?P<word>[^\W\d_]+)[ _-]*)?(?P<number>[0-9]{1,5})")
# What people, pandas and spreadsheets write where nothing is known.
NOTHING = {"", "-", "?", "na", "n/a", "#n/a", "<na>", "nan", "none", "null", "unknown"}
MERGED_EXAMPLES = 3

# Identity, in some data sets clothes, then camera: Market-1501, DukeMTMC-reID, CUHK03-NP, and others named like them.
NAME_WITH_CAMERA = re.compile(r"(-1|\d+)(_\d+)?_c(?P<camera>\d+)(s\d+)?[_.].+", re.IGNORECASE)
NAME_OF_MSMT17 = re.compile(r"\d+_\d+_(?P<camera>\d+)_\d+(morning|noon|afternoon)_.+", re.IGNORECASE)
NAME_WITH_WORD = re.compile(r"(.*[^a-z])?cam(era)?[ _-]?(?P<camera>\d+)([^0-9].*)", re.IGNORECASE)


class Numbers(NamedTuple):
    """The number of each name, and what a user should know about it, if anything."""

    of: Mapping[str, int]
    notes: Sequence[str]


def is_nothing(name: str) -> bool:
    """Say whether a name says that nothing is known: it is empty, or a word such as `NA` or `unknown`."""
    return name.strip().lower() in NOTHING


def plain(name: str) -> str:
    """Write a whole number without leading zeros and without `.0`, so that `0007`, `7` and `7.0` are one name.

    A name is written in the form NFC of Unicode, so that one name in two forms stays one.
    """
    name = unicodedata.normalize("NFC", name.strip())
    found = WHOLE_NUMBER.fullmatch(name)
    return str(int(found[1])) if found else name


def number_identities(names: Iterable[str]) -> Numbers:
    """Number identities.

    Whole numbers keep their values, if all names are whole numbers that a table can hold. Otherwise all names are
    numbered from 1, numbers first; -1 (junk) and 0 (distractor) always keep their meaning.
    """
    return _number({name: plain(name) for name in names}, "identities", LARGEST_IDENTITY, SPECIAL)


def number_cameras(names: Iterable[str]) -> Numbers:
    """Number cameras: `cam2` and `2` are 2 if no other word stands before a number; other names are numbered from 1.

    Upper and lower case are one, so that no camera becomes two: a right match must be of another camera. A name that
    says nothing, and -1, are the unknown camera.
    """
    unknown = str(UNKNOWN_CAMERA)
    keys = {name: unknown if is_nothing(name) else plain(name).casefold() for name in names}
    found = {key: match for key in keys.values() if (match := CAMERA_WORD.fullmatch(key))}
    words = {match["word"] for match in found.values()} - {None}
    short = {
        key: f"{match['word'] or '' if len(words) > 1 else ''}{int(match['number'])}" for key, match in found.items()
    }
    keys = {name: short.get(key, key) for name, key in keys.items()}
    return _number(keys, "cameras", LARGEST_CAMERA, {unknown: UNKNOWN_CAMERA})


def camera_in_name(name: str) -> int | None:
    """Read the camera from the name of an image, such as `0002_c1s1_000451_03.jpg`; None if it has none."""
    for pattern in (NAME_WITH_CAMERA, NAME_OF_MSMT17, NAME_WITH_WORD):
        if (match := pattern.fullmatch(name)) and int(match["camera"]) <= LARGEST_CAMERA:
            return int(match["camera"])
    return None


def _number(keys: Mapping[str, str], what: str, largest: int, special: Mapping[str, int]) -> Numbers:
    """Number names by their keys: names of one key are one."""
    values = {key: int(key) for key in keys.values() if WHOLE_NUMBER.fullmatch(key)}
    distinct = set(keys.values())
    if len(values) == len(distinct) and all(value <= largest for value in values.values()):
        return Numbers({name: values[key] for name, key in keys.items()}, _merged(keys, what, special))
    ordered = sorted(distinct - set(special), key=lambda key: (key not in values, values.get(key, 0), key))
    numbers = {key: number for number, key in enumerate(ordered, start=1)} | dict(special)
    first, last = (next(name for name, key in keys.items() if key == one) for one in (ordered[0], ordered[-1]))
    note = f"{what} are numbered from 1: {first} is 1, {last} is {len(ordered)}"
    return Numbers({name: numbers[key] for name, key in keys.items()}, [note, *_merged(keys, what, special)])


def _merged(keys: Mapping[str, str], what: str, special: Mapping[str, int]) -> list[str]:
    """Say if two names, such as `7` and `0007`, are one."""
    first: dict[str, str] = {}
    named = {name: key for name, key in keys.items() if key not in special}
    pairs = [f"{first[key]} and {name}" for name, key in named.items() if first.setdefault(key, name) != name]
    if not pairs:
        return []
    return [f"{what} that are written in two ways are one, for example {', '.join(pairs[:MERGED_EXAMPLES])}"]
