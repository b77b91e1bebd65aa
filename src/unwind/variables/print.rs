//! Values as text, the way gdb prints them by default: people who read backtraces know it, and a test can hold it to gdb's.

use std::fmt::Write as _;

use super::content::{Content, State};
use super::dies::Die;
use super::types::{Member, Type, Types, is_signed};
use crate::address::Avma;
use crate::memory::Memory;

/// The most elements of an array, and the most characters of a string (gdb: `print elements`).
const MOST_ELEMENTS: usize = 200;
/// As many that are the same are said to be so many (gdb: `print repeats`).
const REPEATS: usize = 10;
/// Structures within structures (gdb: `print max-depth`).
const DEEPEST: usize = 20;
/// What is shown of a value that nobody here knows how to show.
pub const UNKNOWN: &str = "<of an unknown type>";
/// What a string in memory counts for, in entries.
const WORK_OF_READ: usize = 10;
/// The most text of one value, in bytes.
const LONGEST: usize = 8 << 10;

/// Prints values of one image's types.
pub struct Printer<'p, 's> {
    pub types: &'p Types<'s>,
    pub memory: &'p dyn Memory,
    /// What lies at an address: `symbol+offset`.
    pub symbol: &'p dyn Fn(Avma) -> Option<String>,
}

/// Text up to a length.
struct Out(String);

impl Out {
    fn push(&mut self, text: &str) {
        if self.is_full() {
            return;
        }
        self.0.push_str(text);
        if self.is_full() {
            let end = (0..=LONGEST).rev().find(|i| self.0.is_char_boundary(*i));
            self.0.truncate(end.unwrap_or(0));
            self.0.push_str("...");
        }
    }

    fn is_full(&self) -> bool {
        self.0.len() > LONGEST
    }
}

impl Printer<'_, '_> {
    /// The text of a value of that type.
    pub fn print(&self, of: &Die, content: &Content) -> String {
        let mut out = Out(String::new());
        match content.state() {
            // Nothing of it is to be had, whatever it consists of.
            Some(state @ (State::OptimizedOut | State::Synthetic)) => out.push(missing(state)),
            _ => self.value(&mut out, Some(of), content, 0, 0),
        }
        out.0
    }

    fn value(&self, out: &mut Out, of: Option<&Die>, content: &Content, at: usize, depth: usize) {
        if out.is_full() {
            return;
        }
        let Some((_, found)) = of.and_then(|of| self.types.bare(of)) else {
            return out.push(UNKNOWN);
        };
        let size = match &*found {
            Type::Base { size, .. }
            | Type::Pointer { size, .. }
            | Type::Reference { size, .. }
            | Type::Enumeration { size, .. } => *size,
            Type::Composite { members, .. } => {
                return self.composite(out, members, content, at, depth);
            }
            Type::Array { of, counts } => {
                return self.array(out, of.as_ref(), counts, content, at, depth);
            }
            _ => return out.push(UNKNOWN),
        };
        let bytes = usize::try_from(size)
            .map_err(|_| State::Unreadable)
            .and_then(|size| content.bytes(at, size));
        match bytes {
            Ok(bytes) => self.scalar(out, &found, bytes, depth),
            Err(state) => out.push(missing(state)),
        }
    }

    fn scalar(&self, out: &mut Out, of: &Type, bytes: &[u8], depth: usize) {
        match of {
            Type::Base { encoding, size, .. } if *encoding == gimli::DW_ATE_float => {
                out.push(&float(bytes, *size));
            }
            Type::Pointer { to, .. } => self.pointer(out, to.as_ref(), word(bytes)),
            Type::Reference { to, .. } => self.reference(out, to.as_ref(), word(bytes), depth),
            _ => self.number(out, of, bytes),
        }
    }

    /// Whole numbers and what is made of them.
    fn number(&self, out: &mut Out, of: &Type, bytes: &[u8]) {
        if bytes.is_empty() || bytes.len() > 16 {
            return out.push(UNKNOWN);
        }
        match of {
            Type::Base { encoding, size, .. } => {
                let value = integer(bytes, is_signed(*encoding));
                out.push(&base(*encoding, *size, value));
            }
            Type::Enumeration { names, signed, .. } => {
                out.push(&enumeration(names, integer(bytes, *signed)));
            }
            Type::Pointer { .. } => {
                let _ = write!(out.0, "{:#x}", word(bytes));
            }
            _ => out.push(UNKNOWN),
        }
    }

    fn pointer(&self, out: &mut Out, to: Option<&Die>, address: u64) {
        out.push(&format!("{address:#x}"));
        if address == 0 {
            return;
        }
        if let Some(symbol) = (self.symbol)(Avma(address)) {
            out.push(&format!(" <{symbol}>"));
        }
        if to.is_some_and(|to| self.is_text(to)) {
            out.push(" ");
            self.c_string(out, Avma(address));
        }
    }

    fn reference(&self, out: &mut Out, to: Option<&Die>, address: u64, depth: usize) {
        out.push(&format!("@{address:#x}"));
        let size = to.and_then(|to| self.types.size(to)).unwrap_or(0);
        let mut content = Content::new(size);
        let mut bytes = vec![0; content.len()];
        if size == 0 || depth >= DEEPEST {
            return;
        }
        out.push(": ");
        match self.memory.read(Avma(address), &mut bytes) {
            Ok(()) => content.put(0, &bytes),
            Err(_) => return out.push(missing(State::Unreadable)),
        }
        self.value(out, to, &content, 0, depth + 1);
    }

    /// Whether values of the type are characters: gdb takes every whole number of one byte for one.
    fn is_text(&self, of: &Die) -> bool {
        let found = self.types.bare(of);
        matches!(
            found.as_ref().map(|(_, found)| &**found),
            Some(Type::Base { size: 1, encoding, .. }) if *encoding != gimli::DW_ATE_boolean
        )
    }

    fn c_string(&self, out: &mut Out, address: Avma) {
        // One more, to know whether it goes on; and never across a page, since the next one may not be there.
        const PAGE: u64 = 4096;
        let mut bytes = Vec::new();
        let mut ended = false;
        while bytes.len() <= MOST_ELEMENTS && !ended {
            let here = address.offset(bytes.len() as i64);
            let to_page_end = (PAGE - here.0 % PAGE) as usize;
            let mut chunk = vec![0; to_page_end.min(MOST_ELEMENTS + 1 - bytes.len())];
            let read = self.types.take(WORK_OF_READ).is_some();
            if !read || self.memory.read(here, &mut chunk).is_err() {
                break;
            }
            let end = chunk.iter().position(|byte| *byte == 0);
            ended = end.is_some();
            bytes.extend_from_slice(&chunk[..end.unwrap_or(chunk.len())]);
        }
        let unreadable = address.offset(bytes.len() as i64);
        let goes_on = bytes.len() > MOST_ELEMENTS;
        bytes.truncate(MOST_ELEMENTS);
        let broken = !ended && !goes_on;
        if !(broken && bytes.is_empty()) {
            out.push(&text(&bytes, goes_on));
        }
        if broken {
            let space = if bytes.is_empty() { "" } else { " " };
            out.push(&format!(
                "{space}<error: Cannot access memory at address {unreadable}>"
            ));
        }
    }

    fn composite(
        &self,
        out: &mut Out,
        members: &[Member],
        content: &Content,
        at: usize,
        depth: usize,
    ) {
        if depth >= DEEPEST {
            return out.push("{...}");
        }
        if members.is_empty() {
            return out.push("{<No data fields>}");
        }
        out.push("{");
        for (i, member) in members.iter().enumerate() {
            if out.is_full() {
                return;
            }
            if i > 0 {
                out.push(", ");
            }
            match &member.name {
                _ if member.inherited => {
                    out.push(&format!("<{}> = ", self.types.name(member.of.as_ref())));
                }
                Some(name) => out.push(&format!("{name} = ")),
                None => {}
            }
            self.member(out, member, content, at, depth + 1);
        }
        out.push("}");
    }

    fn member(&self, out: &mut Out, member: &Member, content: &Content, at: usize, depth: usize) {
        let place = usize::try_from(member.bit / 8)
            .ok()
            .and_then(|byte| at.checked_add(byte));
        let Some(place) = place else {
            return out.push(missing(State::Unreadable));
        };
        let Some(bits) = member.bits else {
            return self.value(out, member.of.as_ref(), content, place, depth);
        };
        let found = member.of.as_ref().and_then(|of| self.types.bare(of));
        let Some((_, found)) = found else {
            return out.push(UNKNOWN);
        };
        let signed = match &*found {
            Type::Base { encoding, .. } => is_signed(*encoding),
            Type::Enumeration { signed, .. } => *signed,
            _ => false,
        };
        match bit_field(content, place, member.bit % 8, bits, signed) {
            Ok(bytes) => {
                let size = match &*found {
                    Type::Base { size, .. } | Type::Enumeration { size, .. } => *size,
                    _ => 0,
                };
                let size = usize::try_from(size).unwrap_or(0).min(bytes.len());
                self.number(out, &found, &bytes[..size]);
            }
            Err(state) => out.push(missing(state)),
        }
    }

    fn array(
        &self,
        out: &mut Out,
        of: Option<&Die>,
        counts: &[Option<u64>],
        content: &Content,
        at: usize,
        depth: usize,
    ) {
        let size = of.and_then(|of| self.types.size(of)).unwrap_or(0);
        // A dimension within another is an array of its own.
        let inner = counts.get(1..).unwrap_or_default();
        let size = inner
            .iter()
            .try_fold(size, |size, count| size.checked_mul(count.unwrap_or(0)));
        let count = counts.first().copied().flatten().unwrap_or(0);
        let (Some(size @ 1..), 1..) = (size, count) else {
            // One without elements, at the end of a structure, stands for what follows there.
            let address = content.address.map(|start| start.offset(at as i64));
            return match address {
                Some(address) => self.pointer(out, of, address.0),
                None => out.push("{}"),
            };
        };
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if inner.is_empty()
            && of.is_some_and(|of| self.is_text(of))
            && let Some(characters) = all_or_first(content, at, count)
        {
            let (characters, cut) = characters;
            return out.push(&characters_of(characters, cut));
        }
        let (mut i, mut printed) = (0, 0);
        out.push("{");
        while i < count && printed < MOST_ELEMENTS && !out.is_full() {
            let here = at.saturating_add(i.saturating_mul(size));
            if here >= content.len() && !content.is_whole() {
                break;
            }
            if i > 0 {
                out.push(", ");
            }
            let mut same = 1;
            while i + same < count
                && content.same(here, here.saturating_add(same.saturating_mul(size)), size)
            {
                same += 1;
            }
            match inner {
                [] => self.value(out, of, content, here, depth + 1),
                inner if depth < DEEPEST => self.array(out, of, inner, content, here, depth + 1),
                _ => out.push("{...}"),
            }
            if same >= REPEATS {
                out.push(&format!(" <repeats {same} times>"));
                i += same;
                printed += REPEATS;
            } else {
                i += 1;
                printed += 1;
            }
        }
        if i < count {
            out.push("...");
        }
        out.push("}");
    }
}

/// The characters of an array, if all are known; of a very large one those that are kept, and that there are more.
fn all_or_first(content: &Content, at: usize, count: usize) -> Option<(&[u8], bool)> {
    let kept = content.len().saturating_sub(at);
    let cut = count > kept && !content.is_whole();
    let bytes = content.bytes(at, if cut { kept } else { count }).ok()?;
    Some((bytes, cut))
}

fn missing(state: State) -> &'static str {
    match state {
        State::OptimizedOut => "<optimized out>",
        State::Synthetic => "<synthetic pointer>",
        State::Unreadable | State::Known => "<unreadable>",
    }
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let count = bytes.len().min(8);
    word[..count].copy_from_slice(&bytes[..count]);
    u64::from_le_bytes(word)
}

/// A whole number of up to 16 bytes.
fn integer(bytes: &[u8], signed: bool) -> i128 {
    let negative = signed && bytes.last().is_some_and(|last| last & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 16];
    let count = bytes.len().min(16);
    all[..count].copy_from_slice(&bytes[..count]);
    i128::from_le_bytes(all)
}

/// The bits of a bit-field, as a whole number of 16 bytes.
fn bit_field(
    content: &Content,
    at: usize,
    shift: u64,
    bits: u64,
    signed: bool,
) -> Result<[u8; 16], State> {
    let bits = u32::try_from(bits)
        .ok()
        .filter(|bits| (1..=64).contains(bits));
    let bits = bits.ok_or(State::Unreadable)?;
    let shift = (shift % 8) as u32;
    let bytes = content.bytes(at, (shift + bits).div_ceil(8) as usize)?;
    let value = integer(bytes, false) >> shift & ((1 << bits) - 1);
    let value = match signed && value >> (bits - 1) & 1 == 1 {
        true => value - (1 << bits),
        false => value,
    };
    Ok(value.to_le_bytes())
}

fn base(encoding: gimli::DwAte, size: u64, value: i128) -> String {
    match encoding {
        gimli::DW_ATE_boolean => match value {
            0 => "false".into(),
            1 => "true".into(),
            other => other.to_string(),
        },
        gimli::DW_ATE_signed
        | gimli::DW_ATE_unsigned
        | gimli::DW_ATE_signed_char
        | gimli::DW_ATE_unsigned_char
        | gimli::DW_ATE_UTF => match size {
            1 => format!("{value} '{}'", character(value as u8, '\'')),
            16 if encoding == gimli::DW_ATE_unsigned => (value as u128).to_string(),
            _ => value.to_string(),
        },
        _ => UNKNOWN.into(),
    }
}

/// The name of the value; of flags the names of all that are set (gdb/valprint.c, generic_val_print_enum_1).
fn enumeration(names: &[(String, i128)], value: i128) -> String {
    if let Some((name, _)) = names.iter().find(|(_, v)| *v == value) {
        return name.clone();
    }
    let is_flag = |value: i128| value >= 0 && value.count_ones() <= 1;
    if names.is_empty() || value <= 0 || !names.iter().all(|(_, value)| is_flag(*value)) {
        return value.to_string();
    }
    let mut left = value;
    let mut set = Vec::new();
    for (name, flag) in names {
        if left & flag != 0 {
            left &= !flag;
            set.push(name.clone());
        }
    }
    if left != 0 {
        set.push(format!("unknown: {left:#x}"));
    }
    format!("({})", set.join(" | "))
}

/// With as many digits as it takes to tell it from all others (gdb: `%.17g`, `%.9g`).
fn float(bytes: &[u8], size: u64) -> String {
    match (size, bytes) {
        (4, [a, b, c, d]) => {
            let bits = u32::from_le_bytes([*a, *b, *c, *d]);
            let number = f32::from_bits(bits);
            general(
                number.into(),
                9,
                u64::from(bits & 0x7f_ffff),
                bits >> 31 == 1,
            )
        }
        (8, bytes) if bytes.len() == 8 => {
            let bits = word(bytes);
            let fraction = bits & ((1 << 52) - 1);
            general(f64::from_bits(bits), 17, fraction, bits >> 63 == 1)
        }
        _ => UNKNOWN.into(),
    }
}

/// As C prints it by `%.*g`; `fraction` is that of a number that is none.
fn general(number: f64, digits: usize, fraction: u64, negative: bool) -> String {
    let sign = if negative { "-" } else { "" };
    if number.is_nan() {
        return format!("{sign}nan({fraction:#x})");
    }
    if number.is_infinite() {
        return format!("{sign}inf");
    }
    let scientific = format!("{:.*e}", digits - 1, number.abs());
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let plain: String = mantissa.chars().filter(|c| *c != '.').collect();
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    if exponent < -4 || exponent >= digits as i32 {
        let mark = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{}e{mark}{:02}", trimmed(mantissa), exponent.abs());
    }
    let text = match usize::try_from(exponent) {
        Ok(before) => {
            let (whole, rest) = plain.split_at((before + 1).min(plain.len()));
            format!("{whole}.{rest}")
        }
        Err(_) => format!(
            "0.{}{plain}",
            "0".repeat(exponent.unsigned_abs() as usize - 1)
        ),
    };
    format!("{sign}{}", trimmed(&text))
}

/// One character between quotes, as C writes it.
fn character(byte: u8, quote: char) -> String {
    match byte {
        b'\\' => "\\\\".into(),
        7 => "\\a".into(),
        8 => "\\b".into(),
        9 => "\\t".into(),
        10 => "\\n".into(),
        11 => "\\v".into(),
        12 => "\\f".into(),
        13 => "\\r".into(),
        byte if byte as char == quote => format!("\\{quote}"),
        b' '..=b'~' => (byte as char).to_string(),
        byte => format!("\\{byte:03o}"),
    }
}

/// A string that ends where it ends.
fn text(bytes: &[u8], goes_on: bool) -> String {
    quoted(bytes, goes_on)
}

/// The characters of an array; of the zeros that fill it, one is not shown.
fn characters_of(bytes: &[u8], cut: bool) -> String {
    match bytes {
        [start @ .., 0] if !cut => quoted(start, false),
        bytes => quoted(bytes, cut),
    }
}

/// A piece of a string: a character, and how often it stands there.
struct Run {
    text: String,
    times: usize,
}

/// Characters that repeat stand outside of the quotes, with their number (gdb/valprint.c, generic_printstr).
fn quoted(bytes: &[u8], goes_on: bool) -> String {
    let mut runs: Vec<Run> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() && runs.len() < MOST_ELEMENTS {
        let size = first_character(rest);
        let (one, after) = rest.split_at(size);
        rest = after;
        let mut times = 1;
        while rest.starts_with(one) {
            rest = &rest[size..];
            times += 1;
        }
        runs.push(Run {
            text: match one {
                [byte] => character(*byte, '"'),
                more => String::from_utf8_lossy(more).into_owned(),
            },
            times,
        });
    }
    let mut out = String::new();
    let mut open = false;
    for run in &runs {
        if run.times > REPEATS {
            if open {
                out.push('"');
            }
            if !out.is_empty() {
                out.push_str(", ");
            }
            open = false;
            let quote_is_it = match run.text.as_str() {
                "\\\"" => "\"",
                "'" => "\\'",
                text => text,
            };
            let _ = write!(out, "'{quote_is_it}' <repeats {} times>", run.times);
            continue;
        }
        if !open {
            out.push_str(if out.is_empty() { "\"" } else { ", \"" });
            open = true;
        }
        out.push_str(&run.text.repeat(run.times));
    }
    if open {
        out.push('"');
    }
    if out.is_empty() {
        out.push_str("\"\"");
    }
    if goes_on || !rest.is_empty() {
        out.push_str("...");
    }
    out
}

/// How many bytes the first character has: more than one only if it is one that a terminal shows and does not obey.
fn first_character(bytes: &[u8]) -> usize {
    let most = bytes.len().min(4);
    let shown = |size: &usize| {
        let text = bytes.get(..*size).and_then(|b| std::str::from_utf8(b).ok());
        let mut characters = text.unwrap_or_default().chars();
        let first = characters.next();
        characters.next().is_none()
            && first.is_some_and(|c| !c.is_ascii() && !crate::process::is_obeyed(c))
    };
    (2..=most).find(shown).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_as_gdb_prints_them() {
        assert_eq!(text(b"", false), r#""""#);
        assert_eq!(text(b"a\"b\\c\n\x01\x1b", false), r#""a\"b\\c\n\001\033""#);
        assert_eq!(text("größer".as_bytes(), false), "\"größer\"");
        // No character, and one that would turn the line around.
        assert_eq!(text(b"\xff", false), r#""\377""#);
        assert_eq!(text("\u{202e}".as_bytes(), false), r#""\342\200\256""#);
        assert_eq!(text(&[b'-'; 10], false), r#""----------""#);
        assert_eq!(text(&[b'-'; 11], false), "'-' <repeats 11 times>");
        let mixed = [&b"ab"[..], &[b'-'; 20], b"cd"].concat();
        assert_eq!(
            text(&mixed, true),
            r#""ab", '-' <repeats 20 times>, "cd"..."#
        );
        assert_eq!(text(&[b'\''; 11], false), r"'\'' <repeats 11 times>");
        assert_eq!(text(&[b'"'; 11], false), "'\"' <repeats 11 times>");
        let long: Vec<u8> = (0..300).map(|i| b'a' + (i % 26) as u8).collect();
        assert!(text(&long, false).ends_with("\"..."));
    }

    #[test]
    fn of_the_zeros_that_fill_an_array_one_is_not_shown() {
        assert_eq!(characters_of(b"abc", false), r#""abc""#);
        assert_eq!(characters_of(b"abc\0", false), r#""abc""#);
        assert_eq!(characters_of(b"\0\0\0\0", false), r#""\000\000\000""#);
        let filled = [&b"ab"[..], &[0; 30]].concat();
        assert_eq!(
            characters_of(&filled, false),
            r#""ab", '\000' <repeats 29 times>"#
        );
    }

    #[test]
    fn numbers_as_gdb_prints_them() {
        let double = |number: f64| float(&number.to_le_bytes(), 8);
        assert_eq!(double(0.1), "0.10000000000000001");
        assert_eq!(double(-2.5e300), "-2.5000000000000001e+300");
        assert_eq!(double(1e-7), "9.9999999999999995e-08");
        assert_eq!(double(0.0001), "0.0001");
        assert_eq!(double(3.0), "3");
        assert_eq!(double(0.0), "0");
        assert_eq!(double(-0.0), "-0");
        assert_eq!(double(100.0), "100");
        assert_eq!(double(1e16), "10000000000000000");
        assert_eq!(double(1e17), "1e+17");
        assert_eq!(double(f64::INFINITY), "inf");
        assert_eq!(double(f64::NAN), "nan(0x8000000000000)");
        assert_eq!(float(&(1f32 / 3.0).to_le_bytes(), 4), "0.333333343");
        assert_eq!(base(gimli::DW_ATE_signed, 4, -5), "-5");
        assert_eq!(base(gimli::DW_ATE_signed_char, 1, -3), r"-3 '\375'");
        assert_eq!(base(gimli::DW_ATE_signed_char, 1, 39), r"39 '\''");
        assert_eq!(base(gimli::DW_ATE_unsigned_char, 1, 200), r"200 '\310'");
        assert_eq!(base(gimli::DW_ATE_boolean, 1, 1), "true");
        assert_eq!(base(gimli::DW_ATE_boolean, 1, 2), "2");
        assert_eq!(integer(&[0xff, 0xff], true), -1);
        assert_eq!(integer(&[0xff, 0xff], false), 0xffff);
        assert_eq!(
            base(gimli::DW_ATE_unsigned, 16, integer(&[0xff; 16], false)),
            u128::MAX.to_string()
        );
    }

    #[test]
    fn names_of_enumerations() {
        let names = |all: &[(&str, i128)]| -> Vec<(String, i128)> {
            all.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect()
        };
        let flags = names(&[("R", 1), ("W", 2), ("X", 4)]);
        assert_eq!(enumeration(&flags, 2), "W");
        assert_eq!(enumeration(&flags, 5), "(R | X)");
        assert_eq!(enumeration(&flags, 24), "(unknown: 0x18)");
        assert_eq!(enumeration(&flags, 9), "(R | unknown: 0x8)");
        assert_eq!(enumeration(&flags, 0), "0");
        assert_eq!(enumeration(&flags, -1), "-1");
        let plain = names(&[("IRON", 3), ("GOLD", 5)]);
        assert_eq!(enumeration(&plain, 1), "1");
        assert_eq!(enumeration(&plain, 4), "4");
        assert_eq!(enumeration(&[], 4), "4");
    }

    #[test]
    fn bit_fields_lie_across_bytes() {
        let mut content = Content::new(3);
        content.put(0, &[0b1010_0000, 0b0000_1101, 0]);
        let field = |shift, bits, signed| {
            bit_field(&content, 0, shift, bits, signed).map(i128::from_le_bytes)
        };
        assert_eq!(field(5, 3, false), Ok(0b101));
        assert_eq!(field(5, 3, true), Ok(-3));
        assert_eq!(field(5, 7, false), Ok(0b110_1101));
        assert_eq!(field(0, 0, false), Err(State::Unreadable));
        assert_eq!(field(7, 64, false), Err(State::Unreadable));
        assert_eq!(field(0, 1000, false), Err(State::Unreadable));
    }
}
