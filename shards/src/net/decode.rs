//! Reads what another replica sent.
//!
//! Invariant: bytes that are no message of [`message`](super::message)'s drawing are a [`MessageDamage`], whatever they are.
//! A length or a count is compared with the bytes that are left before anything is made room for.

use bytes::Bytes;
use corduroy_wal::fields::Fields;
use raft::eraftpb::{Entry, Message};

use super::beats::{OTHER_BYTES, are_others};
use super::kind::{self, Kind};
use super::message::{
    ASKS_SNAPSHOT, Contradiction, ENTRIES_MAX, ENTRY_BYTES, HAS_CONTEXT, HAS_OTHERS, HAS_PRIORITY,
    IS_TRANSFER, LENGTH_BITS, MessageDamage, REJECTED, TRANSFER, check_before, check_head, check_image,
    check_run,
};
use crate::ids::PartitionId;

/// Takes the next message off the fields of `frame`.
///
/// # Errors
/// [`MessageDamage`]: nothing that follows can be read either.
pub fn decode(frame: &Bytes, fields: &mut Fields<'_>) -> Result<(PartitionId, Message), MessageDamage> {
    let [code, flags] = fields.array().ok_or(MessageDamage::Short)?;
    let kind = Kind::from_code(code).ok_or(MessageDamage::Kind { found: code })?;
    let mut message = Message { msg_type: kind.message_type(), ..Message::default() };
    let mut number = || fields.u64().ok_or(MessageDamage::Short);
    let partition = PartitionId(number()?);
    (message.from, message.to, message.term) = (number()?, number()?, number()?);
    check_head(kind, message.from, message.to, message.term)
        .map_err(|why| MessageDamage::Contradiction { kind, why })?;
    let mut reader = FieldReader { kind, flags, frame, fields };
    reader.read(&mut message)?;
    Ok((partition, message))
}

/// Reads the fields of one message.
struct FieldReader<'r, 'f> {
    kind: Kind,
    flags: u8,
    frame: &'r Bytes,
    fields: &'r mut Fields<'f>,
}

impl FieldReader<'_, '_> {
    fn wrong(&self, why: Contradiction) -> MessageDamage {
        MessageDamage::Contradiction { kind: self.kind, why }
    }

    fn number(&mut self) -> Result<u64, MessageDamage> {
        self.fields.u64().ok_or(MessageDamage::Short)
    }

    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Refuses all flags but these.
    fn only(&self, flags: u8) -> Result<(), MessageDamage> {
        if self.flags & !flags == 0 {
            return Ok(());
        }
        Err(MessageDamage::Flags { kind: self.kind, found: self.flags })
    }

    fn read(&mut self, message: &mut Message) -> Result<(), MessageDamage> {
        match self.kind {
            Kind::Append => {
                self.only(0)?;
                (message.log_term, message.index, message.commit) =
                    (self.number()?, self.number()?, self.number()?);
                check_before(message.term, message.log_term, message.index).map_err(|why| self.wrong(why))?;
                message.entries = self.entries(message)?.into();
            }
            Kind::AppendResponse => {
                self.only(REJECTED | if self.has(REJECTED) { ASKS_SNAPSHOT } else { 0 })?;
                (message.index, message.commit) = (self.number()?, self.number()?);
                if self.has(REJECTED) {
                    message.reject = true;
                    (message.log_term, message.reject_hint) = (self.number()?, self.number()?);
                }
                if self.has(ASKS_SNAPSHOT) {
                    message.request_snapshot = self.number()?;
                    if message.request_snapshot == 0 {
                        return Err(MessageDamage::Flags { kind: self.kind, found: self.flags });
                    }
                }
            }
            Kind::VoteRequest | Kind::PreVoteRequest => self.read_vote_request(message)?,
            Kind::VoteResponse | Kind::PreVoteResponse => {
                self.only(REJECTED)?;
                message.reject = self.has(REJECTED);
                if message.reject {
                    (message.commit, message.commit_term) = (self.number()?, self.number()?);
                }
            }
            Kind::Heartbeat | Kind::HeartbeatResponse => {
                self.only(HAS_CONTEXT)?;
                message.commit = self.number()?;
                if self.has(HAS_CONTEXT) {
                    message.context = self.context()?;
                }
            }
            Kind::Image | Kind::ImageResponse => {
                self.only(0)?;
                let length = self.fields.u32().ok_or(MessageDamage::Short)?;
                message.context = self.payload(length as usize)?;
                check_image(self.kind, &message.context).map_err(|why| self.wrong(why))?;
            }
            Kind::Beat => {
                self.only(HAS_OTHERS)?;
                (message.index, message.commit, message.commit_term) =
                    (self.number()?, self.number()?, self.number()?);
                if self.has(HAS_OTHERS) {
                    message.context = self.other_beats()?;
                }
            }
            Kind::Sleep => {
                self.only(0)?;
                message.index = self.number()?;
            }
            Kind::TimeoutNow | Kind::Wake => self.only(0)?,
            Kind::ReadIndex | Kind::ReadIndexResponse => {
                self.only(0)?;
                if self.kind == Kind::ReadIndexResponse {
                    message.index = self.number()?;
                }
                let data = self.context()?;
                message.entries = vec![Entry { data, ..Entry::default() }].into();
            }
        }
        Ok(())
    }

    fn read_vote_request(&mut self, message: &mut Message) -> Result<(), MessageDamage> {
        self.only(HAS_PRIORITY | IS_TRANSFER)?;
        (message.log_term, message.index) = (self.number()?, self.number()?);
        (message.commit, message.commit_term) = (self.number()?, self.number()?);
        if self.has(HAS_PRIORITY) {
            message.priority = self.fields.array().map(i64::from_le_bytes).ok_or(MessageDamage::Short)?;
            if message.priority == 0 {
                return Err(self.wrong(Contradiction::Priority));
            }
            // Versions of the crate before 0.7 read it from here; so do those that still look at both.
            message.deprecated_priority = u64::try_from(message.priority).unwrap_or(0);
        }
        if self.has(IS_TRANSFER) {
            message.context = Bytes::from_static(TRANSFER);
        }
        Ok(())
    }

    fn other_beats(&mut self) -> Result<Bytes, MessageDamage> {
        let count = self.fields.array().map(u16::from_le_bytes).ok_or(MessageDamage::Short)?;
        let others = self.payload(usize::from(count) * OTHER_BYTES)?;
        if are_others(&others) { Ok(others) } else { Err(self.wrong(Contradiction::Others)) }
    }

    fn context(&mut self) -> Result<Bytes, MessageDamage> {
        let length = self.fields.byte().ok_or(MessageDamage::Short)?;
        if length == 0 {
            return Err(self.wrong(Contradiction::Context));
        }
        self.payload(usize::from(length))
    }

    /// So many bytes of the frame, without a copy.
    fn payload(&mut self, bytes: usize) -> Result<Bytes, MessageDamage> {
        let payload = self.fields.take(bytes).ok_or(MessageDamage::Short)?;
        Ok(self.frame.slice_ref(payload))
    }

    fn count(&mut self) -> Result<usize, MessageDamage> {
        let count = self.fields.u32().ok_or(MessageDamage::Short)?;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= ENTRIES_MAX)
            .ok_or(self.wrong(Contradiction::Entries))
    }

    fn entries(&mut self, message: &Message) -> Result<Vec<Entry>, MessageDamage> {
        let count = self.count()?;
        if count * ENTRY_BYTES > self.fields.rest.len() {
            return Err(MessageDamage::Short);
        }
        if message.index.checked_add(count as u64).is_none() {
            return Err(self.wrong(Contradiction::Indexes));
        }
        let (mut entries, mut term) = (Vec::with_capacity(count), 0);
        while entries.len() < count {
            let before = std::mem::replace(&mut term, self.number()?);
            check_run(message, before, term).map_err(|why| self.wrong(why))?;
            let run = self.count()?;
            if run == 0 || run > count - entries.len() {
                return Err(self.wrong(Contradiction::Entries));
            }
            for _ in 0..run {
                let length = self.fields.u32().ok_or(MessageDamage::Short)?;
                let entry_type =
                    kind::entry_type(length >> LENGTH_BITS).ok_or(self.wrong(Contradiction::Entry))?;
                let data = self.payload((length & ((1 << LENGTH_BITS) - 1)) as usize)?;
                let index = message.index + entries.len() as u64 + 1;
                entries.push(Entry { entry_type, term, index, data, ..Entry::default() });
            }
        }
        Ok(entries)
    }
}
