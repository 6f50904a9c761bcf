"""What to read, when, and what to make of a failure: computed without I/O, threads and clocks. Time is an argument.

``planner`` puts the others together: ``flights`` are reads and who waits for them, ``streams`` follow readers that go
on in one direction, ``round_trip`` says how much to read for one page, ``breaker`` spares a source that is away,
``page_set`` knows what was supplied, ``tails`` where formats keep their directories.
"""
