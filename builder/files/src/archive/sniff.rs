//! What a file is, by its first bytes.

use std::io::{self, BufRead, Read};

/// How an archive may be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Compression {
    /// By the first bytes of the file, as moby looks at them.
    pub(super) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
            [b'B', b'Z', b'h', ..] => Compression::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            // A zstd stream may start with a frame to be skipped (RFC 8878, 3.1.2).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// What comes out of `reader`.
    pub(super) fn reader<'a>(self, reader: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Compression::None => Box::new(reader),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
            Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(reader)),
            Compression::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(reader)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(reader)?),
        })
    }
}

/// The length of a tar's block.
const BLOCK_BYTES: usize = 512;
/// Where its checksum is.
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Whether the first block is a header with the right checksum. A tar of nothing is none: ADD copies it.
pub(super) fn is_tar(reader: io::Result<impl Read>) -> bool {
    let mut block = [0; BLOCK_BYTES];
    if reader.and_then(|mut reader| reader.read_exact(&mut block)).is_err() {
        return false;
    }
    let digits = block[CHECKSUM].iter().copied().skip_while(|byte| *byte == b' ');
    let digits: Vec<u8> = digits.take_while(|byte| (b'0'..=b'7').contains(byte)).collect();
    let wanted = std::str::from_utf8(&digits).ok().and_then(|digits| i64::from_str_radix(digits, 8).ok());
    block[CHECKSUM].fill(b' ');
    // Some old programs summed signed bytes.
    let unsigned: i64 = block.iter().map(|byte| i64::from(*byte)).sum();
    let signed: i64 = block.iter().map(|byte| i64::from(*byte as i8)).sum();
    wanted.is_some_and(|wanted| wanted == unsigned || wanted == signed)
}
