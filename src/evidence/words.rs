//! The words of the server's own messages. Whoever may run a statement may also write a message that begins as one of the
//! server's does (RAISE), and go on as he likes: so of such a message only these words are told, and numbers.

use std::collections::HashSet;
use std::sync::OnceLock;

/// What stands where another word was.
const OTHER: &str = "…";

/// No number of the server's own has more digits; one of a customer's may.
const MOST_DIGITS: usize = 10;

/// Of the messages that [`super::redact`] knows (src/backend, 12 to 18), of the kernel's errors about files, of signals,
/// and of locks, in small letters.
const WORDS: &str = "\
    a abnormally aborted accept accessexclusivelock accesssharelock acquired active added address administrator \
    advisory after alarm all allocate and another any anyway apart apply are argument at automatic autovacuum \
    average backend background bad base became because beginning between beyond block blocks broken buffers bus \
    but by bytes calculated call canceling cannot change checkpoint checkpoints checksum children class cleaning \
    clock close code command commit complete configuration conflict connected connection connections continuing \
    could cpu crash create current d data database db denied depth descriptor detected device differs directory \
    dirty disk distance done down due elapsed end endpoint entry eof error estimate exceeded exception \
    exclusivelock exists exit exited expected extend extension external failed fast fault file filefallocate \
    files floating flush for force fpw frequently from fsync global handle hangup identifier idle illegal \
    immediate in input instead instruction interrupt interrupted invalid is issuing it kb killed kind known \
    large last lazy left limit lock locktag log longest lsn many maximum memory ms multi multithreaded needs \
    nesting newest no not now object occurring of offset oid oldest on only open operation or other out output \
    page parallel permission permissions permitted pid pipe point postgresql postmaster prev previous primary \
    process processes procsignalbarrier progress promotion properly quit quota read reading ready recalcitrant \
    received record recovery recycled redo reinitializing relation reloading remote removed replication request \
    requested required resource restartpoint retrying rowexclusivelock rowsharelock running s second seconds \
    seek segment segmentation server session set shared sharelock sharerowexclusivelock shareupdateexclusivelock \
    shut shutdown sighup sigkill signal size slru smart space speculative spinlock stale standby starting starts \
    statement stats status still structure stuck subscription such sync system target task temporarily temporary \
    terminated terminating the throttle time timed timeout timestamp tli to token too total transaction \
    transport truncate tuple tuplestore type u unavailable unexpected unrecognized up usage user utc \
    verification virtual wait waiting wal wal_level walreceiver walsender was while with worker write writing \
    wrote xid xlog zeroing";

/// The same with only these words, numbers, and what stands between.
pub fn only_known(message: &str) -> String {
    static KNOWN: OnceLock<HashSet<&str>> = OnceLock::new();
    let known = KNOWN.get_or_init(|| WORDS.split_whitespace().collect());
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find(is_part) {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = from.find(|c| !is_part(c)).unwrap_or(from.len());
        let (word, after) = from.split_at(end);
        let is_known = is_number(word) || known.contains(word.to_ascii_lowercase().as_str());
        match is_known {
            true => out.push_str(word),
            false if out.ends_with(OTHER) => {}
            false => out.push_str(OTHER),
        }
        rest = after;
    }
    out + rest
}

/// In decimal, or half of a place in the WAL, as `3000148` or `1A2B3C`.
fn is_number(word: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || matches!(b, b'A'..=b'F');
    word.len() <= MOST_DIGITS && word.bytes().any(|b| b.is_ascii_digit()) && word.bytes().all(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_server_are_whole() {
        for message in [
            "server process (PID 4711) was terminated by signal 9: Killed",
            "process 7 still waiting for AccessExclusiveLock on relation 16384 of database 5 after 1000.123 ms",
            "could not fsync file \"…\": Input/output error",
            "could not write block 12 in file \"…\": No space left on device",
            "invalid page in block 0 of relation base/5/16384; zeroing out page",
            "redo done at 0/1A2B3C8 system usage: CPU: user: 0.00 s, system: 0.00 s, elapsed: 0.01 s",
            "database system was interrupted; last known up at 2026-11-25 23:15:12 UTC",
            "checkpoint starting: immediate force wait",
        ] {
            assert_eq!(only_known(message), message);
        }
    }

    #[test]
    fn what_somebody_else_wrote_is_not_told() {
        for (message, told) in [
            (
                "database system Müller-Lüdenscheid down",
                "database system …-… down",
            ),
            ("out of memory for 4111111111111111", "out of memory for …"),
            ("could not open file web3", "could not open file …"),
            ("could not read file a b cd", "could not read file a …"),
            ("", ""),
        ] {
            let out = only_known(message);
            let out = out.replace("… …", "…");
            assert_eq!(out, told);
        }
    }
}
