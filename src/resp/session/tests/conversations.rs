//! The commands that the session answers by itself, and transactions.

use std::sync::Arc;

use super::*;
use crate::resp::fake::Fake;
use crate::resp::{Wish, hub};

#[test]
fn a_cluster_is_described_by_who_leads_what() {
    let mut talk = Talk::with(Fake::clustered(2), hub(1), 1);
    let node = |id: u64| format!("*4~$8~10.0.0.{id}~:7379~$40~{id:040}~*0~");
    // Nobody leads the second partition: its slots are not served.
    let slots = format!("*1~*5~:0~:8191~{}{}{}", node(2), node(1), node(3));
    talk.check("CLUSTER SLOTS", &slots);
    talk.check("CLUSTER KEYSLOT foo", ":12182~");
    talk.check("CLUSTER MYID", &format!("$40~{:040}~", 1));
    let info = talk.say("CLUSTER INFO");
    assert!(info.contains("cluster_state:fail") && info.contains("cluster_slots_fail:8192"), "{info}");
    let nodes = talk.say("CLUSTER NODES");
    assert!(
        nodes.contains("10.0.0.1:7379@0 myself,slave 0000000000000000000000000000000000000002 "),
        "{nodes}"
    );
    assert!(nodes.contains("10.0.0.2:7379@0 master - 0 0 0 connected 0-8191\n"), "{nodes}");
    let shards = talk.say("CLUSTER SHARDS");
    assert!(shards.starts_with("*1\r\n*4\r\n$5\r\nslots\r\n*2\r\n:0\r\n:8191\r\n"), "{shards}");
    talk.check("CLUSTER MEET 10.0.0.4 7379", "-ERR This instance has cluster support disabled~");
}

#[test]
fn readonly_has_reads_answered_anywhere_until_it_is_undone() {
    use Kind::{Read, ReadAnywhere, Write};
    let mut talk = Talk::with(Fake::clustered(1), hub(1), 1);
    talk.fake.in_memory.set(false);
    let mut kinds_of = |requests: &str| {
        talk.say(requests);
        talk.fake.kinds.take()
    };
    assert_eq!(kinds_of("READONLY\nGET a\nSET a 1\nTTL a"), [ReadAnywhere, Write, ReadAnywhere]);
    assert_eq!(kinds_of("MULTI\nGET a\nEXEC"), [ReadAnywhere]);
    assert_eq!(kinds_of("READWRITE\nGET a"), [Read]);
    assert_eq!(kinds_of("READONLY\nRESET\nGET a"), [Read]);
}

/// Reads and writes of such a connection go different ways: none overtakes another.
#[test]
fn after_readonly_reads_and_writes_wait_for_each_other() {
    use Kind::{ReadAnywhere, Write};
    let mut talk = Talk::with(Fake::clustered(1), hub(1), 1);
    talk.fake.in_memory.set(false);
    talk.say("READONLY");
    let requests = b"GET a\r\nGET b\r\nSET a 1\r\nSET b 2\r\nGET a\r\nREADWRITE\r\nSET a 3\r\n";
    talk.session.input(requests, &talk.fake);
    for under_way in [vec![ReadAnywhere; 2], vec![Write; 2], vec![ReadAnywhere], vec![Write]] {
        let count = under_way.len();
        assert_eq!(talk.fake.kinds.take(), under_way);
        for _ in 0..count {
            let (ticket, reply) = talk.fake.carry_out(false).expect("it is under way");
            talk.session.reply(ticket, reply, &Timing::default(), &talk.fake);
        }
    }
    assert!(talk.fake.kinds.take().is_empty());
}

#[test]
fn greetings() {
    let mut talk = Talk::new(1);
    talk.check(
        "PING\nPING hi\nECHO x\nPING a b",
        "+PONG~$2~hi~$1~x~-ERR wrong number of arguments for 'ping' command~",
    );
    talk.check(
        "SELECT 0\nSELECT 1\nSELECT x",
        "+OK~-ERR DB index is out of range~-ERR value is not an integer or out of range~",
    );
    talk.check("READONLY\nREADWRITE\nTIME", "-ERR This instance has cluster support disabled~-ERR This instance has cluster support disabled~*2~$10~1700000000~$6~123456~");
    talk.check("CLUSTER SLOTS", "-ERR This instance has cluster support disabled~");
    talk.check("RESET", "+RESET~");
}

#[test]
fn hello_chooses_the_protocol() {
    let mut talk = Talk::new(1);
    let fields = |proto| {
        format!(
            "$6~server~$5~redis~$7~version~$5~7.2.5~$5~proto~:{proto}~$2~id~:1~$4~mode~$10~standalone~$4~role~$6~master~\
             $7~modules~*0~"
        )
    };
    talk.check("HELLO", &format!("*14~{}", fields(2)));
    talk.check("HELLO 3", &format!("%7~{}", fields(3)));
    talk.check("GET nosuch\nCONFIG GET appendonly", "_~%1~$10~appendonly~$3~yes~");
    talk.check("HELLO\nHELLO 2", &format!("%7~{}*14~{}", fields(3), fields(2)));
    talk.check("GET nosuch", "$-1~");
    talk.check("HELLO 4", "-NOPROTO unsupported protocol version~");
    talk.check("HELLO x", "-ERR Protocol version is not an integer or out of range~");
    talk.check("HELLO 3 FOO", "-ERR Syntax error in HELLO option 'FOO'~");
    talk.check(
        "HELLO 2 SETNAME \"a b\"",
        "-ERR Client names cannot contain spaces, newlines or special characters.~",
    );
    assert!(talk.say("HELLO 2 SETNAME me").starts_with("*14"));
    talk.check("CLIENT GETNAME", "$2~me~");
}

#[test]
fn what_names_no_command_is_counted_by_itself() {
    let mut talk = Talk::new(1);
    talk.say("NOSUCH\nLPUSH a 1\nCLIENT NOSUCH\nGET\nMONITOR\nGET a");
    let totals = talk.hub.totals();
    assert_eq!((totals.unknown, totals.errors["ERR"]), (3, 5), "{:?}", totals.errors);
    talk.say("CONFIG RESETSTAT");
    assert_eq!(talk.hub.totals().unknown, 0);
}

#[test]
fn the_protocol_of_a_reply_is_that_of_its_request() {
    let mut talk = Talk::new(1);
    talk.fake.in_memory.set(false);
    let out = talk.say("GET x\nHELLO 3\nGET x");
    assert!(out.starts_with("$-1\r\n%7") && out.ends_with("_\r\n"), "{out}");
}

#[test]
fn authentication() {
    let mut talk = Talk::new(1);
    talk.check(
        "AUTH secret",
        "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration \
         is correct?~",
    );
    let fake = crate::resp::fake::Fake::new(1);
    *fake.password.borrow_mut() = Some("secret".to_owned());
    let mut talk = Talk::with(fake, hub(1), 1);
    talk.check("GET a\nPING\nNOSUCH", "-NOAUTH Authentication required.~-NOAUTH Authentication required.~-ERR unknown command 'NOSUCH', with args beginning with: ~");
    assert!(talk.say("HELLO 3").starts_with("-NOAUTH HELLO must be called"));
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.~";
    talk.check(
        "AUTH wrong\nAUTH secrets\nAUTH other secret\nAUTH a b c",
        &format!("{wrong}{wrong}{wrong}-ERR syntax error~"),
    );
    talk.check("HELLO 3 AUTH default wrong", wrong);
    talk.check("AUTH secret\nPING", "+OK~+PONG~");
    talk.check("RESET\nPING", "+RESET~-NOAUTH Authentication required.~");
    assert!(talk.say("HELLO 3 AUTH default secret").starts_with("%7"));
}

#[test]
fn before_authentication_requests_are_small() {
    let fake = crate::resp::fake::Fake::new(1);
    *fake.password.borrow_mut() = Some("secret".to_owned());
    let mut talk = Talk::with(fake, hub(1), 1);
    assert_eq!(talk.say_bytes(b"*11\r\n"), b"-ERR Protocol error: unauthenticated multibulk length\r\n");
    assert!(talk.session.should_close());
}

#[test]
fn what_comes_in_one_piece_with_the_password_may_be_large() {
    for greeting in ["AUTH secret", "HELLO 2 AUTH default secret"] {
        let fake = crate::resp::fake::Fake::new(1);
        *fake.password.borrow_mut() = Some("secret".to_owned());
        let mut talk = Talk::with(fake, hub(1), 1);
        let mut bytes = format!("{greeting}\r\n*23\r\n$4\r\nMSET\r\n").into_bytes();
        for n in 10..21 {
            bytes.extend_from_slice(format!("$2\r\n{n}\r\n$20000\r\n{}\r\n", "x".repeat(20_000)).as_bytes());
        }
        let replies = talk.say_bytes(&bytes);
        assert!(replies.ends_with(b"+OK\r\n"), "{}", String::from_utf8_lossy(&replies));
        assert!(!talk.session.should_close());
    }
}

#[test]
fn transactions() {
    let mut talk = Talk::new(1);
    talk.check("MULTI\nSET a 1\nINCR a\nGET a\nEXEC", "+OK~+QUEUED~+QUEUED~+QUEUED~*3~+OK~:2~$1~2~");
    talk.check("MULTI\nEXEC", "+OK~*0~");
    talk.check("EXEC\nDISCARD", "-ERR EXEC without MULTI~-ERR DISCARD without MULTI~");
    talk.check("MULTI\nMULTI\nSET a 5\nEXEC", "+OK~-ERR MULTI calls can not be nested~+QUEUED~*1~+OK~");
    talk.check("MULTI\nWATCH a\nEXEC", "+OK~-ERR WATCH inside MULTI is not allowed~*0~");
    talk.check("MULTI\nSET a 7\nDISCARD\nGET a", "+OK~+QUEUED~+OK~$1~5~");
    let spoilt = "-EXECABORT Transaction discarded because of previous errors.~";
    talk.check("MULTI\nGET\nEXEC", &format!("+OK~-ERR wrong number of arguments for 'get' command~{spoilt}"));
    talk.check(
        "MULTI\nNOSUCH\nEXEC\nGET a",
        &format!("+OK~-ERR unknown command 'NOSUCH', with args beginning with: ~{spoilt}$1~5~"),
    );
    talk.check(
        "MULTI\nSHUTDOWN\nEXEC",
        &format!("+OK~-ERR Command not allowed inside a transaction~{spoilt}"),
    );
    talk.check("GET a", "$1~5~");
}

#[test]
fn errors_inside_exec_stay_at_their_place() {
    let mut talk = Talk::new(1);
    talk.check(
        "MULTI\nSET a x\nINCR a\nSET a v EX 0\nPING\nGET a\nEXEC",
        "+OK~+QUEUED~+QUEUED~+QUEUED~+QUEUED~+QUEUED~*5~+OK~-ERR value is not an integer or out of range~\
         -ERR invalid expire time in 'set' command~+PONG~$1~x~",
    );
}

#[test]
fn local_commands_inside_exec_take_effect_with_it() {
    let mut talk = Talk::new(1);
    talk.check(
        "MULTI\nSET a 1\nCLIENT SETNAME n\nTIME\nCLIENT GETNAME\nEXEC\nCLIENT GETNAME",
        "+OK~+QUEUED~+QUEUED~+QUEUED~+QUEUED~*4~+OK~+OK~*2~$10~1700000000~$6~123456~$1~n~$1~n~",
    );
    talk.check("MULTI\nPING\nEXEC", "+OK~+QUEUED~*1~+PONG~");
    assert!(talk.say("MULTI\nCOMMAND\nEXEC").starts_with("+OK\r\n+QUEUED\r\n*1\r\n*"));
    talk.check(
        "WATCH a\nSET a 2\nMULTI\nCLIENT SETNAME other\nSET a 3\nEXEC\nCLIENT GETNAME",
        "+OK~+OK~+OK~+QUEUED~+QUEUED~*-1~$1~n~",
    );
}

#[test]
fn watches() {
    let mut talk = Talk::new(1);
    talk.check("WATCH a\nMULTI\nSET a 1\nEXEC", "+OK~+OK~+QUEUED~*1~+OK~");
    talk.check("WATCH a b\nSET b 1\nMULTI\nSET a 2\nEXEC\nGET a", "+OK~+OK~+OK~+QUEUED~*-1~$1~1~");
    talk.check("MULTI\nSET a 3\nEXEC", "+OK~+QUEUED~*1~+OK~");
    talk.check("WATCH a\nUNWATCH\nSET a 4\nMULTI\nGET a\nEXEC", "+OK~+OK~+OK~+OK~+QUEUED~*1~$1~4~");
    talk.check(
        "WATCH a\nSET a 5\nMULTI\nDISCARD\nMULTI\nGET a\nEXEC",
        "+OK~+OK~+OK~+OK~+OK~+QUEUED~*1~$1~5~",
    );
    let walks = "KEYS *\nSCAN 0\nRANDOMKEY\nGET a\n".repeat(2) + "KEYS *\nSCAN 0\n";
    assert!(!talk.say(&format!("MULTI\n{walks}EXEC")).contains("-"));
    let refused = talk.say(&format!("MULTI\n{walks}RANDOMKEY\nEXEC"));
    assert!(refused.contains("-ERR too many KEYS, SCAN and RANDOMKEY in one transaction"), "{refused}");
    assert!(
        refused.ends_with("-EXECABORT Transaction discarded because of previous errors.\r\n"),
        "{refused}"
    );
    talk.check("WATCH a\nWATCH a\nSET a 6\nMULTI\nPING\nEXEC", "+OK~+OK~+OK~+OK~+QUEUED~*-1~");
    talk.check("HELLO 3\nWATCH a\nSET a 7\nMULTI\nEXEC", &(talk_hello() + "+OK~+OK~+OK~_~"));
}

fn talk_hello() -> String {
    Talk::new(1).say("HELLO 3").replace("\r\n", "~")
}

#[test]
fn replies_on_off_skip() {
    let mut talk = Talk::new(1);
    talk.check("CLIENT REPLY SKIP\nPING one\nPING two", "$3~two~");
    talk.check("CLIENT REPLY OFF\nPING\nSET a 1\nNOSUCH\nGET a\nCLIENT REPLY ON\nGET a", "+OK~$1~1~");
    talk.check("CLIENT REPLY SKIP\nSET a 2\nGET a\nCLIENT REPLY FOO", "$1~2~-ERR syntax error~");
}

#[test]
fn names_and_lists() {
    let mut talk = Talk::new(1);
    assert!(talk.say("CLIENT INFO").contains("cmd=client|info "));
    talk.check("CLIENT ID\nCLIENT GETNAME\nCLIENT SETNAME joe\nCLIENT GETNAME", ":1~$-1~+OK~$3~joe~");
    talk.check("client SETINFO lib-name x\nCLIENT SETINFO LIB-VER 1.0", "+OK~+OK~");
    talk.check(
        "CLIENT SETINFO LIB-NAME \"a b\"",
        "-ERR lib-name cannot contain spaces, newlines or special characters.~",
    );
    talk.check("CLIENT SETINFO FOO x", "-ERR Unrecognized option 'FOO'~");
    talk.check("CLIENT NO-EVICT ON\nCLIENT NO-TOUCH off\nCLIENT NO-EVICT x", "+OK~+OK~-ERR syntax error~");
    talk.check(
        "CLIENT MAINT_NOTIFICATIONS ON",
        "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.~",
    );
    let info = talk.say("CLIENT INFO");
    for field in [
        "id=1 ",
        "addr=127.0.0.1:1 ",
        "name=joe ",
        "flags=e ",
        "lib-name=x ",
        "lib-ver=1.0",
        "resp=2 ",
        "multi=-1 ",
    ] {
        assert!(info.contains(field), "{field} in {info}");
    }
    talk.check("CLIENT LIST ID 7 x", "-ERR Invalid client ID~");
    talk.check("CLIENT LIST ID 7\nCLIENT LIST TYPE replica", "$0~~$0~~");
    talk.check("CLIENT LIST TYPE foo", "-ERR Unknown client type 'foo'~");
    assert!(talk.say("CLIENT LIST").contains("cmd=client|list "));
}

#[test]
fn killing() {
    let mut talk = Talk::new(1);
    let hub = Arc::clone(&talk.hub);
    let others: Vec<Talk> =
        (2..=4).map(|conn| Talk::with(crate::resp::fake::Fake::new(1), Arc::clone(&hub), conn)).collect();
    let alive = || others.iter().map(|other| !other.session.should_close()).collect::<Vec<_>>();
    assert_eq!(hub.clients.count(), 4);
    talk.check("CLIENT KILL 127.0.0.1:99", "-ERR No such client~");
    talk.check("CLIENT KILL 127.0.0.1:2", "+OK~");
    assert_eq!(
        (alive(), talk.session.take_wishes()),
        (vec![false, true, true], vec![Wish::Look { conn: 2 }])
    );
    talk.check("CLIENT KILL ID 3", ":1~");
    assert_eq!(alive(), [false, false, true]);
    talk.check("CLIENT KILL ID 0", "-ERR client-id should be greater than 0~");
    talk.check("CLIENT KILL TYPE pubsub\nCLIENT KILL TYPE x", ":0~-ERR Unknown client type 'x'~");
    talk.check("CLIENT KILL USER nobody", "-ERR No such user 'nobody'~");
    talk.check(
        "CLIENT KILL MAXAGE 100\nCLIENT KILL FOO bar\nCLIENT KILL ID 1 TYPE",
        ":0~-ERR syntax error~-ERR syntax error~",
    );
    // Those that are closed already are not counted again.
    talk.check("CLIENT KILL ID 3\nCLIENT KILL 127.0.0.1:2", ":0~-ERR No such client~");
    talk.check("CLIENT KILL TYPE normal LADDR 127.0.0.1:7379", ":1~");
    assert_eq!(alive(), [false, false, false]);
    assert!(!talk.session.should_close());
    talk.check("CLIENT KILL ADDR 127.0.0.1:1 SKIPME no\nPING", ":1~");
    assert!(talk.session.should_close());
    drop(others);
    assert_eq!(hub.clients.count(), 1);
}

#[test]
fn settings() {
    let mut talk = Talk::new(1);
    talk.check("CONFIG GET save", "*2~$4~save~$0~~");
    talk.check("CONFIG GET maxclients appendonly", "*4~$10~appendonly~$3~yes~$10~maxclients~$5~10000~");
    talk.check("CONFIG GET nosuch", "*0~");
    talk.check(
        "CONFIG SET hash-max-ziplist-entries 7\nCONFIG GET HASH-max-zip*entries",
        "+OK~*2~$24~hash-max-ziplist-entries~$1~7~",
    );
    talk.check(
        "CONFIG SET maxclients 5 slowlog-max-len 3\nCONFIG GET maxclients slowlog-max-len",
        "+OK~*4~$10~maxclients~$1~5~$15~slowlog-max-len~$1~3~",
    );
    talk.check(
        "CONFIG SET nosuch 1",
        "-ERR Unknown option or number of arguments for CONFIG SET - 'nosuch'~",
    );
    talk.check("CONFIG SET max* 1", "-ERR Unknown option or number of arguments for CONFIG SET - 'max*'~");
    talk.check("CONFIG SET hz", "-ERR wrong number of arguments for 'config|set' command~");
    talk.check("CONFIG SET hz 1 timeout", "-ERR syntax error~");
    talk.check(
        "CONFIG SET hz 20 maxclients bad",
        "-ERR CONFIG SET failed (possibly related to argument 'maxclients') - argument couldn't be parsed into an integer~",
    );
    talk.check("CONFIG GET HZ", "*2~$2~HZ~$2~10~");
    talk.check(
        "CONFIG SET hz 1 HZ 2",
        "-ERR CONFIG SET failed (possibly related to argument 'HZ') - duplicate parameter~",
    );
    talk.check(
        "CONFIG SET maxclients bad",
        "-ERR CONFIG SET failed (possibly related to argument 'maxclients') - argument couldn't be parsed into an integer~",
    );
    talk.check(
        "CONFIG SET appendonly no",
        "-ERR CONFIG SET failed (possibly related to argument 'appendonly') - it is always 'yes' here~",
    );
    talk.check("CONFIG SET appendonly yes save \"\"", "+OK~");
    talk.hub.set_max_bulk_bytes(2 << 20);
    let request = format!("*2\r\n$3\r\nGET\r\n$2097153\r\n{}\r\n", "x".repeat(2_097_153));
    let reply = talk.say_bytes(request.as_bytes());
    assert!(reply.starts_with(b"-ERR an argument of 2097153 bytes exceeds the limit of 2097152 "));
}

#[test]
fn info_is_the_text_of_the_node() {
    let mut talk = Talk::new(1);
    talk.check("INFO\ninfo Raft CLUSTER", "$0~~$19~# Raft~# CLUSTER~~");
    talk.say("HELLO 3");
    talk.check("INFO memory", "=14~txt:# memory~~");
}

#[test]
fn the_table_describes_itself() {
    let mut talk = Talk::new(1);
    talk.check(
        "COMMAND INFO get nosuch",
        "*2~*10~$3~get~:2~*2~+readonly~+fast~:1~:1~:1~*3~+@string~+@read~+@fast~*0~*1~*6~$5~flags~*2~+RO~+access~\
         $12~begin_search~*4~$4~type~$5~index~$4~spec~*2~$5~index~:1~$9~find_keys~*4~$4~type~$5~range~$4~spec~*6~\
         $7~lastkey~:0~$7~keystep~:1~$5~limit~:0~*0~$-1~",
    );
    talk.check(
        "COMMAND DOCS getdel nosuch",
        "*2~$6~getdel~*10~$7~summary~$42~Returns the value of a key and deletes it.~$5~since~$5~6.2.0~$5~group~$6~string~\
         $10~complexity~$4~O(1)~$9~arguments~*1~*8~$4~name~$3~key~$4~type~$3~key~$12~display_text~$3~key~\
         $14~key_spec_index~:0~",
    );
    talk.check("COMMAND GETKEYS MSET a 1 b 2", "*2~$1~a~$1~b~");
    talk.check("COMMAND GETKEYS MEMORY USAGE a", "*1~$1~a~");
    talk.check("COMMAND GETKEYSANDFLAGS GET a", "*1~*2~$1~a~*2~+RO~+access~");
    talk.check(
        "COMMAND GETKEYS PING\nCOMMAND GETKEYS FOO a",
        "-ERR The command has no key arguments~-ERR Invalid command specified~",
    );
    talk.check("COMMAND GETKEYS GET", "-ERR Invalid number of arguments specified for command~");
    talk.check("COMMAND LIST FILTERBY PATTERN mset*", "*2~$4~mset~$6~msetnx~");
    talk.check("COMMAND LIST FILTERBY MODULE x\nCOMMAND LIST FILTERBY FOO x", "*0~-ERR syntax error~");
    assert!(talk.say("COMMAND LIST FILTERBY ACLCAT transaction").starts_with("*5\r\n"));
    let count = talk.say("COMMAND COUNT").trim().trim_start_matches(':').to_owned();
    for line in ["COMMAND", "COMMAND INFO"] {
        assert!(talk.say(line).starts_with(&format!("*{count}\r\n")), "{line}");
    }
    let all = talk.say("COMMAND LIST");
    assert!(all.contains("\r\nconfig|get\r\n") && all.contains("\r\ncluster|slots\r\n"), "{all}");
    assert!(talk.say("COMMAND LIST FILTERBY PATTERN cluster|s*").starts_with("*6\r\n"));
    talk.say("HELLO 3");
    assert!(talk.say("COMMAND DOCS").starts_with(&format!("%{count}\r\n")));
    assert!(talk.say("COMMAND INFO get").contains("~2\r\n+readonly"));
}

#[test]
fn help_comes_from_the_table() {
    let mut talk = Talk::new(1);
    for container in ["CLIENT", "CONFIG", "COMMAND", "OBJECT", "MEMORY", "SLOWLOG", "FUNCTION"] {
        let help = talk.say(&format!("{container} HELP"));
        assert!(
            help.contains(&format!("+{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"))
        );
        assert!(help.contains("+HELP\r\n+    Returns a text about the subcommands.\r\n"));
    }
}

#[test]
fn the_rest() {
    let mut talk = Talk::new(1);
    talk.check(
        "FUNCTION FLUSH\nFUNCTION LIST\nFUNCTION FLUSH FOO",
        "+OK~*0~-ERR FUNCTION FLUSH only supports SYNC|ASYNC option~",
    );
    talk.check("MEMORY PURGE", "+OK~");
    let stats = talk.say("MEMORY STATS").replace("\r\n", "~");
    assert_eq!(stats, "*4~$14~peak.allocated~:1024~$13~fragmentation~$4~1.25~");
    assert!(talk.say("MEMORY DOCTOR").starts_with('$'));
    assert!(talk.say("LOLWUT").contains("Corduroy"));
    talk.check(
        "CONFIG REWRITE",
        "-ERR CONFIG REWRITE is not supported: change the configuration file itself~",
    );
    talk.check(
        "SYNC",
        "-ERR replication is by Raft: Redis replicas cannot be attached, and RDB files are not served~",
    );
    talk.check("SHUTDOWN FOO\nSHUTDOWN ABORT", "-ERR syntax error~-ERR No shutdown in progress.~");
    talk.check("SHUTDOWN NOSAVE", "");
    assert_eq!(talk.session.take_wishes(), [Wish::ShutDown]);
    assert!(talk.session.should_close());
}
