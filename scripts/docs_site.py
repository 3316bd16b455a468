"""A hook of mkdocs: adds the pages at the top of the checkout to those of docs/, and mends links.

A link to something that is no page, such as a file of the code, becomes the file's name.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "CHANGELOG.md": "CHANGELOG.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
PICTURE = re.compile(r"(!\[[^\]]*\]\()docs/")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the top."""
    for name, page in TOP.items():
        text = PICTURE.sub(r"\1", (ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=linked(text, ROOT)))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Links of a page of docs/."""
    return markdown if page.file.generated_by else linked(markdown, ROOT / "docs")


def linked(text: str, folder: Path) -> str:
    """The text of a page that lies in `folder`, with links as the site has them."""

    def change(match: re.Match[str]) -> str:
        label, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in path:
            return match[0]
        place = (folder / path).resolve()
        inside = place.relative_to(ROOT)
        if str(inside) in TOP:
            page = TOP[str(inside)]
        elif inside.parts[0] == "docs" and place.is_file():
            page = str(inside.relative_to("docs"))
        elif place.exists():
            return f"{label} (`{inside}`)" if label.strip("`") != str(inside) else f"`{inside}`"
        else:
            return match[0]  # the build says that it is broken
        return f"[{label}]({page}{'#' * bool(anchor)}{anchor})"

    return LINK.sub(change, text)
