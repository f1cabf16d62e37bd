#!/usr/bin/env python3
"""Django's cache backend for memcached works unchanged.

Usage: memcached_django.py HOST PORT. Exits with status 0 if everything works.
"""

import sys

import django
from django.conf import settings

settings.configure(
    CACHES={
        "default": {
            "BACKEND": "django.core.cache.backends.memcached.PyMemcacheCache",
            "LOCATION": f"{sys.argv[1]}:{sys.argv[2]}",
            "KEY_PREFIX": "site",
        }
    }
)
django.setup()

from django.core.cache import cache  # noqa: E402

cache.clear()
assert cache.get("nosuch") is None and cache.get("nosuch", "default") == "default"
assert cache.add("a", {"list": [1, 2, 3], "text": "käse"}) and not cache.add("a", 1)
assert cache.get("a") == {"list": [1, 2, 3], "text": "käse"}
assert "a" in cache and not cache.has_key("nosuch")
cache.set("none", None)
assert cache.get("none", "default") is None
cache.set("n", 5, timeout=100)
assert cache.incr("n") == 6 and cache.decr("n", 2) == 4 and cache.get("n") == 4
try:
    cache.incr("nosuch")
    raise AssertionError("there is no such key")
except ValueError:
    pass
assert cache.get_or_set("lazy", lambda: "made", 100) == "made"
assert cache.set_many({f"many{number}": number for number in range(200)}) == []
assert cache.get_many([f"many{number}" for number in range(200)]) == {f"many{number}": number for number in range(200)}
cache.delete_many([f"many{number}" for number in range(100)])
assert len(cache.get_many([f"many{number}" for number in range(200)])) == 100
assert cache.touch("a", 100) and not cache.touch("nosuch", 100)
cache.set("gone", 1, timeout=0)
assert cache.get("gone") is None
cache.set("version", "one", version=1)
cache.incr_version("version")
assert cache.get("version", version=1) is None and cache.get("version", version=2) == "one"
assert cache.delete("a") and not cache.delete("a")
cache.clear()
assert cache.get("n") is None
print("Django: ok")
