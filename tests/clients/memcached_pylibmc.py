#!/usr/bin/env python3
"""pylibmc, and so libmemcached, works unchanged with the text protocol: values of Python types, many keys, compare-and-swap.

Usage: memcached_pylibmc.py HOST PORT. Exits with status 0 if everything works.
"""

import sys

import pylibmc

client = pylibmc.Client([f"{sys.argv[1]}:{sys.argv[2]}"], binary=False, behaviors={"cas": True, "tcp_nodelay": True})
client.flush_all()
values = {"text": "käse", "int": 12, "long": 1 << 70, "bytes": b"\0\xff", "list": [1, {"a": None}], "bool": True}
for key, value in values.items():
    assert client.set(key, value)
    assert client.get(key) == value, key
assert client.get_multi(list(values) + ["nosuch"]) == values
assert client.set_multi({f"k{number}": number for number in range(2000)}) == []
assert client.get_multi([f"k{number}" for number in range(2000)]) == {f"k{number}": number for number in range(2000)}
assert not client.add("int", 5) and client.add("new", 5)
assert client.replace("new", 6) and not client.replace("nosuch", 6)
assert client.incr("int", 30) == 42 and client.decr("int", 2) == 40
for command in (client.incr, client.decr):
    try:
        command("nosuch")
        raise AssertionError("there is no such key")
    except pylibmc.NotFound:
        pass
client.set("bytes", b"b")
assert client.append("bytes", b"c") and client.prepend("bytes", b"a")
assert client.get("bytes") == b"abc"
value, cas = client.gets("new")
assert value == 6 and client.cas("new", 7, cas)
try:
    stored = client.cas("new", 8, cas)
except pylibmc.Error:
    stored = False
assert not stored and client.get("new") == 7
assert client.touch("new", 100)
assert client.set("gone", 1, time=1_000_000_000) and client.get("gone") is None
assert client.delete("new") and not client.delete("new")
assert client.delete_multi(["k1", "k2"]) and client.get("k1") is None
[(_, stats)] = client.get_stats()
# Only bytes have a common type in all versions.
assert {(key if isinstance(key, str) else key.decode()) for key in stats} >= {"curr_items", "cmd_get", "version"}
large = "x" * 500_000
assert client.set("large", large) and client.get("large") == large
assert client.set("compressed", large, min_compress_len=1000) and client.get("compressed") == large
try:
    client.set("large", bytes(2_000_000))
    raise AssertionError("too large")
except pylibmc.Error:
    pass
assert client.get("int") == 40
client.flush_all()
assert client.get("int") is None
print("pylibmc: ok")
