//! The 512-byte header of a tar archive (POSIX.1-2024, pax, "ustar Interchange Format") and its extended records.

use std::collections::BTreeMap;

use crate::Timestamp;

/// Everything in an archive is padded to this many bytes.
pub(super) const BLOCK: usize = 512;

/// Extended header records (POSIX.1-2024, pax, "pax Extended Header"): keyed and sorted by name.
pub(super) type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// What PAX records that hold extended attributes are called; after it comes the attribute's full name.
pub(super) const XATTR: &[u8] = b"SCHILY.xattr.";

/// The kinds of headers (`typeflag`).
pub(super) mod flag {
    pub(crate) const FILE: u8 = b'0';
    pub(crate) const OLD_FILE: u8 = 0;
    pub(crate) const HARD_LINK: u8 = b'1';
    pub(crate) const SYMLINK: u8 = b'2';
    pub(crate) const CHAR_DEVICE: u8 = b'3';
    pub(crate) const BLOCK_DEVICE: u8 = b'4';
    pub(crate) const DIRECTORY: u8 = b'5';
    pub(crate) const FIFO: u8 = b'6';
    pub(crate) const CONTIGUOUS: u8 = b'7';
    pub(crate) const PAX: u8 = b'x';
    pub(crate) const PAX_GLOBAL: u8 = b'g';
    pub(crate) const GNU_LONG_NAME: u8 = b'L';
    pub(crate) const GNU_LONG_LINK: u8 = b'K';
    pub(crate) const GNU_SPARSE: u8 = b'S';
    pub(crate) const GNU_VOLUME: u8 = b'V';
}

/// Where the fields lie.
mod field {
    use std::ops::Range;

    pub(super) const NAME: Range<usize> = 0..100;
    pub(super) const MODE: Range<usize> = 100..108;
    pub(super) const UID: Range<usize> = 108..116;
    pub(super) const GID: Range<usize> = 116..124;
    pub(super) const SIZE: Range<usize> = 124..136;
    pub(super) const MTIME: Range<usize> = 136..148;
    pub(super) const CHECKSUM: Range<usize> = 148..156;
    pub(super) const TYPE: usize = 156;
    pub(super) const LINK: Range<usize> = 157..257;
    pub(super) const MAGIC: Range<usize> = 257..265;
    pub(super) const MAJOR: Range<usize> = 329..337;
    pub(super) const MINOR: Range<usize> = 337..345;
    pub(super) const PREFIX: Range<usize> = 345..500;
}

/// What is wrong with a header, without where.
pub(super) type Problem = String;

/// One header block.
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    /// A header in ustar form, without names; every number is 0.
    pub(super) fn new(kind: u8) -> Self {
        let mut header = Header([0; BLOCK]);
        header.0[field::TYPE] = kind;
        header.0[field::MAGIC].copy_from_slice(b"ustar\x0000");
        for numeric in
            [field::MODE, field::UID, field::GID, field::SIZE, field::MTIME, field::MAJOR, field::MINOR]
        {
            put_octal(&mut header.0[numeric], 0);
        }
        header
    }

    pub(super) fn set_mode(&mut self, mode: u32) {
        put_octal(&mut self.0[field::MODE], u64::from(mode & 0o7777));
    }

    /// Sets a number, or, where the field is too small for it, leaves 0 there and adds the record that says it.
    pub(super) fn set_uid(&mut self, uid: u32, records: &mut Records) {
        self.set_or_record(field::UID, u64::from(uid), b"uid", records);
    }

    pub(super) fn set_gid(&mut self, gid: u32, records: &mut Records) {
        self.set_or_record(field::GID, u64::from(gid), b"gid", records);
    }

    pub(super) fn set_size(&mut self, size_bytes: u64, records: &mut Records) {
        self.set_or_record(field::SIZE, size_bytes, b"size", records);
    }

    pub(super) fn set_mtime(&mut self, time: Timestamp, records: &mut Records) {
        let whole = u64::try_from(time.seconds).ok().filter(|_| time.nanoseconds == 0);
        if !whole.is_some_and(|seconds| put_octal(&mut self.0[field::MTIME], seconds)) {
            records.insert(b"mtime".to_vec(), decimal_time(time).into_bytes());
        }
    }

    fn set_or_record(&mut self, at: std::ops::Range<usize>, value: u64, key: &[u8], records: &mut Records) {
        if !put_octal(&mut self.0[at], value) {
            records.insert(key.to_vec(), value.to_string().into_bytes());
        }
    }

    /// Sets the device's numbers; `false` where they do not fit, which no number of Linux's does.
    pub(super) fn set_device(&mut self, major: u32, minor: u32) -> bool {
        put_octal(&mut self.0[field::MAJOR], u64::from(major))
            && put_octal(&mut self.0[field::MINOR], u64::from(minor))
    }

    /// Sets the name, split into prefix and name where it must be, or adds the record that says it.
    pub(super) fn set_name(&mut self, name: &[u8], records: &mut Records) {
        if name.len() <= field::NAME.len() {
            self.0[field::NAME][..name.len()].copy_from_slice(name);
        } else if let Some((prefix, rest)) = split(name) {
            self.0[field::PREFIX][..prefix.len()].copy_from_slice(prefix);
            self.0[field::NAME][..rest.len()].copy_from_slice(rest);
        } else {
            self.0[field::NAME].copy_from_slice(&name[..field::NAME.len()]);
            records.insert(b"path".to_vec(), name.to_vec());
        }
    }

    /// Sets the link's target, or adds the record that says it.
    pub(super) fn set_link(&mut self, target: &[u8], records: &mut Records) {
        let fits = target.len().min(field::LINK.len());
        self.0[field::LINK][..fits].copy_from_slice(&target[..fits]);
        if fits < target.len() {
            records.insert(b"linkpath".to_vec(), target.to_vec());
        }
    }

    /// Sets the checksum: the last thing to do.
    pub(super) fn seal(&mut self) {
        let (sum, _) = self.sums();
        put_octal(&mut self.0[field::CHECKSUM.start..field::CHECKSUM.end - 1], u64::from(sum));
        self.0[field::CHECKSUM.end - 1] = b' ';
    }

    /// The sum of all bytes, the checksum's own counted as spaces: unsigned, and signed as some old programs have it.
    fn sums(&self) -> (u32, i32) {
        let byte = |(at, byte): (usize, &u8)| if field::CHECKSUM.contains(&at) { b' ' } else { *byte };
        self.0.iter().enumerate().map(byte).fold((0, 0), |(unsigned, signed), byte| {
            (unsigned + u32::from(byte), signed + i32::from(byte as i8))
        })
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Compares the checksum.
    pub(super) fn check(&self) -> Result<(), Problem> {
        let stated = number(&self.0[field::CHECKSUM], "checksum")?;
        let (unsigned, signed) = self.sums();
        if stated == i128::from(unsigned) || stated == i128::from(signed) {
            return Ok(());
        }
        Err(format!("the header's checksum is {unsigned}, but it says {stated}: this is no tar archive"))
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[field::TYPE]
    }

    /// The name, with the prefix before it where the header is POSIX's (GNU's keeps other things there).
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[field::NAME]);
        let prefix = text(&self.0[field::PREFIX]);
        let posix = self.0[field::MAGIC].starts_with(b"ustar\0");
        if posix && !prefix.is_empty() { [prefix, b"/", name].concat() } else { name.to_vec() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[field::LINK]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32, Problem> {
        // Some writers keep the kind of file in the upper bits.
        Ok((number(&self.0[field::MODE], "mode")? & 0o7777) as u32)
    }

    pub(super) fn uid(&self) -> Result<u32, Problem> {
        owner(number(&self.0[field::UID], "uid")?)
    }

    pub(super) fn gid(&self) -> Result<u32, Problem> {
        owner(number(&self.0[field::GID], "gid")?)
    }

    pub(super) fn size(&self) -> Result<u64, Problem> {
        size(number(&self.0[field::SIZE], "size")?)
    }

    pub(super) fn mtime(&self) -> Result<i64, Problem> {
        let seconds = number(&self.0[field::MTIME], "mtime")?;
        i64::try_from(seconds).map_err(|_| format!("the time {seconds} is out of range"))
    }

    pub(super) fn device(&self) -> Result<(u32, u32), Problem> {
        let part = |at, name| {
            let value = number(&self.0[at], name)?;
            u32::try_from(value).map_err(|_| format!("the device number {value} is out of range"))
        };
        Ok((part(field::MAJOR, "device's major number")?, part(field::MINOR, "device's minor number")?))
    }
}

/// Splits at the last slash that leaves a prefix of at most 155 bytes, as Go's archive/tar does.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let last = name.len() - usize::from(name.ends_with(b"/"));
    let window = &name[..last.min(field::PREFIX.len() + 1)];
    let at = window.iter().rposition(|byte| *byte == b'/')?;
    let (prefix, rest) = (&name[..at], &name[at + 1..]);
    (!prefix.is_empty() && !rest.is_empty() && rest.len() <= field::NAME.len()).then_some((prefix, rest))
}

/// Writes octal digits and a NUL; leaves the field as it is and says `false` where they do not fit.
fn put_octal(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    if digits < 21 && value >> (3 * digits) != 0 {
        return false;
    }
    for (at, byte) in field[..digits].iter_mut().rev().enumerate() {
        *byte = b'0' + (value >> (3 * at) & 7) as u8;
    }
    field[digits] = 0;
    true
}

fn text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

/// A number in octal, or in GNU's base-256 form, which a set highest bit announces.
pub(super) fn number(field: &[u8], name: &str) -> Result<i128, Problem> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let start = if negative { -1 } else { i128::from(field[0] & 0x3f) };
        let low = field[1..].iter().fold(start, |value, byte| value << 8 | i128::from(*byte));
        return Ok(low);
    }
    let digits = text(field).trim_ascii();
    digits.iter().try_fold(0, |value: i128, digit| match digit {
        b'0'..=b'7' => Ok(value << 3 | i128::from(digit - b'0')),
        _ => Err(format!("the {name} is no octal number: {:?}", String::from_utf8_lossy(digits))),
    })
}

pub(super) fn owner(value: i128) -> Result<u32, Problem> {
    u32::try_from(value).map_err(|_| format!("the owner {value} is out of range"))
}

pub(super) fn size(value: i128) -> Result<u64, Problem> {
    // Room to round up to a block.
    u64::try_from(value)
        .ok()
        .filter(|size| *size <= i64::MAX as u64)
        .ok_or_else(|| format!("the size {value} is out of range"))
}

/// Seconds with as many decimals as are needed.
fn decimal_time(time: Timestamp) -> String {
    let negative = time.seconds < 0 && time.nanoseconds > 0;
    // -1.25 s is kept as second -2 and 750,000,000 ns after it.
    let (seconds, nanoseconds) = match negative {
        true => (i128::from(time.seconds) + 1, 1_000_000_000 - time.nanoseconds),
        false => (i128::from(time.seconds), time.nanoseconds),
    };
    let sign = if negative { "-" } else { "" };
    let magnitude = if negative { -seconds } else { seconds };
    if nanoseconds == 0 {
        return format!("{sign}{magnitude}");
    }
    format!("{sign}{magnitude}.{}", format!("{nanoseconds:09}").trim_end_matches('0'))
}

/// The opposite of [`decimal_time`]; decimals after the ninth are cut.
pub(super) fn parse_time(text: &[u8]) -> Result<Timestamp, Problem> {
    let wrong = || format!("the time is no decimal number: {:?}", String::from_utf8_lossy(text));
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let seconds: i64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| wrong())? };
    if !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let nine: String = decimals.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: u32 = nine.parse().map_err(|_| wrong())?;
    if negative && nanoseconds > 0 {
        let seconds = seconds.checked_sub(1).ok_or_else(wrong)?;
        return Ok(Timestamp { seconds, nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Ok(Timestamp { seconds, nanoseconds })
}

/// The records as the content of a PAX header: `LENGTH key=value\n`, where the length counts itself.
pub(super) fn encode_records(records: &Records) -> Vec<u8> {
    let mut bytes = vec![];
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + decimal_digits(rest);
        length = rest + decimal_digits(length);
        bytes.extend_from_slice(length.to_string().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(key);
        bytes.push(b'=');
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    bytes
}

fn decimal_digits(number: usize) -> usize {
    number.to_string().len()
}

/// Goes through records by their lengths, never by their line ends: values are binary.
pub(super) fn decode_records(
    mut bytes: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let malformed = || "a PAX record is malformed".to_owned();
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or_else(malformed)?;
        let digits = &bytes[..space];
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(malformed());
        }
        let length: usize =
            std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or_else(malformed)?;
        if length <= space + 1 || length > bytes.len() || bytes[length - 1] != b'\n' {
            return Err(malformed());
        }
        let record = &bytes[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
        if equals == 0 {
            return Err(malformed());
        }
        each(&record[..equals], &record[equals + 1..])?;
        bytes = &bytes[length..];
    }
    Ok(())
}
