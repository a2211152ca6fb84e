//! The command line of Lithify.
fn main() {}
