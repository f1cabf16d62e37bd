#!/usr/bin/env python3
"""RQ works: jobs, dependencies, groups, retries, schedules, rate limits, failures and stopping, with forking workers.

Usage: rq_queue.py HOST PORT. Empties the server. Exits with status 0 if all results are as computed.
"""

import logging
import multiprocessing
import signal
import sys
import time
from datetime import datetime, timedelta, timezone

import redis
import rq
from rq.command import send_shutdown_command, send_stop_job_command
from rq.group import Group
from rq.job import Callback, JobStatus
from rq.rate_limit import RateLimit
from rq.registry import FailedJobRegistry, ScheduledJobRegistry
from rq.results import Result

PATIENCE_SECONDS = 30


def square(number):
    rq.get_current_job().connection.hincrby("runs", number, 1)
    return number * number


def note(name):
    rq.get_current_job().connection.rpush("notes", name)


def shaky():
    """Fails in its first two runs."""
    runs = rq.get_current_job().connection.incr("shaky")
    if runs < 3:
        raise ValueError(f"run {runs}")
    return runs


def hopeless():
    raise RuntimeError("no hope")


def endless():
    rq.get_current_job().connection.publish("endless", "started")
    signal.pause()


def noted_success(job, connection, result):
    connection.rpush("notes", f"success {result}")


def noted_failure(job, connection, kind, error, trace):
    connection.rpush("notes", f"failure {error}")


def noted_stop(job, connection):
    connection.rpush("notes", "stopped")
    connection.publish("endless", "stopped")


class WithoutCommands:
    """Does not subscribe to commands: stopping the thread that does takes up to a second."""

    def subscribe(self):
        pass


class SimpleWorker(WithoutCommands, rq.SimpleWorker):
    pass


class ForkingWorker(WithoutCommands, rq.Worker):
    pass


def burst(client, *names, kind=SimpleWorker, **options):
    """Lets a worker run all queued jobs."""
    worker = kind([rq.Queue(name, connection=client) for name in names], connection=client)
    worker.work(burst=True, logging_level=logging.CRITICAL, **options)
    return worker


def notes(client):
    """The notes that jobs wrote since the last call."""
    found = [note.decode() for note in client.lrange("notes", 0, -1)]
    client.delete("notes")
    return found


def many_jobs(client, jobs):
    queue = rq.Queue("squares", connection=client)
    data = [rq.Queue.prepare_data(jobs.square, (number,)) for number in range(50)]
    made = queue.enqueue_many(data)
    assert len(queue) == 50 and queue.get_job_position(made[7].id) == 7
    worker = burst(client, "squares")
    assert client.hgetall("runs") == {str(number).encode(): b"1" for number in range(50)}
    assert len(queue) == 0 and len(queue.finished_job_registry) == 50
    assert all(job.get_status() == JobStatus.FINISHED for job in made)
    worker.refresh()
    assert worker.successful_job_count == 50 and worker.failed_job_count == 0
    assert [job.return_value() for job in made] == [number**2 for number in range(50)]


def forked_worker(client, jobs):
    queue = rq.Queue("forked", connection=client)
    made = [queue.enqueue(jobs.square, number) for number in (100, 101)]
    burst(client, "forked", kind=ForkingWorker)
    assert client.hmget("runs", 100, 101) == [b"1", b"1"]
    assert [job.get_status(refresh=True) for job in made] == [JobStatus.FINISHED] * 2
    assert [job.latest_result().return_value for job in made] == [10000, 10201]


def order(client, jobs):
    high, low = (rq.Queue(name, connection=client) for name in ("high", "low"))
    low.enqueue(jobs.note, "3")
    low.enqueue(jobs.note, "2", at_front=True)
    high.enqueue(jobs.note, "1")
    unique = high.enqueue(jobs.note, "unique", job_id="unique", unique=True)
    try:
        high.enqueue(jobs.note, "unique", job_id="unique", unique=True)
    except rq.exceptions.DuplicateJobError:
        pass
    else:
        raise AssertionError("a duplicate job was accepted")
    cancelled = high.enqueue(jobs.note, "never")
    cancelled.cancel()
    burst(client, "high", "low")
    assert notes(client) == ["1", "unique", "2", "3"]
    assert cancelled.get_status() == JobStatus.CANCELED and len(high.canceled_job_registry) == 1
    assert unique.is_finished


def dependencies(client, jobs):
    queue = rq.Queue("dependent", connection=client)
    first = queue.enqueue(jobs.note, "first")
    second = queue.enqueue(jobs.note, "second")
    last = queue.enqueue(jobs.note, "last", depends_on=[first, second])
    failing = queue.enqueue(jobs.hopeless)
    never = queue.enqueue(jobs.note, "never", depends_on=failing)
    after = queue.enqueue(jobs.note, "after", depends_on=rq.job.Dependency(jobs=[failing], allow_failure=True))
    assert last.get_status() == JobStatus.DEFERRED and len(queue.deferred_job_registry) == 3
    burst(client, "dependent")
    seen = notes(client)
    assert seen[:2] == ["first", "second"] and sorted(seen[2:]) == ["after", "last"], seen
    assert never.get_status() == JobStatus.DEFERRED and after.is_finished and last.is_finished
    group = Group.create(connection=client)
    members = group.enqueue_many(queue, [rq.Queue.prepare_data(jobs.note, (name,)) for name in "abc"])
    burst(client, "dependent")
    assert notes(client) == ["a", "b", "c"]
    fetched = Group.fetch(group.name, connection=client).get_jobs()
    assert {job.id for job in fetched} == {job.id for job in members} and all(job.is_finished for job in fetched)


def retries(client, jobs):
    queue = rq.Queue("shaky", connection=client)
    job = queue.enqueue(jobs.shaky, retry=rq.Retry(max=3), on_success=Callback(jobs.noted_success))
    lost = queue.enqueue(jobs.hopeless, retry=rq.Retry(max=1), on_failure=Callback(jobs.noted_failure))
    repeated = queue.enqueue(jobs.note, "again", repeat=rq.Repeat(times=2, interval=0))
    burst(client, "shaky")
    assert job.get_status() == JobStatus.FINISHED and int(client.get("shaky")) == 3
    assert sorted(notes(client)) == ["again"] * 3 + ["failure no hope"] * 2 + ["success 3"]
    failed = FailedJobRegistry(queue=queue)
    assert failed.get_job_ids() == [lost.id] and repeated.is_finished
    assert "no hope" in lost.latest_result().exc_string
    assert job.latest_result().type == Result.Type.SUCCESSFUL and job.return_value() == 3
    again = failed.requeue(lost.id)
    assert len(failed) == 0 and again.get_status() == JobStatus.QUEUED
    burst(client, "shaky")
    assert lost.id in failed and notes(client) == ["failure no hope"]
    failed.remove(lost.id, delete_job=True)
    assert not rq.job.Job.exists(lost.id, connection=client)


def schedules(client, jobs):
    queue = rq.Queue("later", connection=client)
    moment = datetime.now(timezone.utc)
    due = queue.enqueue_at(moment - timedelta(seconds=1), jobs.note, "due")
    far = queue.enqueue_in(timedelta(hours=1), jobs.note, "far")
    registry = ScheduledJobRegistry(queue=queue)
    assert registry.get_job_ids() == [due.id, far.id]
    assert abs(registry.get_scheduled_time(far) - moment - timedelta(hours=1)) < timedelta(seconds=PATIENCE_SECONDS)
    burst(client, "later", kind=ForkingWorker, with_scheduler=True)
    assert notes(client) == ["due"] and registry.get_job_ids() == [far.id]


def rate_limits(client, jobs):
    queue = rq.Queue("limited", connection=client)
    limit = RateLimit(key="door", concurrency=2)
    made = [queue.enqueue(jobs.note, str(number), rate_limit=limit) for number in range(5)]
    statuses = [job.get_status() for job in made]
    assert statuses == [JobStatus.QUEUED] * 2 + [JobStatus.RATE_LIMITED] * 3 and len(queue) == 2
    burst(client, "limited")
    # Jobs that had to wait are ordered by second, and share one.
    assert sorted(notes(client)) == ["0", "1", "2", "3", "4"]


def long_worker(host, port, name):
    connection = redis.Redis(host, port)
    worker = rq.Worker([rq.Queue("stopped", connection=connection)], connection=connection, name=name)
    worker.work(logging_level=logging.CRITICAL)


def stopping(client, jobs):
    known = client.connection_pool.connection_kwargs
    queue = rq.Queue("stopped", connection=client)
    job = queue.enqueue(jobs.endless, on_stopped=Callback(jobs.noted_stop))
    with client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe("endless")
        worker = multiprocessing.Process(target=long_worker, args=(known["host"], known["port"], "long"))
        worker.start()
        assert next_message(heard) == b"started"
        assert job.get_status() == JobStatus.STARTED and rq.Worker.count(connection=client) == 1
        send_stop_job_command(client, job.id)
        assert next_message(heard) == b"stopped"
    send_shutdown_command(client, "long")
    worker.join(PATIENCE_SECONDS)
    assert worker.exitcode == 0
    assert job.get_status() == JobStatus.STOPPED and job.id in queue.failed_job_registry
    assert notes(client) == ["stopped"]


def next_message(heard):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        message = heard.get_message(timeout=1)
        if message is not None:
            return message["data"]
    raise AssertionError("no message was published")


def main():
    # RQ finds jobs by the name of their module, which can't be "__main__".
    import rq_queue as jobs

    host, port = sys.argv[1], int(sys.argv[2])
    client = redis.Redis(host, port)
    client.flushall()
    signal.alarm(2 * PATIENCE_SECONDS)
    for check in (many_jobs, forked_worker, order, dependencies, retries, schedules, rate_limits, stopping):
        start = time.monotonic()
        check(client, jobs)
        print(f"RQ {rq.__version__}: {check.__name__}, {1000 * (time.monotonic() - start):.0f} ms", flush=True)


if __name__ == "__main__":
    main()
