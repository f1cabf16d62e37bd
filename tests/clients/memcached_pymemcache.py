#!/usr/bin/env python3
"""pymemcache works unchanged: all its commands, values of Python types, compare-and-swap between threads, many keys at a time.

Usage: memcached_pymemcache.py HOST PORT. Exits with status 0 if everything works.
"""

import sys
import threading

from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError
from pymemcache.serde import CompressedSerde, pickle_serde

ADDRESS = (sys.argv[1], int(sys.argv[2]))


def plain_values():
    client = Client(ADDRESS, default_noreply=False)
    assert client.flush_all()
    assert client.set("a", b"1", flags=77)
    assert client.get("a") == b"1"
    assert client.raw_command("get a", end_tokens="END\r\n") == b"VALUE a 77 1\r\n1\r\n"
    assert not client.add("a", b"2") and client.add("b", b"2")
    assert client.replace("b", b"3") and not client.replace("nosuch", b"3")
    assert client.append("b", b"!") and client.prepend("b", b"<")
    assert client.get("b") == b"<3!"
    assert client.set_many({"c": b"x", "d": b"y"}) == []
    assert client.get_many(["a", "c", "d", "nosuch"]) == {"a": b"1", "c": b"x", "d": b"y"}
    assert client.incr("a", 41) == 42 and client.decr("a", 50) == 0
    assert client.incr("nosuch", 1) is None
    assert client.touch("a", 100) and not client.touch("nosuch", 100)
    assert client.delete("a") and not client.delete("a")
    assert client.delete_many(["b", "c"]) and client.get("d") == b"y"
    assert client.set("gone", b"x", expire=-1) and client.get("gone") is None
    assert client.version() and client.stats()[b"cmd_get"] > 0
    assert b"item_size_max" in client.stats("settings")
    large = b"x" * 900_000
    assert client.set("large", large) and client.get("large") == large
    try:
        client.set("large", b"x" * 2_000_000)
        raise AssertionError("too large")
    except MemcacheServerError as error:
        assert "too large" in str(error)
    assert client.get("large") is None
    try:
        client.incr("d", 1)
        raise AssertionError("not a number")
    except MemcacheClientError:
        pass
    many = {f"key:{number}": b"%d" % number for number in range(5000)}
    assert client.set_many(many) == []
    assert client.get_many(list(many)) == many
    quiet = Client(ADDRESS, default_noreply=True)
    for number in range(1000):
        quiet.set(f"quiet:{number}", b"x")
    assert len(quiet.get_many([f"quiet:{number}" for number in range(1000)])) == 1000


def python_values():
    values = {"text": "käse", "int": 12, "bytes": b"\0\xff", "list": [1, {"a": None}], "float": 1.5}
    for serde in (pickle_serde, CompressedSerde(min_compress_len=10)):
        client = Client(ADDRESS, serde=serde, default_noreply=False)
        for key, value in values.items():
            assert client.set(key, value)
        assert client.get_many(list(values)) == values
    counter = Client(ADDRESS, serde=pickle_serde, default_noreply=False)
    counter.set("counter", 5)
    assert counter.incr("counter", 1) == 6 and counter.get("counter") == 6


def compare_and_swap():
    setup = Client(ADDRESS, default_noreply=False)
    setup.set("sum", b"0")
    value, cas = setup.gets("sum")
    assert setup.cas("sum", b"0", cas) is True
    assert setup.cas("sum", b"1", cas) is False
    assert setup.cas("nosuch", b"1", b"5") is None

    def add():
        client = Client(ADDRESS, default_noreply=False)
        for _ in range(200):
            while True:
                value, cas = client.gets("sum")
                if client.cas("sum", b"%d" % (int(value) + 1), cas):
                    break

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert setup.get("sum") == b"800", setup.get("sum")


def pools():
    for client in (PooledClient(ADDRESS, max_pool_size=4), HashClient([ADDRESS], use_pooling=True)):
        client.set("pooled", b"x", noreply=False)
        assert client.get("pooled") == b"x"
        assert client.get_many(["pooled", "nosuch"]) == {"pooled": b"x"}
        client.close()


plain_values()
python_values()
compare_and_swap()
pools()
print("pymemcache: ok")
