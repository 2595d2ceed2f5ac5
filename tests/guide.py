"""GUIDE.md, and the code in it."""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = (Path(__file__).resolve().parents[1] / "GUIDE.md").read_text(encoding="utf-8")


def code_below(title: str, language: str) -> list[str]:
    section = GUIDE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)
