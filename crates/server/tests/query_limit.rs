//! `client-query-buffer-limit` while a command waits for keys.

mod common;

use common::TestServer;

// Bug: a client in BLPOP that kept sending was never disconnected. The server stopped reading from it at the limit, so it did not
// even notice when the client disconnected. Cause: the limit applied only to the length of an incomplete request. Fix: it applies
// to everything that a client sends while its command waits for keys, as in Redis.
#[test]
fn a_blocked_client_that_sends_too_much_is_disconnected() {
    let server = TestServer::with(|config| config.client_query_buffer_limit_bytes = 1 << 20);
    let mut blocked = server.client();
    blocked.send("BLPOP absent 0");
    // Sending the last of it fails if the server has closed the connection already.
    let _ = blocked.try_send_bytes(&b"PING\r\n".repeat((1 << 20) / 6 + 2000));
    assert!(blocked.until_closed().is_empty());
    let mut other = server.client();
    let clients = other.text("CLIENT LIST");
    assert_eq!(clients.lines().count(), 1, "{clients}");
    let info = other.text("INFO stats");
    assert!(info.contains("client_query_buffer_limit_disconnections:1\r\n"));
}

#[test]
fn a_blocked_client_may_send_up_to_the_limit() {
    let server = TestServer::with(|config| config.client_query_buffer_limit_bytes = 1 << 20);
    let mut blocked = server.client();
    blocked.send("BLPOP list 0");
    blocked.send_bytes(&b"PING\r\n".repeat((1 << 20) / 6 - 2000));
    blocked.send("ECHO last");
    assert_eq!(server.client().number("RPUSH list element"), 1);
    assert_eq!(blocked.receive(), "1) \"list\"\n2) \"element\"");
    for _ in 0..(1 << 20) / 6 - 2000 {
        assert_eq!(blocked.receive(), "PONG");
    }
    assert_eq!(blocked.receive(), "\"last\"");
}
