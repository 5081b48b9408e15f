//! Images of a partition on their way from one member to another: who sends what when, and who takes in what.
//!
//! Nothing here knows how an image is made or installed: the parts are asked for and handed on by number.

pub mod finish;
mod incoming;
mod outgoing;
pub mod receiver;
pub mod sender;
#[cfg(test)]
mod tests;
pub mod transfers;
