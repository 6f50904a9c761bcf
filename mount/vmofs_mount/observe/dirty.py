"""What is lost when a mount ends: pages that were written to and that no pager has written back."""

from __future__ import annotations

import re
from typing import NamedTuple


class Dirty(NamedTuple):
    """Dirty pages, those of zero intervals included, and in how many VMOs they are."""

    pages: int
    vmos: int

    @property
    def sentence(self) -> str:
        """Say what is lost, empty if nothing is."""
        if not self.pages:
            return ""
        return f"{self.pages} dirty pages of {self.vmos} VMOs were not written back by their pagers and are gone"

    @classmethod
    def of_stats(cls, text: str) -> Dirty:
        """Return what ``control/stats`` says; nothing if it does not say it."""
        found = [re.search(rf"^vmofs_dirty_{name} (\d+)$", text, re.MULTILINE) for name in cls._fields]
        return cls(*(int(match[1]) if match else 0 for match in found))
