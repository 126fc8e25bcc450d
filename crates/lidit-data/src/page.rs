//! What page headers promise, before anything is allocated for them.

use parquet::errors::ParquetError;

use crate::footer::general;

// A page of so many bytes is read whatever its chunk is said to hold: some writers leave sums out.
const USUAL_BYTES: u64 = 64 << 20;

// Structures inside structures; a page header has three.
const DEPTH: usize = 8;

/// Refuses a page that would be larger, decompressed, than its whole column chunk: its reader takes a header's word for it,
/// and one wrong byte can promise two gigabytes.
///
/// `bytes` are pages one after the other. What is no page header is left to the reader, which says so.
pub(crate) fn check_pages(mut bytes: &[u8], chunk_bytes: i64) -> Result<(), ParquetError> {
    let most = u64::try_from(chunk_bytes).unwrap_or_default().max(USUAL_BYTES);
    while let Some(header) = Header::parse(bytes) {
        if header.uncompressed > most {
            let found = header.uncompressed;
            return Err(general(&format!(
                "a page promises {found} bytes, its column has {chunk_bytes}"
            )));
        }
        let next = usize::try_from(header.compressed)
            .ok()
            .and_then(|len| len.checked_add(header.len));
        match next.and_then(|next| bytes.get(next..)) {
            Some(rest) => bytes = rest,
            None => break,
        }
    }
    Ok(())
}

// Of a Thrift structure in the compact protocol: fields 2 and 3, and its length.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    uncompressed: u64,
    compressed: u64,
    len: usize,
}

impl Header {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes, at: 0 };
        let (mut uncompressed, mut compressed) = (None, None);
        let mut field = 0;
        loop {
            let (number, kind) = reader.field(field)?;
            match (number, kind) {
                (_, 0) => break,
                (2, 5) => uncompressed = Some(reader.unsigned()?),
                (3, 5) => compressed = Some(reader.unsigned()?),
                (_, kind) => reader.skip(kind, DEPTH)?,
            }
            field = number;
        }
        Some(Self {
            uncompressed: uncompressed?,
            compressed: compressed?,
            len: reader.at,
        })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    // A zigzag number that is not negative.
    fn unsigned(&mut self) -> Option<u64> {
        let value = self.varint()?;
        (value & 1 == 0).then_some(value >> 1)
    }

    // The next field's number and type; type 0 ends a structure.
    fn field(&mut self, before: u64) -> Option<(u64, u8)> {
        let byte = self.byte()?;
        let (delta, kind) = (u64::from(byte >> 4), byte & 0x0f);
        let number = if delta == 0 && kind != 0 {
            self.unsigned()?
        } else {
            before + delta
        };
        Some((number, kind))
    }

    fn pass(&mut self, len: u64) -> Option<()> {
        self.at = self.at.checked_add(usize::try_from(len).ok()?)?;
        (self.at <= self.bytes.len()).then_some(())
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match kind {
            // Booleans are their own type.
            1 | 2 => Some(()),
            3 => self.pass(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.pass(8),
            8 => {
                let len = self.varint()?;
                self.pass(len)
            }
            9 | 10 => {
                let byte = self.byte()?;
                let count = if byte >> 4 == 15 {
                    self.varint()?
                } else {
                    u64::from(byte >> 4)
                };
                // In a list a boolean takes a byte.
                let kind = if byte & 0x0f <= 2 { 3 } else { byte & 0x0f };
                (0..count).try_for_each(|_| self.skip(kind, depth))
            }
            12 => {
                let mut field = 0;
                loop {
                    let (number, kind) = self.field(field)?;
                    if kind == 0 {
                        return Some(());
                    }
                    self.skip(kind, depth)?;
                    field = number;
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    // Type 0, two sizes as zigzag varints, a structure with a number and a string, the end; then the page.
    fn page(uncompressed: u64, compressed: usize) -> Vec<u8> {
        let mut bytes = vec![0x15, 0];
        for size in [uncompressed, compressed as u64] {
            bytes.push(0x15);
            let mut left = size << 1;
            while left >= 0x80 {
                bytes.push(left as u8 | 0x80);
                left >>= 7;
            }
            bytes.push(left as u8);
        }
        bytes.extend([0x2c, 0x15, 2, 0x18, 2, b'a', b'b', 0, 0]);
        bytes.resize(bytes.len() + compressed, 7);
        bytes
    }

    #[test]
    fn a_header_is_as_long_as_it_is_and_says_both_sizes() {
        let bytes = page(300, 20);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!((header.uncompressed, header.compressed), (300, 20));
        assert_eq!(header.len, bytes.len() - 20);
        for len in 0..header.len {
            assert_eq!(Header::parse(&bytes[..len]), None);
        }
    }

    #[test]
    fn a_page_that_promises_more_than_its_column_holds_is_refused_wherever_it_stands() {
        let (good, bad) = (page(300, 20), page((1 << 31) - 1, 20));
        check_pages(&good.repeat(3), 900).unwrap();
        check_pages(&bad, 1 << 31).unwrap();
        let error = check_pages(&[good.repeat(2), bad].concat(), 900).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("promises 2147483647 bytes, its column has 900")
        );
    }
}
