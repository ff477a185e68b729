"""What stands behind a result: the hash of a stage's code, and the record beside each output."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from lcm.config import Settings, module_of

_PACKAGE = Path(__file__).parent
_VERSIONED = (
    *("numpy", "scipy", "pandas", "pyarrow", "nibabel", "nilearn", "nipype", "antspyx", "scikit-learn"),
    *("torch", "lightning", "safetensors"),
)


def _file_of(module: str) -> Path | None:
    path = _PACKAGE.parent.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def _imports(node: ast.AST) -> Iterator[str]:
    """Names below `lcm` that an import statement names."""
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lcm":
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "lcm")


def _is_bare_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@functools.cache
def _read(module: str) -> tuple[tuple[str, ...], str] | None:
    """What a module of ours imports of ours, and the hash of its syntax tree; None where there is no such module.

    Parsed once: every stage stands on the same few modules, and Snakemake asks for all stages in every process it starts.
    """
    path = _file_of(module)
    if path is None:
        return None
    tree, imports = ast.parse(path.read_text(encoding="utf-8")), list[str]()
    for node in ast.walk(tree):
        imports += _imports(node)
        for block in ("body", "orelse", "finalbody"):
            statements = getattr(node, block, None)
            if isinstance(statements, list):
                # A docstring edit changes no hash; comments are not in the tree at all.
                statements[:] = [one for one in statements if not _is_bare_string(one)]
    return tuple(imports), hashlib.sha256(ast.dump(tree).encode()).hexdigest()


@functools.cache
def modules_behind(stage: str) -> tuple[str, ...]:
    """Every module of ours that a stage or command reaches by import statements, itself included, sorted.

    `lcm.config` is left out: a stage's settings reach Snakemake by value, and another stage's class is not its code.
    """
    waiting, found = [module_of(stage)], set()
    while waiting:
        module = waiting.pop()
        read = None if module in found or module == "lcm.config" else _read(module)
        if read is not None:
            found.add(module)
            waiting.extend(read[0])
    return tuple(sorted(found))


@functools.cache
def code_hash(stage: str) -> str:
    """Hash of the syntax trees behind a stage, blind to comments, docstrings and layout."""
    digest = hashlib.sha256()
    for module in modules_behind(stage):
        read = _read(module)
        if read is not None:
            digest.update(f"{module}\n{read[1]}\n".encode())
    return digest.hexdigest()[:16]


def file_hash(path: Path) -> str | None:
    """SHA-256 of a file's bytes; None for a folder, whose files carry records of their own."""
    if path.is_dir():
        return None
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that shape a result, without importing them."""
    found = {"python": sys.version.split()[0]}
    for name in _VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def record(stage: str, settings: Settings, inputs: dict[str, Path], started: float, methods: str | None) -> str:
    """JSON text of the record beside a result; `started` is `time.monotonic()` when the stage began."""
    content = {
        "stage": stage,
        "settings": settings.model_dump(mode="json"),
        "code": code_hash(stage),
        "inputs": {name: {"path": str(path), "sha256": file_hash(path)} for name, path in inputs.items()},
        "versions": versions(),
        "seconds": round(time.monotonic() - started, 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "methods": methods,
    }
    return json.dumps(content, indent=2) + "\n"
