"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speakeasy.errors import DataError, RunError, SpeakeasyError

_DISK_ERRORS = (
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOENT,
    errno.ENOTEMPTY,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path) -> str:
    """The text of a file that a user gave, without a byte order mark.

    Raises:
        DataError: it cannot be read, or is not UTF-8; names the line.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8; save the file again in that encoding") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}; check the name") from error


def write_text(path: Path, text: str) -> None:
    """Write a whole file: to a temporary name beside it, to the disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def write_file(path: Path) -> Iterator[Path]:
    """A file that appears at ``path`` only when the block ends without an error.

    Yields a temporary name beside ``path`` to write to. On an error nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """``write_text`` of indented JSON, keys in the order given. NaN is refused."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def alone(lock_file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """While the block runs, no other process is in a block of the same lock file.

    Args:
        waiting: called once if another process has to be waited for.
    """
    from filelock import FileLock, Timeout

    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A directory that appears at ``path`` only when the block ends without an error.

    Yields a temporary directory beside ``path`` to write into. On an error it is removed.
    An existing empty directory is taken as the place; a full one is refused, or with
    ``replace`` exchanged for the new one.

    Raises:
        RunError: ``path`` holds something already.
    """
    if not replace and occupied(path):
        raise RunError(f"{path}: already exists and is not empty; choose another directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, held = _temporary_directory(path)
    try:
        temporary.chmod(0o777 & ~_umask())
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
        old = None
        if replace and occupied(path):
            old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-old-"))
            os.rename(path, old)
        os.rename(temporary, path)
        _fsync_directory(path.parent)
        if old is not None:
            shutil.rmtree(old)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finally:
        os.close(held)


def _temporary_directory(path: Path) -> tuple[Path, int]:
    """A directory to fill, beside ``path``, and the descriptor by which this process holds it.

    What killed processes left there is removed first: nobody holds it any more.
    """
    prefix = f".{path.name}.speakeasy-"
    for left in path.parent.glob(f"{glob.escape(prefix)}*"):
        if left.is_dir() and (descriptor := _hold(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(descriptor)
    while True:
        made = Path(tempfile.mkdtemp(dir=path.parent, prefix=prefix))
        descriptor = _hold(made)
        if descriptor is not None and made.exists():  # not taken for a killed process's
            return made, descriptor


def _hold(directory: Path) -> int | None:
    """A descriptor that locks a directory until it is closed; None if another process has it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def occupied(path: Path) -> bool:
    """True when ``path`` is a file, or a directory with something in it."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def disk_errors(what: str, keep: str) -> Iterator[None]:
    """Turn a full, read-only or otherwise unwilling disk into one clear line.

    Args:
        what: what was being written.
        keep: what is safe all the same, for the end of the message.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise SpeakeasyError(f"{what}: {os.strerror(error.errno)}; {keep}") from error
    except SafetensorError as error:  # what its writer makes of an OSError
        raise SpeakeasyError(f"{what}: {str(error).splitlines()[0]}; {keep}") from error
