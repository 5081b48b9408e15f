//! corduroy-load.
fn main() {}
