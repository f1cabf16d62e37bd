//! Eviction for memcached clients. A process of its own, since `maxmemory` counts the memory of the process.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use common::TestServer;
use damselfly_config::MaxmemoryPolicy;

#[test]
fn a_cache_evicts_to_store_what_memcached_clients_send() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = TestServer::with(|config| {
        config.memcached_port = port;
        config.maxmemory_bytes = damselfly_base::heap::used_bytes() as u64 + (16 << 20);
        config.maxmemory_policy = MaxmemoryPolicy::AllkeysLru;
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
}
