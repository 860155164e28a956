"""The documents: what they say of files, commands and each other is so."""

from __future__ import annotations

import ast
import fnmatch
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

import click
import pytest

from speakeasy.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
NOT_OURS = {"runs", "build", "dist", "__pycache__", "node_modules"}
HIDDEN_BUT_OURS = {".ci", ".gitignore"}


def files(folder: Path = ROOT) -> Iterator[PurePosixPath]:
    """The project's files, relative to its root; what git ignores is left out."""
    for entry in sorted(folder.iterdir()):
        hidden = entry.name.startswith(".") and entry.name not in HIDDEN_BUT_OURS
        if hidden or entry.name in NOT_OURS or entry.name.endswith(".egg-info"):
            continue
        if entry.is_dir():
            yield from files(entry)
        else:
            yield PurePosixPath(entry.relative_to(ROOT).as_posix())


FILES = list(files())
PAGES = [path for path in FILES if path.suffix == ".md"]


def text(path: PurePosixPath | str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


# The tree ------------------------------------------------------------------------------------


def tree() -> tuple[set[str], set[str]]:
    """Files (or patterns of files) and directories of the tree in docs/architecture.md."""
    block = re.search(r"<!-- tree -->\n```text\n(.*?)```", text("docs/architecture.md"), re.DOTALL)
    assert block is not None
    named, folders = set(), set()
    path: list[str] = []
    for line in block[1].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        path[depth:] = [name.rstrip("/")]
        (folders if name.endswith("/") else named).add("/".join(path))
    return named, folders


def has_code(path: PurePosixPath) -> bool:
    """False for a Python file that holds at most a docstring."""
    body = ast.parse(text(path)).body
    return any(not isinstance(item, ast.Expr) for item in body)


def test_the_tree_is_that_of_the_disk() -> None:
    named, folders = tree()
    wanted = {str(path) for path in FILES if path.name != "__init__.py" or has_code(path)}
    covered = {path for path in wanted for name in named if fnmatch.fnmatch(path, name)}
    assert sorted(wanted - covered) == []  # on the disk, not in the tree
    assert sorted(n for n in named if not fnmatch.filter(wanted, n)) == []  # the other way round
    assert sorted(folder for folder in folders if not (ROOT / folder).is_dir()) == []


def test_patterns_do_not_hide_modules() -> None:
    named, _ = tree()
    patterns = {name for name in named if "*" in name}
    assert not [name for name in patterns if name.endswith(".py") and "/test_*" not in name]


# Dependencies ---------------------------------------------------------------------------------


def test_every_dependency_has_its_licence_and_reason() -> None:
    project = tomllib.loads(text("pyproject.toml"))
    requirements = project["build-system"]["requires"] + project["project"]["dependencies"]
    for extra in project["project"]["optional-dependencies"].values():
        requirements += extra
    wanted = {re.split(r"[^\w-]", requirement)[0].lower() for requirement in requirements}
    section = text("docs/architecture.md").split("## Dependencies\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([\w ,-]+) \| [^|]+ \| [^|]+ \|$", section, re.MULTILINE)
    listed = {name.strip().lower() for row in rows for name in row.split(",")}
    assert listed - {"package", "---"} == wanted


# Commands ------------------------------------------------------------------------------------


def test_the_help_in_the_documents_is_that_of_the_commands() -> None:
    spec = importlib.util.spec_from_file_location("render", ROOT / "docs/render_commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert text("docs/commands.md") == module.render(), "run: python docs/render_commands.py"


def commands(page: PurePosixPath) -> list[str]:
    """The command wherever code of a page (indented or in backticks) calls ``speakeasy``."""
    code = re.findall(
        r"^    (?:\$ )?(speakeasy .*)$|`(speakeasy [^`\n]+)`", text(page), re.MULTILINE
    )
    words = [(first or second).split() for first, second in code]
    called = [line for line in words if not line[1].startswith("-")]
    groups = {known.split()[0] for known in known_commands() if " " in known}
    return [" ".join(line[1 : 3 if line[1] in groups else 2]) for line in called]


@cache
def known_commands() -> set[str]:
    context = click.Context(main)
    found = set()
    for name in COMMANDS:
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}" for sub in command.list_commands(context)}
        else:
            found.add(name)
    return found


def test_commands_in_the_documents_exist() -> None:
    found = {command for page in PAGES if page.name != "commands.md" for command in commands(page)}
    assert "train" in found
    assert sorted(found - known_commands()) == []


def test_the_readme_lists_every_command() -> None:
    rows = re.findall(r"^\| `speakeasy ([a-z ]+)` \|", text("README.md"), re.MULTILINE)
    assert set(rows) == known_commands()


def test_options_in_the_documents_exist() -> None:
    known = set(re.findall(r"--[a-z0-9][a-z0-9-]*", text("docs/commands.md")))
    guides = [page for page in PAGES if page.parent.name == "docs" and page.name != "commands.md"]
    for page in (PurePosixPath("README.md"), *guides):
        if page.name in ("architecture.md", "benchmarks.md"):
            continue  # they name options of other programs, too
        others = (
            "pip install",
            "python -m benchmarks",
            "rsync ",
            "mlx_lm.",
            "torchrun ",
            "mlx.launch ",
            "accelerate launch ",
        )  # have their own
        lines = [line for line in text(page).splitlines() if not any(o in line for o in others)]
        used = {
            option.replace("_", "-")
            for option in re.findall(r"(?<![\w-])--[a-z0-9][\w-]*", "\n".join(lines))
        }
        assert sorted(used - known) == [], page


# Links and paths -----------------------------------------------------------------------------


def anchors(page: PurePosixPath) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[PurePosixPath, str]]:
    """Page and target of every link that stays within the project."""
    return [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)\s]+)\)", text(page))
        if not re.match(r"[a-z]+:", target)
    ]


@pytest.mark.parametrize(("page", "target"), links(), ids=lambda value: str(value))
def test_links_lead_somewhere(page: PurePosixPath, target: str) -> None:
    place, _, anchor = target.partition("#")
    there = (ROOT / page).parent / place if place else ROOT / page
    assert there.exists()
    if anchor:
        assert anchor in anchors(PurePosixPath(there.resolve().relative_to(ROOT).as_posix()))


# Spelled in parts, so that this file does not hold what it looks for.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("anaconda", "org"),
        ("crates", "io"),
        ("rubygems", "org"),
    )
]
MACHINE_PATH = re.compile(r"(?<![\w.~/}])/(?:work|root|opt|home|Users|tmp|mnt|var)/\w")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_file_names_a_registry_or_a_path_of_one_machine(path: PurePosixPath) -> None:
    content = (ROOT / path).read_bytes().decode("utf-8", errors="ignore")  # pictures are not
    assert [host for host in REGISTRY_HOSTS if host in content] == []
    assert MACHINE_PATH.findall(content) == []


def test_the_pattern_of_machine_paths_finds_them() -> None:
    for start in ("work", "root", "home"):
        assert MACHINE_PATH.search(f"see /{start}/somebody/project")
    assert not MACHINE_PATH.search("~/.cache/tmp/x, runs/work/x, https://example.org/home/x")
