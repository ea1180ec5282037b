"""All figures: python -m bench. Writes them into docs/explanation/performance.md.

`python -m bench draining million` runs some of the programs, and writes nothing.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.figures import Row, say, table

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "performance.md"
BEGIN, END = (
    "<!-- begin of what `make bench` writes -->",
    "<!-- end of what `make bench` writes -->",
)

PROGRAMS = (
    "submitting",
    "draining",
    "fanning",
    "latency",
    "latency postgresql",
    "latency sqlite",
    "latency mariadb",
    "million",
    "asgi",
    "memory",
    "repeating",
    "sqlite",
)


def main() -> int:
    chosen = sys.argv[1:]
    rows: list[Row] = []
    failed = []
    for program in PROGRAMS:
        name, *arguments = program.split()
        if chosen and name not in chosen:
            continue
        say(f"python -m bench.{program}")
        found = _run(name, *arguments)
        if found is None:
            failed.append(program)
        rows += found or []
    print(table(rows))
    if failed:
        say(f"failed: {', '.join(failed)}; nothing was written")
        return 1
    if not chosen:
        _write(rows)
    return 0


def _run(name: str, *arguments: str) -> list[Row] | None:
    """In a process of its own, since Django is set up once in a process; None: it failed."""
    command = [sys.executable, "-m", f"bench.{name}", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return None if done.returncode else [Row(**row) for row in json.loads(done.stdout)]


def _write(rows: list[Row]) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    assert after, f"{PAGE} has no place for the table"
    PAGE.write_text(f"{before}{BEGIN}\n{_machine()}\n\n{table(rows)}\n{END}{after}")
    say(f"written into {PAGE}")


def _machine() -> str:
    cpus = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpus.read_text() if cpus.exists() else "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores ({model[1] if model else platform.machine()}), {memory:.0f} GiB, "
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}, "
        f"Django {version('Django')}, psycopg {version('psycopg')}, {datetime.now(UTC):%Y-%m-%d}."
    )


if __name__ == "__main__":
    sys.exit(main())
