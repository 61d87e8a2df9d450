"""Starts a program with listening sockets as systemd does (sd_listen_fds(3)).

activate.py FD[,FD…] PROGRAM ARGUMENT…
"""

import fcntl
import os
import sys

given = [int(number) for number in sys.argv[1].split(",")]
# Out of the way first: a socket may be where another one has to go.
aside = [fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in given]
for place, number in enumerate(aside, 3):
    os.dup2(number, place, inheritable=True)
    os.close(number)
os.closerange(3 + len(given), 200)
os.environ |= {"LISTEN_FDS": str(len(given)), "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
