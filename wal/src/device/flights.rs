//! Ring operations in flight: which completion entries belong to which operation, and what they say about it.
//!
//! A durable write in the linked form is two entries (write, fdatasync); the write's own success posts nothing,
//! so one completion ends an operation either way. Invariant: a buffer stays in this table from the moment its
//! entry is queued until its completion has been seen; a completion of an ended operation is recognized by its
//! generation and changes nothing.

use std::io;

use super::folder::short;
use super::{AlignedBuffer, Completion, IoId, SlotId};

/// Operations in flight at most; each takes two submission entries at most.
pub(super) const FLIGHTS_MAX: usize = 32;
/// Attempts at an operation that the system says it has not started.
const ATTEMPTS_MAX: u8 = 8;

/// What an operation does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Read,
    /// One write with `RWF_DSYNC`.
    WriteDsync,
    /// A write linked to an fdatasync.
    WriteLinked,
}

/// One operation with all that is needed to queue it (again).
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) id: IoId,
    pub(super) kind: Kind,
    pub(super) slot: SlotId,
    pub(super) offset: u32,
    pub(super) len: u32,
    pub(super) buffer: AlignedBuffer,
    pub(super) attempts: u8,
}

impl Flight {
    /// Its end.
    pub(super) fn ended(self, result: io::Result<()>) -> Completion<AlignedBuffer> {
        Completion { id: self.id, result, buffer: Some(self.buffer) }
    }
}

/// Names a submission entry: generation, index in the table, and which entry of the operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tag(pub(super) u64);

impl Tag {
    fn new(generation: u32, index: usize) -> Self {
        Self(u64::from(generation) << 32 | (index as u64) << 1)
    }

    /// The tag of the fdatasync that follows.
    pub(super) fn sync(self) -> Self {
        Self(self.0 | 1)
    }

    fn is_sync(self) -> bool {
        self.0 & 1 == 1
    }

    fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize >> 1
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// What a completion entry meant.
#[derive(Debug)]
pub(super) enum Completed {
    /// It belongs to an operation that has ended.
    Stale,
    /// Its operation goes on.
    Waiting,
    /// The system had not started it: queue it again.
    Again(Flight),
    /// It has ended.
    Ended(Completion<AlignedBuffer>),
}

#[derive(Debug, Default)]
struct Cell {
    generation: u32,
    flight: Option<Flight>,
}

/// The table.
#[derive(Debug)]
pub(super) struct Flights {
    cells: Vec<Cell>,
    free: Vec<usize>,
}

impl Flights {
    pub(super) fn new() -> Self {
        let cells = (0..FLIGHTS_MAX).map(|_| Cell::default()).collect();
        Self { cells, free: (0..FLIGHTS_MAX).rev().collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.cells.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Whether an operation on this slot is in flight.
    pub(super) fn uses(&self, slot: SlotId) -> bool {
        self.cells.iter().filter_map(|c| c.flight.as_ref()).any(|f| f.slot == slot)
    }

    /// The bytes of a write in flight.
    pub(super) fn written(&self, id: IoId) -> Option<&[u8]> {
        self.cells.iter().filter_map(|c| c.flight.as_ref()).find_map(|f| f.written(id))
    }

    /// Takes an operation in; its tag, and itself in the table.
    pub(super) fn submit(&mut self, flight: Flight) -> (Tag, &mut Flight) {
        let index = self.free.pop().expect("the caller has asked is_full");
        let cell = self.cells.get_mut(index).expect("free indexes are in the table");
        assert!(cell.flight.is_none(), "a free index of the flight table is in use");
        (Tag::new(cell.generation, index), cell.flight.insert(flight))
    }

    /// Applies one completion entry.
    pub(super) fn complete(&mut self, tag: Tag, result: i32) -> Completed {
        let Some(cell) = self.cells.get_mut(tag.index()) else { return Completed::Stale };
        if cell.generation != tag.generation() {
            return Completed::Stale;
        }
        let Some(mut flight) = cell.flight.take() else { return Completed::Stale };
        if !tag.is_sync() && flight.kind == Kind::WriteLinked && u32::try_from(result) == Ok(flight.len) {
            cell.flight = Some(flight);
            return Completed::Waiting;
        }
        cell.generation = cell.generation.wrapping_add(1);
        self.free.push(tag.index());
        if !tag.is_sync() && flight.not_started(result) && flight.attempts < ATTEMPTS_MAX {
            flight.attempts += 1;
            return Completed::Again(flight);
        }
        let outcome = flight.outcome(tag.is_sync(), result);
        Completed::Ended(flight.ended(outcome))
    }

    /// Takes every operation out, to leave its buffer to the kernel for good.
    pub(super) fn drain(&mut self) -> Vec<Flight> {
        let mut out = Vec::new();
        for (index, cell) in self.cells.iter_mut().enumerate() {
            if let Some(flight) = cell.flight.take() {
                cell.generation = cell.generation.wrapping_add(1);
                self.free.push(index);
                out.push(flight);
            }
        }
        out
    }
}

impl Flight {
    /// Its bytes, if it is this write.
    pub(super) fn written(&self, id: IoId) -> Option<&[u8]> {
        (self.id == id && self.kind != Kind::Read).then_some(&self.buffer)
    }

    /// Whether `result` says that nothing was done at all. An interrupted `RWF_DSYNC` write may have failed in
    /// its flush, and a flush is never tried twice.
    fn not_started(&self, result: i32) -> bool {
        match -result {
            libc::EAGAIN => true,
            libc::EINTR => self.kind != Kind::WriteDsync,
            _ => false,
        }
    }

    fn outcome(&self, is_sync: bool, result: i32) -> io::Result<()> {
        match u32::try_from(result) {
            Err(_) if is_sync && -result == libc::ECANCELED => {
                Err(io::Error::other("the sync was cancelled: the write before it failed"))
            }
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
            Ok(_) if is_sync => Ok(()),
            Ok(done) if done == self.len => Ok(()),
            Ok(done) => {
                let what = if self.kind == Kind::Read { "read" } else { "write" };
                Err(short(what, done as usize, self.len))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flight(kind: Kind) -> Flight {
        Flight {
            id: IoId(9),
            kind,
            slot: SlotId(1),
            offset: 0,
            len: 4096,
            buffer: AlignedBuffer::zeroed(4096),
            attempts: 0,
        }
    }

    fn end(completed: Completed) -> io::Result<()> {
        match completed {
            Completed::Ended(done) => {
                assert_eq!(done.id, IoId(9));
                assert!(done.buffer.is_some());
                done.result
            }
            other => panic!("not ended: {other:?}"),
        }
    }

    #[test]
    fn linked_ends_with_its_sync_only() {
        let mut flights = Flights::new();
        let (tag, _) = flights.submit(flight(Kind::WriteLinked));
        assert!(matches!(flights.complete(tag, 4096), Completed::Waiting));
        assert!(flights.uses(SlotId(1)));
        end(flights.complete(tag.sync(), 0)).unwrap();
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn a_broken_link_reports_the_write_and_forgets_the_cancelled_sync() {
        let mut flights = Flights::new();
        let (tag, _) = flights.submit(flight(Kind::WriteLinked));
        let error = end(flights.complete(tag, -libc::EIO)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        let (next, _) = flights.submit(flight(Kind::WriteLinked));
        assert!(matches!(flights.complete(tag.sync(), -libc::ECANCELED), Completed::Stale));
        assert_eq!(flights.len(), 1, "the stale entry must not end the next operation");
        end(flights.complete(next.sync(), 0)).unwrap();
    }

    #[test]
    fn a_failed_sync_is_final() {
        for code in [libc::EIO, libc::EINTR, libc::EAGAIN, libc::ECANCELED] {
            let mut flights = Flights::new();
            let (tag, _) = flights.submit(flight(Kind::WriteLinked));
            end(flights.complete(tag.sync(), -code)).unwrap_err();
        }
    }

    #[test]
    fn short_transfers_are_errors() {
        for kind in [Kind::Read, Kind::WriteDsync, Kind::WriteLinked] {
            let mut flights = Flights::new();
            let (tag, _) = flights.submit(flight(kind));
            let error = end(flights.complete(tag, 512)).unwrap_err();
            assert!(error.to_string().contains("512 of 4096"), "{error}");
        }
    }

    #[test]
    fn only_what_has_not_started_is_tried_again_and_not_for_ever() {
        let mut flights = Flights::new();
        let (tag, _) = flights.submit(flight(Kind::WriteDsync));
        assert_eq!(end(flights.complete(tag, -libc::EINTR)).unwrap_err().raw_os_error(), Some(libc::EINTR));
        let mut again = flight(Kind::WriteLinked);
        for _ in 0..ATTEMPTS_MAX {
            let (tag, _) = flights.submit(again);
            again = match flights.complete(tag, -libc::EAGAIN) {
                Completed::Again(flight) => flight,
                other => panic!("not again: {other:?}"),
            };
        }
        let (tag, _) = flights.submit(again);
        assert_eq!(end(flights.complete(tag, -libc::EAGAIN)).unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }

    #[test]
    fn full_and_drained() {
        let mut flights = Flights::new();
        for _ in 0..FLIGHTS_MAX {
            assert!(!flights.is_full());
            flights.submit(flight(Kind::Read));
        }
        assert!(flights.is_full());
        assert_eq!(flights.drain().len(), FLIGHTS_MAX);
        assert_eq!(flights.len(), 0);
        assert!(!flights.is_full());
    }
}
