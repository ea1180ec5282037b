"""The code blocks of a Markdown page, by heading."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


@dataclass(frozen=True)
class Block:
    section: str
    language: str
    text: str

    @property
    def file(self) -> str:
        """The file that it belongs to, as its first line says."""
        found = re.match(r"# ([\w./]+\.\w+)\n", self.text)
        return found[1] if found else ""


def blocks(page: str) -> Iterator[Block]:
    section, language, lines = "", None, []
    for line in (ROOT / page).read_text().splitlines(keepends=True):
        if language is not None:
            if line.strip() == "```":
                yield Block(section, language, "".join(lines))
                language, lines = None, []
            else:
                lines.append(line)
        elif line.startswith("```"):
            language = line.strip("`\n ")
        elif line.startswith("#"):
            section = line.strip("# \n")


def of_file(page: str, file: str) -> str:
    """What the page puts into one file, from top to bottom."""
    return "\n\n".join(block.text for block in blocks(page) if block.file == file)


def sections(page: str) -> list[str]:
    """The headings under which the page shows calls."""
    return sorted({block.section for block in blocks(page) if block.language == "pycon"})
