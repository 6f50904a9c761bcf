"""The sans-IO model: page states, VMOs, ports, pagers. No clock, no locks, no FUSE.

A call returns at once: it is finished, or it is an ``Access`` that waits for page requests. Time comes in as an
argument. After each call the caller acts on what happened: ``System.run_ready``, ``take_ports``, ``take_stale``.

Its rooms, each of which imports only those below it (mount/ARCHITECTURE.md has the map)::

    pager, operations    the calls, in Zircon's words
    vmos                 VMOs of all kinds, and the steps of each call on them
    requests             calls in progress, page requests, ports, and the system that has them all
    pages                memory and maps of it: states, frames, runs, eviction; nothing waits
"""
