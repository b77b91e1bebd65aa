//! Debug information: separate debug files, inlined callers, lines.

use std::fs::File;
use std::path::PathBuf;
use std::rc::Rc;

use gimli::{EndianReader, LittleEndian};

use super::elf::Image;
use super::{BuildId, Svma};

/// Where distributions put debug files, by build-id.
const BUILD_ID_DIRECTORY: &str = "/usr/lib/debug/.build-id";

/// The most debug information (decompressed) that is read for one image.
const LARGEST_DEBUG_INFO: u64 = 512 << 20;

/// Opens the separate debug file of the image with this build-id, if it is installed. One whose own build-id
/// differs is not used.
pub(super) fn find_debug_file(id: &BuildId) -> Option<Image> {
    let hex = id.to_string();
    let (directory, name) = hex.split_at_checked(2)?;
    let path = PathBuf::from(format!("{BUILD_ID_DIRECTORY}/{directory}/{name}.debug"));
    let file = Image::debug_file(File::open(path).ok()?).ok()?;
    (file.build_id() == Some(id)).then_some(file)
}

/// Decompresses a section with SHF_COMPRESSED: an `Elf64_Chdr` (type, size, alignment), then the data.
pub(super) fn decompress(raw: &[u8]) -> Option<Vec<u8>> {
    let (head, data) = raw.split_at_checked(24)?;
    let kind = u32::from_le_bytes(head[..4].try_into().ok()?);
    let size = u64::from_le_bytes(head[8..16].try_into().ok()?);
    let format = match kind {
        1 => object::CompressionFormat::Zlib,
        2 => object::CompressionFormat::Zstandard,
        _ => return None,
    };
    if size > LARGEST_DEBUG_INFO {
        return None;
    }
    let compressed = object::CompressedData {
        format,
        data,
        uncompressed_size: size,
    };
    compressed.decompress().ok().map(|d| d.into_owned())
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
pub struct LineTable(addr2line::Context<Reader>);

type Reader = EndianReader<LittleEndian, Rc<[u8]>>;

impl std::fmt::Debug for LineTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LineTable")
    }
}

impl LineTable {
    /// Reads the debug sections of `image`. None if they make no sense.
    pub(super) fn load(image: &Image) -> Option<Self> {
        let load = |id: gimli::SectionId| -> Result<Reader, gimli::Error> {
            Ok(EndianReader::new(
                image.debug_section(id.name()).into(),
                LittleEndian,
            ))
        };
        let dwarf = gimli::Dwarf::load(load).ok()?;
        addr2line::Context::from_dwarf(dwarf).ok().map(LineTable)
    }

    /// The functions at `addr`, innermost first: those that were inlined there, then the one that the code belongs to.
    pub fn functions_at(&self, addr: Svma) -> Vec<InlinedFrame> {
        /// More levels of inlining than any compiler makes.
        const DEEPEST: usize = 256;
        let mut found = Vec::new();
        let Ok(mut frames) = self.0.find_frames(addr.0).skip_all_loads() else {
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
