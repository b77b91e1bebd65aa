//! What a server process tells all others of itself, as `pg_stat_activity` shows it: its `PgBackendStatus` in shared
//! memory, read while it may be writing there.
//!
//! Whoever writes makes `st_changecount` odd before, and even again after; whoever reads takes what was there while it
//! was even and stayed the same (src/include/utils/backend_status.h; 12 and 13: pgstat.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::versions::{Activity, Layout, backend_status as offsets};
use crate::address::Avma;
use crate::memory::Memory;

/// How often an entry is read again that is just being written. PostgreSQL writes one within microseconds, so that only
/// one whose writer stands still stays torn.
const MOST_TRIES: usize = 10;

/// The longest `application_name` (NAMEDATALEN).
const LONGEST_NAME: usize = 64;

/// Microseconds from 1970-01-01 to 2000-01-01, which times of PostgreSQL's count from.
const EPOCH: i64 = 946_684_800 * 1_000_000;

/// A moment, in microseconds since 2000-01-01 (`TimestampTz`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// This moment, by the clock that the server goes by, too.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let micros = since.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX));
        Timestamp(micros - EPOCH)
    }

    /// Microseconds since 1970-01-01.
    pub fn unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH)
    }

    /// For how long it has been over at `now`; nothing for what is yet to come, as after the clock was set back.
    pub fn until(self, now: Timestamp) -> std::time::Duration {
        let micros = now.0.saturating_sub(self.0);
        std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(0))
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Client {
    /// A process of the same machine, through a socket in the file system.
    Local,
    /// An address and a port.
    Remote(IpAddr, u16),
}

impl std::fmt::Display for Client {
    /// As the process title has it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Client::Local => f.write_str("[local]"),
            Client::Remote(address, port) => write!(f, "{address}({port})"),
        }
    }
}

impl Client {
    /// Reads a `struct sockaddr_storage` (socket(7), ip(7), ipv6(7)).
    fn parse(address: &[u8]) -> Option<Self> {
        let bytes = |at: usize| address.get(at..);
        let family = u16::from_le_bytes(*address.first_chunk()?);
        let port = u16::from_be_bytes(*bytes(2)?.first_chunk()?);
        match i32::from(family) {
            libc::AF_UNIX => Some(Client::Local),
            libc::AF_INET => {
                let ip = Ipv4Addr::from(*bytes(4)?.first_chunk::<4>()?);
                Some(Client::Remote(ip.into(), port))
            }
            libc::AF_INET6 => {
                let ip = Ipv6Addr::from(*bytes(8)?.first_chunk::<16>()?);
                Some(Client::Remote(ip.into(), port))
            }
            _ => None,
        }
    }
}

/// One process's entry. What is not set in it is none, as `pg_stat_activity` shows NULL there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// `backend_start`
    pub started: Option<Timestamp>,
    /// `xact_start`
    pub transaction_start: Option<Timestamp>,
    /// `query_start`
    pub query_start: Option<Timestamp>,
    /// `state_change`
    pub state_change: Option<Timestamp>,
    /// `datid`
    pub database: Option<u32>,
    /// `usesysid`
    pub user: Option<u32>,
    /// `client_addr` and `client_port`
    pub client: Option<Client>,
    /// `state`
    pub activity: Option<Activity>,
    /// `application_name`
    pub application_name: Option<String>,
    /// `query`
    pub query: Option<String>,
}

/// Why there is no entry to tell of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoStatus {
    /// It has none: it has not told of itself yet, or is of a kind that never does, or of a version that is not known.
    None,
    /// Each time that it was read, it was being written.
    Torn,
}

/// Reads the entry at `at` of the process that the server knows as `pid`, and of its texts as much as `most_query`.
pub fn read(
    memory: &dyn Memory,
    at: Avma,
    pid: i32,
    layout: &Layout,
    most_query: usize,
) -> Result<Status, NoStatus> {
    // Where the texts lie stays the same for the server's life (BackendStatusShmemInit(), backend_status.c).
    let (mut name, mut query) = ([0; 8], [0; 8]);
    let there = memory.read_batch(&mut [
        (at.offset(offsets::APPLICATION_NAME as i64), &mut name),
        (at.offset(offsets::ACTIVITY as i64), &mut query),
    ]);
    if there != [true, true] {
        return Err(NoStatus::None);
    }
    let texts = [name, query].map(|at| Avma(u64::from_le_bytes(at)));
    for _ in 0..MOST_TRIES {
        let copy = Copy::take(memory, at, texts, most_query);
        let copy = copy.ok_or(NoStatus::None)?;
        if copy.is_whole() {
            return copy.parse(pid, layout).ok_or(NoStatus::None);
        }
        std::thread::yield_now();
    }
    Err(NoStatus::Torn)
}

/// The bytes of one reading.
struct Copy {
    /// The count of changes, before and after.
    changes: [u32; 2],
    entry: Vec<u8>,
    name: Vec<u8>,
    query: Vec<u8>,
}

impl Copy {
    /// One call reads them one after the other, in this order (process_vm_rw_core(), mm/process_vm_access.c), and the
    /// processor does not reorder reads (x86-64).
    fn take(memory: &dyn Memory, at: Avma, texts: [Avma; 2], most_query: usize) -> Option<Self> {
        let (mut before, mut after) = ([0; 4], [0; 4]);
        let mut entry = vec![0; offsets::SIZE as usize];
        let mut name = vec![0; LONGEST_NAME];
        let mut query = vec![0; most_query];
        let count_at = at.offset(offsets::CHANGE_COUNT as i64);
        let filled = memory.read_batch(&mut [
            (count_at, &mut before),
            (at, &mut entry),
            (texts[0], &mut name),
            (texts[1], &mut query),
            (count_at, &mut after),
        ]);
        let [true, true, name_there, query_there, true] = filled[..] else {
            return None;
        };
        // The last of all texts may end where the shared memory does.
        let mut shorter = |there: bool, at: Avma, buf: &mut Vec<u8>, most: usize| {
            if !there {
                *buf = memory.read_c_string(at, most).unwrap_or_default();
                let again = memory.read(count_at, &mut after);
                // Without an answer, nothing that is equal to what was there before.
                if again.is_err() {
                    after = [u8::MAX; 4];
                }
            }
        };
        shorter(name_there, texts[0], &mut name, LONGEST_NAME);
        shorter(query_there, texts[1], &mut query, most_query);
        Some(Copy {
            changes: [before, after].map(u32::from_le_bytes),
            entry,
            name,
            query,
        })
    }

    fn is_whole(&self) -> bool {
        let [before, after] = self.changes;
        before == after && before % 2 == 0
    }

    fn parse(&self, pid: i32, layout: &Layout) -> Option<Status> {
        let from = |offset: u64| self.entry.get(offset as usize..);
        let int = |offset: u64| Some(u32::from_le_bytes(*from(offset)?.first_chunk()?));
        let time = |offset: u64| {
            let micros = i64::from_le_bytes(*from(offset)?.first_chunk()?);
            (micros != 0).then_some(Timestamp(micros))
        };
        let oid = |offset: u64| int(offset).filter(|oid| *oid != 0);
        // The place may be another process's by now, or nobody's.
        (int(offsets::PID)? as i32 == pid).then_some(())?;
        let activity = layout.activities.get()?.get(int(offsets::STATE)? as usize);
        Some(Status {
            started: time(offsets::PROC_START),
            transaction_start: time(offsets::XACT_START),
            query_start: time(offsets::ACTIVITY_START),
            state_change: time(offsets::STATE_START),
            database: oid(offsets::DATABASE),
            user: oid(offsets::USER),
            client: from(offsets::CLIENT).and_then(Client::parse),
            activity: activity.copied().filter(|a| *a != Activity::Undefined),
            application_name: text(&self.name),
            query: text(&self.query),
        })
    }
}

/// A text up to its end. Of one that was too long, a character that was cut in two is left out, as PostgreSQL does
/// (pgstat_clip_activity()).
fn text(bytes: &[u8]) -> Option<String> {
    /// `track_activity_query_size` is 100 at least; that is with the terminator.
    const WHOLE: usize = 99;
    let end = memchr::memchr(0, bytes).unwrap_or(bytes.len());
    let bytes = match std::str::from_utf8(&bytes[..end]) {
        Err(e) if e.error_len().is_none() && end >= WHOLE => &bytes[..e.valid_up_to()],
        _ => &bytes[..end],
    };
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(bytes).into_owned())
}

/// For `fuzz/`: an entry, its texts right behind it, of any bytes.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn of_bytes(data: &[u8], layout: &Layout) -> Result<Status, NoStatus> {
    let mut memory = crate::memory::CapturedMemory::default();
    memory.add(Avma(0x1000), data.to_vec());
    let pid = data.get(4..8).and_then(|b| b.first_chunk());
    let pid = pid.map_or(0, |b| i32::from_le_bytes(*b));
    read(&memory, Avma(0x1000), pid, layout, 1024)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::memory::{CapturedMemory, Unreadable};

    const AT: Avma = Avma(0x1000);
    const NAME: u64 = 0x2000;
    const QUERY: u64 = 0x3000;

    fn layout(major: u32) -> &'static Layout {
        Layout::of_major(major).unwrap()
    }

    /// An entry of process 77, at work.
    fn entry(changes: u32) -> Vec<u8> {
        let mut entry = vec![0; offsets::SIZE as usize];
        let mut put = |at: u64, bytes: &[u8]| {
            entry[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        };
        put(offsets::CHANGE_COUNT, &changes.to_le_bytes());
        put(offsets::PID, &77u32.to_le_bytes());
        put(offsets::ACTIVITY_START, &5_000_000i64.to_le_bytes());
        put(offsets::DATABASE, &16384u32.to_le_bytes());
        put(offsets::CLIENT, &[2, 0, 0xc8, 0x22, 192, 0, 2, 7]);
        put(offsets::STATE, &2u32.to_le_bytes());
        put(offsets::APPLICATION_NAME, &NAME.to_le_bytes());
        put(offsets::ACTIVITY, &QUERY.to_le_bytes());
        entry
    }

    fn memory(changes: u32, name: &[u8], query: &[u8]) -> CapturedMemory {
        let mut memory = CapturedMemory::default();
        memory.add(AT, entry(changes));
        memory.add(Avma(NAME), name.to_vec());
        memory.add(Avma(QUERY), query.to_vec());
        memory
    }

    #[test]
    fn an_entry_that_nobody_writes() {
        let memory = memory(4, &[b'a'; 64], "SELECT 'ä\0rest".as_bytes());
        let status = read(&memory, AT, 77, layout(15), 14).unwrap();
        assert_eq!(status.activity, Some(Activity::Active));
        assert_eq!(status.query.as_deref(), Some("SELECT 'ä"));
        assert_eq!(status.application_name.map(|n| n.len()), Some(64));
        assert_eq!(status.query_start, Some(Timestamp(5_000_000)));
        assert_eq!((status.transaction_start, status.user), (None, None));
        assert_eq!(status.database, Some(16384));
        let client = status.client.map(|c| c.to_string());
        assert_eq!(client.as_deref(), Some("192.0.2.7(51234)"));
        // 18 has one more state before it.
        let newer = read(&memory, AT, 77, layout(18), 14).unwrap();
        assert_eq!(newer.activity, Some(Activity::Idle));
    }

    #[test]
    fn whose_it_is_not_and_what_is_not_there() {
        let memory = memory(4, b"", b"");
        let read = |at, pid| read(&memory, at, pid, layout(15), 64);
        assert_eq!(read(AT, 78), Err(NoStatus::None), "another's");
        assert_eq!(read(Avma(0), 77), Err(NoStatus::None));
        assert_eq!(read(Avma(u64::MAX - 7), 77), Err(NoStatus::None));
        let no_texts = read(AT, 77).unwrap();
        assert_eq!((no_texts.query, no_texts.application_name), (None, None));
    }

    /// Memory that is written to while it is read.
    #[derive(Debug)]
    struct Restless {
        memory: CapturedMemory,
        /// What is left to be changed, one at each reading of the count.
        changes: Cell<u32>,
    }

    impl Memory for Restless {
        fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
            self.memory.read(addr, buf)?;
            if addr == AT && buf.len() == 4 {
                let left = self.changes.get();
                self.changes.set(left.saturating_sub(1));
                buf.copy_from_slice(&(left * 2).to_le_bytes());
            }
            Ok(())
        }
    }

    #[test]
    fn what_is_written_meanwhile_is_read_again_and_not_for_ever() {
        let status = |changes| {
            let restless = Restless {
                memory: memory(0, &[0; 64], &[0; 64]),
                changes: Cell::new(changes),
            };
            read(&restless, AT, 77, layout(15), 64).map(|s| s.database)
        };
        assert_eq!(status(0), Ok(Some(16384)));
        assert_eq!(status(5), Ok(Some(16384)), "after the third time");
        assert_eq!(status(1000), Err(NoStatus::Torn));
        let odd = read(&memory(3, &[0; 64], &[0; 64]), AT, 77, layout(15), 64);
        assert_eq!(odd, Err(NoStatus::Torn), "its writer stands still");
    }

    #[test]
    fn texts_without_an_end_and_in_another_encoding() {
        assert_eq!(text(b"caf\xe9\0x").as_deref(), Some("caf\u{fffd}"));
        assert_eq!(text("caf\u{e9}".as_bytes()).as_deref(), Some("caf\u{e9}"));
        let long = [b"x".repeat(98), b"\xc3".to_vec()].concat();
        assert_eq!(text(&long).map(|t| t.len()), Some(98));
        assert_eq!(text(b"\xe9 next").as_deref(), Some("\u{fffd} next"));
        assert_eq!((text(b"\0abc"), text(b"")), (None, None));
    }

    #[test]
    fn clients() {
        let mut v6 = [0u8; 28];
        v6[0] = 10;
        v6[2..4].copy_from_slice(&5432u16.to_be_bytes());
        v6[23] = 1;
        let told = |bytes: &[u8]| Client::parse(bytes).map(|c| c.to_string());
        assert_eq!(told(&v6).as_deref(), Some("::1(5432)"));
        assert_eq!(told(&[1, 0, 0, 0]).as_deref(), Some("[local]"));
        assert_eq!(told(&[0; 128]), None);
        assert_eq!((told(&v6[..20]), told(&[2])), (None, None));
    }

    #[test]
    fn times() {
        let start = Timestamp(5_000_000);
        assert_eq!(start.unix_micros(), 946_684_805_000_000);
        assert_eq!(start.until(Timestamp(6_500_000)).as_millis(), 1500);
        assert_eq!(start.until(Timestamp(1)).as_millis(), 0);
        assert_eq!(
            Timestamp(i64::MIN).until(Timestamp(i64::MAX)).as_micros(),
            i64::MAX as u128
        );
        assert!(Timestamp::now() > Timestamp(800_000_000_000_000), "2025");
    }
}
