"""Whether this process sees the machine's own process ids."""

from __future__ import annotations

import os

_FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""Inode of the machine's own namespace of pids, a constant of the kernel (``PROC_PID_INIT_INO``)."""


def in_own_pid_namespace() -> bool:
    """Whether this is a container with pids of its own: the driver may then hide processes, or name the host's pids."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino != _FIRST_PID_NAMESPACE
    except OSError:  # no such file in some sandboxes: they are containers
        return True
