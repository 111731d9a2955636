"""`_native.pyi` says what the native module has: every name, every method, every argument."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any

import forebay
from forebay import _native

STUBS = ast.parse((Path(forebay.__file__).parent / "_native.pyi").read_text())
# They describe what a caller makes.
PROTOCOLS = {"Source", "Sink"}
# Inherited, or of every object.
OF_ALL = set(dir(object)) | {"__module__", "__dict__", "__weakref__", "__buffer__", "__release_buffer__"}


def declared(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for statement in body:
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            found[statement.name] = statement
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found[statement.target.id] = statement
    return found


def arguments_of(function: ast.FunctionDef) -> list[tuple[str, bool]]:
    """Names, and whether each may be left out."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    optional = len(positional) - len(given.defaults)
    names = [(argument.arg, at >= optional) for at, argument in enumerate(positional)]
    return [(name, may) for name, may in names if name != "self"]


def arguments_at_runtime(value: Any) -> list[tuple[str, bool]] | None:
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    given = [it for it in signature.parameters.values() if it.kind in kinds and it.name != "self"]
    return [(it.name, it.default is not inspect.Parameter.empty) for it in given]


def test_every_name_is_declared_and_every_declaration_is_there() -> None:
    names = {name for name in dir(_native) if not name.startswith("__") or name == "__version__"}
    assert set(declared(STUBS.body)) - PROTOCOLS == names
    assert set(forebay.__all__) <= names


def test_every_member_is_declared_and_every_declaration_is_there() -> None:
    for name, statement in declared(STUBS.body).items():
        if not isinstance(statement, ast.ClassDef) or name in PROTOCOLS | {"Error"}:
            continue
        kind = getattr(_native, name)
        assert set(declared(statement.body)) - OF_ALL == set(vars(kind)) - OF_ALL, name


def test_every_argument_is_declared_as_it_is() -> None:
    compared = 0
    for name, statement in declared(STUBS.body).items():
        if isinstance(statement, ast.FunctionDef):
            functions = [(name, statement, getattr(_native, name))]
        elif isinstance(statement, ast.ClassDef) and name not in PROTOCOLS:
            kind = getattr(_native, name)
            methods = [it for it in statement.body if isinstance(it, ast.FunctionDef)]
            functions = [
                (f"{name}.{it.name}", it, kind if it.name == "__init__" else getattr(kind, it.name))
                for it in methods
                if not it.decorator_list or ast.unparse(it.decorator_list[0]) == "staticmethod"
                if it.name == "__init__" or not it.name.startswith("__")
            ]
        else:
            continue
        for where, function, value in functions:
            runtime = arguments_at_runtime(value)
            if runtime is not None:
                assert arguments_of(function) == runtime, where
                compared += 1
    assert compared > 40
