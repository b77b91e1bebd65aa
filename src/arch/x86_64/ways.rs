//! Where the code of one function leads to elsewhere.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, OpKind};

use crate::address::Svma;
use crate::arch::{To, Way, Ways};

/// Reads where the function with this `code` at `start` leads to. None where not all of it can be read.
pub fn read(code: &[u8], start: Svma) -> Option<Ways> {
    let end = start.0.checked_add(code.len() as u64)?;
    let own = start.0..end;
    let mut found = Ways::default();
    let mut decoder = Decoder::with_ip(64, code, start.0, DecoderOptions::NONE);
    let mut last = None;
    let mut here = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut here);
        if here.is_invalid() {
            return None;
        }
        found.takes_lock |= here.code() == Code::Xchg_rm8_r8 && here.op0_kind() == OpKind::Memory;
        let mut leads = |to, comes_back| {
            found.out.push(Way {
                site: Svma(here.ip()),
                to,
                comes_back,
            });
        };
        let through = || {
            let relative = here.is_ip_rel_memory_operand();
            relative.then(|| To::Through(Svma(here.ip_rel_memory_address())))
        };
        match here.flow_control() {
            FlowControl::Call => leads(To::At(Svma(here.near_branch_target())), true),
            FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                let target = here.near_branch_target();
                if !own.contains(&target) {
                    leads(To::At(Svma(target)), false);
                }
            }
            // Who is called through a register is not known; his address is taken.
            FlowControl::IndirectCall => {
                if let Some(to) = through() {
                    leads(to, true);
                }
            }
            FlowControl::IndirectBranch => match through() {
                Some(to) => leads(to, false),
                None => found.jumps_anywhere = true,
            },
            _ => {}
        }
        last = Some(here.flow_control());
    }
    // What follows a call at the end is never reached: that one does not come back.
    if matches!(
        last,
        Some(FlowControl::Next | FlowControl::ConditionalBranch)
    ) {
        found.out.push(Way {
            site: Svma(end - 1),
            to: To::At(Svma(end)),
            comes_back: false,
        });
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(code: &[u8]) -> Ways {
        read(code, Svma(0x1000)).expect("code")
    }

    #[test]
    fn calls_and_jumps_that_leave_the_function() {
        let code = [
            0xe8, 0xfb, 0x0f, 0, 0, // 0: call 0x2000
            0x74, 0x02, // 5: je 9
            0x74, 0x70, // 7: je 0x1079
            0xff, 0x15, 0xf1, 0x1f, 0, 0, // 9: call *0x3000(%rip)
            0xff, 0xd0, // 15: call *%rax
            0xff, 0x25, 0xe9, 0x2f, 0, 0, // 17: jmp *0x4000(%rip)
        ];
        let found = ways(&code);
        let all: Vec<_> = (found.out.iter())
            .map(|w| (w.site.0 - 0x1000, w.to, w.comes_back))
            .collect();
        let at = |at| To::At(Svma(at));
        let through = |at| To::Through(Svma(at));
        assert_eq!(
            all,
            [
                (0, at(0x2000), true),
                (7, at(0x1079), false),
                (9, through(0x3000), true),
                (17, through(0x4000), false),
            ]
        );
        assert!(!found.jumps_anywhere && !found.takes_lock);
    }

    #[test]
    fn what_is_not_known_is_said() {
        assert!(ways(&[0xff, 0xe0]).jumps_anywhere, "jmp *%rax");
        assert!(ways(&[0x3e, 0xff, 0xe0]).jumps_anywhere, "notrack");
        assert!(ways(&[0x86, 0x07, 0xc3]).takes_lock, "xchg %al,(%rdi)");
        assert_eq!(read(&[0x06], Svma(0)), None, "no instruction");
        assert_eq!(read(&[0xe8, 0, 0], Svma(0)), None, "half of one");
        assert_eq!(read(&[0x90], Svma(u64::MAX)), None);
    }

    #[test]
    fn code_may_run_on_into_what_follows() {
        let falls = |code: &[u8]| ways(code).out.last().map(|w| (w.to, w.comes_back));
        assert_eq!(falls(&[0x90]), Some((To::At(Svma(0x1001)), false)));
        assert_eq!(falls(&[0x74, 0xfe]), Some((To::At(Svma(0x1002)), false)));
        assert_eq!(falls(&[0xc3]), None, "ret");
        assert_eq!(falls(&[0xeb, 0xfe]), None, "jmp to itself");
        // call of what never comes back
        assert_eq!(
            falls(&[0xe8, 0, 0, 0, 0]),
            Some((To::At(Svma(0x1005)), true))
        );
    }
}
