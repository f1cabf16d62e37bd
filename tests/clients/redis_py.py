#!/usr/bin/env python3
"""redis-py works unchanged: strings, expiry, pipelines, SCAN, RESP3, large values, reconnecting,
publishing and subscribing.

Usage: redis_py.py PORT [CERTIFICATE KEY]. With a certificate, which signs itself, the connections use TLS, and the server has the
same one. Exits with status 0 if everything works.
"""

import sys

import redis
from redis.exceptions import ResponseError

TLS = {}
BIG_BYTES = 10 * 1024 * 1024


def strings(client):
    assert client.set("greeting", "grün 🐝") is True
    assert client.get("greeting").decode() == "grün 🐝"
    assert client.get("missing") is None
    everything = bytes(range(256))
    assert client.set(everything, everything)
    assert client.get(everything) == everything
    assert client.append("greeting", "!") == len("grün 🐝!".encode())
    assert client.mset({"a": 1, "b": 2}) and client.mget("a", "missing", "b") == [b"1", None, b"2"]
    assert client.incr("counter", 41) == 41 and client.incrbyfloat("counter", 0.5) == 41.5
    assert client.set("greeting", "no", nx=True) is None
    assert client.getdel("a") == b"1" and client.exists("a") == 0


def expiry(client):
    client.set("k", "v", ex=100)
    assert 99 <= client.ttl("k") <= 100 and client.persist("k") and client.ttl("k") == -1
    assert client.pexpire("k", 100_000) and 99_000 <= client.pttl("k") <= 100_000
    client.expireat("k", 1)
    assert client.exists("k") == 0 and client.ttl("k") == -2


def pipelines(client):
    with client.pipeline(transaction=False) as pipeline:
        for number in range(1000):
            pipeline.set(f"key:{number}", number)
        pipeline.incr("key:0").get("missing").get("key:999")
        replies = pipeline.execute()
    assert replies[:1000] == [True] * 1000 and replies[1000:] == [1, None, b"999"]
    found = list(client.scan_iter("key:*", count=37))
    assert set(found) == {f"key:{number}".encode() for number in range(1000)}


def errors(client):
    client.set("text", "abc")
    for arguments in (["INCR", "text"], ["NOSUCHCOMMAND"], ["GET"], ["SET", "k", "v", "EX", "0"]):
        try:
            client.execute_command(*arguments)
        except ResponseError:
            continue
        raise AssertionError(f"{arguments} should be an error")
    assert client.get("text") == b"abc", "the connection still works"


def big_values(client):
    big = bytes(range(256)) * (BIG_BYTES // 256)
    assert client.set("big", big) and client.get("big") == big
    assert client.getrange("big", BIG_BYTES - 3, -1) == big[-3:]
    assert client.delete("big") == 1


def reconnect(client):
    client.set("k", "before")
    own = client.client_id()
    killer = redis.Redis(port=client.connection_pool.connection_kwargs["port"], **TLS)
    assert killer.client_kill_filter(_id=own) == 1
    assert client.get("k") == b"before", "redis-py reconnects automatically"
    assert client.client_id() != own
    client.client_setname("second-life")
    assert client.client_getname() in ("second-life", b"second-life")


def pubsub(client):
    known = client.connection_pool.connection_kwargs
    subscriber = redis.Redis(port=known["port"], protocol=known["protocol"], **TLS).pubsub()
    subscriber.subscribe("news", "sport")
    subscriber.psubscribe("n?ws")
    answers = [subscriber.get_message(timeout=5) for _ in range(3)]
    assert [answer["type"] for answer in answers] == ["subscribe", "subscribe", "psubscribe"]
    assert [answer["data"] for answer in answers] == [1, 2, 3]
    for number in range(100):
        assert client.publish("news", f"message {number}") == 2
    for number in range(100):
        data = f"message {number}".encode()
        message, by_pattern = (subscriber.get_message(timeout=5) for _ in range(2))
        assert message == {"type": "message", "pattern": None, "channel": b"news", "data": data}
        assert by_pattern == {"type": "pmessage", "pattern": b"n?ws", "channel": b"news", "data": data}
    subscriber.ping()
    assert subscriber.get_message(timeout=5)["type"] == "pong"
    subscriber.ssubscribe("shard")
    assert subscriber.get_message(timeout=5)["type"] == "ssubscribe"
    assert client.execute_command("SPUBLISH", "shard", "x") == 1
    assert subscriber.get_sharded_message(timeout=5)["data"] == b"x"
    assert client.pubsub_numsub("news", "none") == [(b"news", 1), (b"none", 0)]
    assert sorted(client.pubsub_channels()) == [b"news", b"sport"] and client.pubsub_numpat() == 1
    subscriber.close()
    handled = []
    subscriber.subscribe(**{"handled": handled.append})
    worker = subscriber.run_in_thread(sleep_time=0.01)
    while not handled:
        client.publish("handled", "by a thread")
    worker.stop()
    worker.join()
    assert handled[0]["data"] == b"by a thread"
    subscriber.close()


def server(client):
    assert client.ping() is True
    assert client.info("server")["redis_version"]
    assert client.config_get("maxmemory")["maxmemory"] == "0"
    assert client.config_set("slowlog-max-len", 100)
    assert client.dbsize() > 0 and client.flushdb() and client.dbsize() == 0
    assert len(client.time()) == 2


def main():
    port = int(sys.argv[1])
    if len(sys.argv) > 2:
        certificate, key = sys.argv[2:]
        TLS.update(host="127.0.0.1", ssl=True, ssl_ca_certs=certificate, ssl_certfile=certificate, ssl_keyfile=key)
    for protocol in (2, 3):
        options = {"port": port, "protocol": protocol, "client_name": "proof", "single_connection_client": False, **TLS}
        client = redis.Redis(**options, max_connections=1)
        client.flushall()
        for check in (strings, expiry, pipelines, errors, big_values, reconnect, pubsub, server):
            check(client)
            print(f"redis-py {redis.__version__}, RESP{protocol}: {check.__name__}")
    other = redis.Redis(port=port, db=5, **TLS)
    other.set("k", "five")
    assert redis.Redis(port=port, **TLS).get("k") is None


main()
