"""What raters read aloud: files under random names, and their rows in the database.

Neither the name nor the type that an upload claims is believed: the type is told by its first
bytes, and the name is drawn.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from speakeasy.errors import DataError
from speakeasy.rating.invitations import new_token
from speakeasy.rating.store import Rater, Store, now
from speakeasy.rating.study import Study

UPLOAD_BYTES = 10 * 1024 * 1024
UPLOAD_SECONDS = 300
_BLOCK = 64 * 1024
_HEAD = 64
_OGG_RATE = 48_000
"""Opus counts its positions at this rate, whatever it was recorded at (RFC 7845, section 4)."""


class RefusedError(DataError):
    """An upload that is not taken.

    Attributes:
        reason: ``read_empty``, ``read_too_large``, ``read_too_long`` or ``read_not_audio``: a key
            of the pages' texts.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording that was taken.

    Attributes:
        file: its name in the study's audio folder.
        seconds: None where neither the file nor the browser said.
    """

    dialogue: str
    file: str
    mime: str
    bytes: int
    seconds: float | None
    sha256: str


def sniff(head: bytes) -> tuple[str, str] | None:
    """Media type and file extension by the first bytes; None if they are of no audio we take.

    Signatures: https://mimesniff.spec.whatwg.org/#signature-table-for-audio-and-video-types, and
    for ADTS and FLAC their own specifications.
    """
    if head[4:8] == b"ftyp":
        return "audio/mp4", ".m4a"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "audio/webm", ".webm"
    if head.startswith(b"OggS"):
        return "audio/ogg", ".ogg"
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return "audio/wav", ".wav"
    if head.startswith(b"fLaC"):
        return "audio/flac", ".flac"
    if head.startswith(b"ID3"):
        return "audio/mpeg", ".mp3"
    if len(head) > 1 and head[0] == 0xFF:
        if head[1] & 0xF6 == 0xF0:  # ADTS: its layer bits are 0, MP3's are not
            return "audio/aac", ".aac"
        if head[1] & 0xE0 == 0xE0:
            return "audio/mpeg", ".mp3"
    return None


def length_of(path: Path, mime: str) -> float | None:
    """Seconds of a recording, where its container says so cheaply; else None."""
    try:
        with path.open("rb") as file:
            if mime == "audio/wav":
                return _wav_length(file)
            if mime == "audio/mp4":
                return _mp4_length(file, path.stat().st_size)
            if mime == "audio/ogg":
                return _ogg_length(file, path.stat().st_size)
    except (struct.error, ValueError, ZeroDivisionError, OverflowError):
        return None
    return None


def save(
    study: Study,
    store: Store,
    rater: Rater,
    dialogue: str,
    upload: BinaryIO,
    *,
    claimed: float | None,
) -> Recording:
    """Take a recording; an earlier one of the same dialogue goes.

    On the disk and in the database when it returns.

    Args:
        claimed: seconds, as the browser measured; believed only where the file does not say.

    Raises:
        RefusedError: it is empty, too large, too long or no audio.
    """
    study.audio.mkdir(mode=0o700, exist_ok=True)
    temporary = study.audio / f".{secrets.token_hex(16)}"
    try:
        found = _write(temporary, upload, dialogue, claimed)
        temporary.replace(study.audio / found.file)
        with store.change() as connection:
            row = connection.execute(
                "SELECT file FROM recording WHERE rater = ? AND dialogue = ?", (rater.id, dialogue)
            ).fetchone()
            connection.execute(
                "INSERT OR REPLACE INTO recording VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    new_token(), rater.id, dialogue, found.file, found.mime, found.bytes,
                    found.seconds, found.sha256, now(),
                ),
            )  # fmt: skip
    finally:
        temporary.unlink(missing_ok=True)
    if row is not None:
        (study.audio / row[0]).unlink(missing_ok=True)
    return found


def remove(study: Study, store: Store, rater: Rater, dialogue: str) -> None:
    """Forget a recording."""
    found = recordings_of(store, rater).get(dialogue)
    if found is None:
        return
    with store.change() as connection:
        connection.execute(
            "DELETE FROM recording WHERE rater = ? AND dialogue = ?", (rater.id, dialogue)
        )
    (study.audio / found.file).unlink(missing_ok=True)


def recordings_of(store: Store, rater: Rater) -> dict[str, Recording]:
    """A rater's recordings by dialogue."""
    rows = store.all(
        "SELECT dialogue, file, mime, bytes, seconds, sha256 FROM recording WHERE rater = ?",
        rater.id,
    )
    return {row[0]: Recording(*row) for row in rows}


def _write(temporary: Path, upload: BinaryIO, dialogue: str, claimed: float | None) -> Recording:
    digest, size, head = hashlib.sha256(), 0, b""
    with temporary.open("xb") as file:
        while block := upload.read(_BLOCK):
            head = (head + block)[:_HEAD] if len(head) < _HEAD else head
            size += len(block)
            if size > UPLOAD_BYTES:
                raise RefusedError("read_too_large")
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if not size:
        raise RefusedError("read_empty")
    kind = sniff(head)
    if kind is None:
        raise RefusedError("read_not_audio")
    seconds = length_of(temporary, kind[0])
    seconds = claimed if seconds is None else seconds
    if seconds is not None and seconds > UPLOAD_SECONDS + 1:
        raise RefusedError("read_too_long")
    name = secrets.token_hex(16) + kind[1]
    return Recording(dialogue, name, kind[0], size, seconds, digest.hexdigest())


def _wav_length(file: BinaryIO) -> float | None:
    """Bytes of the data chunk over bytes a second."""
    file.seek(12)
    rate = 0
    while len(header := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", header)
        if name == b"fmt ":
            rate = struct.unpack("<I", file.read(16)[8:12])[0]
            file.seek(size - 16, os.SEEK_CUR)
        elif name == b"data":
            return size / rate
        else:
            file.seek(size + size % 2, os.SEEK_CUR)
    return None


def _mp4_length(file: BinaryIO, size: int) -> float | None:
    """The movie header's duration over its time scale (ISO/IEC 14496-12, 8.2.2)."""
    for start, end in _boxes(file, 0, size, b"moov"):
        for inner, _ in _boxes(file, start, end, b"mvhd"):
            file.seek(inner)
            version = file.read(4)[0]
            layout = ">16xIQ" if version else ">8xII"
            scale, length = struct.unpack(layout, file.read(struct.calcsize(layout)))
            return length / scale or None
    return None


def _boxes(file: BinaryIO, start: int, end: int, wanted: bytes) -> Iterator[tuple[int, int]]:
    """Where the contents of the boxes of one name begin and end."""
    while start + 8 <= end:
        file.seek(start)
        size, name = struct.unpack(">I4s", file.read(8))
        if size < 8:
            return
        if name == wanted:
            yield start + 8, start + size
        start += size


def _ogg_length(file: BinaryIO, size: int) -> float | None:
    """The last page's position (RFC 3533, section 6)."""
    file.seek(max(0, size - _BLOCK))
    tail = file.read()
    last = tail.rfind(b"OggS")
    if last < 0:
        return None
    position = struct.unpack("<q", tail[last + 6 : last + 14])[0]
    return position / _OGG_RATE if position > 0 else None
