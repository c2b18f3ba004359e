//! The CRC-32C of two pieces together, from those of each, without reading them again.
//!
//! A checksum is a polynomial modulo the one of CRC-32C, and bytes behind it multiply it by x⁸ each:
//! `crc(a b) = crc(a) · x^(8 · |b|) + crc(b)`. The powers come from a table for each byte of the length, so that it takes
//! a multiplication for each that is not 0: about 60 ns, where `crc32c::crc32c_combine` makes the powers anew each time
//! (8 to 60 µs).

/// CRC-32C's polynomial without x³², as the checksum has its bits: x⁰ is the highest.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x⁰.
const ONE: u32 = 1 << 31;
/// x⁸.
const BYTE: u32 = ONE >> 8;

/// `POWERS[i][n]` is x to the power of `8 · n · 256^i`.
const POWERS: [[u32; 256]; size_of::<u32>()] = {
    let mut powers = [[ONE; 256]; size_of::<u32>()];
    let (mut table, mut step) = (0, BYTE);
    while table < powers.len() {
        let mut n = 1;
        while n < 256 {
            powers[table][n] = multiply(powers[table][n - 1], step);
            n += 1;
        }
        step = multiply(powers[table][255], step);
        table += 1;
    }
    powers
};

/// The product of two polynomials. Without branches: which bits are set cannot be foreseen.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut product, mut power) = (0, 0);
    while power < u32::BITS {
        product ^= b & 0_u32.wrapping_sub((a >> (u32::BITS - 1 - power)) & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(b & 1));
        power += 1;
    }
    product
}

/// The CRC-32C of bytes whose own is `first`, followed by `len` bytes whose own is `second`.
#[must_use]
pub(super) fn combine(first: u32, second: u32, len: u32) -> u32 {
    let powers = POWERS.iter().zip(len.to_le_bytes()).filter(|(_, byte)| *byte != 0);
    powers.fold(first, |crc, (powers, byte)| multiply(crc, powers[usize::from(byte)])) ^ second
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_the_checksum_of_both(first: Vec<u8>, second: Vec<u8>) {
            let both = crc32c::crc32c(&[&first[..], &second].concat());
            let len = second.len() as u32;
            prop_assert_eq!(combine(crc32c::crc32c(&first), crc32c::crc32c(&second), len), both);
        }

        #[test]
        fn any_length_is_as_the_librarys(first: u32, second: u32, len: u32, shift in 0..32) {
            // The library's does not look at the checksum of nothing.
            let len = u32::max(len >> shift, 1);
            let expected = crc32c::crc32c_combine(first, second, len as usize);
            prop_assert_eq!(combine(first, second, len), expected);
        }
    }
}
