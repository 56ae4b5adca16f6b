"""Choose which pictures are drawn of whom, and pack them with the folders, names and oddities of Market-1501."""

from __future__ import annotations

import io
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from slsr.errors import InputError
from slsr.sample.camera import CAMERAS
from slsr.sample.figure import person_solids
from slsr.sample.identity import Identity, draw_identities, draw_identity
from slsr.sample.paint import Solid
from slsr.sample.scene import Backdrop, backdrop
from slsr.sample.shapes import View
from slsr.sample.shot import Box, Shot, careful_box, careless_box, detected_box, draw_shot, draw_visit, take

ROOT = "Market-1501-v15.09.15"
TRAIN, TEST, QUERY, BOXES = "bounding_box_train", "bounding_box_test", "query", "gt_bbox"
SIZE = (64, 128)
DISTRACTOR, JUNK = "0000", "-1"
JPEG_QUALITY = 80
DISTRACTORS_PER_PERSON, JUNK_PER_PERSON = 1.9, 1.3
LONG_AGO = (2015, 9, 15, 0, 0, 0)
"""The only time stamp in the archive, so that its bytes depend only on the seed."""

README = """Drawn pedestrians in the layout of Market-1501

Every picture in this archive was drawn by a program (`slsr sample`, seed {seed}). The pictures show nobody: no
photograph of a person went into them. They may be used, changed and shared freely, for any purpose.

{train} / {test}  {people} + {people} people
{query}           one picture a camera of the people in {test}, to search for
{boxes}         boxes drawn by hand around the people in {test}, for queries of several pictures
Names: person_camera+sequence_frame_box.jpg; person -1 are bad boxes (junk), 0000 distractors.
"""
README_TITLE = README.partition("\n")[0].encode()


@dataclass(frozen=True)
class SampleCounts:
    """How many people and images are in an archive.

    Attributes
    ----------
    people
        In each of the two halves, training and test.
    gallery
        All gallery images, with `junk` and `distractors`.
    boxes
        Images of multi-query evaluation (`gt_bbox`).
    """

    people: int
    train: int
    query: int
    gallery: int
    junk: int
    distractors: int
    boxes: int

    def __str__(self) -> str:
        return (
            f"{self.people} people for training and {self.people} for testing; {self.train} training images, "
            f"{self.query} queries, {self.gallery} gallery images ({self.junk} junk, {self.distractors} distractors), "
            f"{self.boxes} multi-query images"
        )


@dataclass(frozen=True)
class _Picture:
    folder: str
    person: str
    shot: Shot
    frame: int
    box: int
    size: tuple[int, int] = SIZE

    @property
    def path(self) -> str:
        visit = self.shot.visit
        return (
            f"{ROOT}/{self.folder}/{self.person}_c{visit.camera}s{visit.sequence}_{self.frame:06d}_{self.box:02d}.jpg"
        )


def draw_archive(target: Path, seed: int = 1501, people: int = 32, force: bool = False) -> SampleCounts:
    """Draw the sample data set and pack it into one zip file.

    Parameters
    ----------
    target
        The zip file to write; it appears under its name only when it is complete.
    seed
        The seed of all random choices: the same seed gives the same bytes.
    people
        The number of people in the training half, and in the test half.
    force
        Replace a file that exists.

    Raises
    ------
    InputError
        `people` or `seed` is out of range, or `target` is not a .zip file in an existing folder, or it exists.
    """
    if not 2 <= people <= 500:
        raise InputError(f"identities: {people} is not between 2 and 500, the number of people in each half")
    if seed < 0:
        raise InputError(f"seed: {seed} is negative; use 0 or more")
    _check_target(target, force)
    pictures = sorted(_pictures(seed, people), key=lambda picture: picture.path)
    temporary = target.with_name(f".{target.name}.partial")
    try:
        _pack(temporary, pictures, seed, people)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return _count(pictures, people)


def _check_target(target: Path, force: bool) -> None:
    if target.suffix.lower() != ".zip":
        raise InputError(f"{target}: the sample is a zip file; give a name that ends in .zip")
    if not target.parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.parent}; create it first")
    if target.is_dir() or (target.exists() and not force):
        raise InputError(f"{target}: exists already; use another name, or --force to replace the file")


def _pack(target: Path, pictures: list[_Picture], seed: int, people: int) -> None:
    backdrops = tuple(backdrop(site.place, _rng(seed, 1, number)) for number, site in enumerate(CAMERAS))
    doubled = {_last_of(pictures, folder) for folder in (TEST, QUERY, BOXES)}
    readme = README.format(seed=seed, people=people, train=TRAIN, test=TEST, query=QUERY, boxes=BOXES)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for folder in ("", TRAIN, TEST, QUERY, BOXES):
            _add(archive, f"{ROOT}/{folder}/" if folder else f"{ROOT}/", b"")
        _add(archive, f"{ROOT}/readme.txt", readme.encode())
        for folder in (TRAIN, TEST):
            _add(archive, f"{ROOT}/{folder}/Thumbs.db", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504))
        for picture in tqdm(pictures, desc="draw", unit="image", disable=not sys.stderr.isatty()):
            _add(archive, picture.path + ".jpg" * (picture.path in doubled), _encode(picture, backdrops))


def _last_of(pictures: list[_Picture], folder: str) -> str:
    """Choose the file of a folder that is named .jpg.jpg, as a few are in the real archive: that of the last person."""
    return max(picture.path for picture in pictures if picture.folder == folder)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, date_time=LONG_AGO)
    entry.create_system = 3
    entry.external_attr = (0o40755 << 16 | 0x10) if name.endswith("/") else 0o100644 << 16
    archive.writestr(entry, content)


def _encode(picture: _Picture, backdrops: tuple[Backdrop, ...]) -> bytes:
    buffer = io.BytesIO()
    take(picture.shot, backdrops, picture.size).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def _rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(list(key))


def _pictures(seed: int, people: int) -> Iterator[_Picture]:
    """Draw what is in every picture of the archive, in no order."""
    train, test = _numbers(seed, people)
    for half, numbers in ((TRAIN, train), (TEST, test)):
        everyone = draw_identities(people, _rng(seed, 2, int(half == TEST)))
        for number, person in zip(numbers, everyone, strict=True):
            cameras = _cameras_of(_rng(seed, 3, number))
            for camera in cameras:
                rng = _rng(seed, 4, number, camera)
                yield from (_training if half == TRAIN else _testing)(f"{number:04d}", person, camera, rng)
    yield from _junk(seed, people)
    yield from _distractors(seed, people)


def _numbers(seed: int, people: int) -> tuple[list[int], list[int]]:
    """Draw the identity numbers of the two halves: interleaved and with gaps, as in the real archive."""
    rng = _rng(seed, 0)
    chosen = np.sort(rng.choice(np.arange(1, people * 5 // 2 + 1), 2 * people, replace=False))
    half = rng.permutation(2 * people) < people
    return [int(number) for number in chosen[half]], [int(number) for number in chosen[~half]]


def _cameras_of(rng: np.random.Generator) -> list[int]:
    """Draw the cameras that a person passes: all of them, or all but one for one person in seven."""
    missed = int(rng.integers(1, len(CAMERAS) + 1)) if rng.random() < 1 / 7 else 0
    return [camera for camera in range(1, len(CAMERAS) + 1) if camera != missed]


def _lone_frame(index: int, rng: np.random.Generator) -> int:
    """Draw a frame number that no other index can get."""
    return 1 + 25 * (40 + 20 * index + int(rng.integers(20)))


def _frames(rng: np.random.Generator) -> Iterator[int]:
    """Draw the frame numbers of a visit, with gaps of 25, 50 or 75."""
    frame = 1 + 25 * int(rng.integers(8, 3500))
    while True:
        yield frame
        frame += 25 * int(rng.integers(1, 4))


def _training(number: str, person: Identity, camera: int, rng: np.random.Generator) -> Iterator[_Picture]:
    """Draw two passages by a camera, with two to five pictures in total."""
    visits = [draw_visit(camera, rng), draw_visit(camera, rng)]
    frames = _frames(rng)
    for index in range(int(rng.integers(2, 6))):
        shot = draw_shot(visits[index % 2], person, detected_box(person.height, rng), rng)
        yield _Picture(TRAIN, number, shot, next(frames), int(rng.integers(1, 5)))


def _testing(number: str, person: Identity, camera: int, rng: np.random.Generator) -> Iterator[_Picture]:
    """Draw a query, its gt_bbox image and others of the same visit, and the gallery images of that visit."""
    visit = draw_visit(camera, rng)
    frames = _frames(rng)
    for index in range(int(rng.integers(2, 5))):
        shot = draw_shot(visit, person, careful_box(person.height, rng), rng)
        frame = next(frames)
        if index == 0:
            yield _Picture(QUERY, number, shot, frame, 0)
        yield _Picture(BOXES, number, shot, frame, 0, _natural_size(shot.box, rng))
    for _ in range(int(rng.integers(2, 5))):
        shot = draw_shot(visit, person, detected_box(person.height, rng), rng)
        yield _Picture(TEST, number, shot, next(frames), int(rng.integers(1, 5)))


def _natural_size(box: Box, rng: np.random.Generator) -> tuple[int, int]:
    height = int(rng.integers(84, 150))
    return max(16, round(height * box.width / box.height)), height


def _junk(seed: int, people: int) -> Iterator[_Picture]:
    """Draw the junk images: boxes that miss most of a person."""
    test = draw_identities(people, _rng(seed, 2, 1))
    for index in range(max(4, round(JUNK_PER_PERSON * people))):
        rng = _rng(seed, 5, index)
        person, visit = test[int(rng.integers(people))], draw_visit(1 + index % len(CAMERAS), rng)
        shot = draw_shot(visit, person, careless_box(person.height, rng), rng)
        yield _Picture(TEST, JUNK, shot, _lone_frame(index, rng), int(rng.integers(1, 9)))


def _distractors(seed: int, people: int) -> Iterator[_Picture]:
    """Draw the distractors, which a detector took for a person: scenery, parts of strangers, and strangers."""
    for index in range(max(6, round(DISTRACTORS_PER_PERSON * people))):
        rng = _rng(seed, 6, index)
        visit, stranger = draw_visit(1 + index % len(CAMERAS), rng), draw_identity(rng)
        kind = index // len(CAMERAS) % 3
        box = careless_box(stranger.height, rng) if kind == 1 else detected_box(stranger.height, rng)
        shot = draw_shot(visit, None if kind == 0 else stranger, box, rng)
        if kind == 2:
            shot = replace(shot, others=(*shot.others, *_passer_by(shot, rng)))
        yield _Picture(TEST, DISTRACTOR, shot, _lone_frame(index, rng), int(rng.integers(1, 9)))


def _passer_by(shot: Shot, rng: np.random.Generator) -> list[Solid]:
    """Draw a stranger who is partly in the picture."""
    site = CAMERAS[shot.visit.camera - 1]
    view = View(shot.yaw + float(rng.normal(0.0, 0.5)), site.pitch, float(rng.choice([-0.42, 0.42])), -0.06)
    return [replace(solid, depth=solid.depth + 4) for solid in person_solids(draw_identity(rng), shot.pose, view)]


def _count(pictures: list[_Picture], people: int) -> SampleCounts:
    counts = Counter(picture.folder for picture in pictures)
    persons = Counter(picture.person for picture in pictures)
    return SampleCounts(
        people, counts[TRAIN], counts[QUERY], counts[TEST], persons[JUNK], persons[DISTRACTOR], counts[BOXES]
    )
