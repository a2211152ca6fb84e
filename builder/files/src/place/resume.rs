//! Comparing two contents that can be read only once: at the first difference, the reading goes on as if nothing had happened.

use std::io::{self, Read};

use lithify_oci::Content;

const CHUNK_BYTES: usize = 64 << 10;

/// Opens the content to compare with, once to compare and once more to read again what was equal.
pub(super) type Open<'a> = dyn Fn() -> io::Result<Box<dyn Read + 'a>> + 'a;

/// A content of which a part has been read: what was equal comes from the other content, then what was read, then the rest.
pub(super) struct Rest<'a> {
    open: &'a Open<'a>,
    equal_bytes: u64,
    read: Vec<u8>,
    rest: &'a mut dyn Read,
}

impl Content for Rest<'_> {
    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        let equal = (self.open)()?.take(self.equal_bytes);
        Ok(Box::new(equal.chain(self.read.as_slice()).chain(&mut *self.rest)))
    }
}

/// `None` if both contents are the same.
pub(super) fn compare<'a>(content: &'a mut dyn Read, open: &'a Open<'a>) -> io::Result<Option<Rest<'a>>> {
    let mut other = open()?;
    let (mut left, mut right) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut equal_bytes = 0;
    loop {
        let read = fill(content, &mut left)?;
        let there = fill(&mut *other, &mut right)?;
        if left[..read] != right[..there] {
            left.truncate(read);
            return Ok(Some(Rest { open, equal_bytes, read: left, rest: content }));
        }
        if read < CHUNK_BYTES {
            return Ok(None);
        }
        equal_bytes += read as u64;
    }
}

/// Reads until the buffer is full or nothing is left.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
