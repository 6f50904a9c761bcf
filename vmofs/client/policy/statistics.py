"""What a pager did, in numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass
class Statistics:
    """Counts since the start. Printed they are a line, and ``json`` is the same for programs."""

    requests: int = 0
    """Pages were missed so often; one request may be for several pages."""
    reads: int = 0
    """The pager was asked for so many ranges."""
    reads_ahead: int = 0
    """So many of them because a reader was expected there."""
    bytes_read: int = 0
    bytes_supplied: int = 0
    merged: int = 0
    """Requests that were answered by a read that was going on already."""
    markers: int = 0
    """Requests that were answered at once, by a page held back."""
    retries: int = 0
    failures: int = 0
    """Requests that were failed."""
    dropped: int = 0
    """Reads whose result was not used: nobody waited any more, or the object has changed."""
    hanging: int = 0
    """Reads that did not return in time and still have not."""
    reading: int = 0
    """Reads that go on now."""
    bytes_in_flight: int = 0
    last_error: str = ""

    def json(self) -> str:
        """Return it as one JSON object."""
        return json.dumps(asdict(self))

    def __str__(self) -> str:
        """Return it as a line of ``name=value``, without what is 0."""
        return " ".join(f"{name}={value}" for name, value in asdict(self).items() if value)
