"""A terminal of its own, in which a shell with job control runs a program; what is typed there comes in on standard input.

Prints what the terminal shows. Each line of standard input is typed: `^C`, `^Z` and `^\\` are keys, `%TEXT` waits until TEXT
has been shown since the last wait, `!COMMAND` runs a command of a shell beside the terminal, and `=ROWSxCOLUMNS` makes its
window as large.
"""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios

KEYS = {"^C": b"\x03", "^Z": b"\x1a", "^\\": b"\x1c"}

pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])

shown = b""


def show():
    """One piece of what the terminal shows; False at its end."""
    global shown
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        return False
    shown += piece
    os.write(1, piece)
    return bool(piece)


for line in sys.stdin.read().splitlines():
    if line.startswith("%"):
        text = line[1:].encode()
        while text not in shown:
            if not show():
                sys.exit(f"it ended before it showed {line[1:]}")
        shown = shown[shown.index(text) + len(text) :]
    elif line.startswith("!"):
        subprocess.run(line[1:], shell=True, check=True)
    elif line.startswith("="):
        rows, columns = (int(number) for number in line[1:].split("x"))
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    else:
        os.write(terminal, KEYS.get(line, line.encode() + b"\n"))
while select.select([terminal], [], [])[0] and show():
    pass
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
