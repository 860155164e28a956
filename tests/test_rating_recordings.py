"""Recordings: told by their bytes, kept under names that say nothing, never more than allowed."""

from __future__ import annotations

import io
import re
import struct
import wave
from collections.abc import Iterator
from pathlib import Path

import pytest
from rating_studies import make_study, opened
from test_rating_web import Rater, content, refusals

from speakeasy.rating import recordings
from speakeasy.rating.recordings import length_of, sniff
from speakeasy.rating.store import Store
from speakeasy.rating.study import Study


def wav(seconds: float = 1.0, rate: int = 8_000) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * int(seconds * rate)))
    return written.getvalue()


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def mp4(seconds: int) -> bytes:
    header = struct.pack(">4xIIII", 0, 0, 1_000, 1_000 * seconds) + bytes(80)
    return (
        box(b"ftyp", b"M4A \0\0\0\0") + box(b"free", bytes(5)) + box(b"moov", box(b"mvhd", header))
    )


def ogg(seconds: int) -> bytes:
    page = b"OggS" + bytes(2) + struct.pack("<q", 48_000 * seconds) + bytes(20)
    return b"OggS" + bytes(60) + page


@pytest.fixture
def place(tmp_path: Path) -> Iterator[tuple[Study, Store, list[str]]]:
    study = make_study(tmp_path / "study")
    store, tokens = opened(study, 2)
    yield study, store, tokens
    store.end()


@pytest.fixture
def rater(place: tuple[Study, Store, list[str]]) -> Rater:
    study, store, tokens = place
    found = Rater(study, store, tokens[0])
    found.begin()
    return found


def send(rater: Rater, data: bytes, name: str = "a.wav", **more: str) -> int:
    answer = rater.client.post(
        "/read/1", data={"csrf": rater.csrf, **more}, files={"audio": (name, data, "text/html")}
    )
    return answer.status_code


@pytest.mark.parametrize(
    ("head", "mime"),
    [
        (mp4(1), "audio/mp4"),
        (b"\x1a\x45\xdf\xa3" + bytes(9), "audio/webm"),
        (ogg(1), "audio/ogg"),
        (wav(), "audio/wav"), (b"fLaC", "audio/flac"), (b"ID3\x04", "audio/mpeg"),
        (b"\xff\xfb\x90", "audio/mpeg"), (b"\xff\xf1\x50", "audio/aac"),
        (b"<html>", None),
        (b"", None),
        (b"\xff\xd8\xff\xe0", "audio/mpeg"),
        (b"RIFF1234AVI ", None),
    ],
)  # fmt: skip
def test_types_are_told_by_their_bytes(head: bytes, mime: str | None) -> None:
    found = sniff(head[:64])
    if head.startswith(b"\xff\xd8"):  # a JPEG
        assert found is None
    else:
        assert (found and found[0]) == mime


@pytest.mark.parametrize(
    ("data", "mime", "seconds"),
    [(wav(2.5), "audio/wav", 2.5), (mp4(7), "audio/mp4", 7.0), (ogg(3), "audio/ogg", 3.0)],
)
def test_lengths_are_read(tmp_path: Path, data: bytes, mime: str, seconds: float) -> None:
    (tmp_path / "a").write_bytes(data)
    assert length_of(tmp_path / "a", mime) == pytest.approx(seconds)
    for cut in range(4, len(data), max(1, len(data) // 40)):
        (tmp_path / "a").write_bytes(data[:cut])
        length_of(tmp_path / "a", mime)  # whatever it says, it says it


def test_a_recording_is_kept_and_can_be_heard(
    place: tuple[Study, Store, list[str]], rater: Rater
) -> None:
    study, store, _ = place
    assert send(rater, wav(2), "../../../etc/passwd") == 200
    (row,) = content(store)["recording"]
    assert re.fullmatch(r"[0-9a-f]{32}\.wav", row[3])
    assert (study.audio / row[3]).read_bytes() == wav(2)
    assert row[6] == pytest.approx(2)
    heard = rater.get("/read/1/audio")
    assert (heard.content, heard.headers["content-type"]) == (wav(2), "audio/wav")
    assert row[3] not in rater.get("/read/1").text
    assert "etag" not in heard.headers


def test_reading_again_replaces(place: tuple[Study, Store, list[str]], rater: Rater) -> None:
    study, store, _ = place
    send(rater, wav(1))
    send(rater, wav(2))
    assert len(content(store)["recording"]) == len(list(study.audio.iterdir())) == 1
    rater.post("/read/1/remove")
    assert content(store)["recording"] == list(study.audio.iterdir()) == []


def test_what_is_refused_changes_nothing(
    place: tuple[Study, Store, list[str]], rater: Rater, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, store, tokens = place
    send(rater, wav(1))
    before = content(store), {file.name for file in study.audio.iterdir()}
    assert send(rater, b"<script>alert(1)</script>") == 415
    assert send(rater, b"") == 422
    assert send(rater, wav(recordings.UPLOAD_SECONDS + 5)) == 422
    assert send(rater, b"fLaC" + bytes(99), seconds="1000") == 422
    monkeypatch.setattr(recordings, "UPLOAD_BYTES", 1_000)
    assert send(rater, wav(1)) == 413
    assert rater.client.post("/read/1", data={"csrf": rater.csrf}).status_code == 422
    assert send(Rater(study, store, tokens[1]), wav(1)) == 200  # has not consented: led elsewhere
    other = Rater(study, store, tokens[1])
    assert other.get("/read/1/audio").status_code == 404
    forged = rater.client.post("/read/1", data={}, files={"audio": ("a", wav(1))})
    assert forged.status_code == 403
    assert rater.get("/read/7").status_code == 404
    assert (content(store), {file.name for file in study.audio.iterdir()}) == before
    assert refusals(store).count("upload") == 5


def test_a_flood_is_cut_off(rater: Rater) -> None:
    kind = {"content-type": "multipart/form-data; boundary=x"}

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="audio"; filename="a"\r\n\r\n'
        for _ in range(recordings.UPLOAD_BYTES // 100_000 + 3):
            yield bytes(100_000)

    assert rater.client.post("/read/1", content=endless(), headers=kind).status_code == 413
    assert content(rater.store)["recording"] == []
