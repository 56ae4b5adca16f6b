"""Taking an archive into the project: recognized, verified, copied into `data/`, versioned with DVC."""

from __future__ import annotations

import filecmp
import hashlib
import io
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML
from tqdm import tqdm

from slsr.datasets.archive import PIECE, open_archive
from slsr.datasets.catalog import CATALOG
from slsr.datasets.collection import counted
from slsr.datasets.opening import recognize
from slsr.datasets.readers.cuhk03 import MAT_NAME, find_mat, is_mat
from slsr.datasets.readers.table import is_table_file, open_table_file, table_names
from slsr.datasets.survey import Survey, survey
from slsr.errors import InputError
from slsr.files import write_bytes

DATA = "data"
FICLONE = 0x40049409
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Added:
    """What came of adding an archive.

    Attributes
    ----------
    target
        Where it lies now.
    survey
        What is in it.
    warnings
        What the user should know, a sentence each.
    """

    target: Path
    survey: Survey
    warnings: list[str]


def add_archive(
    source: Path, root: Path, name: str | None = None, link: bool = False, allow_unreadable: bool = False
) -> Added:
    """Recognize and verify an archive, put it into `root`/data and track it with DVC.

    Parameters
    ----------
    source
        A zip file, `cuhk-03.mat`, an unpacked folder, or one's own table of images. Folders and tables are packed into
        one zip file: DVC handles one file much faster than thousands.
    root
        The project: a git and DVC repository.
    name
        File name in `data/`; None: as published where the counts are the published ones, else the source's own.
    link
        Share the disk blocks with the source (reflink), or the file itself (hard link), instead of copying.
    allow_unreadable
        Accept an archive with images that do not decode.

    Raises
    ------
    InputError
        The archive is not usable, another file has its name, there is no room, it cannot be linked, or DVC fails;
        `data/` is then as it was.
    """
    _require_project(root)
    choice = recognize(source)
    log.info("%s: %s; reading every image", source, CATALOG[choice.name].title)
    with tempfile.TemporaryDirectory() as scratch:
        found = survey(source, choice, Path(scratch))
    _require_usable(source, found, allow_unreadable)
    target = root / DATA / (name or _target_name(source, found, root / DATA))
    if target.parent != root / DATA:
        raise InputError(f"--name {name}: must be a file name, without folders")
    _restore_data(root)
    placed = _place(source, found, target, link)
    try:
        _track(root)
    except BaseException:
        if placed:
            target.unlink()
        raise
    return Added(target, found, _checksum_warnings(source, found))


def next_steps(added: Added, preset: str | None, preset_archive: str | None) -> list[str]:
    """What to type next.

    Parameters
    ----------
    preset, preset_archive
        The data set's preset and its `dataset.archive`; None where it has none, as one's own images.
    """
    choice = added.survey.choice
    settings: dict[str, object] = {} if preset else {"name": choice.name}
    if preset_archive != added.target.name:
        settings["archive"] = added.target.name
    if choice.protocol == "np":
        settings |= {"protocol": "np", "boxes": choice.boxes, "split": "null"}
    if added.survey.unreadable:
        settings["unreadable_images"] = "skip"
    steps = [f"slsr preset {preset or 'market1501'}"]
    if settings:
        steps += ["in params.yaml, block dataset:", *(f"    {key}: {value}" for key, value in settings.items())]
    return [*steps, f"git add {DATA}.dvc params.yaml", "make repro"]


def _require_project(root: Path) -> None:
    if not (root / ".dvc").is_dir():
        raise InputError(f"{root.resolve()}: no DVC repository; run this in the root of the project")


def _require_usable(source: Path, found: Survey, allow_unreadable: bool) -> None:
    for problem in found.problems:
        raise InputError(f"{source}: {problem}; nothing was added (`slsr data check` shows all)")
    if found.unreadable and not allow_unreadable:
        first = next(iter(found.unreadable.values()))
        raise InputError(
            f"{source}: {counted(len(found.unreadable), 'unreadable image')}, as {first}; nothing was added: "
            "mend the archive, or say --allow-unreadable to leave them out"
        )


def _single_file(source: Path) -> Path | None:
    """The file that can be taken as it is; None for a folder or a table, which are to be packed."""
    if source.is_file():
        return None if is_table_file(source) else source
    with open_archive(source) as archive:
        mat = find_mat(archive)
    return source / mat if mat else None


def _target_name(source: Path, found: Survey, data: Path) -> str:
    file = _single_file(source)
    if file and file.resolve().parent == data.resolve():
        return file.name
    if file and is_mat(file):
        return MAT_NAME
    if found.choice.protocol == "np":
        return "cuhk03-np.zip"
    if found.is_published():
        return CATALOG[found.choice.name].archive
    return f"{source.resolve().stem if source.is_file() else source.resolve().name}.zip"


def _checksum_warnings(source: Path, found: Survey) -> list[str]:
    published = CATALOG[found.choice.name]
    if not found.is_published():
        counts = [f"{split}: {', '.join(lines)}" for split, lines in found.differences().items() if lines]
        return [f"not the published counts: {'; '.join(counts)}"] if counts else []
    if not zipfile.is_zipfile(source) or found.choice.protocol == "np":
        return []
    digest = _md5(source)
    if digest == published.md5:
        return []
    return [f"md5 {digest}, published {published.md5}: packed anew, it seems; the counts are the published ones"]


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _place(source: Path, found: Survey, target: Path, link: bool) -> bool:
    """Put the archive at `target` and say so, or find it there; nothing is ever overwritten."""
    file = _single_file(source)
    if link and file is None:
        raise InputError(f"{source}: not one file: it has to be packed and cannot be linked; leave out --link")
    partial = target.with_name(f".{target.name}.partial")
    try:
        if file is None:
            _pack(source, found, partial)
        elif not target.exists():
            _link(file, partial) if link else _copy(file, partial)
        if not target.exists():
            partial.rename(target)
            return True
        if filecmp.cmp(file or partial, target, shallow=False):
            return False
        raise InputError(f"{target}: another file is there; remove it first, or give --name another file name")
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    _require_room(target.parent, source.stat().st_size)
    bar = tqdm(total=source.stat().st_size, desc="copy", unit="B", unit_scale=True, disable=None)
    with source.open("rb") as reading, target.open("wb") as writing, bar:
        while piece := reading.read(PIECE):
            writing.write(piece)
            bar.update(len(piece))


def _link(source: Path, target: Path) -> None:
    """Share the blocks where the file system can, else the file itself."""
    try:
        import fcntl

        with source.open("rb") as reading, target.open("wb") as writing:
            fcntl.ioctl(writing.fileno(), FICLONE, reading.fileno())
    except (ImportError, OSError):
        target.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError as error:
            raise InputError(
                f"{source}: cannot be linked into {target.parent} ({error.strerror}); leave out --link to copy it"
            ) from error


def _pack(source: Path, found: Survey, target: Path) -> None:
    """Pack a folder or a table with its images, the same bytes each time."""
    with open_table_file(source) if source.is_file() else open_archive(source) as archive:
        own = found.choice.name in {"table", "folder"}
        names = sorted({*found.sources, *table_names(archive)}) if own else sorted(archive.sizes)
        _require_room(target.parent, sum(archive.sizes[name] for name in names))
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
            for name in tqdm(names, "pack", unit="file", disable=None):
                packed.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), archive.read(name))


def _require_room(folder: Path, size: int) -> None:
    """Room for the file in `data/` and for DVC's copy of it in its cache."""
    free = shutil.disk_usage(folder).free
    if 2 * size > free:
        raise InputError(
            f"{folder}: {2 * size / 1e6:,.0f} MB are needed (the file and DVC's copy), {free / 1e6:,.0f} MB are free; "
            "free some (`dvc gc -w` drops unused cache)"
        )


def _restore_data(root: Path) -> None:
    """Bring back what data.dvc tracks, where `data/` is absent, so that adding to it does not drop the rest."""
    if (root / DATA).is_dir():
        return
    if (root / f"{DATA}.dvc").is_file():
        try:
            _dvc(root, "pull", f"{DATA}.dvc")
        except InputError as error:
            log.warning("warning: %s", error)
    (root / DATA).mkdir(exist_ok=True)


def _track(root: Path) -> None:
    """`dvc add data`, and make sure that `dvc push` leaves the data where it is."""
    _dvc(root, "add", DATA)
    path = root / f"{DATA}.dvc"
    yaml = YAML()
    content = yaml.load(path.read_text(encoding="utf-8"))
    if any(out.get("push") is not False for out in content["outs"]):
        for out in content["outs"]:
            out["push"] = False
        buffer = io.StringIO()
        yaml.dump(content, buffer)
        write_bytes(path, buffer.getvalue().encode())


def _dvc(root: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InputError(f"`dvc {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()}")
