"""Pagers: their directories, who is asked, how requests reach them, and how pages come in by ``supply/``."""
