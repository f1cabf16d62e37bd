#!/usr/bin/env python3
"""Celery works with the server as broker and result backend: groups, chains, chords, retries, deadlines, revoking.

Usage: celery_tasks.py HOST PORT. Empties the server. Exits with status 0 if all results are as computed.
The worker is a second process, which imports this file for the tasks.
"""

import datetime
import os
import signal
import subprocess
import sys
import time

import celery
import redis
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult, GroupResult

PATIENCE_SECONDS = 20
# "HOST:PORT", passed to the worker in the environment.
SERVER = os.environ.get("PROGRAM_SERVER") or ":".join(sys.argv[1:3])

app = celery.Celery("celery_tasks", broker=f"redis://{SERVER}/0", backend=f"redis://{SERVER}/1")
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    worker_prefetch_multiplier=1,
    result_extended=True,
    task_track_started=True,
)


def store():
    """A client of the separate database to which tasks write notes."""
    host, port = SERVER.split(":")
    return redis.Redis(host, int(port), db=2, decode_responses=True)


@app.task
def add(left, right):
    return left + right


@app.task
def total(numbers):
    return sum(numbers)


@app.task
def note(text):
    store().rpush("notes", text)
    store().publish("notes", text)


@app.task(bind=True, max_retries=3)
def shaky(self, name):
    runs = store().incr(name)
    if runs < 3:
        raise self.retry(countdown=0)
    return runs


@app.task(autoretry_for=(KeyError,), max_retries=1, retry_backoff=False, default_retry_delay=0)
def hopeless():
    raise KeyError(f"run {store().incr('hopeless')}")


@app.task(bind=True)
def endless(self):
    self.update_state(state="PROGRESS", meta={"done": 1})
    store().publish("notes", "endless")
    signal.pause()


@app.task(acks_late=True)
def moment():
    return time.time()


@app.task
def failed(request, error, trace):
    note(f"failed: {error}")


def results(client):
    made = [add.delay(number, 1) for number in range(100)]
    assert [result.get(timeout=PATIENCE_SECONDS) for result in made] == list(range(1, 101))
    result = made[0]
    assert result.successful() and result.state == "SUCCESS" and result.args == [0, 1] and result.name == add.name
    result.forget()
    assert AsyncResult(result.id).state == "PENDING"
    text = "grün 🐝" * 10_000
    assert add.delay(text, "!").get(timeout=PATIENCE_SECONDS) == text + "!"


def canvas(client):
    group = celery.group(add.s(number, number) for number in range(30))()
    assert group.get(timeout=PATIENCE_SECONDS) == [2 * number for number in range(30)]
    group.save()
    assert GroupResult.restore(group.id).completed_count() == 30
    chain = (add.s(1, 2) | add.s(4) | celery.group(add.s(10), add.s(20)) | total.s())()
    assert chain.get(timeout=PATIENCE_SECONDS) == 44
    assert celery.chord([add.s(number, 1) for number in range(50)])(total.s()).get(timeout=PATIENCE_SECONDS) == 1275
    nested = celery.chord([celery.chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(3, 3)], total.s())
    assert nested().get(timeout=PATIENCE_SECONDS) == 12
    assert list(add.chunks(zip(range(10), range(10)), 5)().get(timeout=PATIENCE_SECONDS)) == [
        [0, 2, 4, 6, 8],
        [10, 12, 14, 16, 18],
    ]


def failures(client):
    assert shaky.delay("shaky").get(timeout=PATIENCE_SECONDS) == 3
    result = hopeless.apply_async(link_error=failed.s())
    try:
        result.get(timeout=PATIENCE_SECONDS)
    except KeyError as error:
        assert error.args == ("run 2",)
    else:
        raise AssertionError("the failed task returned a result")
    assert result.state == "FAILURE" and "KeyError" in result.traceback
    assert client.blpop("notes", PATIENCE_SECONDS)[1] == "failed: 'run 2'"
    broken = celery.chord([add.s(1, 1), hopeless.s()])(total.s())
    error = broken.get(timeout=PATIENCE_SECONDS, propagate=False)
    assert isinstance(error, celery.exceptions.ChordError) and "KeyError('run 4')" in str(error), repr(error)


def deadlines(client):
    eta = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(milliseconds=400)
    late = moment.apply_async(eta=eta)
    soon = moment.delay()
    assert soon.get(timeout=PATIENCE_SECONDS) < eta.timestamp() <= late.get(timeout=PATIENCE_SECONDS)
    expired = moment.apply_async(expires=eta - datetime.timedelta(hours=1))
    try:
        expired.get(timeout=PATIENCE_SECONDS)
    except TaskRevokedError:
        assert expired.state == "REVOKED"
    else:
        raise AssertionError("an expired task ran")


def revoking(client):
    with client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe("notes")
        running = endless.delay()
        message = None
        while message is None:
            message = heard.get_message(timeout=PATIENCE_SECONDS)
        assert message["data"] == "endless"
    assert running.state == "PROGRESS" and running.info == {"done": 1}
    [(_, active)] = app.control.inspect(limit=1).active().items()
    assert [task["id"] for task in active] == [running.id]
    running.revoke(terminate=True, signal="SIGKILL")
    try:
        running.get(timeout=PATIENCE_SECONDS)
    except TaskRevokedError:
        assert running.state == "REVOKED"
    else:
        raise AssertionError("the revoked task returned a result")
    [reply] = app.control.ping(limit=1)
    assert list(reply.values()) == [{"ok": "pong"}]


def order(client):
    """The queue grows while the worker takes nothing from it; then all tasks run."""
    app.control.cancel_consumer("celery", reply=True, limit=1)
    for number in range(20):
        note.delay(str(number))
    broker = redis.Redis.from_url(f"redis://{SERVER}/0")
    waiting = broker.llen("celery")
    assert 19 <= waiting <= 20, waiting
    app.control.add_consumer("celery", reply=True, limit=1)
    notes = [client.blpop("notes", PATIENCE_SECONDS)[1] for _ in range(20)]
    assert sorted(notes, key=int) == [str(number) for number in range(20)]
    add.apply_async((1, 1), queue="nobody")
    assert broker.llen("nobody") == 1
    with app.connection_for_write() as connection:
        assert connection.default_channel.queue_purge("nobody") == 1


def main():
    client = store()
    client.flushall()
    words = ["-m", "celery", "-A", "celery_tasks", "worker", "--concurrency=2", "--loglevel=critical", "--without-gossip"]
    worker = subprocess.Popen(
        [sys.executable, *words, "--without-mingle"],
        cwd=os.path.dirname(os.path.abspath(__file__)),
        env={**os.environ, "PROGRAM_SERVER": SERVER, "PYTHONWARNINGS": "ignore"},
        stdout=subprocess.DEVNULL,
    )
    signal.alarm(2 * PATIENCE_SECONDS)
    try:
        # The first result waits for the worker's start.
        for check in (results, canvas, failures, deadlines, revoking, order):
            start = time.monotonic()
            check(client)
            print(f"Celery {celery.__version__}: {check.__name__}, {1000 * (time.monotonic() - start):.0f} ms", flush=True)
        app.control.shutdown()
        assert worker.wait(PATIENCE_SECONDS) == 0
    finally:
        worker.kill()
    broker = redis.Redis.from_url(f"redis://{SERVER}/0")
    assert broker.llen("celery") == 0 and broker.hlen("unacked") == 0 and broker.zcard("unacked_index") == 0


if __name__ == "__main__":
    main()
