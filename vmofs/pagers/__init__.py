"""Ready-made pagers: files of URLs, of archives, of commands.

A ``Source`` is one file that can be read in ranges. Some stand on another one: a member of a zip archive on the
archive, a file in seekable zstd on its compressed bytes. ``SourcesPager`` serves sources as a pager, ``DiskCache``
keeps what was read of one on disk, and ``open_sources`` makes sources of a URL.

What each needs is imported when it is used; ``pip install vmofs[open]`` installs it all.
"""

from vmofs.pagers.source import ExitCode, Refusal, Source

__all__ = ["ExitCode", "Refusal", "Source"]
