"""What mkdocs is told about links that lead out of docs/, which are right for who reads the files.

Some files beside docs/ become pages of the site; a link to any other is only its text there.
"""

import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

PAGES: Mapping[str, str] = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""File beside docs/ -> page of the site."""

_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>(?!\w+:|#)[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files beside docs/ that are pages."""
    repository = Path(config["config_file_path"]).parent
    for name, page in PAGES.items():
        text = (repository / name).read_text()
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Point links at pages of the site."""
    beside = {page: name for name, page in PAGES.items()}
    source = page.file.src_uri
    here = "" if source in beside else posixpath.join("docs", posixpath.dirname(source))
    return point_links(markdown, here, posixpath.dirname(source))


def point_links(markdown: str, here: str, place: str) -> str:
    """Return a text whose links stay within the site.

    Args:
        markdown: Text of a page.
        here: Folder of its file in the repository, from which its links lead.
        place: Folder of its page in the site.
    """

    def point(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, link["target"]))
        page = PAGES.get(target)
        if target.startswith("docs/"):
            page = target.removeprefix("docs/")
        if page is None:
            return link["text"]
        return f"[{link['text']}]({posixpath.relpath(page, place or '.')}{link['anchor'] or ''})"

    return _LINK.sub(point, markdown)
