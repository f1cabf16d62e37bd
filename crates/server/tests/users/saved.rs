//! Users in files, in options, and in the lines that CONFIG REWRITE writes.

use super::*;

#[test]
fn users_are_saved_and_loaded() {
    let folder = tempfile_folder("acl");
    let path = folder.join("users.acl");
    std::fs::write(
        &path,
        "user default on nopass ~* &* +@all\nuser alice on >x ~a* +get (+set ~b*)\n",
    )
    .unwrap();
    let server = TestServer::with(|config| config.aclfile = path.display().to_string());
    let mut admin = server.client();
    let mut alice = server.client();
    assert_eq!(alice.run("AUTH alice x"), "OK");
    assert_eq!(alice.run("SET b 1"), "OK");
    admin.run("ACL SETUSER bob on nopass +get %R~x &c");
    let listed = admin.run("ACL LIST");
    assert_eq!(admin.run("ACL SAVE"), "OK");
    admin.run("ACL DELUSER bob");
    assert_eq!(admin.run("ACL LOAD"), "OK");
    assert_eq!(admin.run("ACL LIST"), listed);
    // As in Redis 7.0, the connections of all other users are closed.
    assert_eq!(alice.until_closed(), [""; 0]);
    // A mistake changes nothing.
    std::fs::write(&path, "user bob on\nuser bob off\n").unwrap();
    assert!(
        admin
            .run("ACL LOAD")
            .contains("Duplicate user 'bob' found on line 2")
    );
    assert_eq!(admin.run("ACL LIST"), listed);
    std::fs::remove_file(&path).unwrap();
    assert!(
        admin
            .run("ACL LOAD")
            .contains("Error loading ACLs, opening file")
    );
    let _ = std::fs::remove_dir_all(folder);
}

/// Bug: after ACL LOAD of a file without a line for the default user, nobody needed the password any more.
#[test]
fn a_file_without_the_default_user_leaves_it_its_password() {
    let folder = tempfile_folder("acl-default");
    let path = folder.join("users.acl");
    std::fs::write(&path, "user bob on >x ~* +@all\n").unwrap();
    let server = TestServer::with(|config| {
        config.aclfile = path.display().to_string();
        config.requirepass = "pw".to_owned();
    });
    let (mut bob, mut anybody) = (server.client(), server.client());
    assert_eq!(bob.run("AUTH bob x"), "OK");
    assert!(anybody.run("GET a").contains("NOAUTH"));
    bob.run("ACL LOAD");
    assert!(anybody.run("GET a").contains("NOAUTH"));
    assert!(server.client().run("GET a").contains("NOAUTH"));
    assert_eq!(server.client().run("AUTH pw"), "OK");
    let _ = std::fs::remove_dir_all(folder);
}

fn tempfile_folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("damselfly-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn a_server_does_not_start_with_wrong_users() {
    let line = |name: &str, rules: &str| damselfly_config::UserLine {
        place: damselfly_config::Place::CommandLine,
        name: name.to_owned(),
        rules: rules.split(' ').map(String::from).collect(),
    };
    for (name, rules, problem) in [
        ("a", "on >secret +nosuch", "'+nosuch': Unknown command"),
        ("a", "on >secret <secret2", "rule 3: The password"),
        ("a b", "on", "Spaces not allowed"),
        ("a", "(+get", "Unmatched parenthesis"),
    ] {
        let error = TestServer::try_with(|config| config.users = vec![line(name, rules)]);
        let error = error.err().unwrap();
        assert!(error.contains(problem), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let error = TestServer::try_with(|config| {
        config.users = vec![line("a", "on")];
        config.aclfile = String::from("users.acl");
    });
    assert!(error.err().unwrap().contains("but not both"));
    let error = TestServer::try_with(|config| config.aclfile = String::from("no/such/file"));
    assert!(error.err().unwrap().contains("no/such/file"));
    let server = TestServer::with(|config| {
        config.users = vec![line("default", "on >pass +@all ~*"), line("a", "on nopass")];
        config.requirepass = String::from("other");
        config.acl_pubsub_default = PubSubDefault::AllChannels;
    });
    let mut client = server.client();
    assert!(client.run("PING").contains("NOAUTH"));
    assert!(client.run("AUTH other").contains("WRONGPASS"));
    assert_eq!(client.run("AUTH pass"), "OK");
    let shown = client.run("ACL LIST");
    assert!(shown.contains("user a on nopass &* -@all"), "{shown}");
}

#[test]
fn lines_of_users_give_the_same_users_again() {
    let server = TestServer::start();
    let config = || server.shared().config();
    assert_eq!(
        server.shared().users.config_lines(&config()),
        Ok(Vec::new())
    );
    // What `requirepass` says needs no line of its own.
    server.change(|config| config.requirepass = String::from("x"));
    assert_eq!(
        server.shared().users.config_lines(&config()),
        Ok(Vec::new())
    );
    server.change(|config| config.requirepass.clear());
    let mut admin = server.client();
    let quoted =
        "~a\"b' ~c\\d +get ~é #34344e4d60c2b6d639b7bd22e18f2b0b91bc34bf0ac5f9952744435093cfb4e6";
    admin.run(&format!("ACL SETUSER bob on {quoted} (+set ~\"x)"));
    let lines = server.shared().users.config_lines(&config()).unwrap();
    assert_eq!(lines.len(), 2);
    let folder = tempfile_folder("lines");
    let path = folder.join("damselfly.conf");
    std::fs::write(&path, lines.join("\n")).unwrap();
    let loaded = damselfly_config::load([path.display().to_string()], [], &damselfly_config::Disk);
    let Ok(damselfly_config::Request::Run(loaded)) = loaded else {
        panic!("{loaded:?}");
    };
    let again = TestServer::with(|config| config.users = loaded.config.users);
    // As in Redis, a line about the default user begins with a reset, which sets this flag.
    let listed = again
        .client()
        .run("ACL LIST")
        .replace("nopass sanitize-payload", "nopass");
    assert_eq!(listed, admin.run("ACL LIST"));
    let mut request = b"*4\r\n$3\r\nACL\r\n$7\r\nSETUSER\r\n$3\r\nbob\r\n".to_vec();
    request.extend_from_slice(b"$2\r\n~\xff\r\n");
    admin.send_bytes(&request);
    assert_eq!(admin.receive(), "OK");
    let error = server.shared().users.config_lines(&config()).unwrap_err();
    assert!(error.contains("'bob'"), "{error}");
    let _ = std::fs::remove_dir_all(folder);
}
