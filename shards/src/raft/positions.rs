//! Who still needs which part of a log: named positions, and the low-water mark under them.
//!
//! Invariant: positions only move forward, and the WAL is released up to the lowest of them, never beyond.

use corduroy_wal::Lsn;
use smallvec::SmallVec;

/// One who needs the log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Position {
    /// What survives a crash without the log: the state machine's persisted LSN.
    Persisted,
    /// What the group's other members may still ask for.
    Members,
    /// What follows images that members are sent, or come up from.
    Images,
    /// A reader of the log beside the state machine, numbered by its owner.
    Consumer(u16),
}

/// A use of positions that has no meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PositionError {
    /// Registered twice.
    #[error("position {0:?} is registered already")]
    Duplicate(Position),
    /// Never registered.
    #[error("position {0:?} is not registered")]
    Unknown(Position),
    /// Moved back.
    #[error("position {position:?} would go back from {from} to {to}")]
    Backwards {
        /// The position that would go back.
        position: Position,
        /// Where it stands.
        from: Lsn,
        /// Where it was sent.
        to: Lsn,
    },
}

/// The positions of one log.
#[derive(Clone, Debug, Default)]
pub struct Positions {
    at: SmallVec<[(Position, Lsn); 1]>,
}

impl Positions {
    /// Adds a position that has everything up to `done`.
    ///
    /// # Errors
    /// [`PositionError::Duplicate`].
    pub fn register(&mut self, position: Position, done: Lsn) -> Result<(), PositionError> {
        if self.get(position).is_some() {
            return Err(PositionError::Duplicate(position));
        }
        self.at.push((position, done));
        Ok(())
    }

    /// Takes a position away, so that it holds nothing back any more.
    ///
    /// # Errors
    /// [`PositionError::Unknown`].
    pub fn remove(&mut self, position: Position) -> Result<(), PositionError> {
        let before = self.at.len();
        self.at.retain(|(at, _)| *at != position);
        if self.at.len() == before { Err(PositionError::Unknown(position)) } else { Ok(()) }
    }

    /// Moves a position forward to `done`. Returns whether the low-water mark moved.
    ///
    /// # Errors
    /// [`PositionError::Unknown`], [`PositionError::Backwards`].
    pub fn advance(&mut self, position: Position, done: Lsn) -> Result<bool, PositionError> {
        let before = self.low_water();
        let Some((_, at)) = self.at.iter_mut().find(|(at, _)| *at == position) else {
            return Err(PositionError::Unknown(position));
        };
        if done < *at {
            return Err(PositionError::Backwards { position, from: *at, to: done });
        }
        *at = done;
        let low_water = self.low_water();
        assert!(before <= low_water && low_water <= done, "the mark went from {before} to {low_water}");
        Ok(low_water != before)
    }

    /// # Panics
    /// If a position is there twice.
    pub fn check(&self) {
        for (at, (position, _)) in self.at.iter().enumerate() {
            let is_twice = self.at.iter().skip(at + 1).any(|(other, _)| other == position);
            assert!(!is_twice, "position {position:?} is there twice");
        }
    }

    /// Moves a position to where it is needed, adds it, or takes it away. Returns whether the low-water mark may be higher now.
    pub fn set(&mut self, position: Position, done: Option<Lsn>) -> bool {
        let before = self.get(position);
        self.at.retain(|(at, _)| *at != position);
        self.at.extend(done.map(|done| (position, done)));
        before.is_some_and(|before| done.is_none_or(|done| done > before))
    }

    /// Where a position stands.
    #[must_use]
    pub fn get(&self, position: Position) -> Option<Lsn> {
        self.at.iter().find(|(at, _)| *at == position).map(|(_, lsn)| *lsn)
    }

    /// The highest entry that nobody needs any more; `Lsn::ZERO` if there is none, or nobody is registered.
    #[must_use]
    pub fn low_water(&self) -> Lsn {
        self.at.iter().map(|(_, lsn)| *lsn).min().unwrap_or(Lsn::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSUMER: Position = Position::Consumer(0);

    #[test]
    fn the_slowest_position_is_the_mark() {
        let mut positions = Positions::default();
        assert_eq!(positions.low_water(), Lsn::ZERO);
        positions.register(Position::Persisted, Lsn(4)).unwrap();
        positions.register(CONSUMER, Lsn(2)).unwrap();
        assert_eq!(positions.low_water(), Lsn(2));
        assert_eq!(positions.advance(Position::Persisted, Lsn(9)), Ok(false));
        assert_eq!(positions.advance(CONSUMER, Lsn(7)), Ok(true));
        assert_eq!(positions.low_water(), Lsn(7));
        positions.remove(CONSUMER).unwrap();
        assert_eq!(positions.low_water(), Lsn(9));
        positions.check();
    }

    #[test]
    #[should_panic(expected = "is there twice")]
    fn a_position_that_is_there_twice_is_found() {
        let twice = [(CONSUMER, Lsn(1)), (Position::Persisted, Lsn(1)), (CONSUMER, Lsn(2))];
        Positions { at: twice.into_iter().collect() }.check();
    }

    #[test]
    fn duplicates_strangers_and_steps_back_are_errors() {
        let mut positions = Positions::default();
        assert_eq!(positions.advance(CONSUMER, Lsn(1)), Err(PositionError::Unknown(CONSUMER)));
        assert_eq!(positions.remove(CONSUMER), Err(PositionError::Unknown(CONSUMER)));
        positions.register(CONSUMER, Lsn(5)).unwrap();
        assert_eq!(positions.register(CONSUMER, Lsn(5)), Err(PositionError::Duplicate(CONSUMER)));
        let back = PositionError::Backwards { position: CONSUMER, from: Lsn(5), to: Lsn(4) };
        assert_eq!(positions.advance(CONSUMER, Lsn(4)), Err(back));
        assert_eq!(positions.low_water(), Lsn(5));
    }
}
