"""Replaces what stands between two markers of a document, and nothing else in it."""

from __future__ import annotations

from pathlib import Path


def replace(document: Path, name: str, text: str) -> None:
    """The markers are `<!-- begin: name -->` and `<!-- end: name -->`; a document without them gets them at its end."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    before = document.read_text() if document.exists() else ""
    if begin not in before:
        before = f"{before.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    head, _, rest = before.partition(begin)
    _, found, tail = rest.partition(end)
    if not found:
        raise ValueError(f"{document} has a marker '{begin}' without its end")
    document.write_text(f"{head}{begin}\n\n{text.strip()}\n\n{end}{tail}")
