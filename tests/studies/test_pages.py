"""The committed pages are those that the committed results make."""

import json
from pathlib import Path

from studies.lab import report

ROOT = Path(__file__).resolve().parents[2]
RESULTS = sorted((ROOT / "results" / "studies").glob("*.json"))


def test_every_committed_page_is_made_of_its_result():
    contents = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS}
    pages = {f"{name}.md": report.page(name, content) for name, content in contents.items()}
    pages["README.md"] = report.overview(contents)
    committed = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "studies").glob("*.md")}
    assert committed == pages, "run tools/study.py NAME --report, or commit what it wrote"
