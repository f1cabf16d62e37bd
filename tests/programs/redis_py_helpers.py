#!/usr/bin/env python3
"""The helpers of redis-py work: locks, transactions with WATCH, pipelines, scripts, subscribers in threads and under asyncio.
Each is used by several threads at once, and the results are compared with those of plain Python.

Usage: redis_py_helpers.py HOST PORT. Empties the server. Exits with status 0 if all results are as computed.
"""

import asyncio
import collections
import concurrent.futures
import hashlib
import random
import signal
import sys
import threading
import time

import redis
import redis.asyncio
from redis.exceptions import LockError, LockNotOwnedError, NoScriptError, ResponseError, WatchError

PATIENCE_SECONDS = 30
THREADS = 8


def together(work, arguments):
    """Runs `work` for each argument on threads of their own; returns the results."""
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, arguments))


def locks(client):
    client.set("counter", 0)

    def clerk(_):
        for _ in range(10):
            with client.lock("counter:lock", timeout=PATIENCE_SECONDS, sleep=0.001):
                client.set("counter", int(client.get("counter")) + 1)

    together(clerk, range(THREADS))
    assert int(client.get("counter")) == 10 * THREADS and not client.exists("counter:lock")
    lock, other = client.lock("door", timeout=10), client.lock("door", timeout=10)
    assert lock.acquire() and lock.owned() and lock.locked() and not other.acquire(blocking=False)
    assert lock.extend(50) and 59_000 < client.pttl("door") <= 60_000
    assert lock.reacquire() and client.pttl("door") <= 10_000
    for refused in (lambda: other.release(), lambda: client.lock("door").extend(1)):
        try:
            refused()
        except LockError:
            continue
        raise AssertionError("a client that does not own the lock changed it")
    lock.release()
    brief = client.lock("brief", timeout=0.02)
    assert brief.acquire() and other.acquire()
    assert client.lock("brief", timeout=10, sleep=0.001).acquire(blocking_timeout=PATIENCE_SECONDS)
    try:
        brief.release()
    except LockNotOwnedError:
        return
    raise AssertionError("the lock was released although it has another owner")


def transactions(client):
    accounts = [f"account:{number}" for number in range(5)]
    client.mset({account: 1000 for account in accounts})
    dice = random.Random(5)
    orders = [(*dice.sample(accounts, 2), dice.randrange(100)) for _ in range(300)]

    def transfer(order):
        source, target, amount = order

        def move(pipe):
            left, right = (int(number) for number in pipe.mget(source, target))
            pipe.multi()
            pipe.set(source, left - amount)
            pipe.set(target, right + amount)

        assert client.transaction(move, source, target) == [True, True]

    together(transfer, orders)
    expected = collections.Counter({account: 1000 for account in accounts})
    for source, target, amount in orders:
        expected[source] -= amount
        expected[target] += amount
    assert [int(number) for number in client.mget(accounts)] == [expected[account] for account in accounts]
    with client.pipeline() as pipe:
        pipe.watch(accounts[0])
        client.incr(accounts[0])
        pipe.multi()
        pipe.set(accounts[0], "lost")
        try:
            pipe.execute()
        except WatchError:
            assert int(client.get(accounts[0])) == expected[accounts[0]] + 1
            return
    raise AssertionError("the transaction was not aborted")


def pipelines(client):
    words = "the quick brown fox jumps over the lazy dog and the fox runs".split() * 20
    with client.pipeline(transaction=False) as pipe:
        for place, word in enumerate(words):
            pipe.zincrby("words", 1, word).sadd(f"places:{word}", place).hincrby("lengths", len(word), 1)
        assert len(pipe.execute()) == 3 * len(words)
    counts = collections.Counter(words)
    assert dict(client.zrange("words", 0, -1, withscores=True)) == {word.encode(): count for word, count in counts.items()}
    assert client.zrevrange("words", 0, 0) == [b"the"]
    lengths = collections.Counter(len(word) for word in words)
    assert client.hgetall("lengths") == {str(key).encode(): str(count).encode() for key, count in lengths.items()}
    assert client.scard("places:fox") == counts["fox"]
    assert {key for key in client.scan_iter("places:*", count=3)} == {f"places:{word}".encode() for word in counts}
    with client.pipeline() as pipe:
        pipe.set("text", "a").lpush("text", "b").get("text")
        replies = pipe.execute(raise_on_error=False)
    assert replies[0] is True and isinstance(replies[1], ResponseError) and replies[2] == b"a"


def scripts(client):
    # A token bucket; the second key is not declared.
    source = """
        local left = tonumber(redis.call('get', KEYS[1]) or ARGV[1])
        if left < tonumber(ARGV[2]) then
            redis.call('hincrby', KEYS[1] .. ':refused', ARGV[3], 1)
            return false
        end
        redis.call('set', KEYS[1], left - ARGV[2], 'px', 60000)
        return {left - ARGV[2], ARGV[3], cjson.decode('{"a":[1,2]}').a[2]}
    """
    bucket = client.register_script(source)
    assert bucket.sha == hashlib.sha1(source.encode()).hexdigest()
    try:
        client.evalsha(bucket.sha, 1, "bucket", 100, 1, "x")
    except NoScriptError:
        pass
    else:
        raise AssertionError("the script is loaded already")
    answers = together(lambda number: bucket(keys=["bucket"], args=[100, 1, f"user:{number % 4}"]), range(150))
    granted = [answer for answer in answers if answer is not None]
    assert sorted(answer[0] for answer in granted) == list(range(100)) and granted[0][2] == 2
    assert sum(int(count) for count in client.hvals("bucket:refused")) == 50
    assert client.script_exists(bucket.sha, "0" * 40) == [True, False]
    with client.pipeline() as pipe:
        pipe.set("other", 5)
        bucket(keys=["other"], args=[0, 5, "me"], client=pipe)
        pipe.get("other")
        assert pipe.execute() == [True, [0, b"me", 2], b"0"]
    try:
        client.eval("return redis.call('lpush', KEYS[1], 'x')", 1, "other")
    except ResponseError as error:
        assert "WRONGTYPE" in str(error), error
    else:
        raise AssertionError("the error of the command did not stop the script")
    assert client.eval("return redis.pcall('lpush', KEYS[1], 'x')['err'] ~= nil", 1, "other") == 1
    assert client.eval_ro("return redis.call('get', KEYS[1])", 1, "other") == b"0"


def queues(client):
    """Producers and consumers in threads; items that a consumer has taken but not finished are visible."""

    def consumer(name):
        taken = []
        while True:
            item = client.blmove("items", f"taken:{name}", PATIENCE_SECONDS, "LEFT", "RIGHT")
            client.lrem(f"taken:{name}", 1, item)
            if item == b"end":
                return taken
            taken.append(int(item))

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        consumers = [pool.submit(consumer, name) for name in range(4)]
        together(lambda number: client.rpush("items", number), range(400))
        client.rpush("items", *["end"] * 4)
        taken = [each.result() for each in consumers]
    assert sorted(sum(taken, [])) == list(range(400)) and client.exists("items") == 0
    client.zadd("due", {"later": 3, "now": 1, "soon": 2})
    assert list(client.bzpopmin("due", 1)) == [b"due", b"now", 1.0]
    assert client.zmpop(1, ["due"], max=True)[0] == b"due"


def subscribers(client):
    heard = collections.defaultdict(list)
    complete = threading.Event()

    def handle(message):
        heard[message["type"]].append(int(message["data"]))
        if sum(len(numbers) for numbers in heard.values()) == 400:
            complete.set()

    with client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(**{"news": handle})
        channel.psubscribe(**{"n*s": handle})
        # Wait until both subscriptions are active. get_message returns None for the ignored confirmations.
        while client.pubsub_numsub("news")[0][1] == 0 or client.pubsub_numpat() == 0:
            channel.get_message(timeout=0.1)
        thread = channel.run_in_thread(sleep_time=0.01)
        for number in range(200):
            assert client.publish("news", number) == 2
        assert complete.wait(PATIENCE_SECONDS)
        thread.stop()
        thread.join()
    assert dict(heard) == {"message": list(range(200)), "pmessage": list(range(200))}


def in_asyncio(client):
    known = client.connection_pool.connection_kwargs
    asyncio.run(together_in_asyncio(known["host"], known["port"], known["protocol"]))


async def together_in_asyncio(host, port, protocol):
    client = redis.asyncio.Redis(host=host, port=port, protocol=protocol, max_connections=20)
    await client.set("asyncio", 0)

    async def clerk():
        for _ in range(5):
            async with client.lock("asyncio:lock", timeout=PATIENCE_SECONDS, sleep=0.001):
                await client.set("asyncio", int(await client.get("asyncio")) + 1)

    await asyncio.gather(*(clerk() for _ in range(10)))
    assert int(await client.get("asyncio")) == 50
    async with client.pubsub(ignore_subscribe_messages=True) as channel:
        await channel.subscribe("asyncio:news")
        while (await client.pubsub_numsub("asyncio:news"))[0][1] == 0:
            pass
        async with client.pipeline(transaction=True) as pipe:
            for number in range(100):
                pipe.publish("asyncio:news", number)
            assert await pipe.execute() == [1] * 100
        seen = []
        async for message in channel.listen():
            seen.append(int(message["data"]))
            if len(seen) == 100:
                break
        assert seen == list(range(100))
    await client.aclose()


def main():
    host, port = sys.argv[1], int(sys.argv[2])
    signal.alarm(2 * PATIENCE_SECONDS)
    for protocol in (2, 3):
        client = redis.Redis(host, port, protocol=protocol)
        client.flushall()
        client.script_flush()
        for check in (locks, transactions, pipelines, scripts, queues, subscribers, in_asyncio):
            start = time.monotonic()
            check(client)
            milliseconds = 1000 * (time.monotonic() - start)
            print(f"redis-py {redis.__version__}, RESP{protocol}: {check.__name__}, {milliseconds:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
