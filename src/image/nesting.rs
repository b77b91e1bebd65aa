//! Whether debug information can be handed to addr2line, which calls itself once for each function that is inlined
//! into another, and reads the ranges of each unit anew.

use std::time::{Duration, Instant};

use std::collections::HashSet;

use gimli::{Dwarf, Reader, ReaderOffset as _, Section as _};

/// The deepest nesting of entries; compilers reach some fifty.
const DEEPEST: isize = 500;
/// The most units; those of a program of 64 MiB of debug information are some thousand.
const MOST_UNITS: usize = 50_000;
/// The most bytes of line programs of all units together: each may be a row of 32 bytes. PostgreSQL's own have 4 MiB.
const MOST_LINES: usize = 6 << 20;
/// The most ranges of all units together.
const MOST_RANGES: usize = 1_000_000;
/// The most functions, also those that were inlined: addr2line takes some hundred bytes for each. PostgreSQL has 200,000.
const MOST_FUNCTIONS: usize = 600_000;
/// The largest section of abbreviations, of which gimli makes some twenty times as much. PostgreSQL's has 350 KiB.
const MOST_ABBREVIATIONS: usize = 2 << 20;
/// The most bytes of abbreviations in all tables together, which may overlap.
const MOST_ABBREVIATIONS_READ: usize = 4 << 20;
/// For all of it.
const LONGEST: Duration = Duration::from_secs(2);

/// Whether all tables of abbreviations may be read, each once. Where they are not kept, gimli reads them for each unit.
pub(super) fn has_sane_abbreviations<R: Reader>(dwarf: &Dwarf<R>) -> bool {
    if dwarf.debug_abbrev.reader().len().into_u64() as usize > MOST_ABBREVIATIONS {
        return false;
    }
    let (mut seen, mut left) = (HashSet::new(), MOST_ABBREVIATIONS_READ);
    let mut units = dwarf.units();
    while let Ok(Some(header)) = units.next() {
        let offset = header.debug_abbrev_offset().0;
        if seen.insert(offset.into_u64())
            && let Some(size) = size_of_abbreviations(dwarf, offset)
            && (take(&mut left, size).is_none() || seen.len() > MOST_UNITS)
        {
            return false;
        }
    }
    true
}

/// False where it is nested deeper, or has more units, ranges, lines or functions, than any real program's. Runs through
/// all entries without looking at them: some ten milliseconds for PostgreSQL's.
pub(super) fn is_sane<R: Reader>(dwarf: &Dwarf<R>) -> bool {
    let mut left = Left {
        units: MOST_UNITS,
        lines: MOST_LINES,
        ranges: MOST_RANGES,
        functions: MOST_FUNCTIONS,
        until: Instant::now() + LONGEST,
    };
    let mut all = std::iter::once(dwarf).chain(dwarf.sup());
    all.all(|dwarf| is_sane_itself(dwarf, &mut left))
}

/// What may still come.
struct Left {
    units: usize,
    lines: usize,
    ranges: usize,
    functions: usize,
    until: Instant,
}

/// Takes so much away; none where there is not so much left.
fn take(left: &mut usize, size: usize) -> Option<()> {
    *left = left.checked_sub(size)?;
    Some(())
}

/// An error ends it: addr2line comes no further, either.
fn is_sane_itself<R: Reader>(dwarf: &Dwarf<R>, left: &mut Left) -> bool {
    let mut units = dwarf.units();
    while let Ok(Some(header)) = units.next() {
        if take(&mut left.units, 1).is_none() || Instant::now() > left.until {
            return false;
        }
        // addr2line wants neither lines nor ranges of these, and dwz makes many that share one line program.
        let partial = matches!(header.type_(), gimli::UnitType::Partial);
        let Ok(unit) = dwarf.unit(header) else {
            continue;
        };
        if let Some(lines) = unit.line_program.as_ref().filter(|_| !partial) {
            let size = lines.header().raw_program_buf().len().into_u64() as usize;
            if take(&mut left.lines, size).is_none() {
                return false;
            }
        }
        if !entries_are_sane(&unit, left) {
            return false;
        }
        let Ok(mut ranges) = dwarf.unit_ranges(&unit) else {
            continue;
        };
        while let Ok(Some(_)) = ranges.next() {
            if take(&mut left.ranges, 1).is_none() {
                return false;
            }
        }
    }
    true
}

fn entries_are_sane<R: Reader>(unit: &gimli::Unit<R>, left: &mut Left) -> bool {
    let Ok(mut entries) = unit.entries_raw(None) else {
        return true;
    };
    while !entries.is_empty() {
        if entries.next_depth() > DEEPEST {
            return false;
        }
        let Ok(abbreviation) = entries.read_abbreviation() else {
            break;
        };
        let Some(abbreviation) = abbreviation else {
            continue;
        };
        let function = matches!(
            abbreviation.tag(),
            gimli::DW_TAG_subprogram | gimli::DW_TAG_inlined_subroutine
        );
        if function && take(&mut left.functions, 1).is_none() {
            return false;
        }
        if entries.skip_attributes(abbreviation.attributes()).is_err() {
            break;
        }
    }
    true
}

/// How many bytes the table of abbreviations at `offset` takes (DWARF 5, chapter 7.5.3). None where it makes no sense.
fn size_of_abbreviations<R: Reader>(dwarf: &Dwarf<R>, offset: R::Offset) -> Option<usize> {
    let mut table = dwarf.debug_abbrev.reader().clone();
    table.skip(offset).ok()?;
    let before = table.len().into_u64();
    // A code, a tag, whether it has children; then pairs of an attribute and its form up to two zeros.
    while table.read_uleb128().ok()? != 0 {
        table.read_uleb128().ok()?;
        table.read_u8().ok()?;
        loop {
            let (name, form) = (table.read_uleb128().ok()?, table.read_uleb128().ok()?);
            if form == u64::from(gimli::DW_FORM_implicit_const.0) {
                table.read_sleb128().ok()?;
            }
            if (name, form) == (0, 0) {
                break;
            }
        }
    }
    Some((before - table.len().into_u64()) as usize)
}
