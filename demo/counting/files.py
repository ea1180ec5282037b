"""Which files are counted, and what is counted in one. Nothing of tasks here."""

from __future__ import annotations

import ast
import os
import sysconfig
import tokenize
import warnings
from pathlib import Path

STDLIB = Path(sysconfig.get_path("stdlib")).resolve()
BROKEN = Path(__file__).resolve().parent.parent / "sample" / "broken.py_"

INSTALLED = {"site-packages", "dist-packages", "__pycache__"}
TESTS = {"test", "tests", "idle_test"}  # Python's own hold files that are broken on purpose
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def directories(folder, on_error=None):
    """Directories with Python files at and below a folder, relative to it, sorted; `.` is itself.

    Hidden ones and installed packages are left out, and, of the standard library, its tests; those
    that can't be read, or whose name is no text, too, of which `on_error` is told.
    """
    skipped = INSTALLED | (TESTS if Path(folder).resolve() == STDLIB else set())
    found = []
    for place, folders, names in os.walk(folder, onerror=on_error):
        folders[:] = [name for name in folders if name not in skipped and name[0] != "."]
        if not is_text(place):
            folders.clear()
            if on_error:
                on_error(f"{place!a} is no text")
        elif any(name.endswith(".py") for name in names):
            found.append(os.path.relpath(place, folder))
    return sorted(found)


def python_files(directory):
    """Names of the Python files in a directory, sorted."""
    with os.scandir(directory) as entries:
        return sorted(e.name for e in entries if e.name.endswith(".py") and e.is_file())


def is_text(name):
    """Whether a file's name can be written down: on Linux it may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def count(path):
    """Lines, words and definitions (functions and classes) of a file, as Python's own parser sees it.

    Raises SyntaxError where it is no Python; warnings of the parser are the file's author's.
    """
    with tokenize.open(path) as file:
        text = file.read()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(text, filename=str(path))
    return {
        "lines": text.count("\n") + (text[-1:] not in ("", "\n")),
        "words": len(text.split()),
        "definitions": sum(isinstance(node, DEFINITIONS) for node in ast.walk(tree)),
    }
