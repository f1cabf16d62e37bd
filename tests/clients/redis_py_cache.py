#!/usr/bin/env python3
"""redis-py's client-side cache works unchanged: hits do not reach the server, changes by other clients invalidate entries, and
at the end every cache agrees with the server.

Usage: redis_py_cache.py PORT. Exits with status 0 if everything works.
"""

import random
import sys
import threading
import time

import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection

# redis-py refuses servers that report a version below 7.4, although it needs only features of 6.0.
CacheProxyConnection.MIN_ALLOWED_VERSION = "6.0.0"
KEYS = [f"cached:{number}" for number in range(20)]
PATIENCE_S = 20


def until(what, condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting until {what}"


def caching(port, **options):
    return redis.Redis(port=port, protocol=3, cache_config=CacheConfig(), **options)


def calls(plain, command):
    return plain.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]


def hits_and_invalidations(port, plain):
    client = caching(port)
    plain.set("k", "1")
    plain.hset("h", mapping={"a": "1", "b": "2"})
    assert client.get("k") == b"1" and client.hgetall("h") == {b"a": b"1", b"b": b"2"}
    assert client.mget("k", "missing") == [b"1", None]
    before = [calls(plain, command) for command in ("get", "hgetall", "mget")]
    for _ in range(100):
        assert client.get("k") == b"1" and client.hgetall("h")[b"a"] == b"1"
        assert client.mget("k", "missing") == [b"1", None]
    after = [calls(plain, command) for command in ("get", "hgetall", "mget")]
    assert after == before, "hits come from the cache"
    plain.set("k", "2")
    until("the key is invalidated", lambda: client.get("k") == b"2")
    until("the key is invalidated for MGET, too", lambda: client.mget("k", "missing") == [b"2", None])
    plain.hset("h", "a", "3")
    until("the hash is invalidated", lambda: client.hgetall("h")[b"a"] == b"3")
    # The client's own changes, with any kind of command.
    client.set("k", "4")
    until("the client sees its own change", lambda: client.get("k") == b"4")
    with client.pipeline() as pipeline:
        pipeline.incr("k").incr("k")
        assert pipeline.execute() == [5, 6]
    until("the client sees its own transaction", lambda: client.get("k") == b"6")
    # A key that expires, and all keys at once.
    plain.set("k", "7", px=50)
    until("the key has expired", lambda: client.get("k") is None)
    plain.set("k", "8")
    until("the key exists again", lambda: client.get("k") == b"8")
    plain.flushall()
    until("all keys are invalidated", lambda: client.get("k") is None and client.hgetall("h") == {})
    assert plain.info("clients")["tracking_clients"] >= 1
    client.close()


def write(port, done):
    client = redis.Redis(port=port)
    for number in range(3000):
        key = random.choice(KEYS)
        if number % 10 == 0:
            client.delete(key)
        elif number % 10 == 1:
            client.mset({key: number, random.choice(KEYS): number})
        else:
            client.set(key, number)
    client.close()
    done.release()


def many_threads(port, plain):
    """Concurrent writers and caching readers."""
    writers, done = 3, threading.Semaphore(0)
    clients = [caching(port) for _ in range(3)]

    def read(client):
        while plain.get("stop") is None:
            for key in random.choices(KEYS, k=50):
                client.get(key)

    threads = [threading.Thread(target=write, args=(port, done)) for _ in range(writers)]
    threads += [threading.Thread(target=read, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for _ in range(writers):
        done.acquire()
    plain.set("stop", "1")
    for thread in threads:
        thread.join()
    for client in clients:
        assert client.get_cache().size > 0
        for key in KEYS:
            stored = plain.get(key)
            until(f"the cache agrees with the server on {key}", lambda: client.get(key) == stored)
        client.close()


def main():
    port = int(sys.argv[1])
    plain = redis.Redis(port=port)
    hits_and_invalidations(port, plain)
    many_threads(port, plain)
    until("no client tracks", lambda: plain.info("clients")["tracking_clients"] == 0)
    print("redis-py's cache: everything works")


main()
