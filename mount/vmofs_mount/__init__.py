"""The FUSE filesystem that shows the model of vmofs.core as files.

Its rooms, each of which imports only those below it (mount/ARCHITECTURE.md has the map)::

    cli               the program
    openers           the processes that serve URLs as files
    daemon            the process behind a mount
    assembly          puts the parts together
    front             what comes from the kernel, and what goes back
    commands          does what a line of a command file says
    pagers, files     who is asked, and by which FIFO; open files
    waits             who waits for whom, and who must be let go
    cache, rights     the kernel's copies; who may do what
    tree              names and inodes
    loop              one thread: who goes on when
    observe, linux    the log; facts and calls of this kernel
"""
