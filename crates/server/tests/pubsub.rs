//! Publish and subscribe over several threads: order, completeness, limits, and cleanup.

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use common::{Client, TestServer, until};
use damselfly_config::OutputLimit;
use damselfly_protocol::client::{Value, write_command};
use damselfly_pubsub::Topic;

const CHANNELS: usize = 3;

fn words(value: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => other.to_string(),
    };
    match value {
        Value::Array(items) | Value::Push(items) => items.iter().map(text).collect(),
        other => vec![text(other)],
    }
}

/// The words of the next message or reply.
fn next(client: &mut Client) -> Vec<String> {
    words(&client.receive_value().expect("a message"))
}

fn subscribe(client: &mut Client, command: &str) {
    client.send(command);
    for _ in command.split(' ').skip(1) {
        assert!(next(client)[0].ends_with("subscribe"));
    }
}

/// Waits until no client has a subscription.
fn until_nothing_is_left(server: &TestServer) {
    until("no subscription is left", || {
        Topic::ALL
            .iter()
            .all(|&topic| server.shared().pubsub.name_count(topic) == 0)
    });
}

/// Publishes numbered messages on every channel, with up to `window` requests without a reply; returns the number of receivers of
/// all messages.
fn publish(mut client: Client, publisher: usize, rounds: usize, window: usize) -> i64 {
    let payload = "x".repeat(100);
    let (mut received, mut open) = (0, 0);
    let mut receive = |client: &mut Client| match client.receive_value() {
        Some(Value::Integer(receivers)) => received += receivers,
        other => panic!("{other:?}"),
    };
    for round in 0..rounds {
        for channel in 0..CHANNELS {
            client.send(&format!(
                "PUBLISH channel:{channel} {publisher}:{round}:{payload}"
            ));
            open += 1;
        }
        while open >= window {
            receive(&mut client);
            open -= 1;
        }
    }
    (0..open).for_each(|_| receive(&mut client));
    received
}

/// Receives this many messages, and checks that those of each publisher and channel arrive in order and none is missing.
fn check_order(client: &mut Client, messages: usize) {
    let mut seen: HashMap<(String, String), usize> = HashMap::new();
    for _ in 0..messages {
        let message = next(client);
        let [.., channel, payload] = &message[..] else {
            panic!("{message:?}");
        };
        let mut parts = payload.split(':');
        let publisher = parts.next().unwrap().to_owned();
        let round: usize = parts.next().unwrap().parse().unwrap();
        let expected = seen.entry((publisher, channel.clone())).or_default();
        assert_eq!(round, *expected, "{message:?}");
        *expected += 1;
    }
}

/// Publishers and subscribers on all threads; `window` is the number of requests that a publisher sends ahead of the replies.
fn order_is_kept(publishers: usize, rounds: usize, window: usize) {
    let server = TestServer::with(|config| {
        config.client_output_buffer_limit.pubsub = OutputLimit {
            hard_bytes: 0,
            soft_bytes: 0,
            soft_s: 0,
        };
    });
    let all = "SUBSCRIBE channel:0 channel:1 channel:2";
    let messages = publishers * rounds * CHANNELS;
    // Each with the number of messages that it receives.
    let subscribers: Vec<(Client, usize)> = [
        (all, messages),
        ("PSUBSCRIBE channel:*", messages),
        ("SUBSCRIBE channel:1", messages / CHANNELS),
        (all, messages),
        ("PSUBSCRIBE channel:[12] other", 2 * messages / CHANNELS),
    ]
    .map(|(command, messages)| {
        let mut client = server.client();
        subscribe(&mut client, command);
        (client, messages)
    })
    .into();
    let expected: usize = subscribers.iter().map(|(_, messages)| messages).sum();
    let received: i64 = thread::scope(|scope| {
        for (mut client, messages) in subscribers {
            scope.spawn(move || {
                check_order(&mut client, messages);
                assert!(client.has_nothing());
            });
        }
        let publishing: Vec<_> = (0..publishers)
            .map(|publisher| {
                let client = server.client();
                scope.spawn(move || publish(client, publisher, rounds, window))
            })
            .collect();
        publishing
            .into_iter()
            .map(|publisher| publisher.join().unwrap())
            .sum()
    });
    assert_eq!(
        received, expected as i64,
        "PUBLISH replies with the receivers"
    );
    until_nothing_is_left(&server);
}

#[test]
fn messages_of_a_publisher_arrive_completely_and_in_order() {
    order_is_kept(5, 1000, 1);
    order_is_kept(4, 3000, 100);
}

/// Far more is published than may be in transit: publishers wait, and no subscriber is disconnected.
#[test]
fn publishers_that_do_not_wait_for_replies_lose_nothing() {
    order_is_kept(3, 5_000, usize::MAX / 2);
}

/// The bug to prevent: a message still in the inbox of its thread arrived after the reply to a command that was sent after the
/// message was published.
#[test]
fn a_message_comes_before_the_reply_to_a_later_command() {
    let server = TestServer::start();
    let (mut subscriber, mut publisher) = (server.client(), server.client());
    subscriber.run("HELLO 3");
    subscribe(&mut subscriber, "SUBSCRIBE news");
    for round in 0..2000 {
        assert_eq!(publisher.number(&format!("PUBLISH news {round}")), 1);
        subscriber.send("PING");
        assert_eq!(
            next(&mut subscriber),
            ["message", "news", &round.to_string()]
        );
        assert_eq!(subscriber.receive(), "PONG");
    }
    // A message published before UNSUBSCRIBE is received.
    for round in 0..500 {
        assert_eq!(publisher.number(&format!("PUBLISH news {round}")), 1);
        subscriber.send("UNSUBSCRIBE");
        assert_eq!(
            next(&mut subscriber),
            ["message", "news", &round.to_string()]
        );
        assert_eq!(next(&mut subscriber)[0], "unsubscribe");
        subscribe(&mut subscriber, "SUBSCRIBE news");
    }
}

/// The bug to prevent: a client that subscribed on a thread with other subscribers received messages that had been published before
/// and were still in transit.
#[test]
fn a_new_subscriber_receives_nothing_older() {
    let server = TestServer::with(|config| config.threads = 2);
    let (mut publisher, _other) = (server.client(), server.client());
    let mut steady: Vec<Client> = (0..4).map(|_| server.client()).collect();
    steady
        .iter_mut()
        .for_each(|client| subscribe(client, "SUBSCRIBE news"));
    let mut newer = server.client();
    for round in 0..2000 {
        publisher.send(&format!("PUBLISH news old:{round}"));
        assert_eq!(publisher.receive(), "(integer) 4");
        subscribe(&mut newer, "SUBSCRIBE news");
        assert_eq!(publisher.number(&format!("PUBLISH news new:{round}")), 5);
        assert_eq!(next(&mut newer)[2], format!("new:{round}"));
        assert_eq!(newer.run("RESET"), "RESET");
    }
    // The same in a pipeline of one client.
    publisher.run("HELLO 3");
    for command in [
        "PUBLISH news before",
        "SUBSCRIBE news",
        "PUBLISH news after",
    ] {
        publisher.send(command);
    }
    assert_eq!(publisher.receive(), "(integer) 4");
    assert_eq!(next(&mut publisher)[0], "subscribe");
    // As in Redis since 7.2, the reply comes before the message.
    assert_eq!(publisher.receive(), "(integer) 5");
    assert_eq!(next(&mut publisher)[2], "after");
    assert!(publisher.has_nothing());
}

fn with_limit(hard_bytes: u64, soft_bytes: u64, soft_s: u64) -> TestServer {
    TestServer::with(|config| {
        config.client_output_buffer_limit.pubsub = OutputLimit {
            hard_bytes,
            soft_bytes,
            soft_s,
        };
    })
}

fn is_one_disconnected(client: &mut Client) -> bool {
    let stats = client.text("INFO stats");
    stats.contains("client_output_buffer_limit_disconnections:1\r\n")
}

#[test]
fn a_subscriber_that_does_not_read_is_disconnected_and_others_receive_everything() {
    const ROUNDS: usize = 300;
    let server = with_limit(1 << 20, 0, 0);
    let (mut slow, mut fast, mut publisher) = (server.client(), server.client(), server.client());
    subscribe(&mut slow, "SUBSCRIBE news");
    subscribe(&mut fast, "SUBSCRIBE news");
    let payload = "x".repeat(100_000);
    for round in 0..ROUNDS {
        let receivers = publisher.number(&format!("PUBLISH news {round}:{payload}"));
        assert!(receivers == 1 || receivers == 2);
        assert!(next(&mut fast)[2].starts_with(&format!("{round}:")));
    }
    until("the slow subscriber is disconnected", || {
        publisher.number("PUBLISH news x") == 1
    });
    assert!(is_one_disconnected(&mut publisher));
    assert!(slow.until_closed().len() < ROUNDS);
}

#[test]
fn a_subscriber_is_disconnected_if_a_message_is_too_large_for_it() {
    let server = with_limit(1 << 20, 0, 0);
    let (mut subscriber, mut publisher) = (server.client(), server.client());
    subscribe(&mut subscriber, "SUBSCRIBE news");
    let payload = "x".repeat(100 << 20);
    assert_eq!(publisher.number(&format!("PUBLISH news {payload}")), 1);
    assert!(subscriber.until_closed().is_empty());
    assert!(is_one_disconnected(&mut publisher));
}

#[test]
fn a_subscriber_that_exceeds_the_soft_limit_for_too_long_is_disconnected() {
    let server = with_limit(0, 1 << 20, 1);
    let (mut slow, mut publisher) = (server.client(), server.client());
    subscribe(&mut slow, "SUBSCRIBE news");
    let payload = "x".repeat(100_000);
    for _ in 0..100 {
        if publisher.number(&format!("PUBLISH news {payload}")) == 0 {
            // On a busy machine the time is over before everything is published.
            break;
        }
    }
    until("it is disconnected", || {
        publisher.number("PUBLISH news x") == 0
    });
    assert!(is_one_disconnected(&mut publisher));
}

#[test]
fn nothing_is_left_of_subscribers_that_are_gone() {
    let server = TestServer::start();
    let ends = AtomicBool::new(false);
    thread::scope(|scope| {
        let publishers: Vec<_> = (0..2)
            .map(|_| {
                let (mut client, ends) = (server.client(), &ends);
                scope.spawn(move || {
                    while !ends.load(Relaxed) {
                        client.number("PUBLISH a x");
                        client.number("SPUBLISH a x");
                    }
                })
            })
            .collect();
        let churning: Vec<_> = (0..4)
            .map(|kind| {
                let server = &server;
                scope.spawn(move || {
                    for round in 0..200 {
                        let mut client = server.client();
                        let place = round % 7;
                        subscribe(&mut client, &format!("SUBSCRIBE own:{kind}:{place}"));
                        client.send("SUBSCRIBE a b");
                        client.send("PSUBSCRIBE a* b*");
                        client.send("SSUBSCRIBE a b");
                        match kind {
                            0 => client.send("RESET"),
                            1 => client.send("QUIT"),
                            2 => client.end_sending(),
                            _ => {}
                        }
                    }
                })
            })
            .collect();
        churning
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        ends.store(true, Relaxed);
        publishers
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
    until_nothing_is_left(&server);
    let mut client = server.client();
    assert_eq!(client.run("PUBSUB CHANNELS"), "(empty array)");
    assert_eq!(client.number("PUBLISH a x"), 0);
    let stats = client.text("INFO stats");
    for field in ["pubsub_channels", "pubsub_patterns", "pubsubshard_channels"] {
        assert!(stats.contains(&format!("{field}:0\r\n")), "{stats}");
    }
}

#[test]
fn subscribers_have_no_idle_timeout() {
    let server = TestServer::with(|config| config.timeout_s = 1);
    let (mut subscriber, mut idle) = (server.client(), server.client());
    subscribe(&mut subscriber, "PSUBSCRIBE *");
    assert_eq!(idle.run("PING"), "PONG");
    assert!(idle.until_closed().is_empty());
    assert_eq!(server.client().number("PUBLISH news x"), 1);
    assert_eq!(next(&mut subscriber)[3], "x");
}

#[test]
fn a_blocked_client_receives_messages() {
    let server = TestServer::start();
    let (mut subscriber, mut other) = (server.client(), server.client());
    subscriber.run("HELLO 3");
    subscribe(&mut subscriber, "SUBSCRIBE news");
    subscriber.send("BLPOP list 0");
    until("it is blocked", || {
        other.text("CLIENT LIST").contains("flags=PbU ")
    });
    assert_eq!(other.number("PUBLISH news x"), 1);
    assert_eq!(next(&mut subscriber), ["message", "news", "x"]);
    assert_eq!(other.number("RPUSH list element"), 1);
    assert_eq!(next(&mut subscriber), ["list", "element"]);
}

/// Redis sends them in the middle of the reply of EXEC, which is then not well-formed.
#[test]
fn messages_that_a_transaction_publishes_to_its_client_come_after_its_reply() {
    let server = TestServer::start();
    let mut client = server.client();
    client.run("HELLO 3");
    subscribe(&mut client, "SUBSCRIBE news");
    assert_eq!(client.run("MULTI"), "OK");
    for command in ["PUBLISH news x", "PSUBSCRIBE n*", "PUBLISH news y"] {
        assert_eq!(client.run(command), "QUEUED");
    }
    client.send("EXEC");
    match client.receive_value() {
        Some(Value::Array(items)) => {
            assert_eq!(
                (&items[0], &items[2]),
                (&Value::Integer(1), &Value::Integer(2))
            );
            assert!(matches!(items[1], Value::Push(_)));
        }
        other => panic!("{other:?}"),
    }
    for message in ["message news x", "message news y", "pmessage n* news y"] {
        assert_eq!(next(&mut client).join(" "), message);
    }
    assert_eq!(client.run("PING"), "PONG");
}

/// Long replies are written in slices; a message that arrives meanwhile must not come between them.
#[test]
fn no_message_comes_in_the_middle_of_a_reply() {
    const MEMBERS: usize = 100_000;
    let server = TestServer::start();
    let (mut subscriber, mut publisher) = (server.client(), server.client());
    let mut request = Vec::new();
    let members: Vec<String> = (0..MEMBERS).map(|number| format!("m{number}")).collect();
    let words: Vec<&[u8]> = [&b"RPUSH"[..], b"list"]
        .into_iter()
        .chain(members.iter().map(String::as_bytes))
        .collect();
    write_command(&mut request, &words);
    publisher.send_bytes(&request);
    assert_eq!(publisher.receive(), format!("(integer) {MEMBERS}"));
    subscriber.run("HELLO 3");
    subscribe(&mut subscriber, "SUBSCRIBE news");
    for _ in 0..5 {
        subscriber.send("LRANGE list 0 -1");
        let mut messages = 200;
        (0..messages).for_each(|_| publisher.send("PUBLISH news x"));
        (0..messages).for_each(|_| assert_eq!(publisher.receive(), "(integer) 1"));
        let mut replied = false;
        while messages > 0 || !replied {
            match subscriber.receive_value() {
                Some(Value::Push(message)) => {
                    assert_eq!(message.len(), 3);
                    messages -= 1;
                }
                Some(Value::Array(items)) => {
                    assert_eq!(items.len(), MEMBERS);
                    replied = true;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn many_subscribers_of_a_channel_all_receive_a_message() {
    const SUBSCRIBERS: usize = 300;
    let server = TestServer::start();
    let mut subscribers: Vec<Client> = (0..SUBSCRIBERS).map(|_| server.client()).collect();
    for (number, client) in subscribers.iter_mut().enumerate() {
        if number % 2 == 0 {
            client.run("HELLO 3");
        }
        subscribe(client, "SUBSCRIBE news");
    }
    let mut publisher = server.client();
    assert_eq!(publisher.number("PUBLISH news x"), SUBSCRIBERS as i64);
    for (number, client) in subscribers.iter_mut().enumerate() {
        let message = client.receive_value().unwrap();
        assert_eq!(matches!(message, Value::Push(_)), number % 2 == 0);
        assert_eq!(words(&message), ["message", "news", "x"]);
    }
    let remaining = subscribers.split_off(SUBSCRIBERS / 2);
    drop(subscribers);
    until("half of them are gone", || {
        publisher.number("PUBLISH news y") == remaining.len() as i64
    });
    drop(remaining);
    until_nothing_is_left(&server);
}

#[test]
fn a_client_receives_no_messages_after_quit() {
    let server = TestServer::start();
    let mut publisher = server.client();
    for _ in 0..300 {
        let mut leaver = server.client();
        subscribe(&mut leaver, "PSUBSCRIBE *");
        leaver.send("QUIT");
        assert_eq!(next(&mut leaver), ["OK"]);
        assert_eq!(publisher.number("PUBLISH channel x"), 0);
    }
}
