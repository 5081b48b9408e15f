//! corduroy-sim.
fn main() {}
