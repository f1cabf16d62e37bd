//! `lru_crawler`: lists of all items.

use super::*;

/// The lines of a list of items, in order of their bytes.
fn sorted_lines(list: &str) -> Vec<&str> {
    let mut lines: Vec<_> = list.split(['|', '\n']).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_crawler_lists_all_items() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    assert_eq!(memcached.run("lru_crawler metadump all"), "END");
    assert_eq!(memcached.run("lru_crawler mgdump hash"), "EN");
    memcached.run("set a%/-._~ 7 0 1|x|ms YSBi 1 b T1000|y|get a%/-._~");
    redis.run("SET r x PXAT 1");
    redis.run("LPUSH list x");
    assert_eq!(
        sorted_lines(&memcached.run("lru_crawler mgdump 1")),
        ["EN", "mg YSBi b", "mg a%/-._~"]
    );
    let list = memcached.run("lru_crawler metadump all");
    let [end, unused, used] = sorted_lines(&list)[..] else {
        panic!("{list}");
    };
    assert_eq!(end, "END");
    let now_s = i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    let fact = |line: &str, name: &str| {
        let mut facts = line.split(' ').map(|fact| fact.split_once('=').unwrap());
        facts.find(|fact| fact.0 == name).unwrap().1.to_owned()
    };
    let number = |line: &str, name: &str| fact(line, name).parse::<i64>().unwrap();
    assert_eq!(fact(used, "key"), "a%25%2F-._~");
    assert_eq!(number(used, "exp"), -1);
    assert_eq!(number(used, "flags"), 7);
    assert!((now_s - 20..=now_s).contains(&number(used, "la")), "{used}");
    assert_eq!(
        (fact(used, "fetch"), fact(unused, "fetch")),
        ("yes".into(), "no".into())
    );
    assert_eq!(fact(unused, "key"), "a%20b");
    assert!(
        (now_s + 980..=now_s + 1000).contains(&number(unused, "exp")),
        "{unused}"
    );
    let cas = memcached.cas("a%/-._~");
    let list = memcached.run("lru_crawler metadump all");
    assert!(list.contains(&format!(" cas={cas} ")), "{list}");
    assert!(
        memcached
            .run("stats settings")
            .contains("STAT lru_crawler yes|")
    );
}

#[test]
fn the_crawler_has_memcacheds_errors() {
    let cache = Cache::start();
    let mut memcached = cache.memcached();
    for (request, reply) in [
        ("metadump 2,63", "END"),
        ("mgdump 2", "EN"),
        ("metadump 0", "BADCLASS invalid class id"),
        ("metadump 64", "BADCLASS invalid class id"),
        ("mgdump 1,x", "BADCLASS invalid class id"),
        ("crawl all", "OK"),
        ("crawl 1x", "BADCLASS invalid class id"),
        ("sleep 1000000", "OK"),
        (
            "sleep 1000001",
            "CLIENT_ERROR sleep must be one second or less",
        ),
        ("sleep -1", "CLIENT_ERROR bad command line format"),
        ("tocrawl 5", "OK"),
        ("tocrawl x", "CLIENT_ERROR bad command line format"),
        ("enable", "OK"),
        (
            "disable",
            "ERROR items that have expired are always removed",
        ),
        ("metadump", "ERROR"),
        ("metadump all all", "ERROR"),
        ("other all", "ERROR"),
        ("", "ERROR"),
    ] {
        assert_eq!(
            memcached.run(&format!("lru_crawler {request}")),
            reply,
            "{request}"
        );
    }
}

#[test]
fn a_list_of_items_waits_for_its_client_and_for_busy_shards() {
    let cache = Cache::with(|config| {
        config.enable_debug_command = Allow::Yes;
        config.busy_reply_threshold_ms = 10;
    });
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    assert_eq!(redis.run("DEBUG POPULATE 300000 key 10"), "OK");
    // It does not read yet, so most of the list is not written.
    memcached.send(b"lru_crawler metadump all\r\nget k\r\nmg !end k\r\n");
    let mut others = cache.memcached();
    assert_eq!(others.run("set k 0 0 1|x"), "STORED");
    let mut unsent = || {
        let clients = redis.text("CLIENT LIST");
        let fields = clients.split([' ', '\n']);
        let bytes = fields.filter_map(|field| {
            let bytes = field.strip_prefix("obl=").or(field.strip_prefix("omem="));
            bytes.map(|bytes| bytes.parse::<u64>().unwrap())
        });
        bytes.sum::<u64>()
    };
    until("a slice can't be sent", || unsent() > 0);
    std::thread::sleep(Duration::from_millis(100));
    assert!(unsent() < 1 << 20);
    // While a script holds all shards, the list stops.
    let mut script = cache.redis();
    let code = "redis.call('KEYS', 'none') while true do end";
    script.send_words(&["EVAL", code, "0"]);
    std::thread::sleep(Duration::from_millis(100));
    let list = std::thread::spawn(move || memcached.read_until(|reply| reply.ends_with(END)));
    std::thread::sleep(Duration::from_millis(300));
    assert!(!list.is_finished());
    assert_eq!(redis.run("SCRIPT KILL"), "OK");
    let list = String::from_utf8(list.join().unwrap()).unwrap();
    let keys = list.lines().filter(|line| line.starts_with("key=key%3A"));
    assert_eq!(keys.count(), 300_000);
    let rest: Vec<_> = list
        .lines()
        .filter(|line| !line.starts_with("key="))
        .collect();
    assert_eq!(rest, ["END", "VALUE k 0 1", "x", "END", "EN k!end"]);
}

#[test]
fn the_crawler_lists_requests_that_can_be_sent() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    let letters = "é".repeat(100);
    memcached.run(&format!(
        "set {letters} 0 0 1|x|ms {} 1 b|x",
        "YSBi".repeat(62)
    ));
    for key in ["", &"k".repeat(251), &"a b".repeat(83)] {
        redis.run_words(&["SET", key, "x"]);
    }
    let list = memcached.run("lru_crawler mgdump all");
    let requests: Vec<_> = list.strip_suffix("|EN").unwrap().split('|').collect();
    assert_eq!(requests.len(), 2, "{list}");
    for request in requests {
        assert_eq!(memcached.run(&format!("{request} s")), "HD s1", "{request}");
    }
}

/// Bug: a client that stopped reading in the middle of a reply which is written in slices was never idle.
#[test]
fn a_client_that_reads_no_slices_is_closed_when_it_was_idle() {
    let cache = Cache::with(|config| config.enable_debug_command = Allow::Yes);
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    assert_eq!(redis.run("DEBUG POPULATE 200000 key 10"), "OK");
    redis.run("CONFIG SET timeout 1");
    memcached.send(b"lru_crawler metadump all\r\n");
    until("it is closed", || {
        !redis.text("CLIENT LIST").contains(" resp=0 ")
    });
}
