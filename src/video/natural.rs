//! The order in which a person counts: frame 2 before frame 10.

use std::cmp::Ordering;
use std::ffi::OsStr;

/// A run of digits without leading zeros, or any other single byte in lower case.
#[derive(PartialEq, Eq)]
enum Piece<'a> {
    Number(&'a [u8]),
    Byte(u8),
}

impl Piece<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            // Without leading zeros the longer number is the larger one.
            (Self::Number(a), Self::Number(b)) => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            (Self::Byte(a), Self::Byte(b)) => a.cmp(b),
            // A number stands where the digits stand among the bytes.
            (Self::Number(_), Self::Byte(b)) => b'0'.cmp(b),
            (Self::Byte(a), Self::Number(_)) => a.cmp(&b'0'),
        }
    }
}

/// Splits the next piece off the front of `rest`.
fn next_piece<'a>(rest: &mut &'a [u8]) -> Option<Piece<'a>> {
    let &first = rest.first()?;
    if !first.is_ascii_digit() {
        *rest = &rest[1..];
        return Some(Piece::Byte(first.to_ascii_lowercase()));
    }
    let end = rest
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(rest.len());
    let (digits, tail) = rest.split_at(end);
    *rest = tail;
    let zeros = digits.iter().take_while(|&&b| b == b'0').count();
    Some(Piece::Number(&digits[zeros..]))
}

/// Compares file names as a person would: digits by their value, letters without case, ties by the exact bytes.
///
/// A total order on all names, also those that are not UTF-8.
pub fn natural_cmp(a: &OsStr, b: &OsStr) -> Ordering {
    let (mut left, mut right) = (a.as_encoded_bytes(), b.as_encoded_bytes());
    loop {
        let order = match (next_piece(&mut left), next_piece(&mut right)) {
            (None, None) => return a.as_encoded_bytes().cmp(b.as_encoded_bytes()),
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(x), Some(y)) => x.cmp(&y),
        };
        if order.is_ne() {
            return order;
        }
    }
}
