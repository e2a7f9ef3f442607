#!/usr/bin/env python3
"""Set up, try, test and build penstock from a clone. Standard library only.

    python3 dev.py demo     text of this machine -> tokenizer -> shards -> trained model -> report.html
    python3 dev.py test     Rust and Python tests; further arguments go to pytest
    python3 dev.py lint     formatters, linters, types, stubs
    python3 dev.py bench    measurements beside peers; `python3 dev.py bench` lists them
    python3 dev.py wheel    a release wheel and an sdist in dist/

Each command first brings the environment in .venv up to date; that takes minutes once, then nothing.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PROFILE = ["--profile", "dev-release"]


def main(arguments: list[str]) -> int:
    commands = {"demo": demo, "test": test, "lint": lint, "bench": bench, "wheel": wheel}
    if not arguments or arguments[0] not in commands:
        print(__doc__)
        return 0 if arguments in ([], ["-h"], ["--help"]) else 2
    try:
        install()
        commands[arguments[0]](arguments[1:])
    except subprocess.CalledProcessError as failure:
        return int(failure.returncode) or 1
    except KeyboardInterrupt:
        return 130
    return 0


def demo(arguments: list[str]) -> None:
    """The whole pipeline on a tiny recipe; further arguments go to `penstock run`."""
    run(BIN / "penstock", "run", "tiny", *arguments)


def test(arguments: list[str]) -> None:
    """All tests, or with arguments only those that pytest selects."""
    if not arguments:
        run("cargo", "test", "--workspace", "--exclude", "penstock-py", "--locked", *PROFILE)
    run(BIN / "pytest", *(arguments or ["-n", "2"]))


def lint(_: list[str]) -> None:
    """Everything that can be checked without running the code."""
    run("cargo", "fmt", "--all", "--check")
    run("cargo", "clippy", "--workspace", "--all-targets", "--locked", *PROFILE, "--", "-D", "warnings")
    run(BIN / "ruff", "check")
    run(BIN / "ruff", "format", "--check")
    run(BIN / "mypy")
    run(BIN / "stubtest", "penstock._core", "--mypy-config-file", "pyproject.toml")


def bench(arguments: list[str]) -> None:
    """A benchmark by name."""
    names = {
        "tokenizer": ["benches/tokenizer.py"],
        "encode": ["benches/encode.py"],
        "instructions": ["benches/instructions.py"],
        "decode": ["benches/decode.py"],
        "training": ["benches/training.py"],
        "training-options": ["benches/training_options.py"],
        "formats": ["benches/formats.py"],
        "data": ["benches/data.py"],
        "kernels": ["-m", "penstock.kernels.bench"],
    }
    if not arguments or arguments[0] not in names:
        sys.exit(f"usage: dev.py bench {{{','.join(names)}}} [options]")
    run(BIN / "python", *names[arguments[0]], *arguments[1:])


def wheel(_: list[str]) -> None:
    """What a release is made of."""
    run(BIN / "maturin", "build", "--release", "--locked", "--out", "dist")
    run(BIN / "maturin", "sdist", "--out", "dist")


def install() -> None:
    """Create .venv, or rebuild the extension, when what they are made from has changed."""
    if not (BIN / "python").exists():
        print("dev.py: creating .venv", flush=True)
        venv.create(VENV, with_pip=True)
    stamp, now = VENV / "penstock.stamp", fingerprint()
    if stamp.exists() and stamp.read_text() == now:
        return
    print("dev.py: installing penstock and its tools into .venv (minutes, once)", flush=True)
    pip = [BIN / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "-c", "constraints.txt", "-e", ".[dev]")
    stamp.write_text(now)


def fingerprint() -> str:
    """Of all that the installed package is built from; Python sources are linked, not copied."""
    files = [ROOT / name for name in ("pyproject.toml", "constraints.txt", "Cargo.toml", "Cargo.lock")]
    files += sorted(p for p in (ROOT / "rust").rglob("*") if p.suffix in {".rs", ".toml"})
    digest = hashlib.sha256(sys.version.encode())
    for path in files:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def run(*command: str | Path) -> None:
    """Run in the project's root, or raise."""
    subprocess.run([str(part) for part in command], cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
