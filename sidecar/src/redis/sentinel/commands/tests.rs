use super::*;
use crate::redis::sentinel::view::Node;

fn node(ordinal: u8) -> Node {
    Node { host: format!("shop-{ordinal}"), port: 6379, run_id: "e".repeat(40), down_since: None, offset: 7, linked: true }
}

fn view() -> View {
    View {
        master_name: "shop".into(),
        quorum: 2,
        primary: Some(node(0)),
        replicas: vec![node(1), node(2)],
        sentinels: (1..3).map(|at| Node::sentinel(format!("shop-{at}"), "uid", &format!("shop-{at}"), None)).collect(),
        me: Node::sentinel("shop-0", "uid", "shop-0", None),
        epoch: 4,
        version: "7.0.15".into(),
    }
}

/// A client, and what it is answered by.
struct Talk {
    session: Session,
    view: View,
    accounts: Accounts,
}

impl Talk {
    fn of(accounts: Accounts) -> Self {
        Self { session: Session::new(9), view: view(), accounts }
    }

    fn ask(&mut self, line: &str) -> String {
        let command: Command = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        let mut out = Vec::new();
        self.session.answer(&command, World { view: &self.view, accounts: &self.accounts, clients: 3, uptime: 86_400 }, &mut out);
        String::from_utf8(out).unwrap()
    }
}

fn open() -> Talk {
    Talk::of(Accounts::Open)
}

fn closed() -> Talk {
    Talk::of(Accounts::of([("app", &b"new"[..]), ("app", b"old"), (DEFAULT_USER, b"d")]))
}

#[test]
fn the_primary_is_told_by_name_and_nobody_by_another_name() {
    let mut talk = open();
    assert_eq!(talk.ask("SENTINEL get-master-addr-by-name shop"), "*2\r\n$6\r\nshop-0\r\n$4\r\n6379\r\n");
    assert_eq!(talk.ask("sentinel GET-MASTER-ADDR-BY-NAME nix"), "*-1\r\n");
    assert_eq!(talk.ask("sentinel get-master-addr-by-name SHOP"), "*-1\r\n", "names have a case");
    for sub in ["master", "replicas", "slaves", "sentinels", "ckquorum", "failover", "remove"] {
        assert_eq!(talk.ask(&format!("sentinel {sub} nix")), "-ERR No such master with that name\r\n", "{sub}");
    }
    assert_eq!(talk.ask("role"), "*2\r\n$8\r\nsentinel\r\n*1\r\n$4\r\nshop\r\n");
}

#[test]
fn while_nobody_is_primary_there_is_no_address() {
    let mut talk = open();
    talk.view.primary = None;
    assert_eq!(talk.ask("SENTINEL get-master-addr-by-name shop"), "*-1\r\n");
    assert_eq!(talk.ask("SENTINEL masters"), "*0\r\n");
    assert_eq!(talk.ask("SENTINEL master shop"), "-ERR No such master with that name\r\n");
    assert!(talk.ask("INFO").contains("sentinel_masters:0\r\n"));
    assert!(talk.ask("SENTINEL replicas shop").contains("master-link-status\r\n$3\r\nerr"));
}

#[test]
fn what_would_change_the_cluster_is_refused_with_what_to_do() {
    let mut talk = open();
    for line in
        ["failover shop", "reset *", "remove shop", "monitor x 1 2 3", "set shop quorum 1", "flushconfig", "config set a b", "debug"]
    {
        let answer = talk.ask(&format!("SENTINEL {line}"));
        assert!(answer.starts_with("-ERR SENTINEL") && answer.contains("kubectl understudy switchover"), "{answer}");
        assert_eq!(answer.matches("\r\n").count(), 1);
    }
}

#[test]
fn nobody_gets_a_vote() {
    let mut talk = open();
    assert_eq!(talk.ask("SENTINEL is-master-down-by-addr shop-0 6379 9 abc"), "*3\r\n:0\r\n$1\r\n*\r\n:0\r\n");
    talk.view.primary.as_mut().unwrap().down_since = Some(tokio::time::Instant::now());
    assert_eq!(talk.ask("SENTINEL is-master-down-by-addr shop-0 6379 9 abc"), "*3\r\n:1\r\n$1\r\n*\r\n:0\r\n");
    assert_eq!(talk.ask("SENTINEL is-master-down-by-addr shop-1 6379 9 *"), "*3\r\n:0\r\n$1\r\n*\r\n:0\r\n");
    assert_eq!(talk.ask("SENTINEL is-master-down-by-addr shop-0 x 9 *"), "-ERR value is not an integer or out of range\r\n");
}

#[test]
fn a_stranger_is_told_nothing_but_how_to_log_in() {
    let mut talk = closed();
    for line in ["PING", "PING a b", "ROLE", "SENTINEL masters", "SUBSCRIBE x", "INFO", "COMMAND", "CLIENT ID", "ACL WHOAMI"] {
        assert_eq!(talk.ask(line), "-NOAUTH Authentication required.\r\n", "{line}");
    }
    for line in ["HELLO", "HELLO 3", "HELLO 3 SETNAME x"] {
        assert!(talk.ask(line).starts_with("-NOAUTH HELLO must be called"), "{line}");
    }
    for line in ["AUTH wrong", "AUTH app wrong", "AUTH nobody new", "HELLO 3 AUTH app d", "AUTH app "] {
        assert_eq!(talk.ask(line), "-WRONGPASS invalid username-password pair or user is disabled.\r\n", "{line}");
        assert!(talk.session.is_stranger(&talk.accounts));
    }
}

#[test]
fn either_password_of_a_rotation_lets_in_and_a_failed_login_throws_nobody_out() {
    for line in ["AUTH app new", "AUTH app old", "AUTH d", "HELLO 2 AUTH app old"] {
        let mut talk = closed();
        let answer = talk.ask(line);
        assert!(answer == "+OK\r\n" || answer.starts_with("*12\r\n"), "{line}: {answer}");
        assert_eq!(talk.ask("PING"), "+PONG\r\n");
        assert!(talk.ask("AUTH app wrong").starts_with("-WRONGPASS"));
        assert_eq!(talk.ask("PING"), "+PONG\r\n");
    }
}

#[test]
fn who_is_no_user_any_more_is_banished_and_who_has_an_old_password_is_not() {
    let mut talk = closed();
    assert_eq!(talk.ask("AUTH app old"), "+OK\r\n");
    assert!(!talk.session.is_banished(&Accounts::of([("app", &b"newer"[..])])));
    assert!(!talk.session.is_banished(&Accounts::Closed), "not known is not removed");
    assert!(talk.session.is_banished(&Accounts::of([("other", &b"x"[..])])));
    assert_eq!(talk.ask("RESET"), "+RESET\r\n");
    assert!(talk.ask("PING").starts_with("-NOAUTH"));
}

#[test]
fn hello_changes_the_version_only_when_all_of_it_is_right() {
    let mut talk = open();
    for (line, error) in [
        ("HELLO x", "-ERR Protocol version is not an integer or out of range\r\n"),
        ("HELLO 4", "-NOPROTO unsupported protocol version\r\n"),
        ("HELLO 3 foo", "-ERR Syntax error in HELLO option 'foo'\r\n"),
        ("HELLO 3 auth a", "-ERR Syntax error in HELLO option 'auth'\r\n"),
        ("HELLO 3 auth a b", "-WRONGPASS invalid username-password pair or user is disabled.\r\n"),
        ("HELLO 3 setname a\nb", "-ERR Client names cannot contain spaces, newlines or special characters.\r\n"),
    ] {
        assert_eq!(talk.ask(line), error);
        assert_eq!(talk.ask("CLIENT GETNAME"), "$-1\r\n", "still version 2");
    }
    assert!(talk.ask("HELLO 3 AUTH default x SETNAME me").starts_with("%6\r\n$6\r\nserver\r\n$5\r\nredis\r\n"));
    assert_eq!(talk.ask("SENTINEL get-master-addr-by-name nix"), "_\r\n");
    assert_eq!(talk.ask("CLIENT GETNAME"), "$2\r\nme\r\n");
    assert!(talk.ask("SENTINEL master shop").starts_with("%20\r\n"));
    assert!(talk.ask("HELLO 2").starts_with("*12\r\n"));
}

#[test]
fn a_listener_in_version_2_may_only_listen_and_in_version_3_may_ask_too() {
    let mut talk = open();
    assert_eq!(talk.ask("SUBSCRIBE +switch-master"), "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n");
    assert_eq!(talk.ask("PING"), "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    assert!(talk.ask("SENTINEL myid").starts_with("-ERR Can't execute 'sentinel|myid': only (P|S)SUBSCRIBE"));
    assert_eq!(talk.ask("UNSUBSCRIBE"), "*3\r\n$11\r\nunsubscribe\r\n$14\r\n+switch-master\r\n:0\r\n");
    assert_eq!(talk.ask("UNSUBSCRIBE"), "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n");
    let _ = talk.ask("HELLO 3");
    assert_eq!(talk.ask("PSUBSCRIBE *"), ">3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n");
    assert_eq!(talk.ask("PING"), "+PONG\r\n");
    assert!(talk.ask("SENTINEL myid").starts_with("$40\r\n"));
}

#[test]
fn what_is_no_command_is_said_in_redis_words() {
    let mut talk = open();
    assert_eq!(talk.ask("foo bar baz"), "-ERR unknown command 'foo', with args beginning with: 'bar' 'baz' \r\n");
    assert_eq!(talk.ask("get a\r\nb"), "-ERR unknown command 'get', with args beginning with: 'a  b' \r\n");
    assert_eq!(talk.ask("sentinel foo"), "-ERR unknown subcommand 'foo'. Try SENTINEL HELP.\r\n");
    for (line, name) in [
        ("auth", "auth"),
        ("sentinel", "sentinel"),
        ("SENTINEL Master", "sentinel|master"),
        ("role x", "role"),
        ("subscribe", "subscribe"),
        ("client", "client"),
    ] {
        assert_eq!(talk.ask(line), format!("-ERR wrong number of arguments for '{name}' command\r\n"));
    }
    assert!(talk.ask(&format!("foo {}", "x".repeat(9000))).len() < 300, "not all of it is repeated");
}

#[test]
fn what_clients_ask_about_commands_is_answered() {
    let mut talk = open();
    assert_eq!(talk.ask("COMMAND COUNT"), format!(":{}\r\n", COMMANDS.len()));
    assert!(talk.ask("COMMAND").starts_with(&format!("*{}\r\n*10\r\n", COMMANDS.len())));
    assert_eq!(
        talk.ask("COMMAND INFO ping nope"),
        "*2\r\n*10\r\n$4\r\nping\r\n:-1\r\n*1\r\n+fast\r\n:0\r\n:0\r\n:0\r\n*2\r\n+@fast\r\n+@connection\r\n*0\r\n*0\r\n*0\r\n*-1\r\n"
    );
    assert_eq!(talk.ask("COMMAND DOCS ping"), "*0\r\n");
}

#[test]
fn every_command_of_the_table_is_answered_by_something_else_than_that_it_is_unknown() {
    for spec in COMMANDS {
        let subcommands = spec.subcommands.iter().map(|sub| (format!("{} {}", spec.name, sub.name), sub.arity));
        for (line, arity) in subcommands.chain([(spec.name.to_owned(), spec.arity)]).filter(|(line, _)| !line.ends_with("set")) {
            let words = usize::try_from(arity.abs()).unwrap().saturating_sub(line.split(' ').count());
            let answer = open().ask(&(line.clone() + &" shop".repeat(words)));
            assert!(!answer.contains("unknown command") && !answer.contains("wrong number"), "{line}: {answer}");
        }
    }
}

#[test]
fn info_has_the_sections_that_are_asked_for() {
    let mut talk = open();
    let all = talk.ask("INFO");
    for line in ["redis_version:7.0.15", "redis_mode:sentinel", "uptime_in_days:1", "connected_clients:3", "sentinel_masters:1"] {
        assert!(all.contains(line), "{line}: {all}");
    }
    assert!(all.contains("master0:name=shop,status=ok,address=shop-0:6379,slaves=2,sentinels=3\r\n"));
    assert!(talk.ask("INFO sentinel").contains("\r\n# Sentinel\r\n") && !talk.ask("INFO SENTINEL").contains("# Server"));
    assert_eq!(talk.ask("INFO keyspace"), "$0\r\n\r\n");
}
