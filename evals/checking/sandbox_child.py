"""What runs between the sandbox's parent and a program: shuts the doors, then becomes the program.

    python -I sandbox_child.py SPEC      (JSON: program, root, python, prefix, isolate, limits)

With `isolate`: own mount, process, network and IPC namespaces (namespaces(7)), a root folder that holds nothing but the
interpreter, its libraries and a small work folder in memory. Always: limits, no privileges, and another user than root.
The standard library only: it runs outside of any environment.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any, NoReturn

# <linux/sched.h>, <linux/mount.h>, <linux/prctl.h>
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 0x1000, 0x4000, 0x40000, 0x2, 0x4
_AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY, _SYS_MOUNT_SETATTR = -100, 0x8000, 0x1, 442
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_NOBODY = 65534
_LIBRARIES = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Never returns: it becomes the program, or waits for it."""
    spec = json.loads(sys.argv[1])
    with open(spec["program"], "rb") as file:
        source = file.read()
    work = os.path.dirname(spec["program"])
    if spec["isolate"]:
        _unshare()
        # A stop between here and the handler waits for it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        child = os.fork()  # the first process of the new namespace; all others die with it
        if child:
            _watch(child)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        _enter_root(spec["root"], spec["prefix"], spec["limits"]["file_bytes"])
        work = "/work"
    os.chdir(work)
    if spec["isolate"]:
        with open("program.py", "wb") as file:
            file.write(source)
    _drop(work)
    _limit(spec["limits"])
    os.execve(
        spec["python"],
        [spec["python"], "-I", "-S", "-B", "program.py"],
        {"PATH": "/usr/bin:/bin", "HOME": work, "TMPDIR": work, "LC_ALL": "C.UTF-8"},
    )


def _watch(child: int) -> NoReturn:
    """Ends as the program does. To stop this stops the program, wherever in the namespace it has gone."""
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _unshare() -> None:
    """Its own namespaces; one for users too where it may not otherwise."""
    flags = _NEWNS | _NEWIPC | _NEWPID | _NEWNET
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(flags) == 0:
        return
    _check("unshare", _libc.unshare(flags | _NEWUSER))
    # Not 0: a program that is started by another user than root starts without capabilities.
    for path, text in (
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", f"{user or _NOBODY} {user} 1"),
        ("/proc/self/gid_map", f"{group or _NOBODY} {group} 1"),
    ):
        with open(path, "w") as file:
            file.write(text)


def _enter_root(root: str, prefix: str, size: int) -> None:
    """A root folder in memory with the interpreter and its libraries, read-only, and /work."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    read_only = (ctypes.c_uint64 * 4)(_MOUNT_ATTR_RDONLY, 0, 0, 0)
    arguments: list[Any] = [
        ctypes.c_long(_SYS_MOUNT_SETATTR), ctypes.c_int(_AT_FDCWD), b"/", ctypes.c_uint(_AT_RECURSIVE),
        ctypes.byref(read_only), ctypes.c_size_t(ctypes.sizeof(read_only)),
    ]  # fmt: skip
    _check("mount_setattr", _libc.syscall(*arguments))
    _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={2 * size},mode=755")
    for path in dict.fromkeys((*_LIBRARIES, prefix)):
        inside = root + path
        if os.path.islink(path):
            os.symlink(os.readlink(path), inside)
        elif os.path.isdir(path) and not os.path.isdir(inside):
            os.makedirs(inside)
            _mount(path, inside, None, _MS_BIND | _MS_REC)
        elif os.path.isfile(path):
            os.makedirs(os.path.dirname(inside), exist_ok=True)
            with open(path, "rb") as source, open(inside, "wb") as target:
                target.write(source.read())
    os.mkdir(root + "/work")
    os.chmod(root + "/work", 0o777)
    os.chroot(root)


def _drop(work: str) -> None:
    """An unprivileged user, and no way back."""
    if os.geteuid() == 0:
        os.chown(work, _NOBODY, _NOBODY)
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    _check("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))  # a change of user would undo it


def _limit(limits: dict[str, int]) -> None:
    for name, value in (
        (resource.RLIMIT_CPU, limits["cpu_s"]),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(name, (value, value))


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind)]
    _check(f"mount {target}", _libc.mount(*encoded, ctypes.c_ulong(flags), data and data.encode()))


def _check(what: str, result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
