"""The book is complete, its links lead somewhere, and all parts of the project are of one version."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
from documents import DOCS, DOCUMENTS, ROOT, anchors, prose

import forebay

LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)")


def links(document: Path) -> list[str]:
    return LINK.findall(prose(document))


def test_the_book_has_every_document_once() -> None:
    named = [link for link in links(DOCS / "SUMMARY.md") if link.endswith(".md")]
    assert sorted(named) == sorted(file.name for file in DOCS.glob("*.md") if file.name != "SUMMARY.md")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda it: str(it.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    wrong = []
    for link in links(document):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists():
            wrong.append(f"{link}: not there")
        elif DOCS in document.parents and DOCS not in target.parents:
            wrong.append(f"{link}: leads out of the book")
        elif anchor and anchor not in anchors(target):
            wrong.append(f"{link}: no such heading")
    assert not wrong


def test_every_image_is_shown_somewhere_and_can_be_read() -> None:
    shown = {(document.parent / link).resolve() for document in DOCUMENTS for link in links(document)}
    images = [file for file in (DOCS / "images").iterdir() if file.is_file()]
    assert not set(images) - shown
    for image in images:
        if image.suffix == ".svg":
            assert ElementTree.parse(image).getroot().tag.endswith("svg")
        else:
            assert image.read_bytes().startswith(b"\x89PNG")


def test_all_is_of_one_version() -> None:
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    for manifest in (ROOT / "crates").glob("*/Cargo.toml"):
        package = tomllib.loads(manifest.read_text())["package"]
        assert package["version"] == {"workspace": True}, manifest
    assert forebay.__version__ == workspace["version"]
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    releases = [heading.split()[0] for heading in headings if heading != "Unreleased"]
    assert headings and "Unreleased" not in headings[1:], "what is not released stands first"
    if releases:
        assert releases[0] == workspace["version"]


def test_every_mistake_that_a_simulator_is_to_find_can_still_be_made() -> None:
    patches = sorted((ROOT / "crates").glob("*/mutants/*.patch"))
    assert len(patches) > 70
    check = ["git", "apply", "--check"]
    stale = [patch for patch in patches if subprocess.run([*check, patch], cwd=ROOT, check=False).returncode]
    assert not stale
