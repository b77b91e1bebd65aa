//! Finding the call-frame information of an address, and with it the bounds of the function there.

use gimli::{
    BaseAddresses, CieOrFde, EhFrame, EhFrameHdr, EndianSlice, FrameDescriptionEntry, LittleEndian,
    ParsedEhFrameHdr, UnwindSection,
};

use super::Image;
use super::elf::LoadedSection;
use crate::address::Svma;

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// An entry of an image's call-frame information, with what is needed to read it.
pub struct CallFrameEntry<'i> {
    /// The section `.eh_frame`.
    pub section: EhFrame<Bytes<'i>>,
    /// Where the sections are, in the image's own terms.
    pub bases: BaseAddresses,
    /// The entry: one function, or a part of one.
    pub fde: FrameDescriptionEntry<Bytes<'i>>,
}

/// The index, where it has the form that all linkers write and that alone libgcc searches (unwind-dw2-fde-dip.c): a count
/// of four bytes, and pairs of signed offsets from the index itself. gimli reckons with any other count without looking.
fn index<'i>(hdr: &'i LoadedSection, bases: &BaseAddresses) -> Option<ParsedEhFrameHdr<Bytes<'i>>> {
    let count = gimli::DW_EH_PE_udata4.0;
    let table = gimli::DW_EH_PE_datarel.0 | gimli::DW_EH_PE_sdata4.0;
    if hdr.bytes.get(2..4) != Some(&[count, table]) {
        return None;
    }
    let index = EhFrameHdr::new(&hdr.bytes, LittleEndian);
    index.parse(bases, 8).ok()
}

impl Image {
    /// The entry that covers `at`. `NoUnwindInfoForAddress` where none does.
    pub fn call_frame_entry(&self, at: Svma) -> Result<CallFrameEntry<'_>, gimli::Error> {
        let nothing = gimli::Error::NoUnwindInfoForAddress;
        let (eh_frame, hdr) = self.unwind_sections().ok_or(nothing)?;
        let mut bases = BaseAddresses::default().set_eh_frame(eh_frame.start.0);
        let mut section = EhFrame::new(&eh_frame.bytes, LittleEndian);
        section.set_vendor(self.call_frame_vendor());
        if let Some(hdr) = hdr {
            bases = bases.set_eh_frame_hdr(hdr.start.0);
        }
        let index = hdr.and_then(|hdr| index(hdr, &bases));
        let fde = match index.as_ref().and_then(|index| index.table()) {
            // Complete where there is one: outside its entries there is nothing to find.
            Some(table) => {
                let entry = table.lookup(at.0, &bases)?.direct()?;
                // gimli subtracts without looking; a hostile index may point below its section.
                let offset = entry.checked_sub(eh_frame.start.0).ok_or(nothing)?;
                let offset = usize::try_from(offset).map_err(|_| nothing)?;
                let offset = gimli::EhFrameOffset(offset);
                let fde = section.fde_from_offset(&bases, offset, EhFrame::cie_from_offset)?;
                fde.contains(at.0).then_some(fde).ok_or(nothing)?
            }
            None => section.fde_for_address(&bases, at.0, EhFrame::cie_from_offset)?,
        };
        Ok(CallFrameEntry {
            section,
            bases,
            fde,
        })
    }

    /// What finding an entry costs, in bytes that are read: all of the section where there is no index.
    pub fn work_of_lookup(&self) -> usize {
        let Some((eh_frame, hdr)) = self.unwind_sections() else {
            return 0;
        };
        let has_table = hdr.is_some_and(|hdr| {
            let bases = BaseAddresses::default().set_eh_frame_hdr(hdr.start.0);
            index(hdr, &bases).is_some_and(|index| index.table().is_some())
        });
        if has_table { 0 } else { eh_frame.bytes.len() }
    }

    /// All functions, and parts of functions that the compiler moved elsewhere, by their call-frame information: each with
    /// its first address and its size, sorted. None where there are more than `most`, or some cannot be read.
    pub(super) fn all_functions(&self, most: usize) -> Option<Vec<(Svma, u64)>> {
        let (eh_frame, _) = self.unwind_sections()?;
        let bases = BaseAddresses::default().set_eh_frame(eh_frame.start.0);
        let section = EhFrame::new(&eh_frame.bytes, LittleEndian);
        let mut entries = section.entries(&bases);
        let mut found = Vec::new();
        while let Some(entry) = entries.next().ok()? {
            if let CieOrFde::Fde(fde) = entry {
                let fde = fde.parse(EhFrame::cie_from_offset).ok()?;
                if found.len() == most {
                    return None;
                }
                if fde.len() > 0 {
                    found.push((Svma(fde.initial_address()), fde.len()));
                }
            }
        }
        found.sort_unstable();
        Some(found)
    }

    /// The first address and the size of the function that `at` lies in, by its call-frame information.
    pub fn function_bounds(&self, at: Svma) -> Option<(Svma, u64)> {
        /// Asked for in loops, so not where each time all of a large section would have to be searched.
        const MOST_WORK: usize = 16 << 10;
        if self.work_of_lookup() > MOST_WORK {
            return None;
        }
        let fde = self.call_frame_entry(at).ok()?.fde;
        Some((Svma(fde.initial_address()), fde.len()))
    }
}
