//! Planted bugs: each breaks one guard of the WAL, so that the simulator can show that it would notice.
//!
//! Off by default and compiled out without the feature `sim`. The switch is per thread, since a simulated world
//! runs on one thread and many run side by side.

/// A guard that can be taken away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Planted {
    /// A batch counts as durable as soon as it is handed to the device.
    AckBeforeDurable,
    /// Recovery takes damage for a torn tail and cuts acknowledged data off.
    CutAboveWatermark,
    /// Recovery does not compare a frame's salt and sequence, so an earlier use of a slot is read as new.
    StaleFrameAccepted,
    /// The first record after a segment roll does not enter the index.
    LostRunAtRoll,
    /// Recovery forgets hard states.
    SkipHardState,
    /// A footer leaves out the segment's last frame.
    FooterLosesLastFrame,
    /// Out-of-order completions move the watermark past a batch still in flight.
    WatermarkSkipsHole,
    /// A segment is reused while the frame that frees it is still in flight.
    RecycleTooEarly,
    /// A record's hard state is written in a frame before that of its entries.
    HardStateApart,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::AckBeforeDurable,
        Self::CutAboveWatermark,
        Self::StaleFrameAccepted,
        Self::LostRunAtRoll,
        Self::SkipHardState,
        Self::FooterLosesLastFrame,
        Self::WatermarkSkipsHole,
        Self::RecycleTooEarly,
        Self::HardStateApart,
    ];
}

#[cfg(feature = "sim")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Planted>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread's WALs, or removes it.
#[cfg(feature = "sim")]
pub fn plant(bug: Option<Planted>) {
    PLANTED.set(bug);
}

/// Whether the bug is planted.
#[cfg(feature = "sim")]
pub(crate) fn is(bug: Planted) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether any bug is planted.
#[cfg(feature = "sim")]
pub(crate) fn any() -> bool {
    PLANTED.get().is_some()
}

/// Whether the bug is planted: never, without the feature.
#[cfg(not(feature = "sim"))]
pub(crate) const fn is(_bug: Planted) -> bool {
    false
}
