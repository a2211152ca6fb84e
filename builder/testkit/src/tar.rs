//! A tar reader of our own: ustar, PAX with binary values, GNU long names and base-256 numbers; everything streamed.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

const BLOCK_BYTES: usize = 512;
/// Names and extended headers beyond this are an attack or a bug, never a test's wish.
const EXTENSION_MAX_BYTES: u64 = 16 << 20;

/// One member of a tar file as its header says it, PAX records applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// The name as stored, without a slash at its end.
    pub name: Vec<u8>,
    /// The type flag, such as `b'0'` (file), `b'5'` (folder).
    pub kind: u8,
    /// Permission bits and setuid, setgid, sticky.
    pub mode: u32,
    /// The owner's number.
    pub uid: u64,
    /// The group's number.
    pub gid: u64,
    /// The content's size in bytes.
    pub size_bytes: u64,
    /// Seconds since 1970, as text, because PAX allows fractions.
    pub mtime: String,
    /// Where a symbolic or hard link points to.
    pub link: Vec<u8>,
    /// The owner's name.
    pub user: Vec<u8>,
    /// The group's name.
    pub group: Vec<u8>,
    /// Major and minor number.
    pub device: (u64, u64),
    /// All PAX records, including those applied above.
    pub pax: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Member {
    /// Whether the member is a plain file with content of its own.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, b'0' | 0 | b'7')
    }

    /// The path below the root that the name means: `/a/b`, with `.`, `..` and empty parts resolved.
    pub fn path(&self) -> String {
        absolute(&self.name)
    }

    /// The path that a hard link's target name means.
    pub fn link_path(&self) -> String {
        absolute(&self.link)
    }
}

/// Reads members one after the other; between them, [`TarReader`] itself reads the current member's content.
pub struct TarReader<R> {
    inner: R,
    position: u64,
    left: u64,
    padding: u64,
    global: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<R: Read> TarReader<R> {
    /// Starts at the first header.
    pub fn new(inner: R) -> Self {
        Self { inner, position: 0, left: 0, padding: 0, global: BTreeMap::new() }
    }

    /// The offset of the next unread byte: right after [`Self::next_member`], where the content begins.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next member, or `None` at the end; skips what is left of the current one.
    ///
    /// # Errors
    /// When the tar file is cut short or breaks the format.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        let (mut pax, mut long_name, mut long_link) = (BTreeMap::new(), None, None);
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let kind = header[156];
            self.set_content(number(&header[124..136])?);
            match kind {
                b'x' => pax = records(&self.extension()?)?,
                b'g' => {
                    let records = records(&self.extension()?)?;
                    self.global.extend(records);
                }
                b'L' => long_name = Some(until_nul(&self.extension()?).to_vec()),
                b'K' => long_link = Some(until_nul(&self.extension()?).to_vec()),
                b'S' => return Err(broken("a GNU sparse file, which no image holds")),
                _ => {
                    let mut member = plain(&header)?;
                    member.name = long_name.unwrap_or(member.name);
                    member.link = long_link.unwrap_or(member.link);
                    member.pax = self.global.clone();
                    member.pax.extend(pax);
                    apply_pax(&mut member)?;
                    let is_slashed = member.name.ends_with(b"/");
                    while member.name.len() > 1 && member.name.ends_with(b"/") {
                        member.name.pop();
                    }
                    if is_slashed && member.kind == 0 {
                        member.kind = b'5'; // tar of 1979 had no folders
                    }
                    self.set_content(if member.is_file() { member.size_bytes } else { 0 });
                    return Ok(Some(member));
                }
            }
        }
    }

    fn set_content(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK_BYTES as u64 - size % BLOCK_BYTES as u64) % BLOCK_BYTES as u64;
    }

    fn skip_content(&mut self) -> io::Result<()> {
        let rest = self.left + self.padding;
        let skipped = io::copy(&mut self.inner.by_ref().take(rest), &mut io::sink())?;
        self.position += skipped;
        (self.left, self.padding) = (0, 0);
        if skipped == rest { Ok(()) } else { Err(broken("the archive ends inside a member")) }
    }

    fn header(&mut self) -> io::Result<Option<[u8; BLOCK_BYTES]>> {
        let mut block = [0u8; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            match self.inner.read(&mut block[filled..])? {
                0 if filled == 0 => return Ok(None),
                0 => return Err(broken("the archive ends inside a header")),
                count => filled += count,
            }
        }
        self.position += BLOCK_BYTES as u64;
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u64 = block
            .iter()
            .enumerate()
            .map(|(i, b)| if (148..156).contains(&i) { 32 } else { u64::from(*b) })
            .sum();
        if sum == number(&block[148..156])? { Ok(Some(block)) } else { Err(broken("wrong header checksum")) }
    }

    fn extension(&mut self) -> io::Result<Vec<u8>> {
        if self.left > EXTENSION_MAX_BYTES {
            return Err(broken("an extended header of more than 16 MiB"));
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.inner.read(&mut buffer[..most])?;
        if count == 0 && most > 0 {
            return Err(broken("the archive ends inside a member"));
        }
        self.left -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

/// The bytes behind a layer blob: gzip and zstd are found by their magic numbers, anything else is taken as it is.
///
/// # Errors
/// When the blob cannot be read or its codec does not start.
pub fn decoded<'a>(blob: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut blob = BufReader::with_capacity(64 << 10, blob);
    let start = blob.fill_buf()?;
    if start.starts_with(b"\x1f\x8b") {
        Ok(Box::new(flate2::bufread::MultiGzDecoder::new(blob)))
    } else if start.starts_with(b"\x28\xb5\x2f\xfd") {
        Ok(Box::new(zstd::stream::read::Decoder::with_buffer(blob)?))
    } else {
        Ok(Box::new(blob))
    }
}

/// Bytes as text in which what is not UTF-8 stands as `\xNN`.
pub(crate) fn readable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn absolute(name: &[u8]) -> String {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", readable(&parts.join(&b'/')))
}

fn plain(header: &[u8; BLOCK_BYTES]) -> io::Result<Member> {
    let mut name = until_nul(&header[0..100]).to_vec();
    let prefix = until_nul(&header[345..500]);
    // GNU's old format (`ustar  `) keeps times where POSIX keeps the prefix.
    if &header[257..263] == b"ustar\0" && !prefix.is_empty() {
        name = [prefix, b"/", &name].concat();
    }
    Ok(Member {
        name,
        kind: header[156],
        mode: u32::try_from(number(&header[100..108])? & 0o7777).unwrap_or_default(),
        uid: number(&header[108..116])?,
        gid: number(&header[116..124])?,
        size_bytes: number(&header[124..136])?,
        mtime: number(&header[136..148])?.to_string(),
        link: until_nul(&header[157..257]).to_vec(),
        user: until_nul(&header[265..297]).to_vec(),
        group: until_nul(&header[297..329]).to_vec(),
        device: (number(&header[329..337])?, number(&header[337..345])?),
        pax: BTreeMap::new(),
    })
}

fn apply_pax(member: &mut Member) -> io::Result<()> {
    for (key, value) in member.pax.clone() {
        match key.as_slice() {
            b"path" => member.name = value,
            b"linkpath" => member.link = value,
            b"size" => member.size_bytes = decimal(&value)?,
            b"uid" => member.uid = decimal(&value)?,
            b"gid" => member.gid = decimal(&value)?,
            b"mtime" => member.mtime = readable(&value),
            b"uname" => member.user = value,
            b"gname" => member.group = value,
            _ => {}
        }
    }
    Ok(())
}

/// PAX records: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record, so a value may hold any byte.
fn records(mut bytes: &[u8]) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut found = BTreeMap::new();
    while !bytes.is_empty() && bytes[0] != 0 {
        let bad = || broken("a malformed PAX record");
        let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
        let length = usize::try_from(decimal(&bytes[..space])?).map_err(|_| bad())?;
        let record = bytes.get(space + 1..length).ok_or_else(bad)?.strip_suffix(b"\n").ok_or_else(bad)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
        found.insert(record[..equals].to_vec(), record[equals + 1..].to_vec());
        bytes = &bytes[length..];
    }
    Ok(found)
}

fn decimal(bytes: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| broken("a malformed number"))
}

/// A numeric field: octal digits, or base 256 when the first bit is set.
fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        return Ok(field[1..].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let text: String = until_nul(field).iter().map(|byte| char::from(*byte)).collect();
    let text = text.trim();
    if text.is_empty() {
        return Ok(0);
    }
    u64::from_str_radix(text, 8).map_err(|_| broken("a malformed number"))
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("tar: {what}"))
}
