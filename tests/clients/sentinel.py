#!/usr/bin/env python3
"""redis-py finds the primary through sentinels and goes on after a failover.

Usage: sentinel.py PORT... with the ports of the sentinels. Writes `py:1`, `py:2` and so on, and prints the number of each write that was
acknowledged, until its standard input ends. `crates/oracle/tests/sentinel.rs` runs it and kills the primary meanwhile.
"""

import sys
import threading
import time

from redis.exceptions import RedisError
from redis.sentinel import Sentinel

PAUSE_S = 0.02


def main():
    sentinels = [("127.0.0.1", int(port)) for port in sys.argv[1:]]
    primary = Sentinel(sentinels, socket_timeout=1).master_for("mymaster", socket_timeout=1)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    number = 0
    while not ended.is_set():
        number += 1
        try:
            if primary.set(f"py:{number}", "v"):
                print(number, flush=True)
        except RedisError:
            time.sleep(PAUSE_S)


main()
