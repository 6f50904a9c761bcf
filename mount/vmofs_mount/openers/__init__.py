"""Openers: processes that serve URLs as files, for ``vmofs open`` and ``vmofs run``.

There is one for each ``open``, with a pager of its own, so that what one source does cannot hold up another, and so
that ``close`` is nothing but the end of a process. What it serves stands in a *record*, a file in the user's runtime
directory, by which the other commands find it.
"""
