"""Writes `docs/llms.txt`, the documentation's table of contents for programs, from `mkdocs.yml` and the pages.

    python tools/llms.py            writes docs/llms.txt
    python tools/llms.py --check    exits with 1 where it is out of date

MkDocs calls `on_post_build` when it builds the site: the whole text of all pages stands beside it as `llms-full.txt`.
The form is that of https://llmstxt.org.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PROJECT = Path(__file__).parents[1]
DOCS = PROJECT / "docs"
TARGET = DOCS / "llms.txt"
_INTRO = """# {name}

> {description}

Swap `ChatOpenAI` for `ChatOpenAIWebSocket` and keep the code: every turn after the first sends only what is new. The
messages stay the truth; a delta is sent only where it is proved to mean the same as everything.
"""


class _Loader(yaml.SafeLoader):
    """Reads MkDocs' configuration, which may name Python objects."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def configuration() -> dict[str, Any]:
    """Reads `mkdocs.yml`."""
    text = (PROJECT / "mkdocs.yml").read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    return loaded


def pages(entries: list[Any], section: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields section, title and file of every page of a navigation, in order."""
    for entry in entries:
        for title, below in entry.items():
            if isinstance(below, str):
                yield section, title, below
            else:
                yield from pages(below, section or title)


def first_sentence(text: str) -> str:
    """The first sentence of a page, without markup; empty where it begins with something else."""
    for part in re.split(r"\n\s*\n", text):
        if part.startswith(("#", "<!--", "```", "|", ":::", "-")):
            continue
        plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(part.split())).replace("**", "")
        return re.split(r"(?<=[.?!]) ", plain)[0].rstrip(":")
    return ""


def contents() -> str:
    """Makes the text of `llms.txt`."""
    config = configuration()
    lines = [_INTRO.format(name=config["site_name"], description=config["site_description"])]
    section = None
    loose = "Start"  # the heading of pages that belong to no section
    for where, title, file in pages(config["nav"]):
        if (where or loose) != section:
            section = where or loose
            lines.append(f"{'' if len(lines) == 1 else chr(10)}## {section}\n")
        sentence = first_sentence((DOCS / file).read_text(encoding="utf-8"))
        loose = "More" if where else loose
        lines.append(f"- [{title}]({file}){f': {sentence}' if sentence else ''}")
    return "\n".join(lines) + "\n"


def on_post_build(config: Any) -> None:
    """Writes all pages as one text into the site."""
    whole = "\n\n".join(
        f"<!-- {file} -->\n\n{(DOCS / file).read_text(encoding='utf-8').strip()}"
        for _, _, file in pages(configuration()["nav"])
    )
    Path(config["site_dir"], "llms-full.txt").write_text(whole + "\n", encoding="utf-8")


def main() -> int:
    """Writes or checks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="only say whether it is up to date")
    given = parser.parse_args()
    text = contents()
    if given.check:
        current = TARGET.exists() and TARGET.read_text(encoding="utf-8") == text
        if not current:
            print("docs/llms.txt is out of date: run python tools/llms.py", file=sys.stderr)
        return 0 if current else 1
    TARGET.write_text(text, encoding="utf-8")
    print(f"wrote {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
