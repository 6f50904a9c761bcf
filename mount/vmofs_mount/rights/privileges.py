"""What a process that serves a mount may do on this machine, and what is degraded where it may not."""

from __future__ import annotations

import os

from vmofs_mount.linux.procfs import can_see_calls, can_see_everybody
from vmofs_mount.rights.identity import can_open_inodes, can_take_identities

OTHERS_ARE_REFUSED = "not run by root: commands of other users are refused, since it cannot be checked what they may do"

ROOT_CANNOT = "root without CAP_SETUID or CAP_SETGID: commands of other users are refused"

NAMES_ARE_LOOKED_UP = (
    "root without CAP_DAC_READ_SEARCH: names in commands are looked up through the kernel, so that a user who makes "
    "links of command files can hold up others for seconds"
)

WAITING_IS_NOT_SEEN = (
    "not root of the whole machine: a pager that waits for itself is not found out, its read ends at the deadline only"
)

CALLS_ARE_NOT_SEEN = (
    "kernel.yama.ptrace_scope keeps vmofs from seeing what processes wait for: after a failed read a pager may be "
    "asked again for the same page"
)


def what_is_lacking(*, shared: bool) -> list[str]:
    """Return what this process cannot do for a mount, one sentence each. ``shared``: other users may use it."""
    lacking = []
    if shared and not can_take_identities():
        lacking.append(ROOT_CANNOT if os.geteuid() == 0 else OTHERS_ARE_REFUSED)
    elif shared and not can_open_inodes():
        lacking.append(NAMES_ARE_LOOKED_UP)
    if not can_see_everybody():
        lacking.append(WAITING_IS_NOT_SEEN)
    if not can_see_calls():
        lacking.append(CALLS_ARE_NOT_SEEN)
    return lacking
