"""Confinement of the decoder's child: it loses access to files, programs, processes and networks.

Limits of resources and an empty environment hold everywhere. Two measures depend on the kernel:
Landlock (https://docs.kernel.org/userspace-api/landlock.html) and seccomp, through libseccomp.
If one is missing, the child works without it; it reports to its parent which are active.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import struct
from collections.abc import Collection
from contextlib import suppress
from types import ModuleType

_PR_SET_NO_NEW_PRIVS = 38
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
"""Numbers of system calls, the same on all architectures; glibc has no functions for them."""
_LANDLOCK_ABI_FLAG = 1
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Version of Landlock → number of the rights to files that it can deny; versions add rights."""
_NETWORK_RIGHTS = 0b11
"""Rights to bind and to connect TCP sockets; from version 4."""
_SCOPES = 0b11
"""Scopes of abstract sockets and of signals to processes outside; from version 6."""
_MOST_FILES = 64
"""Largest number of open file descriptors: the pipes, the shared memory, and a margin."""

_FORBIDDEN = (
    # programs and processes; threads are allowed, see below
    *("execve", "execveat", "fork", "vfork", "kill", "tkill", "ptrace", "setns", "unshare"),
    *("pidfd_open", "pidfd_getfd", "pidfd_send_signal", "process_vm_readv", "process_vm_writev"),
    # files
    *("open", "openat", "openat2", "creat", "open_by_handle_at", "truncate", "mknod", "mknodat"),
    *("unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink"),
    *("symlinkat", "mkdir", "mkdirat", "rmdir", "chmod", "fchmodat", "chown", "fchownat"),
    *("mount", "umount2", "pivot_root", "chroot", "chdir", "setxattr", "utimensat"),
    # networks
    *("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4"),
    *("sendto", "sendmsg", "sendmmsg", "recvfrom", "recvmsg", "recvmmsg"),
    # interfaces of the kernel with a large attack surface
    *("bpf", "io_uring_setup", "perf_event_open", "userfaultfd", "keyctl", "add_key"),
    *("request_key", "init_module", "finit_module", "kexec_load"),
)
"""System calls that no decoder of bytes in memory needs."""
_CLONE_THREAD = 0x10000
"""Flag of `clone` that makes a thread rather than a process."""
_UNKNOWN_CALL = -1
"""Number that libseccomp returns for a system call that it does not know."""

MEASURES = ("no_new_privs", "landlock", "seccomp")
"""Names of all measures, in the order in which they are taken."""


def limit_resources(memory_limit_bytes: int) -> None:
    """Limit the address space of this process, and forbid it to write files and core dumps.

    Args:
        memory_limit_bytes: Largest address space (bytes).
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit_bytes, memory_limit_bytes))
    for limit, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _MOST_FILES),
    ):
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))


def limit_cpu_time(more_s: float) -> None:
    """Let the system end this process once it has used more CPU time.

    Args:
        more_s: CPU time from now on (s); all threads count.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime + more_s) + 1
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def confine(measures: Collection[str] = MEASURES) -> list[str]:
    """Remove from this process, permanently, the rights that a decoder does not need.

    Args:
        measures: Measures to take, of `MEASURES`.

    Returns:
        Measures that are active; Landlock with its version.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    seccomp: ModuleType | None = None
    with suppress(ImportError, OSError, RuntimeError):  # libseccomp may be missing
        import pyseccomp  # before Landlock, while files can still be read

        seccomp = pyseccomp
    active = []
    if "no_new_privs" in measures and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        active.append("no_new_privs")
    if "landlock" in measures:
        version = _deny_files(libc)
        if version:
            active.append(f"landlock {version}")
    if "seccomp" in measures and seccomp and _forbid_calls(seccomp):
        active.append("seccomp")
    return active


def _deny_files(libc: ctypes.CDLL) -> int:
    """Deny all access to files, and TCP; return the version of Landlock, 0 if there is none."""
    version = int(libc.syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_ABI_FLAG))
    if version < 1:
        return 0
    rights = max(number for since, number in _FILE_RIGHTS.items() if since <= version)
    denied = [2**rights - 1]
    if version >= 4:
        denied.append(_NETWORK_RIGHTS)
    if version >= 6:
        denied.append(_SCOPES)
    ruleset = struct.pack(f"={len(denied)}Q", *denied)
    rules = libc.syscall(_LANDLOCK_CREATE_RULESET, ruleset, len(ruleset), 0)
    if rules < 0:
        return 0
    is_active = libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return version if is_active else 0


def _forbid_calls(seccomp: ModuleType) -> bool:
    """Make forbidden system calls fail with EPERM; return False if that is not possible."""
    refused = seccomp.ERRNO(errno.EPERM)
    try:
        filters = seccomp.SyscallFilter(seccomp.ALLOW)
        for name in _FORBIDDEN:
            number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
            if number != _UNKNOWN_CALL:
                filters.add_rule(refused, number)
        # glibc starts threads with clone3, whose flags no filter can see; without it, with clone
        filters.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
        is_process = seccomp.Arg(0, seccomp.MASKED_EQ, _CLONE_THREAD, 0)
        filters.add_rule(refused, "clone", is_process)
        filters.load()
    except OSError:
        return False
    return True
