//! Frames from registers, memory and call-frame information.
//!
//! Works on copies, so it runs after the backend does again; and, with images that were loaded before, also while
//! a backend stands still, without opening or reading a file. Every frame says how it was found, and a stack is
//! complete only when its root was reached by the rules: a guess is never passed off as knowledge.

mod cfi;
pub mod variables;

use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::address::Avma;
use crate::arch::{CallFrames, MOST_REGISTERS, UnwindRegisters};
use crate::image::{AddressSpace, ModuleKind};
use crate::memory::Memory;
pub use cfi::CfiError;

/// No more frames than these are followed. PostgreSQL's own stack depth limit ends a recursion far earlier.
pub const MOST_FRAMES: usize = 20_000;

/// How a frame was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "found_by")]
#[serde(rename_all = "kebab-case")]
pub enum FoundBy {
    /// It is the innermost one: its registers are the thread's own.
    Context,
    /// By the call-frame information of the frame inside it.
    Cfi,
    /// By the chain of frame pointers: a good guess, no more.
    FramePointer,
}

/// A frame's address and how it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawFrame {
    /// The program counter, or for callers the return address.
    pub ip: Avma,
    /// The canonical frame address: the stack pointer before the call to this frame's function. Zero where unknown.
    pub cfa: Avma,
    /// How it was found.
    pub found_by: FoundBy,
    /// The frame that the kernel builds to run a signal handler; its caller was interrupted, it did not call.
    pub signal_frame: bool,
    /// The address is where execution stands, not a return address.
    pub exact: bool,
    /// Call-frame information says that an exception, or a jump across this frame, has something to clean up there.
    pub has_cleanup: bool,
    /// The function by its call-frame information: its first address, and its size in bytes.
    pub function: Option<(Avma, u64)>,
}

impl RawFrame {
    /// An address inside the calling instruction, to look names and rules up by.
    pub fn lookup_address(&self) -> Avma {
        if self.exact {
            self.ip
        } else {
            self.ip.offset(-1)
        }
    }
}

/// Why a stack ended where it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StackEnd {
    /// At its root: the call-frame information says that nothing called this function.
    Root,
    /// At the server's `main()`: start-up code without call-frame information called it. musl's has none; it calls
    /// `main()`, and after that nothing but `exit()` (musl 1.2, src/env/__libc_start_main.c).
    Main,
    /// No call-frame information covers this address.
    NoUnwindInfo,
    /// The image at this address was not loaded yet; load it and look again.
    ImageNotLoaded,
    /// The call-frame information makes no sense, or is of a kind that is not understood.
    BadUnwindInfo,
    /// The stack's bytes that were needed were not captured or are not there.
    UnreadableStack,
    /// A caller's frame would lie inside its callee's: a loop, or a damaged stack.
    NotGrowing,
    /// More frames, or more call-frame information, than is followed.
    TooDeep,
    /// It was left off, so that the backend does not stand still for too long.
    OutOfTime,
}

/// An unwound stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawStack {
    /// Innermost first.
    pub frames: Vec<RawFrame>,
    /// Why it ends.
    pub end: StackEnd,
}

impl RawStack {
    /// Whether every frame up to the root is known for sure.
    pub fn is_complete(&self) -> bool {
        matches!(self.end, StackEnd::Root | StackEnd::Main)
            && self
                .frames
                .iter()
                .all(|f| f.found_by != FoundBy::FramePointer)
    }
}

/// Unwinds from `registers` with the images that `space` has loaded. Opens nothing.
pub fn unwind(registers: &UnwindRegisters, memory: &dyn Memory, space: &AddressSpace) -> RawStack {
    unwind_until(None, registers, memory, space)
}

/// The same, leaving off at `give_up`.
pub fn unwind_until(
    give_up: Option<Instant>,
    registers: &UnwindRegisters,
    memory: &dyn Memory,
    space: &AddressSpace,
) -> RawStack {
    walk(give_up, registers, memory, space, |_| ())
}

/// The same, showing the registers of each frame to `visit`, innermost first.
fn walk(
    give_up: Option<Instant>,
    registers: &UnwindRegisters,
    memory: &dyn Memory,
    space: &AddressSpace,
    mut visit: impl FnMut(&Registers),
) -> RawStack {
    let numbers = registers.of;
    let mut unwinder = cfi::Unwinder::default();
    let mut here = Registers::all(registers);
    let mut frames: Vec<RawFrame> = Vec::with_capacity(64);
    let mut found_by = FoundBy::Context;
    let mut exact = true;
    let end = loop {
        let ip = Avma(here.get(numbers.pc).unwrap_or(0));
        if frames.len() == MOST_FRAMES {
            break StackEnd::TooDeep;
        }
        if give_up.is_some_and(|at| Instant::now() >= at) {
            break StackEnd::OutOfTime;
        }
        let mut frame = RawFrame {
            ip,
            cfa: Avma(0),
            found_by,
            signal_frame: false,
            exact,
            has_cleanup: false,
            function: None,
        };
        visit(&here);
        let step = unwinder.step(frame.lookup_address(), exact, &here, memory, space);
        match step {
            Ok(step) => {
                frame.cfa = step.cfa;
                frame.signal_frame = step.signal_frame;
                // Nothing called from there: the handler returns to its very start, which only call-frame
                // information takes for one byte more (glibc, sysdeps/unix/sysv/linux/x86_64/libc_sigaction.c).
                frame.exact |= step.signal_frame;
                frame.has_cleanup = step.has_cleanup;
                frame.function = Some(step.function);
                frames.push(frame);
                let Some(next) = step.caller else {
                    break StackEnd::Root;
                };
                // A caller's frame lies above its callee's, except across a signal frame, which may be on
                // another stack; there the cap on frames ends a loop.
                let sp = here.get(numbers.sp).unwrap_or(0);
                // What was interrupted may have nothing on the stack, where its return address is in a register.
                let nothing = numbers.leaf && exact && step.cfa.0 == sp;
                if !step.signal_frame && step.cfa.0 <= sp && !nothing && frames.len() > 1 {
                    break StackEnd::NotGrowing;
                }
                exact = step.signal_frame;
                found_by = FoundBy::Cfi;
                here = next;
            }
            Err(why) => {
                frames.push(frame);
                if why == CfiError::NoUnwindInfo && has_called_main(&frames, space) {
                    break StackEnd::Main;
                }
                // Where nothing else is to be had, the frame-pointer chain is followed for the reader's sake;
                // it never makes a stack complete.
                let guess = (why == CfiError::NoUnwindInfo && frames.len() < MOST_FRAMES)
                    .then(|| follow_frame_pointer(&here, memory, space))
                    .flatten();
                match guess {
                    Some(next) => {
                        exact = false;
                        found_by = FoundBy::FramePointer;
                        here = next;
                    }
                    None => break why.into(),
                }
            }
        }
    };
    RawStack { frames, end }
}

/// Whether the outermost frame is start-up code, the C library's or the executable's own, that called the `main()` of the
/// server's executable, by call-frame information all the way.
fn has_called_main(frames: &[RawFrame], space: &AddressSpace) -> bool {
    let [known @ .., start_up] = frames else {
        return false;
    };
    let Some(main) = known.last() else {
        return false;
    };
    let kind = |f: &RawFrame| space.loaded_at(f.lookup_address()).map(|m| m.kind);
    let guessed = |f: &RawFrame| f.found_by == FoundBy::FramePointer;
    let called = !start_up.exact && !frames.iter().any(guessed);
    called
        && matches!(kind(start_up), Some(ModuleKind::Libc | ModuleKind::Server))
        && is_main(main, space)
}

fn is_main(frame: &RawFrame, space: &AddressSpace) -> bool {
    let Some((start, _)) = frame.function else {
        return false;
    };
    let Some(module) = space.loaded_at(start) else {
        return false;
    };
    let start = module.to_svma(start);
    let mut names = module.image.symbols().functions_at(start);
    module.kind == ModuleKind::Server
        && !frame.signal_frame
        && names.any(|s| s.name == "main" && s.start == start)
}

/// The caller by the frame record that the frame pointer points to, if what lies there looks like one: further up, and with
/// a return address into executable memory.
fn follow_frame_pointer(
    here: &Registers,
    memory: &dyn Memory,
    space: &AddressSpace,
) -> Option<Registers> {
    let numbers = here.of;
    let fp = here.get(numbers.fp)?;
    let sp = here.get(numbers.sp)?;
    if fp <= sp || fp % 8 != 0 {
        return None;
    }
    let caller_fp = memory.read_u64(Avma(fp)).ok()?;
    let return_address = memory.read_u64(Avma(fp.wrapping_add(8))).ok()?;
    if !space.mapping_at(Avma(return_address))?.executable {
        return None;
    }
    let mut caller = Registers::none(numbers);
    caller.set(numbers.fp, caller_fp);
    caller.set(numbers.pc, return_address);
    if let Some(above) = numbers.above_record {
        caller.set(numbers.sp, fp.wrapping_add(above));
    }
    Some(caller)
}

impl From<CfiError> for StackEnd {
    fn from(e: CfiError) -> Self {
        match e {
            CfiError::NoUnwindInfo => StackEnd::NoUnwindInfo,
            CfiError::ImageNotLoaded => StackEnd::ImageNotLoaded,
            CfiError::Bad => StackEnd::BadUnwindInfo,
            CfiError::Unreadable => StackEnd::UnreadableStack,
            CfiError::TooMuch => StackEnd::TooDeep,
        }
    }
}

/// The registers of one frame, as far as they are known there.
#[derive(Debug, Clone, Copy)]
struct Registers {
    of: &'static CallFrames,
    values: [u64; MOST_REGISTERS],
    known: u64,
    /// Those that are known, or that only some function further in may have changed.
    kept: u64,
}

impl Registers {
    fn all(registers: &UnwindRegisters) -> Self {
        let all = (1 << registers.of.registers) - 1;
        Registers {
            of: registers.of,
            values: registers.values,
            known: all,
            kept: all,
        }
    }

    fn none(of: &'static CallFrames) -> Self {
        Registers {
            of,
            values: [0; MOST_REGISTERS],
            known: 0,
            kept: 0,
        }
    }

    fn get(&self, number: u16) -> Option<u64> {
        let value = *self.values.get(usize::from(number))?;
        (self.known >> number & 1 == 1).then_some(value)
    }

    /// The same of a register that functions further in may change, for someone who has it from the compiler that none did.
    fn get_if_kept(&self, number: u16) -> Option<u64> {
        let value = *self.values.get(usize::from(number))?;
        (self.kept >> number & 1 == 1).then_some(value)
    }

    fn set(&mut self, number: u16, value: u64) {
        if usize::from(number) < self.of.registers {
            self.values[usize::from(number)] = value;
            self.known |= 1 << number;
            self.kept |= 1 << number;
        }
    }

    fn forget(&mut self, number: u16) {
        if usize::from(number) < self.of.registers {
            self.known &= !(1 << number);
            self.kept &= !(1 << number);
        }
    }

    /// No longer known in a caller, unless it is known to be kept.
    fn doubt(&mut self, number: u16) {
        if usize::from(number) < self.of.registers {
            self.known &= !(1 << number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    use crate::arch::host::PROCESSOR;
    use crate::arch::{EM_AARCH64, Processor, processor_of};
    use crate::image::Image;
    use crate::memory::{CapturedMemory, ProcessMemory};
    use crate::process::Process;

    /// A generator of any numbers, the same ones each time (xorshift64).
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }
    }

    #[test]
    fn any_registers_and_any_stack_come_to_an_end() {
        let me = Process::open(std::process::id() as i32).unwrap();
        let space = AddressSpace::read(&me).unwrap();
        let live = ProcessMemory::open(me.pid());
        let code: Vec<_> = space
            .mappings()
            .iter()
            .filter(|m| m.executable)
            .cloned()
            .collect();
        for mapping in &code {
            space.load_at(mapping.start, &live);
        }
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let somewhere = |numbers: &mut Numbers| {
            let m = &code[numbers.next() as usize % code.len()];
            m.start.0 + numbers.next() % (m.end.0 - m.start.0)
        };
        const STACK: u64 = 0x7000_0000_0000;
        let mut deepest = 0;
        for _ in 0..3_000 {
            // A stack of return addresses, pointers into itself, and anything at all.
            let mut stack = CapturedMemory::default();
            let words: Vec<u8> = (0..512)
                .flat_map(|_| {
                    match numbers.next() % 3 {
                        0 => somewhere(&mut numbers),
                        1 => STACK + numbers.next() % 4096,
                        _ => numbers.next(),
                    }
                    .to_le_bytes()
                })
                .collect();
            stack.add(Avma(STACK), words);
            let mut registers = UnwindRegisters::filled(PROCESSOR.call_frames(), 0);
            for register in &mut registers.values {
                *register = (STACK + numbers.next() % 4096) & !7;
            }
            let registers = registers.at(Avma(somewhere(&mut numbers)));
            let found = unwind(&registers, &stack, &space);
            assert!(!found.frames.is_empty() && found.frames.len() <= MOST_FRAMES);
            deepest = deepest.max(found.frames.len());
        }
        assert!(deepest > 3, "no stack was followed at all");
    }

    /// `.eh_frame` at 0x2000 of a program for AArch64, as its assembler and linker made it: `_start` at 0x4000 (x30 is
    /// undefined) calls `outer` at 0x400c, which signs its return address, keeps x29, x30 and x19 in 32 bytes, and calls
    /// `leaf` at 0x4030, which has nothing on the stack.
    const EH_FRAME_OF_AARCH64: [u8; 124] = [
        0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x7a, 0x52, 0x00, 0x04, 0x78, 0x1e,
        0x01, 0x1b, 0x0c, 0x1f, 0x00, 0x07, 0x1e, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x1c, 0x00,
        0x00, 0x00, 0xe0, 0x1f, 0x00, 0x00, 0x0c, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10,
        0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x7a, 0x52, 0x00, 0x04, 0x78, 0x1e, 0x01,
        0x1b, 0x0c, 0x1f, 0x00, 0x24, 0x00, 0x00, 0x00, 0x18, 0x00, 0x00, 0x00, 0xc4, 0x1f, 0x00,
        0x00, 0x24, 0x00, 0x00, 0x00, 0x00, 0x41, 0x2d, 0x41, 0x0e, 0x20, 0x9d, 0x04, 0x9e, 0x03,
        0x42, 0x93, 0x02, 0x43, 0xde, 0xdd, 0xd3, 0x0e, 0x00, 0x41, 0x2d, 0x00, 0x00, 0x00, 0x10,
        0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0xc0, 0x1f, 0x00, 0x00, 0x08, 0x00, 0x00, 0x00,
        0x00, 0x00, 0x00, 0x00,
    ];

    #[test]
    fn a_stack_of_another_processor() {
        const STACK: u64 = 0x7000_0000_0000;
        const CODE: std::ops::Range<Avma> = Avma(0x4000)..Avma(0x4038);
        let image = Image::of_call_frames(EM_AARCH64, EH_FRAME_OF_AARCH64.to_vec(), None);
        let me = Process::open(std::process::id() as i32).unwrap();
        let space = AddressSpace::of_image(&me, CODE, Rc::new(image));
        let mut stack = CapturedMemory::default();
        // Of outer(): its caller's x29, where it returns to in _start, x19.
        let words = [STACK + 64, 0x4008, 19, 0];
        stack.add(
            Avma(STACK),
            words.into_iter().flat_map(u64::to_le_bytes).collect(),
        );
        let frames = processor_of(EM_AARCH64).unwrap().call_frames();
        let registers = |pc: u64, return_address: u64| {
            let mut all = UnwindRegisters::filled(frames, 7).at(Avma(pc));
            all.values[usize::from(frames.sp)] = STACK;
            all.values[usize::from(frames.return_address)] = return_address;
            all
        };
        let mut seen = Vec::new();
        let found = walk(None, &registers(0x4030, 0x4020), &stack, &space, |r| {
            seen.push((r.get(frames.pc), r.get(frames.sp), r.get(19), r.get(0)));
        });
        assert_eq!(found.end, StackEnd::Root);
        assert!(found.is_complete());
        let expected = [
            (Some(0x4030), Some(STACK), Some(7), Some(7)),
            (Some(0x4020), Some(STACK), Some(7), None),
            (Some(0x4008), Some(STACK + 32), Some(19), None),
        ];
        assert_eq!(seen, expected);
        // One that has made a call has to keep its return address somewhere.
        let outer = unwind(&registers(0x4020, 0x4034), &stack, &space);
        assert_eq!(outer.end, StackEnd::Root, "kept on the stack");
        stack.add(Avma(STACK + 0x1000), vec![0; 64]);
        let mut called = registers(0x4030, 0x4036);
        called.values[usize::from(frames.sp)] = STACK + 0x1000;
        let found = unwind(&called, &stack, &space);
        assert_eq!(
            (found.frames.len(), found.end),
            (2, StackEnd::BadUnwindInfo)
        );
    }

    #[test]
    fn a_guess_never_completes_a_stack() {
        let frame = RawFrame {
            ip: Avma(1),
            cfa: Avma(0),
            found_by: FoundBy::Context,
            signal_frame: false,
            exact: true,
            has_cleanup: false,
            function: None,
        };
        let guessed = RawFrame {
            found_by: FoundBy::FramePointer,
            ..frame
        };
        let stack = |frames: Vec<RawFrame>, end| RawStack { frames, end };
        assert!(stack(vec![frame], StackEnd::Root).is_complete());
        assert!(stack(vec![frame], StackEnd::Main).is_complete());
        assert!(!stack(vec![frame, guessed], StackEnd::Main).is_complete());
        assert!(!stack(vec![frame, guessed], StackEnd::Root).is_complete());
        assert!(!stack(vec![frame], StackEnd::TooDeep).is_complete());
    }
}
