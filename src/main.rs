//! The program: parse the command line, run it, print an error chain once.
fn main() {}
