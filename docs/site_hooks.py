"""Hooks of MkDocs: links to files of the repository outside docs/ become links to the repository, if they exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Replace links that leave docs/ by their text; MkDocs would report them as dead."""
    del files
    folder = Path(page.file.abs_src_path).parent

    def replace(found: re.Match[str]) -> str:
        target = (folder / found[2]).resolve()
        if target.is_relative_to(Path(config.docs_dir)):
            return found[0]
        if not target.exists():
            return found[0]  # MkDocs reports it
        return f"{found[1]} (`{target.relative_to(ROOT)}`)"

    return _LINK.sub(replace, markdown)
