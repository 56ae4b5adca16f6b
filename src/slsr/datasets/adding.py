"""Add an archive to the project: recognize it, verify it, copy it into `data/` and track it with DVC."""

from __future__ import annotations

import filecmp
import hashlib
import io
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dvc_objects.fs.system import hardlink, reflink
from ruamel.yaml import YAML
from tqdm import tqdm

from slsr.datasets.archive import MARKER, copy_stream, open_archive
from slsr.datasets.catalog import CATALOG
from slsr.datasets.collection import counted
from slsr.datasets.opening import marker_of, open_source, recognize
from slsr.datasets.readers.cuhk03 import MAT_NAME, find_mat, is_mat
from slsr.datasets.readers.table import is_table_file, table_names
from slsr.datasets.survey import Survey, survey
from slsr.errors import InputError
from slsr.files import write_bytes

DATA = "data"
LINKS = "reflink,hardlink,symlink,copy"
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AddedArchive:
    """An archive that was added.

    Attributes
    ----------
    target
        The path of the archive in `data/`.
    survey
        What is in it.
    warning
        What the user should know about its checksum, or None.
    """

    target: Path
    survey: Survey
    warning: str | None


def run_dvc(root: Path, *arguments: str) -> None:
    """Run a command of DVC in the root of the project, and raise InputError with its message if it fails."""
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode:
        raise InputError(f"`dvc {' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()}")


def add_archive(
    source: Path,
    root: Path,
    name: str | None = None,
    link: bool = False,
    allow_unreadable: bool = False,
    dvc: Callable[..., None] = run_dvc,
) -> AddedArchive:
    """Recognize and verify an archive, put it into `root`/data and track it with DVC.

    Parameters
    ----------
    source
        A zip file, `cuhk-03.mat`, an unpacked folder, or a table of your own images. Folders and tables are packed into
        one zip file, because DVC handles one file much faster than thousands.
    name
        File name in `data/`; None: the published name if the counts are the published ones, else the source's name.
    link
        Share the disk blocks with the source (reflink), or the file itself (hard link), in `data/` and in DVC's cache,
        instead of copying. For hard links the option `cache.type` of this clone is set.
    allow_unreadable
        Accept an archive with images that cannot be decoded.

    Raises
    ------
    InputError
        The archive is not usable, another file has its name, the disk is full, it cannot be linked, or DVC fails;
        `data/` is then unchanged.
    """
    if not (root / ".dvc").is_dir():
        raise InputError(f"{root.resolve()}: not a DVC repository; run this in the root of the project")
    _require_folder(root / DATA)
    found = _survey_usable(source, allow_unreadable)
    target = _target(source, found, root / DATA, name)
    _restore_data(root, dvc)
    with _placed(source, found, target, link):
        if link:
            _share_with_cache(target, root, dvc)
        dvc(root, "add", DATA)
        _forbid_push(root / f"{DATA}.dvc")
    _warn_of_folders(root / DATA)
    return AddedArchive(target, found, _checksum_warning(source, found))


def _target(source: Path, found: Survey, folder: Path, name: str | None) -> Path:
    target = folder / (name or _target_name(source, found, folder))
    if target.parent != folder:
        raise InputError(f"--name {name}: must be a file name, without folders")
    return target


def next_steps(added: AddedArchive, preset: str | None, preset_archive: str | None) -> list[str]:
    """List what to type next.

    Parameters
    ----------
    preset, preset_archive
        The preset of the data set and its `dataset.archive`; None if it has no preset, as for your own images.
    """
    variant = added.survey.variant
    settings: dict[str, object] = {} if preset else {"name": variant.name}
    if preset_archive != added.target.name:
        settings["archive"] = added.target.name
    if variant.protocol == "np":
        settings |= {"protocol": "np", "boxes": variant.boxes, "split": "null"}
    if added.survey.unreadable:
        settings["unreadable_images"] = "skip"
    if added.survey.facts["evaluation"]["cameras"] == "unknown":
        settings["cameras"] = "unknown    # or name the cameras, and add it again"
    steps = [f"slsr preset {preset or 'market1501'}"]
    if settings:
        steps += ["in params.yaml, block dataset:", *(f"    {key}: {value}" for key, value in settings.items())]
    return [*steps, f"git add {DATA}.dvc params.yaml", "make repro"]


def _require_folder(data: Path) -> None:
    """Refuse a `data/` that is a symbolic link, before any image is read."""
    if data.is_symlink():
        raise InputError(
            f"{data}: a symbolic link, which DVC does not track; make it a folder (rm {data} && mkdir {data}). To keep "
            "the images on a larger disk, put DVC's cache there: dvc cache dir --local FOLDER && dvc config --local "
            "cache.type symlink"
        )


def _warn_of_folders(data: Path) -> None:
    """Warn of folders beside the archive, whose files DVC tracks one by one."""
    for folder in sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith(".")):
        log.warning(
            "warning: %s is a folder, whose files DVC tracks one by one: pack it with `slsr data add %s`, then move it "
            "out of data/ and run `dvc add data`",
            folder,
            folder,
        )


def _survey_usable(source: Path, allow_unreadable: bool) -> Survey:
    """Read every image of the archive, and refuse it if there is a problem."""
    variant = recognize(source)
    log.info("%s: %s; reading every image", source, CATALOG[variant.name].title)
    with tempfile.TemporaryDirectory() as scratch:
        found = survey(source, variant, Path(scratch))
    for problem in found.problems:
        raise InputError(f"{source}: {problem}; nothing was added (`slsr data check` shows everything)")
    if found.unreadable and not allow_unreadable:
        first = next(iter(found.unreadable.values()))
        raise InputError(
            f"{source}: {counted(len(found.unreadable), 'unreadable image')}, for example {first}; nothing was added: "
            "replace these images, or use --allow-unreadable to leave them out"
        )
    return found


def _single_file(source: Path) -> Path | None:
    """Return the file that can be copied as it is; None for a folder or a table, which must be packed."""
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
    if found.variant.protocol == "np":
        return "cuhk03-np.zip"
    if found.is_published():
        return CATALOG[found.variant.name].archive
    return f"{source.resolve().stem if source.is_file() else source.resolve().name}.zip"


def _checksum_warning(source: Path, found: Survey) -> str | None:
    """Warn if the counts of a published archive are right, but its checksum is another one."""
    if not found.is_published() or not zipfile.is_zipfile(source) or found.variant.protocol == "np":
        return None
    digest, published = _md5(source), CATALOG[found.variant.name].md5
    if not published or digest == published:
        return None
    return f"md5 {digest} instead of the published {published}: the archive was packed again; its counts are right"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextmanager
def _placed(source: Path, found: Survey, target: Path, link: bool) -> Iterator[None]:
    """Put the archive at `target`, if the same file is not there already; remove it again if the block fails."""
    file = _single_file(source)
    if link and file is None:
        raise InputError(f"{source}: not one file: it must be packed and cannot be linked; leave out --link")
    partial = target.with_name(f".{target.name}.partial")
    there = target.exists()
    try:
        if file is None:
            _pack(source, found, partial)
        elif not there:
            _link(file, partial) if link else _copy(file, partial)
        if not there:
            partial.rename(target)
        elif not filecmp.cmp(file or partial, target, shallow=False):
            raise InputError(f"{target}: another file has this name; remove it first, or use --name for another name")
    finally:
        partial.unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        if not there:
            target.unlink()
        raise


def _copy(source: Path, target: Path) -> None:
    _require_room(target.parent, source.stat().st_size)
    with source.open("rb") as file:
        copy_stream(file, target, source.stat().st_size, "copy")


def _link(source: Path, target: Path) -> None:
    """Share the disk blocks (reflink) if the file system supports it, else the file itself (hard link)."""
    try:
        reflink(str(source), str(target))
    except OSError:
        try:
            hardlink(str(source), str(target))
        except OSError as error:
            raise InputError(
                f"{source}: cannot be linked into {target.parent} ({error.strerror}); leave out --link to copy it"
            ) from error


def _share_with_cache(target: Path, root: Path, dvc: Callable[..., None]) -> None:
    """Put the archive into DVC's cache as a link too: `dvc add` would copy it there, and back into `data/`."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        cache, types = Path(repo.cache.local.path), repo.config["cache"].get("type") or []
    digest = _md5(target)
    stored = cache / digest[:2] / digest[2:]
    if not stored.exists():
        stored.parent.mkdir(parents=True, exist_ok=True)
        _link(target, stored)
        stored.chmod(0o444)  # as DVC protects what it tracks
    if stored.samefile(target) and "hardlink" not in types:
        dvc(root, "config", "--local", "cache.type", LINKS)
        log.warning(
            "set cache.type of this clone to %s: files that DVC tracks are links into its cache and read-only, and so "
            "is the archive that you gave; run `dvc unprotect FILE` before you edit one",
            LINKS,
        )


def _pack(source: Path, found: Survey, target: Path) -> None:
    """Pack a folder or a table with its images; the same images give the same bytes."""
    with open_source(source) as archive:
        own = found.variant.name in {"table", "folder"}
        names = sorted({*found.sources, *table_names(archive)}) if own else sorted(archive.sizes)
        _require_room(target.parent, sum(archive.sizes[name] for name in names))
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as packed:
            for name in tqdm(names, "pack", unit="file", disable=None):
                packed.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), archive.read(name))
            packed.writestr(zipfile.ZipInfo(MARKER, ZIP_EPOCH), marker_of(found.variant))


def _require_room(folder: Path, size: int) -> None:
    """Refuse if there is no room for the file in `data/` and for the copy in the cache of DVC."""
    free = shutil.disk_usage(folder).free
    if 2 * size > free:
        raise InputError(
            f"{folder}: {2 * size / 1e6:,.0f} MB are needed (the file and DVC's copy), {free / 1e6:,.0f} MB are free; "
            "free some space (`dvc gc -w` removes unused cache)"
        )


def _restore_data(root: Path, dvc: Callable[..., None]) -> None:
    """Fetch what data.dvc tracks if `data/` is absent; otherwise adding an archive would drop the rest."""
    if (root / DATA).is_dir():
        return
    if (root / f"{DATA}.dvc").is_file():
        try:
            dvc(root, "pull", f"{DATA}.dvc")
        except InputError as error:
            log.warning("warning: %s", error)
    (root / DATA).mkdir(exist_ok=True)


def _forbid_push(path: Path) -> None:
    """Write `push: false` into data.dvc if it is not there, so that `dvc push` does not upload the data."""
    yaml = YAML()
    content = yaml.load(path.read_text(encoding="utf-8"))
    if all(out.get("push") is False for out in content["outs"]):
        return
    for out in content["outs"]:
        out["push"] = False
    buffer = io.StringIO()
    yaml.dump(content, buffer)
    write_bytes(path, buffer.getvalue().encode())
