"""The project's documents, and what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
DOCUMENTS = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
    + [file for folder in ("docs", "examples", "deploy", "bench/peers") for file in (ROOT / folder).glob("*.md")]
)

_FENCE = re.compile(r"^ *(`{3,}|~{3,}) *(.*?) *$")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: Path
    line: int
    """Of its first line, from one."""
    language: str
    """The first word behind the fence."""
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    fence, info, first, lines = "", "", 0, []
    for number, line in enumerate(document.read_text().splitlines(), 1):
        matched = _FENCE.match(line)
        if not fence:
            if matched:
                fence, info, first, lines = matched[1], matched[2], number + 1, []
        elif matched and matched[1].startswith(fence) and not matched[2]:
            yield Block(document, first, info.split()[0] if info else "", "".join(line + "\n" for line in lines))
            fence = ""
        else:
            lines.append(line)
    assert not fence, f"{document}:{first} is never closed"


def prose(document: Path) -> str:
    """The document without what stands in code, fenced or not."""
    kept, fence = [], ""
    for line in document.read_text().splitlines():
        matched = _FENCE.match(line)
        if matched and not fence:
            fence = matched[1]
        elif matched and matched[1].startswith(fence) and not matched[2]:
            fence = ""
        elif not fence:
            kept.append(line)
    return re.sub(r"(`+)(.+?)\1(?!`)", "``", "\n".join(kept))


def anchors(document: Path) -> set[str]:
    """What a link may name in it: its headings, as they are made into names by those who show Markdown."""
    found: dict[str, int] = {}
    fence = ""
    for line in document.read_text().splitlines():
        matched = _FENCE.match(line)
        if matched:
            fence = "" if fence else matched[1]
        if fence or not re.match(r"#{1,6} ", line):
            continue
        title = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line.lstrip("#").strip())
        name = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found[name] = found.get(name, -1) + 1
        if found[name]:
            found[f"{name}-{found[name]}"] = 0
    return set(found)
