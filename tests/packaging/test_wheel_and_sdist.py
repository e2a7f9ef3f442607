"""What a wheel and an sdist hold, built from a tree with the dirt of everyday work in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """The names in a wheel and in an sdist of a copy of this tree, sources of dirt added."""
    if not (ROOT / "Cargo.toml").exists():
        pytest.skip("not run from a checkout")
    tree = tmp_path_factory.mktemp("tree") / "penstock"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so the tree cannot be copied without its build outputs")
    for name in listed.stdout.splitlines():
        source, target = ROOT / name, tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    for dirt in ("kernels/__pycache__/x.cpython-311.pyc", "pipelines/notes.txt", "kernels/gemm/scratch.csv"):
        (tree / dirt).parent.mkdir(parents=True, exist_ok=True)
        (tree / dirt).write_bytes(b"dirt")
    out = tree.parent / "dist"
    build = [sys.executable, "-m", "maturin"]
    shared = ["--target-dir", str(ROOT / "target")]
    wheel = [*build, "build", "--profile", "dev-release", "--out", str(out), *shared]
    for command in (wheel, [*build, "sdist", "--out", str(out)]):
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel_file:
        in_wheel = set(wheel_file.namelist())
    with tarfile.open(next(out.glob("*.tar.gz"))) as sdist_file:
        in_sdist = {name.split("/", 1)[1] for name in sdist_file.getnames() if "/" in name}
    return in_wheel, in_sdist


def sources(folder: str, *suffixes: str) -> set[str]:
    return {
        str(p.relative_to(ROOT)) for p in (ROOT / folder).rglob("*") if p.suffix in suffixes and p.is_file()
    }


def test_the_wheel_holds_every_module(archives: tuple[set[str], set[str]]) -> None:
    wheel, _ = archives
    wanted = {n.removeprefix("python/") for n in sources("python/penstock", ".py", ".pyi")}
    wanted |= {f"penstock/{n}" for n in sources("kernels", ".py") | sources("pipelines", ".py", ".toml")}
    assert wanted <= wheel, sorted(wanted - wheel)
    assert any(n.startswith("penstock/_core") and n.endswith((".so", ".pyd")) for n in wheel)
    assert "penstock/py.typed" in wheel


def test_the_wheel_is_one_for_every_python(archives: tuple[set[str], set[str]]) -> None:
    wheel, _ = archives
    assert any(n.endswith("_core.abi3.so") or n.endswith("_core.pyd") for n in wheel)


def test_no_dirt_travels(archives: tuple[set[str], set[str]]) -> None:
    for names in archives:
        assert not [
            n for n in names if "__pycache__" in n or n.endswith((".pyc", "notes.txt", "scratch.csv"))
        ]


def test_the_sdist_can_be_built_again(archives: tuple[set[str], set[str]]) -> None:
    _, sdist = archives
    wanted = {"Cargo.toml", "Cargo.lock", "pyproject.toml", "README.md", "LICENSE"}
    wanted |= sources("rust/penstock-bpe/src", ".rs") | sources("rust/penstock-data/src", ".rs")
    assert wanted <= sdist, sorted(wanted - sdist)
    kernels = {n for n in sdist if n.endswith("kernels/registry.py")}
    assert kernels, "the sdist lacks the kernels"


def test_nothing_of_the_development_data_travels(archives: tuple[set[str], set[str]]) -> None:
    for names in archives:
        assert not [n for n in names if n.startswith(("shared/", "penstock/shared/"))]
