//! Settings as a backend has them: the variables behind those that are not static, which every build exports.
//!
//! src/backend/utils/misc/guc_tables.c (16 and later) and guc.c (up to 15) say which variable a setting has. What a build
//! does not export is left out.

use std::collections::HashMap;

use super::Backend;
use super::status::Timestamp;
use crate::address::Avma;
use crate::memory::Memory;

/// The longest value that is read.
const LONGEST: usize = 4096;

/// How a variable holds its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Switch,
    Number(&'static str),
    Text,
    Word(&'static [&'static str]),
}

use Kind::{Number, Switch, Text, Word};

/// `LOG_DESTINATION_*` (src/include/utils/elog.h).
const TO_STDERR: u32 = 1;
const TO_SYSLOG: u32 = 2;

/// Setting, variable, and how it holds its value; numbers in the setting's own unit. Enumerations by their numbers:
/// src/include/access/xact.h (`SyncCommitLevel`), src/include/access/xlog.h (`WalLevel`, `ArchiveMode`).
const TABLE: [(&str, &str, Kind); 51] = [
    ("application_name", "application_name", Text),
    ("archive_command", "XLogArchiveCommand", Text),
    (
        "archive_mode",
        "XLogArchiveMode",
        Word(&["off", "on", "always"]),
    ),
    ("autovacuum", "autovacuum_start_daemon", Switch),
    (
        "autovacuum_max_workers",
        "autovacuum_max_workers",
        Number(""),
    ),
    (
        "client_connection_check_interval",
        "client_connection_check_interval",
        Number("ms"),
    ),
    ("cluster_name", "cluster_name", Text),
    ("config_file", "ConfigFileName", Text),
    ("data_directory", "DataDir", Text),
    ("deadlock_timeout", "DeadlockTimeout", Number("ms")),
    ("dynamic_library_path", "Dynamic_library_path", Text),
    ("fsync", "enableFsync", Switch),
    ("full_page_writes", "fullPageWrites", Switch),
    ("hot_standby", "EnableHotStandby", Switch),
    (
        "idle_in_transaction_session_timeout",
        "IdleInTransactionSessionTimeout",
        Number("ms"),
    ),
    ("ignore_checksum_failure", "ignore_checksum_failure", Switch),
    ("jit", "jit_enabled", Switch),
    ("listen_addresses", "ListenAddresses", Text),
    (
        "local_preload_libraries",
        "local_preload_libraries_string",
        Text,
    ),
    ("lock_timeout", "LockTimeout", Number("ms")),
    ("log_destination", "Log_destination_string", Text),
    ("log_directory", "Log_directory", Text),
    ("log_filename", "Log_filename", Text),
    ("log_line_prefix", "Log_line_prefix", Text),
    ("log_lock_waits", "log_lock_waits", Switch),
    (
        "log_min_duration_statement",
        "log_min_duration_statement",
        Number("ms"),
    ),
    ("logging_collector", "Logging_collector", Switch),
    ("maintenance_work_mem", "maintenance_work_mem", Number("kB")),
    ("max_connections", "MaxConnections", Number("")),
    ("max_files_per_process", "max_files_per_process", Number("")),
    (
        "max_prepared_transactions",
        "max_prepared_xacts",
        Number(""),
    ),
    ("max_stack_depth", "max_stack_depth", Number("kB")),
    ("max_wal_senders", "max_wal_senders", Number("")),
    ("max_worker_processes", "max_worker_processes", Number("")),
    ("port", "PostPortNumber", Number("")),
    ("primary_conninfo", "PrimaryConnInfo", Text),
    ("restart_after_crash", "restart_after_crash", Switch),
    (
        "session_preload_libraries",
        "session_preload_libraries_string",
        Text,
    ),
    ("shared_buffers", "NBuffers", Number(" blocks")),
    (
        "shared_preload_libraries",
        "shared_preload_libraries_string",
        Text,
    ),
    ("statement_timeout", "StatementTimeout", Number("ms")),
    (
        "synchronous_commit",
        "synchronous_commit",
        Word(&["off", "local", "remote_write", "on", "remote_apply"]),
    ),
    ("synchronous_standby_names", "SyncRepStandbyNames", Text),
    ("temp_buffers", "num_temp_buffers", Number(" blocks")),
    ("track_activities", "pgstat_track_activities", Switch),
    ("track_io_timing", "track_io_timing", Switch),
    ("unix_socket_directories", "Unix_socket_directories", Text),
    (
        "wal_level",
        "wal_level",
        Word(&["minimal", "replica", "logical"]),
    ),
    ("wal_sender_timeout", "wal_sender_timeout", Number("ms")),
    ("work_mem", "work_mem", Number("kB")),
    ("zero_damaged_pages", "zero_damaged_pages", Switch),
];

/// The settings of one process.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Name and value, in the order of their names.
    pub values: Vec<(&'static str, String)>,
    destination: Option<u32>,
    /// When its server started, as `pg_postmaster_start_time()` tells.
    pub server_started: Option<Timestamp>,
}

impl Settings {
    /// Reads them out of a backend that runs. A value that changes meanwhile may come out torn.
    pub fn of(backend: &Backend) -> Self {
        let names: Vec<&'static str> = TABLE
            .iter()
            .map(|row| row.1)
            .chain(["Log_destination", "PgStartTime"])
            .collect();
        let found = backend.executable.image.symbols().by_name(&names);
        let places: HashMap<&'static str, Avma> = found
            .into_iter()
            .map(|(name, (symbol, _))| (name, backend.executable.bias.to_avma(symbol.start)))
            .collect();
        Settings::read(&places, backend.memory)
    }

    fn read(places: &HashMap<&'static str, Avma>, memory: &dyn Memory) -> Self {
        let values = TABLE.iter().filter_map(|(setting, variable, kind)| {
            let value = value(*places.get(variable)?, *kind, memory)?;
            Some((*setting, value))
        });
        Settings {
            values: values.collect(),
            destination: places
                .get("Log_destination")
                .and_then(|at| memory.read_u32(*at).ok()),
            server_started: places
                .get("PgStartTime")
                .and_then(|at| memory.read_u64(*at).ok())
                .filter(|time| *time != 0)
                .map(|time| Timestamp(time as i64)),
        }
    }

    /// The value of one; none where it could not be read.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.values.iter().find(|(n, _)| *n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether the log goes to the system's log.
    pub fn logs_to_syslog(&self) -> bool {
        self.destination.is_some_and(|d| d & TO_SYSLOG != 0)
    }

    /// Whether the log goes to standard error, or to whatever the collector makes of that.
    pub fn logs_to_stderr(&self) -> bool {
        self.destination.is_none_or(|d| d & TO_STDERR != 0)
    }
}

fn value(at: Avma, kind: Kind, memory: &dyn Memory) -> Option<String> {
    match kind {
        Switch => match memory.read_u8(at).ok()? {
            0 => Some("off".to_owned()),
            1 => Some("on".to_owned()),
            _ => None,
        },
        Number(unit) => {
            let number = memory.read_u32(at).ok()? as i32;
            let unit = if number > 0 { unit } else { "" };
            Some(format!("{number}{unit}"))
        }
        Word(words) => {
            let number = memory.read_u32(at).ok()? as usize;
            words.get(number).map(|word| (*word).to_owned())
        }
        Text => {
            let at = match memory.read_u64(at).ok()? {
                0 => return Some(String::new()),
                at => Avma(at),
            };
            let text = memory.read_c_string(at, LONGEST).ok()?;
            Some(String::from_utf8_lossy(&text).into_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::CapturedMemory;

    #[test]
    fn values_of_each_kind() {
        let mut memory = CapturedMemory::default();
        memory.add(Avma(0x1000), vec![1, 2, 0, 0]);
        memory.add(Avma(0x2000), 500u32.to_le_bytes().to_vec());
        memory.add(Avma(0x3000), 0x4000u64.to_le_bytes().to_vec());
        let mut page = b"log\0".to_vec();
        page.resize(4096, 0);
        memory.add(Avma(0x4000), page);
        memory.add(Avma(0x5000), 2u32.to_le_bytes().to_vec());
        let places = HashMap::from([
            ("enableFsync", Avma(0x1000)),
            ("Logging_collector", Avma(0x1001)),
            ("StatementTimeout", Avma(0x2000)),
            ("Log_directory", Avma(0x3000)),
            ("wal_level", Avma(0x5000)),
            ("XLogArchiveMode", Avma(0x2000)),
            ("Log_destination", Avma(0x5000)),
            ("work_mem", Avma(0x9000)),
        ]);
        let settings = Settings::read(&places, &memory);
        let expected = [
            ("fsync", "on"),
            ("log_directory", "log"),
            ("statement_timeout", "500ms"),
            ("wal_level", "logical"),
        ];
        let all: Vec<(&str, &str)> = settings
            .values
            .iter()
            .map(|(n, v)| (*n, v.as_str()))
            .collect();
        assert_eq!(all, expected);
        assert!(settings.logs_to_syslog() && !settings.logs_to_stderr());
        assert_eq!(settings.get("work_mem"), None);
    }
}
