//! What the command line, the environment and files together mean.

use super::*;

#[test]
fn the_command_line_overrides_the_environment_which_overrides_the_file() {
    let files = [(
        "/r.conf",
        "hz 11\ntimeout 11\nport 11\nrequirepass \"a b\"\n",
    )];
    let environment = [
        ("DAMSELFLY_TIMEOUT", "12"),
        ("DAMSELFLY_PORT", "12"),
        ("HOME", "/"),
    ];
    let loaded = start(
        "/r.conf --port 13 --slowlog-log-slower-than -1",
        &environment,
        &files,
    )
    .unwrap();
    let config = &loaded.config;
    assert_eq!((config.hz, config.timeout_s, config.port), (11, 12, 13));
    assert_eq!(
        (
            config.slowlog_log_slower_than_us,
            config.requirepass.as_str()
        ),
        (-1, "a b")
    );
    assert_eq!(loaded.file.as_deref(), Some(Path::new("/r.conf")));
    assert_eq!(
        loaded.warnings.len(),
        1,
        "one for hz: {:?}",
        loaded.warnings
    );
}

#[test]
fn the_command_line_accepts_several_values_and_equals_signs() {
    let config = start(
        "--bind 127.0.0.1 -::1 --maxmemory=1gb --save 900 1 --save 60 2",
        &[],
        &[],
    );
    let config = config.unwrap().config;
    assert_eq!(config.bind, ["127.0.0.1", "-::1"]);
    assert_eq!(config.maxmemory_bytes, 1 << 30);
    assert_eq!(value(&config, "save"), "900 1 60 2");
    let args = [
        "--port 13",
        "--save 900 1",
        "--save 60 2",
        "--requirepass",
        "--a b",
        "--hz=9",
    ];
    let Request::Run(loaded) = load(args.map(str::to_owned), [], &Memory([].into())).unwrap()
    else {
        panic!()
    };
    let config = &loaded.config;
    assert_eq!((config.port, config.hz), (13, 9));
    assert_eq!(value(config, "save"), "900 1 60 2");
    assert_eq!(config.requirepass, "--a b");
    let config = start(
        "--save '' --client-output-buffer-limit pubsub 32mb 8mb 61",
        &[],
        &[],
    );
    let config = config.unwrap().config;
    assert_eq!(value(&config, "save"), "");
    assert_eq!(config.client_output_buffer_limit.pubsub.soft_s, 61);
    assert_eq!(config.client_output_buffer_limit.replica.soft_s, 60);
}

#[test]
fn the_command_line_includes_files_in_its_order() {
    let files = [
        ("/r.conf", "hz 11\nport 11\n"),
        ("/s.conf", "include /r.conf\nsave ''\n"),
    ];
    let config = start("--hz 12 --port 12 --include /s.conf --hz 13", &[], &files);
    let config = config.unwrap().config;
    assert_eq!((config.hz, config.port), (13, 11));
    let refused = start("--include --port 12", &[], &files).unwrap_err();
    let expected = "command line: option 'include': wrong number of arguments";
    assert_eq!(refused.to_string(), expected);
}

#[test]
fn save_adds_up_on_the_command_line_and_is_replaced_by_the_environment() {
    let files = [("/r.conf", "save 1 2 3 4\nsave 5 6\nsave \"\"\nsave 7 8\n")];
    let saved = |args: &str, environment: &[(&str, &str)]| {
        value(&start(args, environment, &files).unwrap().config, "save")
    };
    assert_eq!(saved("/r.conf", &[]), "7 8");
    assert_eq!(saved("/r.conf --save 9 9", &[]), "7 8 9 9");
    assert_eq!(
        saved("/r.conf", &[("DAMSELFLY_SAVE", "60 1 30 2")]),
        "60 1 30 2"
    );
    assert_eq!(saved("/r.conf", &[("DAMSELFLY_SAVE", "")]), "");
}

#[test]
fn the_command_line_can_ask_for_help_version_a_check_and_standard_input() {
    let files = || Memory([("-", "hz 33"), ("/r.conf", "timeout 5")].into());
    let asked = |args: &str| load(words(args), [], &files()).unwrap();
    assert!(matches!(asked("--help"), Request::Help));
    assert!(matches!(asked("-v"), Request::Version));
    assert!(matches!(asked("--port 1 --help"), Request::Help));
    let Request::CheckRdb(path) = asked("--check-rdb dump.rdb") else {
        panic!()
    };
    assert_eq!(path, std::path::Path::new("dump.rdb"));
    for args in ["--timeout 3 -", "- --timeout 3", "/r.conf - --timeout 3"] {
        let Request::Run(loaded) = asked(args) else {
            panic!()
        };
        assert_eq!((loaded.config.hz, loaded.config.timeout_s), (33, 3));
    }
}

#[test]
fn invalid_options_prevent_the_start_and_errors_name_their_place() {
    let files = [
        ("/r.conf", "# x\n\nhz \"12\n"),
        ("/unknown.conf", "hz 10\nmaxmemry 5\n"),
        ("/comment.conf", "hz 20 # comment\n"),
        ("/loop.conf", "include /loop.conf\n"),
        ("/node.conf", "port 0\ncluster-enabled yes\n"),
        ("/gone.conf", "include /nowhere.conf\n"),
        ("/save.conf", "save 900\nsave 1\n"),
    ];
    for (args, expected) in [
        (
            "--port",
            "command line: option 'port': wrong number of arguments",
        ),
        (
            "--hz 1 2",
            "command line: option 'hz': wrong number of arguments",
        ),
        (
            "--hz x",
            "command line: option 'hz': argument couldn't be parsed into an integer",
        ),
        (
            "--apendonly no",
            "command line: option 'apendonly': unknown option; did you mean 'appendonly'?",
        ),
        (
            "--qwertyuiop no",
            "command line: option 'qwertyuiop': unknown option; see --help",
        ),
        (
            "-x",
            "command line: option '-x': expected --option value; see --help",
        ),
        (
            "--dbfilename a/b",
            "command line: option 'dbfilename': dbfilename can't be a path, just a filename",
        ),
        (
            "--unixsocketperm 888",
            "command line: option 'unixsocketperm': argument couldn't be parsed as an octal number",
        ),
        (
            "--unixsocketperm -1",
            "command line: option 'unixsocketperm': argument must be between 0 and 777 inclusive",
        ),
        (
            "--unixsocketperm 7777",
            "command line: option 'unixsocketperm': argument must be between 0 and 777 inclusive",
        ),
        (
            "--databases 0",
            "command line: option 'databases': argument must be between 1 and 2147483647 inclusive",
        ),
        (
            "--supervised x",
            "command line: option 'supervised': argument(s) must be one of the following: upstart, systemd, auto, no",
        ),
        (
            "/r.conf",
            "/r.conf, line 3: option 'hz': unbalanced quotes in configuration line",
        ),
        (
            "/unknown.conf",
            "/unknown.conf, line 2: option 'maxmemry': unknown option; did you mean 'maxmemory'?",
        ),
        (
            "/comment.conf",
            "/comment.conf, line 1: option 'hz': wrong number of arguments",
        ),
        (
            "/node.conf",
            "/node.conf, line 2: option 'cluster-enabled': it is not supported: this server can't be a node of a cluster; remove the line to start a primary of its own, which has only the keys in its own files",
        ),
        (
            "--loadmodule /m.so",
            "command line: option 'loadmodule': it is not supported: modules can't be loaded; remove the line to start without the module's commands and types",
        ),
        (
            "/save.conf",
            "/save.conf, line 1: option 'save': Invalid save parameters",
        ),
        (
            "/loop.conf",
            "can't read the configuration from /loop.conf: include files are nested too deeply",
        ),
        (
            "/gone.conf",
            "can't read the configuration from /nowhere.conf: entity not found",
        ),
    ] {
        assert_eq!(start(args, &[], &files).unwrap_err(), expected);
    }
    let refused = start("", &[("DAMSELFLY_HZ", "x")], &[]).unwrap_err();
    assert!(
        refused.starts_with("environment variable DAMSELFLY_HZ: option 'hz'"),
        "{refused}"
    );
}

#[test]
fn errors_do_not_reveal_passwords() {
    let files = [
        ("/r.conf", "requirepass \"secret\n"),
        ("/s.conf", "requirepass se cret\n"),
    ];
    for args in ["/r.conf", "/s.conf", "--requirepass se cret"] {
        let error = start(args, &[], &files).unwrap_err();
        assert!(!error.contains("se"), "{error}");
    }
}

/// Bug: in Kubernetes, the server did not start next to a service called "damselfly". Cause: Kubernetes sets environment variables
/// named after services, such as DAMSELFLY_PORT. Fix: they are ignored with a warning.
#[test]
fn environment_variables_of_kubernetes_services_are_ignored() {
    let environment = [
        ("DAMSELFLY_PORT", "tcp://10.0.0.1:6379"),
        ("DAMSELFLY_PORT_6379_TCP_ADDR", "10.0.0.1"),
        ("DAMSELFLY_SERVICE_HOST", "10.0.0.1"),
    ];
    let loaded = start("", &environment, &[]).unwrap();
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.warnings.len(), 3);
}

#[test]
fn users_are_defined_once_each() {
    let text = "user alice on >x ~* +@all\nUSER bob\naclfile /users.acl";
    let loaded = start("/r.conf --user carol (+get ~a)", &[], &[("/r.conf", text)]).unwrap();
    let users = &loaded.config.users;
    let names: Vec<_> = users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["alice", "bob", "carol"]);
    assert_eq!(users[0].rules, ["on", ">x", "~*", "+@all"]);
    assert_eq!(users[1].place.to_string(), "/r.conf, line 2");
    assert_eq!(users[2].rules, ["(+get", "~a)"]);
    assert_eq!(loaded.config.aclfile, "/users.acl");
    let text = "user alice >secret\nuser bob\nuser alice >secret";
    let error = start("/r.conf", &[], &[("/r.conf", text)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 3") && error.contains("Duplicate user found"),
        "{error}"
    );
    assert!(!error.contains("secret"), "{error}");
    assert!(start("/r.conf", &[], &[("/r.conf", "user")]).is_err());
}

#[test]
fn a_typical_redis_conf_loads_with_warnings() {
    let files = [
        ("/etc/r.conf", SAMPLE),
        ("/etc/r.d/b.conf", "timeout 30\n"),
        ("/etc/r.d/a.conf", "timeout 20\nhz 15\n"),
        ("/etc/r.d/B.off", "nosuch 1\n"),
    ];
    let loaded = start("/etc/r.conf", &[], &files).unwrap();
    let config = &loaded.config;
    assert_eq!(config.bind, ["127.0.0.1", "-::1"]);
    assert_eq!((config.timeout_s, config.hz), (30, 15));
    assert_eq!(value(config, "save"), "900 1 300 10");
    assert_eq!(config.client_output_buffer_limit, OutputLimits::default());
    assert_eq!(config.hash_max_listpack_entries, 100);
    assert_eq!(
        config.rename_commands,
        [("CONFIG".to_owned(), String::new())]
    );
    let expected = [
        "/etc/r.conf, line 24: option 'io-threads' is ignored: it is not supported; set threads to the number of threads that serve clients; by default there is one for each processor",
        "option 'hz' has no effect: background work runs ten times a second, and more often while there is much to do",
    ];
    for warning in expected {
        assert_eq!(
            loaded.warnings.iter().filter(|w| *w == warning).count(),
            1,
            "{:#?}",
            loaded.warnings
        );
    }
    assert_eq!(
        loaded.warnings.len(),
        expected.len(),
        "{:#?}",
        loaded.warnings
    );
}

#[test]
fn random_lines_never_panic() {
    let seed = RandomState::new().build_hasher().finish();
    println!("seed {seed}");
    let mut state = seed | 1;
    let mut random = move |below: usize| {
        // Marsaglia's xorshift64.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap() % below
    };
    let pieces = [
        " ",
        "\"",
        "'",
        "\\",
        "\\x4",
        "\\x41",
        "#",
        "-",
        "--",
        "0",
        "7",
        "ü",
        "%",
        "gb",
        "k",
        "\0",
        "\n",
        "\t",
        "yes",
        "no",
        "include",
        "/r.conf",
        "*",
        "[",
        "save",
        "user",
        "rename-command",
        "9223372036854775808",
        "=",
        "1e999",
        "\u{fffd}",
    ];
    let names: Vec<&str> = options::all().map(|option| option.name).collect();
    for _ in 0..20_000 {
        let mut text = String::new();
        for _ in 0..random(8) {
            match random(3) {
                0 => text.push_str(names[random(names.len())]),
                _ => text.push_str(pieces[random(pieces.len())]),
            }
            text.push_str(if random(2) == 0 { " " } else { "" });
        }
        let apply = |args: Vec<String>| {
            let loaded = load(
                args,
                [("DAMSELFLY_SAVE".to_owned(), text.clone())],
                &Memory(HashMap::new()),
            );
            if let Ok(Request::Run(loaded)) = loaded {
                loaded.config.rewrite(text.as_bytes(), &[]);
            }
        };
        apply(text.split(' ').map(str::to_owned).collect());
        if let Ok(words) = line::split(&text) {
            let _ = load::apply_lines(&[&words]);
            apply(words);
        }
        Config::default().rewrite(text.as_bytes(), &[]);
        let (name, value) = text.split_once(' ').unwrap_or((&text, ""));
        let _ = Config::default().set(&[(name.as_bytes(), value.as_bytes())], Origin::Remote);
        Config::default().get(&[text.as_bytes()]);
    }
}

/// Bug: bytes that are not UTF-8 were replaced, so different passwords became the same one.
#[test]
fn bytes_that_are_no_text_are_refused() {
    let file = [("/r.conf", "port 0\nrequirepass \"\\xe9\"\n")];
    let error = start("/r.conf", &[], &file).unwrap_err();
    assert!(
        error.starts_with("/r.conf, line 2: option 'requirepass': bytes that are not UTF-8"),
        "{error}"
    );
    let path = std::env::temp_dir().join(format!("damselfly-bytes-{}.conf", std::process::id()));
    let loaded = |text: &[u8]| {
        std::fs::write(&path, text).unwrap();
        let request = load([path.display().to_string()], [], &Disk);
        std::fs::remove_file(&path).unwrap();
        request.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(loaded(b"# caf\xe9\ntimeout 1\n"), Ok(()));
    let error = loaded(b"\nrequirepass \xe9\n").unwrap_err();
    assert!(
        error.contains(", line 2: option 'requirepass': bytes that are not UTF-8"),
        "{error}"
    );
}
