//! Everything that knows a processor, one folder for each, with the same file names.
//!
//! All of them are compiled and tested on every host, since an image may be made for another processor than the one
//! that we run on. Which one reads an image's machine code is chosen by the image ([`of_machine`]). Only what is made of
//! ptrace's registers is for one host ([`host`]).

pub mod aarch64;
pub mod x86_64;

use std::collections::{BTreeMap, BTreeSet};

use crate::address::{Avma, Svma};
use crate::memory::Memory;

/// The processor that this build of pgpoke runs on, and traces.
#[cfg(target_arch = "x86_64")]
pub use x86_64 as host;

use x86_64::spinlocks::Spinlocks;

/// EM_X86_64 and EM_AARCH64 (the System V ABI's registry of `e_machine`).
pub(crate) const EM_X86_64: u16 = 62;
pub(crate) const EM_AARCH64: u16 = 183;

/// A processor: its registers, and what its ABI and the kernel say of them.
pub trait Processor: MachineCode {
    /// What its images have for `e_machine`.
    fn e_machine(&self) -> u16;

    /// Its registers in call-frame information.
    fn call_frames(&self) -> &'static CallFrames;

    /// The registers of a thread, from its register set NT_PRSTATUS. None where that has another size.
    fn registers_in(&self, prstatus: &[u8]) -> Option<UnwindRegisters>;

    /// Where the kernel's `struct ucontext` has what, from its start.
    fn ucontext(&self) -> &'static Ucontext;

    /// Whether a signal frame that saves the program counter `saved` is one that the kernel built for a thread that stood at
    /// `ip`. The kernel moves the program counter of one that is `in_call` for the call to be made again, or to end with
    /// EINTR.
    fn saves(&self, saved: Avma, ip: Avma, in_call: bool, memory: &dyn Memory) -> bool;

    /// The name of system call `number`.
    fn syscall_name(&self, number: i64) -> Option<&'static str>;

    /// The number of the call that restart_syscall(2) goes on with, for a thread that it returns to at `ip`.
    fn restarted(&self, memory: &dyn Memory, ip: Avma) -> Option<i64>;

    /// What is its own in core files.
    fn core_file(&self) -> &'static CoreFile;
}

/// Room for the registers of any processor that an unwinder keeps.
pub const MOST_REGISTERS: usize = 33;

/// Registers by their numbers in call-frame information.
#[derive(Debug, PartialEq, Eq)]
pub struct CallFrames {
    /// How many an unwinder keeps.
    pub registers: usize,
    /// The stack pointer.
    pub sp: u16,
    /// The frame pointer.
    pub fp: u16,
    /// The column of the return address.
    pub return_address: u16,
    /// Where an unwinder keeps the program counter: in the return address's column, or in one of its own, which no rule
    /// sets.
    pub pc: u16,
    /// Whether no rule for the return address means that a function has left it where it was: in a register. Else there
    /// has to be one.
    pub leaf: bool,
    /// Those that a function may change without restoring them.
    pub volatile: &'static [u16],
    /// How far above a frame record, {caller's frame pointer, return address}, its caller's stack pointer is; none where only
    /// call-frame information tells.
    pub above_record: Option<u64>,
    /// Whose extensions of call-frame information its compilers use.
    pub vendor: gimli::Vendor,
}

/// The registers that unwinding needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnwindRegisters {
    /// Whose.
    pub of: &'static CallFrames,
    /// By their numbers in call-frame information.
    pub values: [u64; MOST_REGISTERS],
}

impl UnwindRegisters {
    /// All with this value.
    pub fn filled(of: &'static CallFrames, value: u64) -> Self {
        UnwindRegisters {
            of,
            values: [value; MOST_REGISTERS],
        }
    }

    /// Those, in the order of their numbers; more than there are of are left out, and what is missing is 0.
    pub fn new(of: &'static CallFrames, values: impl IntoIterator<Item = u64>) -> Self {
        let mut all = UnwindRegisters::filled(of, 0);
        let slots = all.values.iter_mut().take(of.registers);
        slots.zip(values).for_each(|(slot, value)| *slot = value);
        all
    }

    /// The same, at another instruction.
    pub fn at(mut self, pc: Avma) -> Self {
        self.values[usize::from(self.of.pc)] = pc.0;
        self
    }
}

/// Where the kernel's `struct ucontext` has what, in bytes from its start.
#[derive(Debug, PartialEq, Eq)]
pub struct Ucontext {
    /// The alternate signal stack in force: its address, and 16 bytes on, its size.
    pub stack: i64,
    /// The interrupted stack pointer.
    pub sp: i64,
    /// The interrupted program counter.
    pub pc: i64,
}

/// Where the parts of a signal frame lie.
#[derive(Clone, Copy, Debug)]
pub struct SignalFrame {
    /// The siginfo: 128 bytes that only the handler reads. The kernel does not look at them again.
    pub siginfo: Avma,
    /// The `struct ucontext`, and what is where in it.
    pub ucontext: (Avma, &'static Ucontext),
}

impl SignalFrame {
    /// Where the interrupted program counter is kept.
    pub fn saved_ip(&self) -> Avma {
        self.ucontext.0.offset(self.ucontext.1.pc)
    }

    /// Where the interrupted stack pointer is kept.
    pub fn saved_sp(&self) -> Avma {
        self.ucontext.0.offset(self.ucontext.1.sp)
    }

    /// Where the alternate signal stack in force is described: its address, and 16 bytes on, its size.
    pub fn alternate_stack(&self) -> Avma {
        self.ucontext.0.offset(self.ucontext.1.stack)
    }
}

/// What is a processor's own in core files (`struct elf_prstatus`, include/linux/elfcore.h), in bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct CoreFile {
    /// The size of the note NT_PRSTATUS.
    pub prstatus: usize,
    /// Where the general registers are in it.
    pub registers: usize,
    /// Where it says that there is a note NT_PRFPREG, too; right behind the registers.
    pub has_floating: usize,
    /// The types of the register sets that come after NT_PRFPREG (`<elf.h>`).
    pub more_sets: &'static [u32],
}

/// A register set as it goes into a core file.
#[derive(Debug, PartialEq, Eq)]
pub struct Known {
    /// The set.
    pub set: Vec<u8>,
    /// Its components that were in use and are not there, a bit for each.
    pub left_out: u64,
}

impl Known {
    /// As the kernel gives it.
    pub(crate) fn whole(set: &[u8]) -> Self {
        Known {
            set: set.to_vec(),
            left_out: 0,
        }
    }
}

/// What machine code is asked. None: it cannot be read, or does not say. That is never an answer that something passes on.
///
/// `code` are always bytes of an image, and `start` or `at` is where the image's file wants the first of them.
pub trait MachineCode: std::fmt::Debug + Sync {
    /// What the function with this `code` at `start` does with spinlocks.
    fn spinlocks(&self, _code: &[u8], _start: Svma) -> Option<Spinlocks> {
        None
    }

    /// Where the function with this `code` at `start` leads to elsewhere.
    fn ways(&self, _code: &[u8], _start: Svma) -> Option<Ways> {
        None
    }

    /// Which of the spinlocks that are left to the function with this `code` at `start` it can leave to its own caller.
    /// `left` has the instructions that call, each with what it may leave.
    fn passed_on(&self, _code: &[u8], _start: Svma, _left: &[(Svma, Left)]) -> Option<Left> {
        None
    }

    /// Where in `code` there may be an instruction that takes a spinlock: offsets into it, none left out.
    fn may_take_spinlocks(&self, _code: &[u8]) -> Option<Vec<usize>> {
        None
    }

    /// The constants among the first four arguments of the call that returns to `returns_to`, in the function with this
    /// `code` at `start`, where nothing else can have set them: no jump in `all_code`, the image's, at `all_start`, leads
    /// between. None where that cannot be told.
    fn constant_arguments(
        &self,
        _code: &[u8],
        _start: Svma,
        _returns_to: Svma,
        _all_code: &[u8],
        _all_start: Svma,
    ) -> Option<[Option<u64>; 4]> {
        None
    }

    /// Where `__errno_location`, whose bytes at `at` are `code`, finds `errno`.
    fn errno_location(&self, _code: &[u8], _at: Avma) -> Option<ErrnoAt> {
        None
    }

    /// What a function does with static variables, and where it goes, in the order of its instructions, up to the first
    /// byte that begins none.
    fn deeds(&self, _code: &[u8], _start: Svma) -> Option<Vec<Deed>> {
        None
    }

    /// The addresses of code and data that a function has from nowhere else than its own instructions.
    fn addresses_taken(&self, _code: &[u8], _start: Svma) -> Option<Vec<Svma>> {
        None
    }

    /// The static array of pointers to functions out of which a function calls one, if it looks at the static variable at
    /// `looks_at`, too.
    fn array_called(&self, _code: &[u8], _start: Svma, _looks_at: Svma) -> Option<Svma> {
        None
    }

    /// The slot of the global offset table through which the call goes that returns to `to`. `code` reads up to so many
    /// bytes of code from an address on.
    fn slot_called_before(
        &self,
        _to: Svma,
        _code: &dyn Fn(Svma, u64) -> Option<Vec<u8>>,
    ) -> Option<Svma> {
        None
    }

    /// The stubs in a procedure linkage table.
    fn stubs(&self, _code: &[u8], _start: Svma) -> Option<Vec<StubStart>> {
        None
    }

    /// The types of relocations that fill a slot of the global offset table with the address of a symbol.
    fn relocations_by_name(&self) -> &'static [u32] {
        &[]
    }

    /// What in an image's whole `code` refers to one of the `functions`; `absolute` where its addresses are those that it
    /// will be loaded at. All references have to be among what is found.
    fn references(
        &self,
        _code: &[u8],
        _start: Svma,
        _functions: &BTreeSet<u64>,
        _absolute: bool,
    ) -> Option<BTreeMap<u64, References>> {
        None
    }
}

/// What one instruction does, as far as it matters to those who look for static variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// It reads or writes a static variable.
    Uses(Use),
    /// It takes the address of a static variable or a function.
    Takes(Svma),
    /// It adds one to a register.
    Increments,
    /// It calls a function, or jumps to it for good, at this address.
    Goes(Svma),
    /// It returns.
    Returns,
}

/// The use of a static variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// Where the variable is.
    pub at: Svma,
    /// How many bytes of it are used; 0 for what is no plain number of 1, 4 or 8 bytes.
    pub size: usize,
    /// What for.
    pub how: How,
    /// The constant that comes with it, such as what it is compared with, as 32 bits.
    pub constant: Option<u64>,
}

/// What a static variable is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It is read into a register.
    Load,
    /// It is overwritten.
    Store,
    /// It is compared with something.
    Compare,
    /// Anything else.
    Other,
}

/// A stub through which another image's function is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StubStart {
    /// Its first instruction.
    pub at: Svma,
    /// The slot of the global offset table that it jumps through.
    pub slot: Svma,
}

/// What refers to one function.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Where it is called or jumped to.
    pub sites: Vec<u64>,
    /// Its address is taken.
    pub taken: bool,
    /// There are more than were noted.
    pub incomplete: bool,
}

/// Where a function leads to elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ways {
    /// Its calls, and its jumps out of itself, in the order of its instructions. Calls through a pointer that is no slot at
    /// a known place are left out.
    pub out: Vec<Way>,
    /// It has a jump that may lead anywhere: through a table of its own, or to a function by its address.
    pub jumps_anywhere: bool,
    /// It may take a spinlock.
    pub takes_lock: bool,
}

/// One way out of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The instruction.
    pub site: Svma,
    /// Where to.
    pub to: To,
    /// A call; otherwise it goes there for good.
    pub comes_back: bool,
}

/// Where a way leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// To this address.
    At(Svma),
    /// To the address that is kept at this one: in the global offset table, as a rule.
    Through(Svma),
}

/// Which kinds of spinlocks may be left held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Left {
    /// A `slock_t` (src/include/storage/s_lock.h).
    pub plain: bool,
    /// The lock in the header of a buffer, which LockBufHdr() takes (src/include/storage/buf_internals.h).
    pub header: bool,
    /// One of them, by a jump that may lead anywhere.
    pub anywhere: bool,
}

impl Left {
    /// Both together.
    pub fn and(self, other: Left) -> Left {
        Left {
            plain: self.plain || other.plain,
            header: self.header || other.header,
            anywhere: self.anywhere || other.anywhere,
        }
    }

    /// Whether none is.
    pub fn is_none(self) -> bool {
        self == Left::default()
    }
}

/// Where `errno` is, from the thread pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrnoAt {
    /// At this offset.
    Offset(i64),
    /// At the offset that is kept at this address, a slot of the global offset table.
    OffsetKeptAt(Avma),
}

/// A processor whose code nobody here can read.
#[derive(Debug)]
struct Unknown;

impl MachineCode for Unknown {}

/// Who reads the code of an image for this `e_machine`.
pub fn of_machine(e_machine: u16) -> &'static dyn MachineCode {
    match e_machine {
        EM_X86_64 => &x86_64::X86_64,
        EM_AARCH64 => &aarch64::AArch64,
        _ => &Unknown,
    }
}

/// What is known of the processor that an image is for. None for one that nobody here knows.
pub fn processor_of(e_machine: u16) -> Option<&'static dyn Processor> {
    let all: [&'static dyn Processor; 2] = [&x86_64::X86_64, &aarch64::AArch64];
    all.into_iter().find(|p| p.e_machine() == e_machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_register_has_its_place() {
        for machine in [EM_X86_64, EM_AARCH64] {
            let frames = processor_of(machine).unwrap().call_frames();
            assert!(frames.registers <= MOST_REGISTERS);
            let named = [frames.sp, frames.fp, frames.return_address, frames.pc];
            for number in named.iter().chain(frames.volatile) {
                assert!(usize::from(*number) < frames.registers, "{number}");
            }
            for kept in [frames.sp, frames.fp] {
                assert!(!frames.volatile.contains(&kept));
            }
            assert_eq!(frames.leaf, frames.pc != frames.return_address);
        }
        assert!(processor_of(3).is_none());
    }

    /// LWLockHeldByMe() of PostgreSQL 15 as Debian ships it for AArch64, at 0x420b60.
    const HELD: [u32; 18] = [
        0xf000_2341,
        0x910c_a021,
        0xb940_3423,
        0x7100_007f,
        0x5400_018d,
        0x9100_e021,
        0x8b23_d023,
        0x1400_0003,
        0xeb03_003f,
        0x5400_00e0,
        0xf940_0022,
        0x9100_4021,
        0xeb00_005f,
        0x54ff_ff61,
        0x5280_0020,
        0xd65f_03c0,
        0x5280_0000,
        0xd65f_03c0,
    ];

    #[test]
    fn what_cannot_be_read_has_no_answer() {
        let code: Vec<u8> = HELD.iter().flat_map(|w| w.to_le_bytes()).collect();
        let start = Svma(0x42_0b60);
        let functions = BTreeSet::from([start.0]);
        let read = |at: Svma, size: u64| {
            let from = usize::try_from(at.0.checked_sub(start.0)?).ok()?;
            Some(
                code.get(from..)?
                    .iter()
                    .copied()
                    .take(size as usize)
                    .collect(),
            )
        };
        let answers = |machine| {
            let machine = of_machine(machine);
            [
                machine.spinlocks(&code, start).is_some(),
                machine.errno_location(&code, Avma(start.0)).is_some(),
                machine.deeds(&code, start).is_some(),
                machine.addresses_taken(&code, start).is_some(),
                machine.array_called(&code, start, start).is_some(),
                machine
                    .slot_called_before(Svma(start.0 + 8), &read)
                    .is_some(),
                machine.stubs(&code, start).is_some(),
                machine.references(&code, start, &functions, true).is_some(),
            ]
        };
        assert_eq!(answers(EM_AARCH64), [false; 8]);
        assert_eq!(answers(243), [false; 8]);
        // What x86-64's reader would say of it: nothing is done here, and no lock is taken.
        assert!(answers(EM_X86_64)[0] && answers(EM_X86_64)[2]);
    }

    #[test]
    fn a_core_file_has_room_for_all_registers() {
        for machine in [EM_X86_64, EM_AARCH64] {
            let processor = processor_of(machine).unwrap();
            let core = processor.core_file();
            let general = vec![0; core.has_floating - core.registers];
            assert!(processor.registers_in(&general).is_some());
            assert!(processor.registers_in(&general[1..]).is_none());
            assert_eq!(core.prstatus, core.has_floating + 8);
        }
    }

    #[test]
    fn code_of_another_processor_is_not_read() {
        let take = [0xf0, 0x86, 0x07, 0xc3]; // lock xchg %al,(%rdi); ret
        let spinlocks = |machine| of_machine(machine).spinlocks(&take, Svma(0));
        assert!(spinlocks(EM_X86_64).is_some_and(|s| s.are_left_held()));
        // EM_386 and EM_RISCV beside that of AArch64.
        for machine in [0, 3, EM_AARCH64, 243, u16::MAX] {
            assert!(spinlocks(machine).is_none(), "{machine}");
        }
    }
}
