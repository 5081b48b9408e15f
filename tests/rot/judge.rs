//! What a node on a damaged folder does, and whether that is honest.

use std::path::Path;
use std::process::ExitStatus;

use crate::home::{Home, Oracle};
use crate::server::{Answer, Client, Server};

/// What came of a damage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum End {
    /// Every acknowledged value was there.
    Whole,
    /// It did not start, and said what is wrong with which file or folder.
    Refused,
    /// Some requests were answered with an error that names the damage; all other answers were right.
    Told,
    /// A wrong answer.
    Wrong(String),
    /// An end or an error that does not say what is wrong with which file or folder.
    Silent(String),
    /// A panic, or an end by a signal.
    Panicked(String),
    /// No answer, no start or no end in time.
    Hung(String),
}

impl End {
    pub const NAMES: [&'static str; 7] = ["whole", "refused", "told", "WRONG", "SILENT", "PANICKED", "HUNG"];

    pub fn name(&self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Refused => "refused",
            Self::Told => "told",
            Self::Wrong(_) => "WRONG",
            Self::Silent(_) => "SILENT",
            Self::Panicked(_) => "PANICKED",
            Self::Hung(_) => "HUNG",
        }
    }

    /// What is bad about it.
    pub fn fault(&self) -> Option<&str> {
        match self {
            Self::Whole | Self::Refused | Self::Told => None,
            Self::Wrong(why) | Self::Silent(why) | Self::Panicked(why) | Self::Hung(why) => Some(why),
        }
    }
}

/// Keys asked for at a time.
const BATCH: usize = 40;

/// Whether a message says where the damage is.
fn names_a_place(message: &str) -> bool {
    ["shard", "partition", "identity.", "slot-", "state/", "wal/"].iter().any(|word| message.contains(word))
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join(" | ")
}

/// An end by itself: a refusal, if it says what is wrong.
fn of_exit(status: ExitStatus, log: &str) -> End {
    if log.contains("panicked at") || log.contains("contained a panic") || status.code().is_none() {
        return End::Panicked(format!("{status}: {}", tail(log)));
    }
    let said = log
        .lines()
        .rev()
        .find(|line| ["ERROR", "cannot start"].iter().any(|word| line.contains(word)))
        .unwrap_or_default();
    let is_refusal = status.code().is_some_and(|code| (64..=78).contains(&code));
    if is_refusal && names_a_place(said) {
        End::Refused
    } else {
        End::Silent(format!("{status}: {}", tail(log)))
    }
}

/// What is expected of a key: one of these.
type Expected<'a> = (&'a [u8], Vec<&'a Option<Vec<u8>>>);

fn expectations<'a>(home: &'a Home, more: &'a Oracle) -> Vec<Expected<'a>> {
    let mut all: Vec<Expected<'a>> = Vec::new();
    for (key, value) in home.oracle.iter().filter(|(key, _)| !more.contains_key(*key)).chain(more) {
        all.push((key, vec![value]));
    }
    for (key, values) in &home.last_moments {
        all.push((key, values.iter().collect()));
    }
    all
}

/// Reads everything. Whether some of it was answered by an error that names the damage.
fn read_all(client: &mut Client, expected: &[Expected<'_>]) -> Result<bool, End> {
    let mut told = false;
    for batch in expected.chunks(BATCH) {
        let requests: Vec<Vec<&[u8]>> = batch.iter().map(|(key, _)| vec![&b"GET"[..], *key]).collect();
        let answers = client.ask(&requests).map_err(|error| End::Hung(format!("GET: {error}")))?;
        for ((key, values), answer) in batch.iter().zip(answers) {
            let key = String::from_utf8_lossy(key);
            match answer {
                Answer::Value(found) if values.contains(&&found) => {}
                Answer::Value(found) => {
                    let show = |value: &Option<Vec<u8>>| {
                        let cut =
                            |v: &Vec<u8>| String::from_utf8_lossy(v.get(..30).unwrap_or(v)).into_owned();
                        value.as_ref().map_or("nil".to_owned(), cut)
                    };
                    let wanted: Vec<String> = values.iter().map(|value| show(value)).collect();
                    return Err(End::Wrong(format!(
                        "{key} is {}, not {}",
                        show(&found),
                        wanted.join(" or ")
                    )));
                }
                Answer::Error(why) if is_told(&why) => told = true,
                Answer::Error(why) => return Err(End::Silent(format!("GET {key}: {why}"))),
                other => return Err(End::Wrong(format!("GET {key}: {other:?}"))),
            }
        }
    }
    Ok(told)
}

/// Whether an error says what is damaged.
fn is_told(error: &str) -> bool {
    (error.starts_with("DAMAGED ") || error.starts_with("STOPPED ")) && names_a_place(error)
}

/// Compares the number of keys, if it can be told.
fn count(client: &mut Client, expected: &[Expected<'_>]) -> Result<bool, End> {
    let answers = client.ask(&[vec![b"DBSIZE"]]).map_err(|error| End::Hung(format!("DBSIZE: {error}")))?;
    let least = expected.iter().filter(|(_, values)| values.iter().all(|value| value.is_some())).count();
    let most = expected.iter().filter(|(_, values)| values.iter().any(|value| value.is_some())).count();
    match answers.as_slice() {
        [Answer::Number(found)] if (least as i64..=most as i64).contains(found) => Ok(false),
        [Answer::Error(why)] if is_told(why) => Ok(true),
        [Answer::Error(why)] => Err(End::Silent(format!("DBSIZE: {why}"))),
        other => Err(End::Wrong(format!("DBSIZE is {other:?}, not {least} to {most}"))),
    }
}

/// Starts, reads everything, and leaves the server running.
fn start(home: &Home, folder: &Path, more: &Oracle) -> Result<(Server, Client, bool), End> {
    let mut server = Server::spawn(folder, &home.flags);
    match server.await_ready() {
        None => return Err(End::Hung(format!("it did not start: {}", tail(&server.log())))),
        Some(Err(status)) => {
            // Its last words may still be on their way into the file.
            std::thread::sleep(std::time::Duration::from_millis(20));
            return Err(of_exit(status, &server.log()));
        }
        Some(Ok(())) => {}
    }
    let expected = expectations(home, more);
    let read = server.connect().map_err(|error| End::Hung(error.to_string())).and_then(|mut client| {
        let told = read_all(&mut client, &expected)?;
        // A damage that was met makes numbers of keys unknown.
        let told = told || count(&mut client, &expected)?;
        Ok((client, told))
    });
    match read {
        Ok((client, told)) if !server.log().contains("panicked at") => Ok((server, client, told)),
        Ok(_) => Err(End::Panicked(tail(&server.log()))),
        // A connection that was closed: the process has ended.
        Err(End::Hung(why)) => {
            std::thread::sleep(std::time::Duration::from_millis(100));
            match server.exited() {
                Some(status) => Err(of_exit(status, &server.log())),
                None => Err(End::Hung(why)),
            }
        }
        Err(end) => Err(end),
    }
}

/// Writes a little, stops in order, starts again and reads everything, what was just written too.
fn go_on(home: &Home, folder: &Path, mut server: Server, mut client: Client) -> Result<bool, End> {
    let mut more = Oracle::new();
    for n in 0..20 {
        let (key, value) = (format!("after:{n}").into_bytes(), format!("value {n}").into_bytes());
        let answer = client.ask(&[vec![b"SET", &key, &value]]);
        match answer.map_err(|error| End::Hung(format!("SET: {error}")))?.as_slice() {
            [Answer::Text(ok)] if ok == "OK" => _ = more.insert(key, Some(value)),
            [Answer::Error(why)] if is_told(why) => {}
            other => return Err(End::Silent(format!("SET: {other:?}"))),
        }
    }
    match server.stop() {
        None => return Err(End::Hung("it did not stop".into())),
        Some(status) if status.code() == Some(0) => {}
        Some(status) => return Err(of_exit(status, &server.log())),
    }
    let (server, _, told) = start(home, folder, &more)?;
    drop(server);
    Ok(told)
}

/// What a node does on this folder. `longer`: writes, stops and starts again too.
pub fn judge(home: &Home, folder: &Path, longer: bool) -> End {
    let judged = start(home, folder, &Oracle::new()).and_then(|(server, client, told)| {
        if longer { Ok(go_on(home, folder, server, client)? || told) } else { Ok(told) }
    });
    match judged {
        Ok(false) => End::Whole,
        Ok(true) => End::Told,
        Err(end) => end,
    }
}
