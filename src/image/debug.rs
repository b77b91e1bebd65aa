//! Debug information: separate debug files, inlined callers, lines.

use std::io::Read;
use std::rc::Rc;
use std::sync::Arc;

use gimli::{EndianReader, LittleEndian};
use lzma_rust2::XzReader;

use super::elf::{ElfError, Image};
use super::locate::MOST_DEBUG_INFORMATION;
use super::nesting;
use crate::address::Svma;

/// The sections that addr2line reads.
const SECTIONS: [gimli::SectionId; 10] = [
    gimli::SectionId::DebugAbbrev,
    gimli::SectionId::DebugAddr,
    gimli::SectionId::DebugAranges,
    gimli::SectionId::DebugInfo,
    gimli::SectionId::DebugLine,
    gimli::SectionId::DebugLineStr,
    gimli::SectionId::DebugRanges,
    gimli::SectionId::DebugRngLists,
    gimli::SectionId::DebugStr,
    gimli::SectionId::DebugStrOffsets,
];

/// sizeof(Elf64_Chdr): type, reserved, size, alignment.
pub(super) const COMPRESSION_HEADER: u64 = 24;

/// The size that a section with SHF_COMPRESSED says to have when it is decompressed.
pub(super) fn decompressed_size(section: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(section.get(8..16)?.try_into().ok()?))
}

/// Decompresses a section with SHF_COMPRESSED: an `Elf64_Chdr`, then the data.
pub(crate) fn decompress(raw: &[u8]) -> Option<Vec<u8>> {
    let size = decompressed_size(raw)?;
    let (head, data) = raw.split_at_checked(COMPRESSION_HEADER as usize)?;
    let format = match u32::from_le_bytes(head[..4].try_into().ok()?) {
        1 => object::CompressionFormat::Zlib,
        2 => object::CompressionFormat::Zstandard,
        _ => return None,
    };
    if size > MOST_DEBUG_INFORMATION {
        return None;
    }
    let compressed = object::CompressedData {
        format,
        data,
        uncompressed_size: size,
    };
    compressed.decompress().ok().map(|d| d.into_owned())
}

/// The small ELF file that Fedora and its kin keep in each stripped image: the symbols of its own functions, compressed
/// (GDB's manual, "MiniDebugInfo").
pub(super) fn mini_debug_info(image: &Image) -> Option<Image> {
    /// Decompressed. Fedora's largest have some ten.
    const LARGEST: u64 = 64 << 20;
    let packed = image.section_up_to(".gnu_debugdata", LARGEST)?;
    let inner = Image::from_bytes(unpack(&packed, LARGEST)?).ok()?;
    // It is part of the image; where it says whose it is, it must not lie.
    let same = inner.build_id().is_none() || inner.build_id() == image.build_id();
    same.then_some(inner)
}

/// Decompresses xz data to at most that many bytes.
pub(crate) fn unpack(packed: &[u8], most: u64) -> Option<Vec<u8>> {
    /// For xz's own dictionary; that of `xz -9` has 64 MiB.
    const MOST_MEMORY_KIB: u32 = 80 << 10;
    let mut bytes = Vec::new();
    let reader = XzReader::new_mem_limit(packed, false, MOST_MEMORY_KIB);
    let read = reader.take(most + 1).read_to_end(&mut bytes);
    (read.is_ok() && bytes.len() as u64 <= most).then_some(bytes)
}

/// A function at an address, as debug information tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlinedFrame {
    /// The function's name.
    pub function: String,
    /// Source file.
    pub file: Option<String>,
    /// Source line.
    pub line: Option<u32>,
}

/// The debug information of one image, for looking up addresses.
pub struct LineTable {
    context: addr2line::Context<Reader>,
    dwarf: Arc<gimli::Dwarf<Reader>>,
}

/// How gimli reads debug sections: shared, so that what refers to them can be kept.
pub(crate) type Reader = EndianReader<LittleEndian, Rc<[u8]>>;

impl std::fmt::Debug for LineTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LineTable")
    }
}

impl LineTable {
    /// How many bytes of `image` would be read.
    pub(super) fn size(image: &Image) -> u64 {
        let sizes = SECTIONS
            .iter()
            .map(|id| image.size_of_debug_section(id.name()));
        sizes.fold(0, u64::saturating_add)
    }

    /// Reads where variables are: of `image`, from `file`, which has its debug information. Nothing where that is more than
    /// may be held.
    pub(super) fn load_locations(
        image: &Image,
        file: Option<&Image>,
    ) -> gimli::LocationLists<Reader> {
        let section = |id: gimli::SectionId| {
            let size = file.map_or(0, |file| file.size_of_debug_section(id.name()));
            let fits = size <= MOST_DEBUG_INFORMATION && image.hold(size, "locations").is_ok();
            let bytes = file
                .filter(|_| fits)
                .map(|file| file.debug_section(id.name()));
            EndianReader::new(bytes.unwrap_or_else(|| Rc::new([])), LittleEndian)
        };
        gimli::LocationLists::new(
            section(gimli::SectionId::DebugLoc).into(),
            section(gimli::SectionId::DebugLocLists).into(),
        )
    }

    /// Reads the debug sections of `image`, and those that dwz(1) moved to `supplement`. None if they make no sense, or
    /// are more than may be held.
    pub(super) fn load(image: &Image, supplement: Option<&Image>) -> Option<Self> {
        let section = |file: &Image, id: gimli::SectionId| {
            let bytes = match SECTIONS.contains(&id) {
                true => file.debug_section(id.name()),
                false => Rc::new([]),
            };
            image.hold(bytes.len() as u64, "debug sections")?;
            Ok::<Reader, ElfError>(EndianReader::new(bytes, LittleEndian))
        };
        let load = |file: &Image| {
            let mut dwarf = gimli::Dwarf::load(|id| section(file, id)).ok()?;
            nesting::has_sane_abbreviations(&dwarf).then(|| {
                dwarf.populate_abbreviations_cache(gimli::AbbreviationsCacheStrategy::All);
                dwarf
            })
        };
        let mut dwarf = load(image)?;
        if let Some(supplement) = supplement {
            dwarf.set_sup(load(supplement)?);
        }
        if !nesting::is_sane(&dwarf) {
            return None;
        }
        #[expect(clippy::arc_with_non_send_sync, reason = "addr2line asks for it")]
        let dwarf = Arc::new(dwarf);
        let context = addr2line::Context::from_arc_dwarf(dwarf.clone()).ok()?;
        Some(LineTable { context, dwarf })
    }

    /// All of it.
    pub(crate) fn dwarf(&self) -> &gimli::Dwarf<Reader> {
        &self.dwarf
    }

    /// The unit that the code at `addr` belongs to, with all debug information.
    pub(crate) fn unit_at(&self, addr: Svma) -> Option<gimli::UnitRef<'_, Reader>> {
        // See below.
        let probe = Some(addr.0).filter(|addr| *addr != u64::MAX)?;
        self.context.find_dwarf_and_unit(probe).skip_all_loads()
    }

    /// The functions at `addr`, innermost first: those that were inlined there, then the one that the code belongs to.
    pub fn functions_at(&self, addr: Svma) -> Vec<InlinedFrame> {
        /// More levels of inlining than any compiler makes.
        const DEEPEST: usize = 256;
        let mut found = Vec::new();
        // addr2line looks from an address to the one after it.
        if addr.0 == u64::MAX {
            return found;
        }
        let Ok(mut frames) = self.context.find_frames(addr.0).skip_all_loads() else {
            return found;
        };
        while let Ok(Some(frame)) = frames.next() {
            let Some(function) = frame.function else {
                continue;
            };
            let Ok(function) = function.raw_name() else {
                continue;
            };
            let location = frame.location.as_ref();
            found.push(InlinedFrame {
                function: function.into_owned(),
                file: location.and_then(|l| l.file).map(str::to_owned),
                line: location.and_then(|l| l.line),
            });
            if found.len() == DEEPEST {
                break;
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lzma_rust2::{XzOptions, XzWriter};

    /// So many zeros, as `xz` packs them.
    fn bomb(size: usize) -> Vec<u8> {
        use std::io::Write;
        let mut xz = XzWriter::new(Vec::new(), XzOptions::with_preset(0)).unwrap();
        let zeros = vec![0; 1 << 20];
        for _ in 0..size >> 20 {
            xz.write_all(&zeros).unwrap();
        }
        xz.finish().unwrap()
    }

    #[test]
    fn data_that_expand_without_end_are_left() {
        let packed = bomb(200 << 20);
        assert!(packed.len() < 1 << 20);
        assert_eq!(unpack(&packed, 64 << 20), None);
        let packed = bomb(8 << 20);
        assert_eq!(unpack(&packed, 64 << 20).unwrap().len(), 8 << 20);
        assert_eq!(unpack(&packed, (8 << 20) - 1), None);
        assert_eq!(unpack(&packed[..packed.len() / 2], 64 << 20), None);
        assert_eq!(unpack(b"", 64), None);
        assert_eq!(unpack(b"\xfd7zXZ\0", 64), None);
    }

    #[test]
    fn sections_that_lie_about_their_size() {
        let section = |kind: u32, size: u64, data: &[u8]| {
            let mut s = kind.to_le_bytes().to_vec();
            s.extend([0; 4]);
            s.extend(size.to_le_bytes());
            s.extend([0; 8]);
            s.extend(data);
            s
        };
        // The zlib stream of "a".
        let a = [0x78, 0x9c, 0x4b, 0x04, 0x00, 0x00, 0x62, 0x00, 0x62];
        assert_eq!(decompress(&section(1, 1, &a)).as_deref(), Some(&b"a"[..]));
        for bad in [
            section(1, 2, &a),
            section(1, u64::MAX, &a),
            section(1, MOST_DEBUG_INFORMATION, &a),
            section(2, 1, &a),
            section(7, 1, &a),
            section(1, 1, &a[..2]),
            vec![0; 23],
            vec![],
        ] {
            assert_eq!(decompress(&bad), None, "{bad:x?}");
        }
    }
}
