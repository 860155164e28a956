"""Directories that appear whole or not at all, and what killed processes leave."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from speakeasy.errors import RunError
from speakeasy.files import new_directory, write_file


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    place = tmp_path / "place"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom speakeasy.files import new_directory\n"
        "with new_directory(Path(sys.argv[1])) as directory:\n"
        "    (directory / 'half').write_text('x')\n"
        "    print(directory, flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(place)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    left = Path(process.stdout.readline().strip())
    bystander = tmp_path / ".place-original"
    bystander.mkdir()
    with new_directory(place) as directory:
        (directory / "whole").write_text("y")
    assert (left / "half").exists(), "a living process's directory is left alone"
    process.kill()
    process.communicate()
    time.sleep(0.1)
    with new_directory(place, replace=True) as directory:
        (directory / "whole").write_text("z")
    assert not left.exists()
    assert bystander.is_dir(), "and so is whatever else has a like name"
    assert (place / "whole").read_text() == "z"


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_directory(tmp_path / "a"):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError), write_file(tmp_path / "b"):
        pass  # nothing was written, so there is nothing to put in its place
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x").touch()
    with pytest.raises(RunError, match="not empty"), new_directory(tmp_path / "c"):
        pass


def test_a_file_appears_whole(tmp_path: Path) -> None:
    with write_file(tmp_path / "b") as temporary:
        temporary.write_text("whole")
        assert not (tmp_path / "b").exists()
    assert (tmp_path / "b").read_text() == "whole"
