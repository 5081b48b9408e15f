#!/usr/bin/env python3
"""What greedy clients take from a well-behaved one: its GETs and SETs, one after the other, beside each of these plays.

    tests/power/fair.py BINARY [PLAY ...]    # PORT=, SECONDS=, KEYS=, PATTERN=, IDLERS=, DATA=folder, SERVE="--flag value ..."

Plays: idle (nobody else), setrange (300 SETRANGEs to 32 MB by one client, pipelined), unread (200 clients that ask for
29 MB again and again and read nothing), keys (100 clients that send KEYS with a pattern that takes long; PATTERN='*': with all
names), lcs (10 clients that send LCS of two values of 8000 bytes), copy (8 clients that copy a
value of 29 MB again and again), list (CLIENT LIST beside thousands of connections). Prints p50, p99 and the longest, in ms. Needs Python's own library only.
"""
import os
import random
import resource
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PORT = int(os.environ.get("PORT", "17391"))
SECONDS = float(os.environ.get("SECONDS", "10"))
KEYS = int(os.environ.get("KEYS", "300000"))
IDLERS = int(os.environ.get("IDLERS", "15000"))
LARGE = 29_000_000
EVIL = os.environ.get("PATTERN", "*a*a*a*a*b").encode()


def request(*args):
    parts = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def connect(tries=600):
    for n in range(tries):
        try:
            sock = socket.create_connection(("127.0.0.1", PORT))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError:
            if n + 1 == tries:
                raise
            time.sleep(0.05)


class Line:
    """A connection for one request at a time."""

    def __init__(self):
        self.sock = connect()
        self.rest = b""

    def ask(self, *args):
        self.sock.sendall(request(*args))
        return self.read()

    def read(self):
        while b"\r\n" not in self.rest:
            self.fill()
        head, _, self.rest = self.rest.partition(b"\r\n")
        if head[:1] != b"$" or head == b"$-1":
            return head
        length = int(head[1:])
        while len(self.rest) < length + 2:
            self.fill()
        value, self.rest = self.rest[:length], self.rest[length + 2 :]
        return value

    def fill(self):
        more = self.sock.recv(1 << 20)
        if not more:
            raise EOFError("the server closed the connection")
        self.rest += more


def good(results):
    """GETs and SETs of small keys, one after the other; their times in ms."""
    line, times = Line(), {"GET": [], "SET": []}
    errors, until, n = {}, time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        n += 1
        for name, args in (("SET", ("good:%d" % (n % 100), "x" * 20)), ("GET", ("good:%d" % (n % 100),))):
            began = time.monotonic()
            reply = line.ask(name, *args)
            times[name].append((time.monotonic() - began) * 1000)
            if reply[:1] == b"-":
                errors[reply] = errors.get(reply, 0) + 1
        time.sleep(0.001)
    results.update(times)
    results["errors"] = errors


def fork(body):
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            body()
        except (OSError, EOFError) as error:
            print("   evil one ended:", error, file=sys.stderr)
        finally:
            os._exit(0)
    return pid


def setrange():
    line = connect()
    batch = b"".join(request("SETRANGE", "big:%d" % (n % 10), 33_000_000, "x") for n in range(300))
    while True:
        line.sendall(batch)
        got = 0
        while got < 300:
            more = line.recv(1 << 16)
            if not more:
                raise EOFError("closed")
            got += more.count(b"\r\n")


def unread():
    batch = request("GET", "large") * 50
    socks, opened = {}, 0
    while True:
        while len(socks) < 200:
            sock = connect()
            opened += 1
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(batch)
            socks[sock.fileno()] = sock
        poll = select.poll()
        for fd in socks:
            poll.register(fd, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        for fd, _ in poll.poll(1000):
            socks.pop(fd).close()


def keys():
    socks = [connect() for _ in range(100)]
    ask = request("KEYS", EVIL)
    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLIN)
        sock.sendall(ask)
    by_fd = {sock.fileno(): sock for sock in socks}
    while True:
        for fd, _ in poll.poll():
            got = by_fd[fd].recv(1 << 20)
            if not got:
                raise EOFError("closed")
            if got.endswith(b"\r\n"):
                by_fd[fd].sendall(ask)


def lcs():
    line = Line()
    while True:
        line.ask("LCS", "long:a", "long:b", "LEN")


def copy():
    line = Line()
    for n in range(1 << 60):
        line.ask("COPY", "large", "copy:%d:%d" % (os.getpid(), n % 4), "REPLACE")


def lists():
    line = Line()
    while True:
        line.ask("CLIENT", "LIST")


def idlers():
    resource.setrlimit(resource.RLIMIT_NOFILE, (IDLERS + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    kept = [connect() for _ in range(IDLERS)]
    while kept:
        time.sleep(60)


def fill(play):
    line = Line()
    if play in ("unread", "copy"):
        line.ask("SET", "large", b"v" * LARGE)
    if play == "lcs":
        for key in ("long:a", "long:b"):
            line.ask("SET", key, bytes(random.choice(b"abcd") for _ in range(8000)))
    if play == "keys":
        for at in range(0, KEYS, 1000):
            batch = b"".join(
                request("SET", "aaaa:user:%07d:aaaaaaaaaaaaaaaa" % n, "v") for n in range(at, min(at + 1000, KEYS))
            )
            line.sock.sendall(batch)
            for _ in range(min(1000, KEYS - at)):
                line.read()


PLAYS = {"idle": None, "setrange": setrange, "unread": unread, "keys": keys, "lcs": lcs, "copy": copy, "list": lists}
MANY = {"lcs": 10, "copy": 8, "list": 6}


def spread(times):
    times = sorted(times)
    at = lambda part: times[min(len(times) - 1, int(len(times) * part))]
    return "n %6d  p50 %8.2f  p99 %8.2f  max %8.2f" % (len(times), at(0.5), at(0.99), times[-1])


def play(binary, name):
    data = tempfile.mkdtemp(prefix="fair.", dir=os.environ.get("DATA"))
    log = open(os.path.join(data, "log"), "wb")
    serve = [binary, "serve", "--listen", "127.0.0.1:%d" % PORT, "--data-dir", os.path.join(data, "node")]
    if name == "list":
        serve += ["--max-clients", str(2 * IDLERS)]
    server = subprocess.Popen(serve + shlex.split(os.environ.get("SERVE", "")), stdout=log, stderr=log)
    evil = []
    try:
        fill(name)
        if name == "list":
            evil.append(fork(idlers))
            line = Line()
            while line.ask("CLIENT", "LIST").count(b"\n") <= IDLERS:
                time.sleep(1)
        if PLAYS[name]:
            # Some on each core.
            evil.extend(fork(PLAYS[name]) for _ in range(MANY.get(name, 1)))
        time.sleep(1)
        results = {}
        good(results)
        for kind in ("SET", "GET"):
            print("%-9s %s  %s ms" % (name, kind, spread(results[kind])), flush=True)
        for error, count in results["errors"].items():
            print("          %d x %s" % (count, error.decode(errors="replace")))
        rss = open("/proc/%d/status" % server.pid).read().split("VmHWM:")[1].split("\n")[0].strip()
        print("          memory at most", rss, flush=True)
    finally:
        for pid in evil:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        server.kill()
        server.wait()
        shutil.rmtree(data, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for name in sys.argv[2:] or ["idle", "setrange", "unread", "keys", "lcs", "copy"]:
        play(sys.argv[1], name)
