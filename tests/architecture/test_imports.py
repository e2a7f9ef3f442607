"""Dependencies point down only: the layers of docs/architecture.md, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import penstock

PACKAGE = Path(penstock.__file__).parent

# Lowest first. A module may import what stands in its own group or in a lower layer.
LAYERS: list[list[set[str]]] = [
    [{"errors", "config", "recipe_values"}],
    [{"_core"}],
    [
        {
            "jobs",
            "tokenizer",
            "tokenizer_training",
            "decoding",
            "token_batch",
            "token_view",
            "special_tokens",
            "data",
        }
    ],
    [{"report"}, {"kernels"}],
    [{"model"}],
    [{"interop"}, {"evaluate.bits_per_byte"}],
    [{"train"}],
    [{"evaluate"}, {"generate"}],
    [{"pipelines"}],
    [{"compare"}],
    [{"cli"}],
    [{"__main__"}],
]


def group_of(module: str) -> tuple[int, int] | None:
    """Layer and group of a dotted module below penstock; the longest name that fits decides."""
    best: tuple[int, tuple[int, int]] | None = None
    for layer, groups in enumerate(LAYERS):
        for index, names in enumerate(groups):
            for name in names:
                if (module == name or module.startswith(name + ".")) and (
                    best is None or len(name) > best[0]
                ):
                    best = (len(name), (layer, index))
    return best[1] if best else None


def imported_modules(path: Path, module: str) -> set[str]:
    """The modules of penstock that a file imports, lazily or not, but not for typing alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = [ast.Pass()]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.name.removeprefix("penstock.") for a in node.names if a.name.startswith("penstock.")}
        elif isinstance(node, ast.ImportFrom) and node.level:
            package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            base = package[: len(package) - node.level + 1]
            found.add(".".join([*base, node.module or ""]).strip("."))
        elif isinstance(node, ast.ImportFrom) and node.module == "penstock":
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("penstock."):
            name = (node.module or "").removeprefix("penstock.")
            found |= {
                f"{name}.{a.name}" if (PACKAGE / name / f"{a.name}.py").exists() else name for a in node.names
            }
    return found


def modules() -> list[tuple[str, Path]]:
    files = [
        p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts and p != PACKAGE / "__init__.py"
    ]
    for link in ("kernels", "pipelines"):
        files += (PACKAGE / link).rglob("*.py")
    named = {}
    for path in files:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return sorted(named.items())


@pytest.mark.parametrize(("module", "path"), modules())
def test_a_module_imports_only_what_is_below_it(module: str, path: Path) -> None:
    own = group_of(module)
    assert own is not None, f"{module} stands in no layer: add it to LAYERS and to docs/architecture.md"
    for name in imported_modules(path, module):
        other = group_of(name)
        if other is None:
            assert hasattr(penstock, name) or name.startswith("__"), f"{module} imports the unknown {name}"
            other = group_of({"Tokenizer": "tokenizer", "TokenBatch": "tokenizer"}.get(name, "data"))
            assert other is not None
        assert other == own or other[0] < own[0], f"{module} imports {name}, which stands above or beside it"


def test_kernels_stand_alone() -> None:
    for module, path in modules():
        if module.startswith("kernels"):
            outside = {n for n in imported_modules(path, module) if not n.startswith("kernels")}
            assert not outside, f"{module} imports {outside}"


def test_importing_penstock_imports_nothing_heavy() -> None:
    code = (
        "import sys, penstock, penstock.tokenizer, penstock.data; "
        "print([m for m in ('torch', 'pyarrow', 'matplotlib', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_nothing_reads_or_writes_pickle() -> None:
    for _, path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not names & {"pickle", "cPickle", "dill", "cloudpickle"}, path
