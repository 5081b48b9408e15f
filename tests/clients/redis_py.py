"""Drives a server with redis-py as an application would, without special settings. Usage: redis_py.py PORT"""

import sys
import time

import redis


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: got {got!r}, wanted {wanted!r}")


def basics(r):
    check("ping", r.ping(), True)
    check("set", r.set("py:a", "1"), True)
    check("get", r.get("py:a"), b"1")
    check("get of no key", r.get("py:none"), None)
    check("bytes", (r.set("py:bin", b"\x00\r\n\xff"), r.get("py:bin")), (True, b"\x00\r\n\xff"))
    check("incr", [r.incr("py:n"), r.incr("py:n"), r.incrby("py:n", 40)], [1, 2, 42])
    check("set nx", r.set("py:a", "2", nx=True), None)
    check("mset, mget", (r.mset({"py:x": 1, "py:y": 2}), r.mget("py:x", "py:none", "py:y")), (True, [b"1", None, b"2"]))
    check("exists, delete", (r.exists("py:x", "py:y"), r.delete("py:x", "py:y", "py:none")), (2, 2))
    try:
        r.incr("py:bin")
    except redis.ResponseError as error:
        check("error", str(error), "value is not an integer or out of range")
    else:
        sys.exit("INCR of what is no number went through")


def expiry(r):
    r.set("py:t", "v")
    check("ttl without expiry", r.ttl("py:t"), -1)
    check("expire", r.expire("py:t", 100), True)
    check("ttl", 0 < r.ttl("py:t") <= 100, True)
    check("persist", (r.persist("py:t"), r.ttl("py:t")), (True, -1))
    r.set("py:t", "v", px=60)
    time.sleep(0.2)
    check("expired", (r.get("py:t"), r.ttl("py:t")), (None, -2))


def transactions(r):
    with r.pipeline() as pipe:
        check("multi", pipe.set("py:m", 1).incr("py:m").get("py:m").execute(), [True, 2, b"2"])
    with r.pipeline() as pipe:
        pipe.watch("py:m")
        value = int(pipe.get("py:m"))
        pipe.multi()
        check("watch, untouched", pipe.set("py:m", value + 1).execute(), [True])
    with r.pipeline() as pipe:
        pipe.watch("py:m")
        r.set("py:m", "by another")
        pipe.multi()
        pipe.set("py:m", "by the first")
        try:
            pipe.execute()
        except redis.WatchError:
            check("watch, touched", r.get("py:m"), b"by another")
        else:
            sys.exit("EXEC went through although the watched key was changed")


def pipelines_and_scans(r):
    with r.pipeline(transaction=False) as pipe:
        for i in range(500):
            pipe.set(f"py:scan:{i}", i)
        check("pipeline", pipe.execute(), [True] * 500)
    found = set(r.scan_iter(match="py:scan:*", count=50))
    check("scan", found, {f"py:scan:{i}".encode() for i in range(500)})
    check("dbsize", r.dbsize() >= 500, True)


def slow_log(r):
    check("slowlog setting", r.config_set("slowlog-log-slower-than", 0), True)
    r.slowlog_reset()
    r.set("py:slow", "v")
    r.config_set("slowlog-log-slower-than", 10_000)
    slowest = r.slowlog_get(1)[0]
    check("slow command", slowest["command"], b"SET py:slow v")
    check("slow time", slowest["duration"] > 0 and abs(slowest["start_time"] - time.time()) < 60, True)
    check("slow client", slowest["client_address"].startswith(b"127.0.0.1:"), True)
    check("slow commands", r.slowlog_len() >= 1, True)


def introspection(r):
    check("info", "redis_version" in r.info(), True)
    check("command", "get" in r.command(), True)
    check("client", (r.client_setname("py"), r.client_getname()), (True, "py"))
    check("config", isinstance(r.config_get("maxmemory"), dict), True)


def main():
    for protocol in (None, 2, 3):
        options = {} if protocol is None else {"protocol": protocol}
        r = redis.Redis(port=int(sys.argv[1]), **options)
        r.flushall()
        for part in (basics, expiry, transactions, pipelines_and_scans):
            part(r)
        r.close()
    for protocol in (2, 3):
        slow_log(redis.Redis(port=int(sys.argv[1]), protocol=protocol))
    introspection(redis.Redis(port=int(sys.argv[1]), decode_responses=True))
    print(f"redis-py {redis.__version__}: all well")


main()
