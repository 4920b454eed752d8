"""What is shipped and what is installed beside it: licences stated, versions bounded and locked, types declared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SHIPPED = {
    ".safetensors",
    ".pt",
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".svg",
    ".ico",
    ".parquet",
    ".npz",
    ".npy",
    ".jsonl",
    ".ttf",
}
"""Endings of what is no code: weights, pictures, data."""
PACKAGES = ("policy", "nodes", "agent", "training", "examples", "docs", "tests")
LOCK = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)(?: ; (.+?))? \\$", re.MULTILINE)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def direct(*, extras: bool) -> list[Requirement]:
    """The dependencies that pyproject.toml names, its own extras left out."""
    named = list(PROJECT["dependencies"])
    if extras:
        named += [entry for entries in PROJECT["optional-dependencies"].values() for entry in entries]
    found = [Requirement(entry) for entry in named]
    return [one for one in found if normal(one.name) != "sifthinker"]


def test_every_weight_picture_and_table_that_is_shipped_has_its_licence_stated() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|(.+)\|$", (ROOT / "LICENSES.md").read_text(encoding="utf-8"), re.MULTILINE)
    stated = {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}
    assert all(len(cells) == 3 and all(cells) for cells in stated.values())
    found = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in SHIPPED and not any(part.startswith((".", "__")) for part in path.parts)
    }
    found |= {"policy/embedded/policy/tokenizer.json", "training/recipes/published.json"}
    assert found - set(stated) == set(), "state the licence of these in LICENSES.md"
    assert set(stated) - found == set(), "these stand in LICENSES.md, but are not there"


def test_what_builds_the_distributions_is_locked_in_a_version_that_fits() -> None:
    locked = {normal(name): version for name, version, _ in LOCK.findall((ROOT / "requirements/build.txt").read_text())}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert "build" in locked
    for one in map(Requirement, wanted):
        assert Version(locked[normal(one.name)]) in one.specifier


def test_licences_go_into_every_distribution() -> None:
    assert set(PROJECT["license-files"]) == {"LICENSE", "LICENSES.md"}
    assert PROJECT["license"] == "Apache-2.0"


def test_types_are_shipped() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in ("policy", "nodes", "agent", "training"))
    assert "Typing :: Typed" in PROJECT["classifiers"]


def test_what_answering_and_the_extras_need_is_bounded_above() -> None:
    tools = {
        "pytest",
        "pytest-timeout",
        "pytest-socket",
        "pytest-asyncio",
        "hypothesis",
        "ruff",
        "mypy",
        "types-pyyaml",
    }
    tools |= {"langgraph-cli"}  # their newest is wanted: they run nothing of a user's
    for one in direct(extras=True):
        bounded = any(part.operator in ("<", "==", "~=", "<=") for part in one.specifier)
        assert bounded or normal(one.name) in tools, f"{one} has no upper bound"


@pytest.mark.parametrize(("file", "extras"), [("base.txt", False), ("all.txt", True)])
def test_every_direct_dependency_is_locked_in_a_version_that_fits(file: str, extras: bool) -> None:
    text = (ROOT / "requirements" / file).read_text(encoding="utf-8")
    locked: dict[str, set[str]] = {}
    for name, version, _ in LOCK.findall(text):
        locked.setdefault(normal(name), set()).add(version)
    assert len(locked) > 30
    for one in direct(extras=extras):
        versions = locked.get(normal(one.name))
        assert versions, f"{one.name} is not locked: run bash .ci/lock"
        for version in versions:
            assert Version(version) in one.specifier, f"{one.name} {version} does not fit {one}: run bash .ci/lock"


def test_every_locked_file_has_its_hash_and_comes_from_nowhere_in_particular() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        assert "://" not in text
        entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]
        assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
@pytest.mark.parametrize(
    ("libraries", "code", "said"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 asked for, 0 findings explained, 0 not"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "P-1", "aliases": ["G-1"]}]}], 0, "a 1: P-1"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "P-2", "fix_versions": ["2"]}]}], 1, "not explained"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "P-3"}]}], 1, "has run out"),
        ([{"name": "a", "skip_reason": "not found"}], 3, "0 asked for"),
        ([], 3, "0 libraries"),
        (None, 3, ""),
    ],
)
def test_the_audit_is_clean_only_where_all_was_asked_for_and_explained(
    libraries: list[object] | None, code: int, said: str, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    if libraries is not None:
        report.write_text(json.dumps({"dependencies": libraries}))
    tool = tmp_path / "pip-audit"  # its network cannot be had here: this one finds what the test says
    tool.write_text(f'#!/bin/sh\nwhile [ "$1" != --output ]; do shift; done\ncp {report} "$2" 2>/dev/null; exit 1\n')
    tool.chmod(0o755)
    explained = tmp_path / "explained.toml"
    explained.write_text('[G-1]\nwhy = "never called"\nuntil = 2999-01-01\n[P-3]\nwhy = "old"\nuntil = 2020-01-01\n')
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": sys.executable}
    words = ["bash", str(ROOT / ".ci" / "audit"), "requirements/all.txt", str(explained)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    assert said in done.stdout, done
