#!/usr/bin/env python3
"""Makes the text of a node's data folder: make.py BINARY FOLDER [PEERS | grown] > node-N.txt. FOLDER is on a disk, and new.

Starts BINARY three times and writes what main.rs expects to read. The text: `file PATH BYTES`, then the lines of 32 bytes
that are not all zero, each behind its offset.

With PEERS, the description of a cluster of nodes 1, 2 and 3 with one shard and one partition: FOLDER has the folders node-1,
node-2 and node-3 of its nodes, which start and end together. With `grown`, a node founds a cluster with its data, and starts twice
after that.
"""
import os, re, socket, subprocess, sys, time

BINARY, FOLDER = sys.argv[1], sys.argv[2]
SIZES = ["--memory-bytes", "16MiB", "--wal-segment-bytes", "4MiB"]
GROWN = sys.argv[3:] == ["grown"]
if len(sys.argv) > 3 and not GROWN:
    SHARDS = [f"node-{node}/shard-0000" for node in (1, 2, 3)]
    FLAGS = [
        ["--data-dir", f"{FOLDER}/node-{node}", "--peers", sys.argv[3], "--node-id", str(node), "--max-bulk-bytes", "1MiB", *SIZES]
        for node in (1, 2, 3)
    ]
    PORTS = [int(port) for port in re.findall(r'client = ".*:(\d+)"', open(sys.argv[3]).read())]
    for flags in FLAGS:
        subprocess.run([BINARY, "format", *flags], check=True, stdout=subprocess.DEVNULL)
else:
    SHARDS = ["shard-0000", "shard-0001"]
    FLAGS = [["--data-dir", FOLDER, "--shards", "2", "--partitions", "2", *SIZES]]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        PORTS = [probe.getsockname()[1]]


class Process:
    def __init__(self, flags, port):
        listen = ["--listen", f"127.0.0.1:{port}"]
        self.process = subprocess.Popen([BINARY, "serve", *listen, *flags], stderr=subprocess.DEVNULL)
        for _ in range(500):
            try:
                self.socket = socket.create_connection(("127.0.0.1", port))
                break
            except ConnectionRefusedError:
                time.sleep(0.02)
        self.replies = self.socket.makefile("rb")

    def ask(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        return self.reply()

    def reply(self):
        line = self.replies.readline()
        assert line[:1] not in (b"-", b""), line
        if line[:1] == b"$" and line != b"$-1\r\n":
            return self.replies.read(int(line[1:]) + 2)[:-2]
        if line[:1] == b"*" and line != b"*-1\r\n":
            return [self.reply() for _ in range(int(line[1:]))]
        return line[1:-2]


class Node:
    """The node, or the leader of the three."""

    def __init__(self):
        self.all = [Process(flags, port) for flags, port in zip(FLAGS, PORTS)]
        for _ in range(500):
            for self.leader in self.all:
                try:
                    self.leader.ask("GET", "{tag}a")
                    return
                except AssertionError:
                    time.sleep(0.02)
        raise SystemExit("nobody leads")

    def ask(self, *words):
        return self.leader.ask(*words)

    def stop(self):
        # The others need it until they have applied what it has.
        if len(self.all) > 1:
            time.sleep(1)
        for process in self.all:
            process.socket.close()
            process.process.terminate()
        for process in self.all:
            assert process.process.wait() == 0


def tables():
    folders = (f"{FOLDER}/{shard}/state/tables" for shard in SHARDS)
    return sum(len(os.listdir(folder)) for folder in folders if os.path.isdir(folder))


# What the tables hold.
node = Node()
node.ask("SET", "flushed", "text")
node.ask("SET", "flushed:int", "-12")
node.ask("APPEND", "flushed:raw", "raw")
node.ask("INCRBYFLOAT", "flushed:float", "0.5")
node.ask("SET", "flushed:expires", "later", "PXAT", 95_617_584_000_000)
node.ask("SET", b"\xff\x00binary", bytes(range(256)))
node.ask("SET", "removed", "soon")
node.ask("SET", "{tag}a", "1")
# Rows that are large and of few bytes in the log, so that the state is flushed.
for n in range(12):
    node.ask("SETRANGE", f"large:{n}", 1_000_000, "x")
for _ in range(1000):
    if tables() >= len(SHARDS):
        break
    time.sleep(0.02)
assert tables() >= len(SHARDS), "all shards are flushed"
for n in range(12):
    node.ask("DEL", f"large:{n}")
node.stop()
# What the log holds, over the tables.
node = Node()
node.ask("DEL", "removed")
node.ask("SET", "flushed", "overwritten")
node.ask("SETRANGE", "logged", 4, "range")
node.ask("MSET", "{tag}a", "2", "{tag}b", "3")
node.ask("WATCH", "{tag}absent")
node.ask("MULTI")
node.ask("INCRBY", "{tag}n", 7)
node.ask("RENAME", "{tag}b", "{tag}c")
node.ask("EXEC")
node.ask("COPY", "{tag}a", "{tag}d")
node.ask("PERSIST", "flushed:expires")
node.ask("PEXPIREAT", "logged", 95_617_584_000_000)
node.ask("GETDEL", "{tag}d")
node.stop()
node = Node()
node.ask("SET", "last", "of three starts")
node.stop()
if GROWN:
    cluster = re.search(r"cluster = (\w+)", open(f"{FOLDER}/identity.0").read())[1]
    peers = f"{FOLDER}.toml"
    with open(peers, "w") as description:
        print(f'cluster = "{cluster}"\nsecret = "any, of 16 bytes or more"\nshards = 2\npartitions = 2\n[[nodes]]\nid = 1', file=description)
        print(f'peer = "127.0.0.1:{PORTS[0] + 1}"\nclient = "127.0.0.1:{PORTS[0]}"', file=description)
    FLAGS = [["--data-dir", FOLDER, "--peers", peers, "--node-id", "1", "--max-bulk-bytes", "1MiB", *SIZES]]
    subprocess.run([BINARY, "format", *FLAGS[0]], check=True, stdout=subprocess.DEVNULL)
    for _ in range(2):
        node = Node()
        node.ask("SET", "last", "of three starts")
        node.stop()

for place, _, names in sorted(os.walk(FOLDER)):
    for name in sorted(set(names) - {"LOCK", "reserve"}):
        path = os.path.join(place, name)
        content = open(path, "rb").read()
        print(f"file {os.path.relpath(path, FOLDER)} {len(content)}")
        for at in range(0, len(content), 32):
            line = content[at:at + 32]
            if any(line):
                print(f"{at:06x}: {line.hex()}")
