//! Eviction for memcached clients. A process of its own, since `maxmemory` counts the memory of the process.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use common::TestServer;
use damselfly_config::MaxmemoryPolicy;

#[test]
fn a_cache_evicts_to_store_what_memcached_clients_send() {
    // One after the other, since they share the memory.
    for in_cache_mode in [false, true] {
        fill_a_cache(in_cache_mode);
    }
}

fn fill_a_cache(in_cache_mode: bool) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = TestServer::with(|config| {
        config.memcached_port = port;
        config.maxmemory_bytes = damselfly_base::heap::used_bytes() as u64 + (16 << 20);
        config.maxmemory_policy = MaxmemoryPolicy::AllkeysLru;
        config.cache_mode = in_cache_mode;
    });
    let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let mut reply = [0; 8];
    for index in 0..4000 {
        let value = "\u{7f}".repeat(10_000);
        let request = format!("set key{index} 1 0 10000\r\n{value}\r\n");
        client.write_all(request.as_bytes()).unwrap();
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"STORED\r\n");
    }
    let mut redis = server.client();
    assert_eq!(redis.number("STRLEN key3999"), 10_000);
    assert!(redis.number("DBSIZE") < 2000);
    client
        .write_all(b"get key3999 absent\r\nstats\r\n")
        .unwrap();
    let mut text = Vec::new();
    while !text.ends_with(b"more_often unknown\r\nEND\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    let text = String::from_utf8(text).unwrap();
    let mode = if in_cache_mode { "yes" } else { "no" };
    assert!(text.contains(&format!("STAT cache_mode {mode}\r\n")));
    assert!(text.contains("STAT cache_hit_ratio 0."), "{text}");
    let refused = text.split_once("STAT cache_refused_keys ").unwrap().1;
    assert_eq!(refused.starts_with("0\r\n"), !in_cache_mode, "{text}");
}
