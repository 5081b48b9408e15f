//! corduroy-wal.
fn main() {}
