//! Sparse files in archives: GNU's old form and the PAX forms 0.0, 0.1 and 1.0, all expanded to plain bytes.

use std::io::{self, Read};

use super::header::{BLOCK, Problem, number, size};

/// Where data lies in the file: offset and length in bytes, in order.
pub(super) type Map = Vec<(u64, u64)>;

/// The map, and the length of the whole file in bytes.
pub(super) type Layout = (Map, u64);

/// More pieces than this are taken for an attack on memory (16 bytes each).
const MAX_PIECES: usize = 1 << 20;

/// What the PAX records say of a sparse file.
#[derive(Default)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// From `GNU.sparse.map` (0.1), or from pairs of `GNU.sparse.offset` and `GNU.sparse.numbytes` (0.0).
    pub(super) numbers: Option<Vec<u64>>,
}

impl PaxSparse {
    /// Takes one record whose key starts with `GNU.sparse.`; `key` is what follows.
    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        match key {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"realsize" | b"size" => self.real_size = Some(decimal(value)?),
            b"map" if value.is_empty() => self.numbers = Some(vec![]),
            b"map" => {
                let numbers: Result<_, _> = value.split(|byte| *byte == b',').map(decimal).collect();
                self.numbers = Some(numbers?);
            }
            b"offset" | b"numbytes" => {
                let numbers = self.numbers.get_or_insert_default();
                let expected = if numbers.len().is_multiple_of(2) { &b"offset"[..] } else { b"numbytes" };
                if key != expected || numbers.len() > 2 * MAX_PIECES {
                    return Err("the map of a sparse file is malformed".into());
                }
                numbers.push(decimal(value)?);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the file is sparse at all.
    pub(super) fn is_sparse(&self) -> bool {
        self.major.is_some() || self.numbers.is_some()
    }

    /// The map, where the records hold it; `None` where it precedes the content (1.0).
    pub(super) fn map(&self) -> Result<Option<Map>, Problem> {
        match (self.major, self.minor, &self.numbers) {
            (Some(1), Some(0), _) => Ok(None),
            (None | Some(0), _, Some(numbers)) if numbers.len().is_multiple_of(2) => {
                Ok(Some(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()))
            }
            (major, minor, _) => Err(format!(
                "the sparse format {}.{} is not known",
                major.unwrap_or_default(),
                minor.unwrap_or_default()
            )),
        }
    }
}

fn decimal(text: &[u8]) -> Result<u64, Problem> {
    let number = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    number
        .and_then(|text| text.parse().ok())
        .filter(|value| *value <= i64::MAX as u64)
        .ok_or_else(|| format!("a number of a sparse file is malformed: {:?}", String::from_utf8_lossy(text)))
}

/// Reads the map that precedes the content in format 1.0: decimal numbers, one a line, padded to whole blocks.
/// Takes the bytes that it reads off `left`.
pub(super) fn read_leading_map(input: &mut dyn Read, left: &mut u64) -> io::Result<Result<Map, Problem>> {
    let mut numbers = vec![];
    let mut digits = vec![];
    let mut expected = None;
    loop {
        let mut block = [0; BLOCK];
        if *left < BLOCK as u64 {
            return Ok(Err("the map of a sparse file is cut off".into()));
        }
        input.read_exact(&mut block)?;
        *left -= BLOCK as u64;
        for byte in block {
            if byte != b'\n' {
                digits.push(byte);
                if digits.len() > 20 {
                    return Ok(Err("a number of a sparse file is malformed".into()));
                }
                continue;
            }
            let value = match decimal(&digits) {
                Ok(value) => value,
                Err(problem) => return Ok(Err(problem)),
            };
            digits.clear();
            match expected {
                None if value > MAX_PIECES as u64 => {
                    return Ok(Err(format!("a sparse file has {value} pieces, more than {MAX_PIECES}")));
                }
                None => expected = Some(2 * value as usize),
                Some(_) => numbers.push(value),
            }
            if expected == Some(numbers.len()) {
                return Ok(Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()));
            }
        }
    }
}

/// Reads the map of GNU's old form: four pieces in the header, more in the blocks after it. Returns the map and the
/// length of the whole file.
pub(super) fn read_old_map(
    header: &[u8; BLOCK],
    input: &mut dyn Read,
) -> io::Result<Result<Layout, Problem>> {
    let mut map = vec![];
    let real_size = match number(&header[483..495], "sparse file's size").and_then(size) {
        Ok(size) => size,
        Err(problem) => return Ok(Err(problem)),
    };
    let mut block = *header;
    let mut area = 386..482;
    let mut more = header[482] != 0;
    loop {
        for piece in block[area.clone()].chunks_exact(24) {
            if piece[0] == 0 {
                break;
            }
            let pair = number(&piece[..12], "sparse offset")
                .and_then(size)
                .and_then(|offset| Ok((offset, number(&piece[12..], "sparse length").and_then(size)?)));
            match pair {
                Ok(pair) if map.len() < MAX_PIECES => map.push(pair),
                Ok(_) => return Ok(Err(format!("a sparse file has more than {MAX_PIECES} pieces"))),
                Err(problem) => return Ok(Err(problem)),
            }
        }
        if !more {
            return Ok(Ok((map, real_size)));
        }
        input.read_exact(&mut block)?;
        area = 0..504;
        more = block[504] != 0;
    }
}

/// Whether the pieces are in order, do not overlap, lie in the file, and are as long together as the data.
pub(super) fn check(map: &Map, real_size: u64, data_bytes: u64) -> Result<(), Problem> {
    let (mut end, mut total) = (0, 0u64);
    for (offset, length) in map {
        let after = offset.checked_add(*length).filter(|after| *after <= real_size && *offset >= end);
        end = after.ok_or("the pieces of a sparse file overlap or lie outside it")?;
        total += length;
    }
    if total != data_bytes {
        return Err(format!("a sparse file has {data_bytes} bytes of data, its map says {total}"));
    }
    Ok(())
}

/// Reads a sparse file as plain bytes, with zeros for the holes.
pub(super) struct Expanded<'a, D> {
    pub(super) data: D,
    pub(super) map: &'a [(u64, u64)],
    pub(super) real_size: u64,
    pub(super) position: u64,
}

impl<D: Read> Read for Expanded<'_, D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some((offset, length)) = self.map.first() {
            if self.position < offset + length {
                break;
            }
            self.map = &self.map[1..];
        }
        let (in_data, end) = match self.map.first() {
            Some((offset, length)) if self.position >= *offset => (true, offset + length),
            Some((offset, _)) => (false, *offset),
            None => (false, self.real_size),
        };
        let room = usize::try_from(end - self.position).unwrap_or(usize::MAX).min(buffer.len());
        let got = if in_data {
            self.data.read(&mut buffer[..room])?
        } else {
            buffer[..room].fill(0);
            room
        };
        self.position += got as u64;
        Ok(got)
    }
}
