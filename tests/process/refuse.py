"""Runs a command where the kernel refuses it some system calls, as container runtimes and hardened hosts do.

refuse.py [CALL=ERRNO]... -- COMMAND...    CALL is a name from the table below, ERRNO one of Python's errno names.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

CALLS = {
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "sched_setaffinity": (203, 122),
    "sched_getaffinity": (204, 123),
}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000


def number(name):
    x86, arm = CALLS[name]
    return x86 if platform.machine() == "x86_64" else arm


def program(refused):
    """Loads the number of the call; each refused one jumps over nothing to its own return, the rest is allowed."""
    lines = [struct.pack("HBBI", LOAD, 0, 0, 0)]
    for nr, code in refused:
        lines.append(struct.pack("HBBI", JUMP_EQUAL, 0, 1, nr))
        lines.append(struct.pack("HBBI", RETURN, 0, 0, ERRNO | code))
    lines.append(struct.pack("HBBI", RETURN, 0, 0, ALLOW))
    return lines


def main():
    split = sys.argv.index("--")
    refused = []
    for pair in sys.argv[1:split]:
        name, code = pair.split("=")
        refused.append((number(name), getattr(errno, code)))
    lines = program(refused)
    code = ctypes.create_string_buffer(b"".join(lines))
    header = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in [(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header, 0, 0)]:
        if libc.prctl(*arguments) != 0:
            sys.exit(f"refuse.py: prctl: {os.strerror(ctypes.get_errno())}")
    os.execv(sys.argv[split + 1], sys.argv[split + 1 :])


main()
