//! The bytes of a partition's own row: drawn with the others in `format`.

use corduroy_shards::entry::VERSION_LSN_MAX;
use corduroy_wal::fields::Fields;
use corduroy_wal::{Lsn, Term};

use super::format::LAYOUT;
use crate::store::memory::absent::AbsentKeys;
use crate::store::memory::meta::{Installed, PartitionMeta};

/// A partition's row with what is known of writes and keys that went; without, it is of the first layout.
pub(super) const LAYOUT_MARKS: u8 = 2;
/// The same with the absent keys that are watched, instead of what went.
pub(super) const LAYOUT_WATCHED: u8 = 3;
/// A partition's row that says where in which history it is; what not every partition has is in sections. The one that is
/// written.
const LAYOUT_HISTORY: u8 = 4;
/// The section of what is known of keys that went. Sections are a number, a length and bytes, and ascend.
const SECTION_MARKS: u8 = 1;
/// The section of absent keys that are watched.
const SECTION_WATCHED: u8 = 2;
// 3 is the number of the section of idempotency keys, which no release writes yet.
/// The section of the image that the partition was installed from: the term of its last entry, and the configuration.
const SECTION_INSTALLED: u8 = 4;
/// Set in a partition's layout if its point lies inside an entry: how many of its ops are done follows.
pub(super) const MID_ENTRY: u8 = 0x80;

impl PartitionMeta {
    pub(in super::super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![LAYOUT_HISTORY];
        if self.ops_done > 0 {
            out = vec![LAYOUT_HISTORY | MID_ENTRY];
            out.extend_from_slice(&self.ops_done.to_le_bytes());
        }
        let positions = [self.applied.0, self.history, self.source_lsn.0];
        for number in
            positions.into_iter().chain([self.flush_version, self.clock_ms, self.keys, self.expiring])
        {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(u8::from(self.is_written));
        if self.absent != AbsentKeys::default() {
            let number = if self.absent.is_of_watched() { SECTION_WATCHED } else { SECTION_MARKS };
            put_section(&mut out, number, |out| self.absent.encode(out));
        }
        if let Some(installed) = &self.installed {
            put_section(&mut out, SECTION_INSTALLED, |out| {
                out.extend_from_slice(&installed.term.0.to_le_bytes());
                out.extend_from_slice(&installed.configuration);
            });
        }
        out
    }

    pub(in super::super) fn decode(value: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(value);
        let layout = fields.byte()?;
        let (layout, is_mid_entry) = (layout & !MID_ENTRY, layout & MID_ENTRY > 0);
        let ops_done = if is_mid_entry { fields.u32().filter(|ops| *ops > 0)? } else { 0 };
        let applied = Lsn(fields.u64()?);
        // Before there were copies, each partition was first of its history.
        let (history, source_lsn) =
            if layout == LAYOUT_HISTORY { (fields.u64()?, Lsn(fields.u64()?)) } else { (0, applied) };
        (source_lsn <= VERSION_LSN_MAX).then_some(())?;
        let mut meta = Self {
            applied,
            history,
            source_lsn,
            ops_done,
            flush_version: fields.u64()?,
            clock_ms: fields.u64()?,
            keys: fields.u64()?,
            expiring: fields.u64()?,
            is_written: layout != LAYOUT && fields.byte().filter(|is| *is <= 1)? == 1,
            absent: AbsentKeys::default(),
            installed: None,
        };
        match layout {
            LAYOUT => fields.is_empty().then_some(())?,
            LAYOUT_MARKS => meta.absent = AbsentKeys::decode_marks(fields.rest)?,
            LAYOUT_WATCHED => meta.absent = AbsentKeys::decode_watched(fields.rest)?,
            LAYOUT_HISTORY => read_sections(&mut fields, &mut meta)?,
            _ => return None,
        }
        Some(meta)
    }
}

fn put_section(out: &mut Vec<u8>, number: u8, content: impl FnOnce(&mut Vec<u8>)) {
    out.push(number);
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    let length = u32::try_from(out.len() - length_at - 4).expect("what a section has is bounded");
    out.splice(length_at..length_at + 4, length.to_le_bytes());
}

/// The sections of a partition's row; none twice, and none that this version does not know.
fn read_sections(fields: &mut Fields<'_>, meta: &mut PartitionMeta) -> Option<()> {
    let mut last = 0;
    while !fields.is_empty() {
        let (section, length) = (fields.byte()?, fields.u32()?);
        let content = fields.take(length as usize)?;
        // One of the two that have absent keys, at most.
        let is_next = section > last && !(last == SECTION_MARKS && section == SECTION_WATCHED);
        is_next.then_some(())?;
        match section {
            SECTION_MARKS if !content.is_empty() => meta.absent = AbsentKeys::decode_marks(content)?,
            SECTION_WATCHED => meta.absent = AbsentKeys::decode_watched(content)?,
            SECTION_INSTALLED => {
                let (term, configuration) = content.split_first_chunk::<8>()?;
                let term = Term(u64::from_le_bytes(*term));
                let installed = Installed { term, configuration: configuration.to_vec() };
                meta.installed = Some(Box::new(installed));
            }
            _ => return None,
        }
        last = section;
    }
    Some(())
}
