"""The system calls that a submission has no use for, as a filter that bubblewrap hands to the kernel.

Namespaces do not cover everything: memory of System V segments and memfds belongs to no process that a watcher could
count, some address families ignore network namespaces, and the rarer calls are where kernels have their bugs. The
filter is classic BPF over `struct seccomp_data` (linux/seccomp.h), eight bytes an instruction, for x86-64 and ARM64.
"""

from __future__ import annotations

import errno
import platform
import struct

#: name → number on x86-64 and on 64-bit ARM (the asm-generic table), from the kernel's system call tables
DENIED = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "userfaultfd": (323, 282),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "open_by_handle_at": (304, 265),
    "bpf": (321, 280), "perf_event_open": (298, 241), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142),
    "acct": (163, 89), "syslog": (103, 116), "quotactl": (179, 60), "personality": (135, 92),
}  # fmt: skip
#: architecture → (AUDIT_ARCH, column above, number of socket)
ARCHITECTURES = {"x86_64": (0xC000003E, 0, 41), "aarch64": (0xC00000B7, 1, 198)}
#: AF_UNIX, AF_INET and AF_INET6, which end at the network namespace
FAMILIES = (1, 2, 10)
X32 = 0x40000000

LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
ALLOW, KILL, ERROR = 0x7FFF0000, 0x80000000, 0x00050000


def program(machine: str | None = None) -> bytes | None:
    """The compiled filter for a machine (default: this one), None for an unknown architecture."""
    if (machine or platform.machine()) not in ARCHITECTURES:
        return None
    audit, column, socket = ARCHITECTURES[machine or platform.machine()]
    lines = [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, audit),
        (RETURN, 0, 0, KILL),  # another architecture's numbers mean other calls
        (LOAD, 0, 0, NUMBER),
        (AT_LEAST, 0, 1, X32),
        (RETURN, 0, 0, KILL if column == 0 else ERROR | errno.ENOSYS),
    ]
    for numbers in DENIED.values():
        lines += [(EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, ERROR | errno.EPERM)]
    lines += [(EQUAL, 0, 2 + len(FAMILIES), socket), (LOAD, 0, 0, FIRST_ARGUMENT)]
    lines += [(EQUAL, len(FAMILIES) - i, 0, family) for i, family in enumerate(FAMILIES)]
    lines += [(RETURN, 0, 0, ERROR | errno.EAFNOSUPPORT), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("<HBBI", *line) for line in lines)
