//! Finding the call-frame information of an address, and with it the bounds of the function there.

use gimli::{
    BaseAddresses, EhFrame, EhFrameHdr, EndianSlice, FrameDescriptionEntry, LittleEndian,
    UnwindSection,
};

use super::{Image, Svma};

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

impl Image {
    /// The entry that covers `at`. `NoUnwindInfoForAddress` where none does.
    pub fn call_frame_entry(&self, at: Svma) -> Result<CallFrameEntry<'_>, gimli::Error> {
        let nothing = gimli::Error::NoUnwindInfoForAddress;
        let (eh_frame, hdr) = self.unwind_sections().ok_or(nothing)?;
        let mut bases = BaseAddresses::default().set_eh_frame(eh_frame.start.0);
        let section = EhFrame::new(&eh_frame.bytes, LittleEndian);
        let from_index = hdr.and_then(|hdr| {
            bases = bases.clone().set_eh_frame_hdr(hdr.start.0);
            let parsed = EhFrameHdr::new(&hdr.bytes, LittleEndian)
                .parse(&bases, 8)
                .ok()?;
            let table = parsed.table()?;
            let entry = table.lookup(at.0, &bases).ok()?.direct().ok()?;
            // gimli subtracts without looking; a hostile index may point below its section.
            let offset = entry.checked_sub(eh_frame.start.0)?;
            let offset = gimli::EhFrameOffset(usize::try_from(offset).ok()?);
            section
                .fde_from_offset(&bases, offset, EhFrame::cie_from_offset)
                .ok()
        });
        let fde = match from_index {
            Some(fde) if fde.contains(at.0) => fde,
            // The index is complete where there is one: outside its entries there is nothing to find.
            Some(_) => return Err(nothing),
            None => section.fde_for_address(&bases, at.0, EhFrame::cie_from_offset)?,
        };
        Ok(CallFrameEntry {
            section,
            bases,
            fde,
        })
    }

    /// The first address and the size of the function that `at` lies in, by its call-frame information.
    pub fn function_bounds(&self, at: Svma) -> Option<(Svma, u64)> {
        let fde = self.call_frame_entry(at).ok()?.fde;
        Some((Svma(fde.initial_address()), fde.len()))
    }
}
