//! What a server process says that it waits for, named as `pg_stat_activity` does.

use serde::{Deserialize, Serialize};

use super::lwlocks::Tranches;
use super::versions::{Layout, WaitEventNames};
use super::wait_class as class;

/// The names of one server's wait events.
#[derive(Debug, Default)]
pub struct WaitEvents {
    names: WaitEventNames,
    tranches: Tranches,
    /// Kinds of heavyweight locks by number.
    tags: &'static [&'static str],
}

/// A wait event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// `wait_event_type`; none for a class that is not known.
    pub class: Option<String>,
    /// `wait_event`; none for a number that is not known, as an extension's own may be.
    pub event: Option<String>,
    /// `wait_event_info`: the class in its highest byte, and the number in its lower half.
    pub info: u32,
}

impl WaitEvents {
    /// Those of a version.
    pub fn of(layout: Option<&'static Layout>, tranches: Tranches) -> Self {
        let names = layout.and_then(|l| l.wait_events.get());
        WaitEvents {
            names: names.copied().unwrap_or_default(),
            tranches,
            tags: layout
                .and_then(|l| l.lock_table.get())
                .map_or(&[], |table| table.tags),
        }
    }

    /// The names of LWLocks.
    pub fn tranches(&self) -> &Tranches {
        &self.tranches
    }

    /// What `wait_event_info` says; none where it says that nothing is waited for.
    pub fn describe(&self, info: u32) -> Option<Wait> {
        if info == 0 {
            return None;
        }
        let (id, number) = (info >> 24, info as u16);
        let class = name_of_class(id);
        // Waits for a pinned buffer have one event, and extensions one that all share (wait_event.c; 12 and 13: pgstat.c).
        let event = match id {
            class::LWLOCK => self.tranches.waited_for(number),
            class::LOCK => self.tags.get(usize::from(number)).copied(),
            class::BUFFER_PIN => class,
            class::EXTENSION if number == 0 => class,
            _ => {
                let of_class = self.names.iter().find(|(name, _)| Some(*name) == class);
                of_class.and_then(|(_, names)| names.get(usize::from(number)).copied())
            }
        };
        Some(Wait {
            class: class.map(str::to_owned),
            event: event.map(str::to_owned),
            info,
        })
    }
}

/// `wait_event_type` (src/include/utils/wait_event.h; 17 and later: wait_event_types.h, wait_classes.h).
fn name_of_class(id: u32) -> Option<&'static str> {
    Some(match id {
        class::LWLOCK => "LWLock",
        class::LOCK => "Lock",
        class::BUFFER_PIN => "BufferPin",
        0x05 => "Activity",
        class::CLIENT => "Client",
        class::EXTENSION => "Extension",
        0x08 => "IPC",
        class::TIMEOUT => "Timeout",
        0x0a => "IO",
        0x0b => "InjectionPoint",
        _ => return None,
    })
}

impl Wait {
    /// As people write it: `Client:ClientRead`. What has no name has its number.
    pub fn text(&self) -> String {
        let class = self.class.clone();
        let class = class.unwrap_or_else(|| format!("class {:#04x}", self.info >> 24));
        match &self.event {
            // There is but one.
            Some(event) if *event == class => class,
            Some(event) => format!("{class}:{event}"),
            None => format!("{class}:#{}", self.info as u16),
        }
    }

    /// Whether it is of this class.
    pub fn is_of(&self, class: u32) -> bool {
        self.info >> 24 == class
    }

    /// Whether it is this event, by name.
    pub fn is(&self, event: &str) -> bool {
        self.event.as_deref() == Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(major: u32, info: u32) -> Option<String> {
        let layout = Layout::of_major(major);
        let events = WaitEvents::of(layout, Tranches::built_in(layout));
        events.describe(info).map(|w| w.text())
    }

    #[test]
    fn names_of_every_version() {
        for major in 12..=18 {
            assert_eq!(
                text(major, 0x0600_0000).as_deref(),
                Some("Client:ClientRead")
            );
            assert_eq!(
                text(major, 0x0600_0001).as_deref(),
                Some("Client:ClientWrite")
            );
            assert_eq!(text(major, 0x0400_0000).as_deref(), Some("BufferPin"));
            assert_eq!(text(major, 0x0700_0000).as_deref(), Some("Extension"));
            assert_eq!(text(major, 0x0300_0000).as_deref(), Some("Lock:relation"));
        }
        assert_eq!(text(15, 0x0900_0002).as_deref(), Some("Timeout:PgSleep"));
        assert_eq!(text(12, 0x0900_0001).as_deref(), Some("Timeout:PgSleep"));
        let newest = text(18, 0x0800_0039);
        assert_eq!(newest.as_deref(), Some("IPC:WalReceiverUpstreamCatchup"));
        let lwlock = text(15, 0x0100_0015);
        assert_eq!(lwlock.as_deref(), Some("LWLock:AddinShmemInit"));
        assert_eq!(text(15, 0), None);
    }

    #[test]
    fn what_has_no_name_has_its_number() {
        assert_eq!(text(15, 0x0700_0003).as_deref(), Some("Extension:#3"));
        // As the server has it for what only another process has registered.
        assert_eq!(text(15, 0x0100_ffff).as_deref(), Some("LWLock:extension"));
        assert_eq!(text(11, 0x0100_ffff).as_deref(), Some("LWLock:#65535"));
        assert_eq!(text(15, 0x0a00_ffff).as_deref(), Some("IO:#65535"));
        assert_eq!(text(15, 0xee00_0001).as_deref(), Some("class 0xee:#1"));
        assert_eq!(text(11, 0x0600_0000).as_deref(), Some("Client:#0"));
    }
}
