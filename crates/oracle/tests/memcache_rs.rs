//! The Rust client `memcache` works unchanged with the text protocol.

use std::collections::HashMap;

use damselfly_oracle::memcached::{Server, Side};
use memcache::Client;

#[test]
fn the_client_works_as_with_memcached() {
    for side in [Side::Memcached, Side::Damselfly] {
        let server = Server::start(side, &[]).unwrap();
        let address = format!("memcache://{}?protocol=ascii&timeout=20", server.address());
        work(&memcache::connect(address).unwrap());
    }
}

fn work(client: &Client) {
    client.flush().unwrap();
    assert_eq!(client.get::<String>("a").unwrap(), None);
    client.set("a", "text", 0).unwrap();
    assert_eq!(client.get("a").unwrap(), Some(String::from("text")));
    // In the text protocol, the client does not say that nothing was stored.
    client.add("a", "x", 0).unwrap();
    assert_eq!(client.get("a").unwrap(), Some(String::from("text")));
    client.replace("a", "b", 100).unwrap();
    client.append("a", "c").unwrap();
    client.prepend("a", "a").unwrap();
    // Value, flags, and the CAS number.
    let found: HashMap<String, (Vec<u8>, u32, Option<u64>)> = client.gets(&["a"]).unwrap();
    let (bytes, flags, cas) = found["a"].clone();
    assert_eq!((&bytes[..], flags), (&b"abc"[..], 0));
    let cas = cas.unwrap();
    assert!(client.cas("a", "new", 0, cas).unwrap());
    assert!(!client.cas("a", "old", 0, cas).unwrap());
    client.set("n", 40, 0).unwrap();
    assert_eq!(client.increment("n", 2).unwrap(), 42);
    assert_eq!(client.decrement("n", 100).unwrap(), 0);
    assert!(client.touch("n", 100).unwrap());
    assert!(!client.touch("nosuch", 100).unwrap());
    assert!(client.delete("n").unwrap());
    assert!(!client.delete("n").unwrap());
    for number in 0..300 {
        client.set(&format!("key{number}"), number, 0).unwrap();
    }
    let keys: Vec<String> = (0..300).map(|number| format!("key{number}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let found: HashMap<String, i32> = client.gets(&keys).unwrap();
    assert_eq!(found.len(), 300);
    assert_eq!(found["key299"], 299);
    assert!(
        client
            .set("large", vec![0_u8; 2_000_000].as_slice(), 0)
            .is_err()
    );
    assert!(!client.version().unwrap()[0].1.is_empty());
    assert!(client.stats().is_ok());
}
