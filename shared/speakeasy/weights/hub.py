"""From the name that a user gives to a model directory on this machine, and its tokenizer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speakeasy import plan_files
from speakeasy.errors import ModelError, first_line
from speakeasy.weights.directory import check_directory
from speakeasy.weights.starter import MODEL_FILES, Say, starter_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HUB_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A model on this machine, checked and ready to load.

    Attributes:
        path: the directory.
        name: what the user asked for.
        source: where it came from, in a few words, to be printed.
    """

    path: Path
    name: str
    source: str


def resolve_model(name: str, *, say: Say | None = None) -> ModelDirectory:
    """Find or fetch a model.

    Args:
        name: ``starter``, a directory, or the id of a repository on the Hugging Face Hub. A
            directory of that name comes before the Hub.
        say: called with a line before each slow step.

    Raises:
        ModelError: there is no such model, it is gated or out of reach, or its directory is
            unsound (``directory.check_directory``); one line that says what to do.
    """
    if name == "starter":
        path = starter_model(say)
        source = json.loads((path / "source.json").read_text(encoding="utf-8"))
        origin = source.get("repository") or f"the wheel {source.get('wheel')}"
        model = ModelDirectory(path, name, f"starter model from {origin}, in {path}")
    elif is_local(name):
        path = Path(name).expanduser()
        _check_is_no_run(path, name)
        model = ModelDirectory(path.resolve(), name, f"local directory {path}")
    elif name and _on_this_machine(name, Path.exists):
        raise ModelError(f"--model {name}: a file; expected a model directory, a Hub id or starter")
    elif _looks_like_a_path(name):
        raise ModelError(f"--model {name}: no such directory; check the path, or give a Hub id")
    else:
        model = ModelDirectory(_from_hub(name, say), name, f"{name} from the Hugging Face Hub")
    check_directory(model.path)
    return model


def is_local(name: str) -> bool:
    """Whether ``resolve_model`` takes a name for a directory on this machine."""
    return name not in ("", "starter") and _on_this_machine(name, Path.is_dir)


def _on_this_machine(name: str, holds: Callable[[Path], bool]) -> bool:
    """Whether something holds of a path; an adapter's config may name what can be no path."""
    try:
        return holds(Path(name).expanduser())
    except (OSError, RuntimeError, ValueError):  # too long, nobody's home, a zero byte
        return False


def _check_is_no_run(path: Path, name: str) -> None:
    """Refuse a run directory that holds no model, or none yet."""
    plan = path / "run.toml"
    if not plan.is_file() or (path / "config.json").is_file():
        return
    if "corpus" in plan_files.read(plan):
        raise ModelError(
            f"--model {name}: a pre-training run that has not finished; finish it with: "
            f"speakeasy pretrain --resume --output-dir {shlex.quote(name)}"
        )
    raise ModelError(
        f"--model {name}: a run of speakeasy train, whose result is an adapter; give its base as "
        "--model, and the run as --run where an adapter is taken"
    )


def _looks_like_a_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or "\\" in name or name.count("/") > 1


def _from_hub(name: str, say: Say | None) -> Path:
    from huggingface_hub import constants, errors, snapshot_download
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except errors.HFValidationError as error:
        raise ModelError(
            f"--model {name}: neither a directory nor a Hub id such as meta-llama/Llama-3.2-1B, "
            "nor starter"
        ) from error
    if say is not None:
        say(f"model {name}: looking on the Hugging Face Hub; a first download can take minutes")
    try:
        folder = snapshot_download(
            name,
            allow_patterns=list(MODEL_FILES),
            # Copies of the same weights in other layouts.
            ignore_patterns=["consolidated*", "original/*", "onnx/*"],
            etag_timeout=_HUB_TIMEOUT_S,
        )
    except errors.GatedRepoError as error:
        raise ModelError(
            f"--model {name}: gated; accept its licence at https://huggingface.co/{name}, then run "
            "hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"--model {name}: not on the Hugging Face Hub, or private; check the spelling, or run "
            "hf auth login"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            reason, way_out = "HF_HUB_OFFLINE is set", "unset it"
        else:
            cause = error.__cause__
            reason = f"no answer ({first_line(cause) if cause else 'no network'})"
            way_out = "check the network"
        raise ModelError(
            f"--model {name}: not in the local Hub cache, and the Hub is out of reach: {reason}; "
            f"{way_out}, or give a local directory or starter"
        ) from error
    except Exception as error:
        # A transfer can break in the ways of four libraries; what arrived whole is kept.
        raise ModelError(
            f"--model {name}: the download broke off ({first_line(error)}); run the same command "
            "again to go on"
        ) from error
    return Path(folder)


def load_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model directory: the fast kind only, and never code of its own.

    Raises:
        ModelError: there is none, it asks for its own code, or it has no fast form.
    """
    if not any((path / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{path}: no tokenizer.json; expected a model directory with a tokenizer")
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            str(path), use_fast=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # the libraries raise whatever their parsers raise
        raise ModelError(
            f"{path}: its tokenizer cannot be loaded ({first_line(error)}); download it again"
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"{path}: only a slow tokenizer ({type(tokenizer).__name__}); save a tokenizer.json "
            "beside it with transformers' convert_slow_tokenizer"
        )
    return tokenizer
