//! Tar to entries. Nothing in an archive is trusted: lengths are bounded, names cannot climb, what is not known is refused.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

use super::header::{BLOCK, Header, Problem, XATTR, decode_records, flag, owner, parse_time, size};
use super::sparse::{self, PaxSparse};
use super::{OPAQUE_NAME, WHITEOUT_META_PREFIX, WHITEOUT_PREFIX};
use crate::{Content, Device, Entry, EntryKind, EntrySink, Timestamp, TreePath};

/// How much an archive may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most entries.
    pub entries: u64,
    /// The most bytes of one extended header or long name (Go's archive/tar allows 1 MiB).
    pub extension_bytes: u64,
    /// The longest path in bytes (Linux's PATH_MAX).
    pub path_bytes: usize,
    /// The most bytes of all files together, holes of sparse files counted.
    pub content_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { entries: 50_000_000, extension_bytes: 1 << 20, path_bytes: 4096, content_bytes: 1 << 44 }
    }
}

/// An archive that is malformed, or asks for what is not allowed.
#[derive(Debug, thiserror::Error)]
#[error("the archive is refused at byte {offset}{path}: {problem}", path = path_text(path))]
pub struct InvalidArchive {
    /// Where the entry's header starts, in bytes from the start of the archive.
    pub offset: u64,
    /// The name of the entry, where it was read already.
    pub path: Vec<u8>,
    /// What is wrong.
    pub problem: String,
}

fn path_text(path: &[u8]) -> String {
    if path.is_empty() { String::new() } else { format!(" ({})", String::from_utf8_lossy(path)) }
}

/// Reads a layer (OCI image specification, layer.md): whiteouts become [`EntryKind::Whiteout`] and
/// [`EntryKind::Opaque`]. Reads `reader` to its end, beyond the archive's, so that whoever hashes it sees every byte.
///
/// # Errors
/// [`InvalidArchive`] as `InvalidData`, and failures to read and of the sink.
pub fn read_tar(reader: impl Read, sink: &mut dyn EntrySink, limits: Limits) -> io::Result<()> {
    read(reader, sink, limits, Names::OfLayer)
}

/// Reads an archive that is no layer: names that start with `.wh.` mean nothing.
///
/// # Errors
/// As [`read_tar`].
pub fn read_archive(reader: impl Read, sink: &mut dyn EntrySink, limits: Limits) -> io::Result<()> {
    read(reader, sink, limits, Names::Plain)
}

#[derive(Clone, Copy, PartialEq)]
enum Names {
    OfLayer,
    Plain,
}

fn read(reader: impl Read, sink: &mut dyn EntrySink, limits: Limits, names: Names) -> io::Result<()> {
    let input = Counted { inner: BufReader::with_capacity(128 << 10, reader), position: 0 };
    let mut reader =
        Reader { input, limits, names, header_at: 0, path: vec![], entries: 0, content_bytes: 0 };
    while reader.next(sink)? {}
    io::copy(&mut reader.input, &mut io::sink())?;
    Ok(())
}

/// Counts what was read, for messages.
struct Counted<R> {
    inner: R,
    position: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.position += got as u64;
        Ok(got)
    }
}

/// What comes before a header and changes its meaning.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<Timestamp>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    sparse: PaxSparse,
}

impl Extension {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        let decimal = || {
            let text = std::str::from_utf8(value).ok();
            text.and_then(|text| text.parse::<i128>().ok())
                .ok_or_else(|| format!("{} is no number", String::from_utf8_lossy(key)))
        };
        // An empty value takes the record back.
        let given = !value.is_empty();
        match key {
            b"path" | b"linkpath" => {
                if value.contains(&0) {
                    return Err("a name holds a NUL byte".into());
                }
                let place = if key == b"path" { &mut self.path } else { &mut self.link };
                *place = given.then(|| value.to_vec());
            }
            b"size" => self.size = given.then(decimal).transpose()?.map(size).transpose()?,
            b"uid" => self.uid = given.then(decimal).transpose()?.map(owner).transpose()?,
            b"gid" => self.gid = given.then(decimal).transpose()?.map(owner).transpose()?,
            b"mtime" => self.mtime = given.then(|| parse_time(value)).transpose()?,
            _ => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.insert(name.to_vec(), value.to_vec());
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.record(key, value)?;
                }
            }
        }
        Ok(())
    }
}

struct Reader<R> {
    input: Counted<R>,
    limits: Limits,
    names: Names,
    header_at: u64,
    path: Vec<u8>,
    entries: u64,
    content_bytes: u64,
}

impl<R: Read> Reader<R> {
    fn refuse<T>(&self, problem: impl Into<String>) -> io::Result<T> {
        let error =
            InvalidArchive { offset: self.header_at, path: self.path.clone(), problem: problem.into() };
        Err(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn sound<T>(&self, result: Result<T, Problem>) -> io::Result<T> {
        result.or_else(|problem| self.refuse(problem))
    }

    /// Handles one entry with the headers that belong to it; `false` at the end.
    fn next(&mut self, sink: &mut dyn EntrySink) -> io::Result<bool> {
        let mut extension = Extension::default();
        loop {
            let Some(header) = self.header()? else { return Ok(false) };
            match header.kind() {
                flag::PAX => {
                    let bytes = self.special(&header)?;
                    let parsed = decode_records(&bytes, |key, value| extension.record(key, value));
                    self.sound(parsed)?;
                }
                // Go's archive/tar, and so every container engine, leaves these unused; git writes its commit there.
                flag::PAX_GLOBAL => {
                    let bytes = self.special(&header)?;
                    let parsed = decode_records(&bytes, |_, _| Ok(()));
                    self.sound(parsed)?;
                }
                flag::GNU_LONG_NAME => extension.path = Some(self.long_name(&header)?),
                flag::GNU_LONG_LINK => extension.link = Some(self.long_name(&header)?),
                flag::GNU_VOLUME => {}
                _ => {
                    self.entry(&header, extension, sink)?;
                    return Ok(true);
                }
            }
        }
    }

    fn header(&mut self) -> io::Result<Option<Header>> {
        self.header_at = self.input.position;
        self.path.clear();
        let Some(header) = self.block()? else { return Ok(None) };
        if header.is_zero() {
            return match self.block()? {
                Some(second) if !second.is_zero() => self.refuse("data follows a single block of zeros"),
                _ => Ok(None),
            };
        }
        self.sound(header.check())?;
        Ok(Some(header))
    }

    /// The next block; `None` at the end of the input, which may come without the two blocks that should end it.
    fn block(&mut self) -> io::Result<Option<Header>> {
        let mut header = Header([0; BLOCK]);
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut header.0[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return self.refuse("the archive is cut off in a header"),
                Ok(got) => filled += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(header))
    }

    /// The content of a header that extends the next one.
    fn special(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let size = self.sound(header.size())?;
        if size > self.limits.extension_bytes {
            return self.refuse(format!(
                "an extended header of {size} bytes is longer than {}",
                self.limits.extension_bytes
            ));
        }
        let mut bytes = vec![0; size as usize];
        self.input.read_exact(&mut bytes).or_else(|error| self.cut_off(error))?;
        self.skip(padding(size))?;
        Ok(bytes)
    }

    fn long_name(&mut self, header: &Header) -> io::Result<Vec<u8>> {
        let mut name = self.special(header)?;
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn cut_off<T>(&self, error: io::Error) -> io::Result<T> {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.refuse("the archive is cut off"),
            _ => Err(error),
        }
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        if length > 0 && io::copy(&mut (&mut self.input).take(length), &mut io::sink())? < length {
            return self.refuse("the archive is cut off");
        }
        Ok(())
    }

    fn entry(
        &mut self,
        header: &Header,
        mut extension: Extension,
        sink: &mut dyn EntrySink,
    ) -> io::Result<()> {
        let sparse_name = extension.sparse.name.take();
        let name = sparse_name.or(extension.path.take()).unwrap_or_else(|| header.name());
        self.path = name[..name.len().min(self.limits.path_bytes)].to_vec();
        self.entries += 1;
        if self.entries > self.limits.entries {
            return self.refuse(format!("it holds more than {} entries", self.limits.entries));
        }
        let header_size = self.sound(header.size())?;
        let data = extension.size.unwrap_or(header_size);
        let (kind, data, map) = self.kind(header, &mut extension, &name, data)?;
        let path = self.tree_path(&name)?;
        if path.is_root() && kind != EntryKind::Directory {
            return self.refuse("the root can be nothing but a folder");
        }
        let seconds = self.sound(header.mtime())?;
        let entry = Entry {
            path,
            kind,
            mode: self.sound(header.mode())?,
            uid: self.owner(extension.uid, header.uid())?,
            gid: self.owner(extension.gid, header.gid())?,
            modified: extension.mtime.unwrap_or(Timestamp { seconds, nanoseconds: 0 }),
            xattrs: extension.xattrs,
        };
        let position = self.input.position;
        let mut body = Body { input: (&mut self.input).take(data), map, position };
        if let Some(entry) = match self.names {
            Names::Plain => Some(entry),
            Names::OfLayer => match as_layer_entry(entry) {
                Ok(entry) => entry,
                Err(problem) => return self.refuse(problem),
            },
        } {
            sink.entry(&entry, &mut body)?;
        }
        let unread = body.input.limit();
        self.skip(unread + padding(data))
    }

    fn owner(&self, given: Option<u32>, header: Result<u32, Problem>) -> io::Result<u32> {
        given.map_or_else(|| self.sound(header), Ok)
    }

    fn tree_path(&self, name: &[u8]) -> io::Result<TreePath> {
        if name.len() > self.limits.path_bytes {
            return self.refuse(format!("its name is longer than {} bytes", self.limits.path_bytes));
        }
        match TreePath::checked(name) {
            Some(path) => Ok(path),
            None => self.refuse("its name has a component .. or a NUL byte"),
        }
    }

    /// The kind of the entry, how many bytes of data follow, and the map of a sparse file.
    fn kind(
        &mut self,
        header: &Header,
        extension: &mut Extension,
        name: &[u8],
        mut data: u64,
    ) -> io::Result<(EntryKind, u64, Option<sparse::Layout>)> {
        let device = || header.device().map(|(major, minor)| Device { major, minor });
        let link = extension.link.take().unwrap_or_else(|| header.link());
        let kind = match header.kind() {
            flag::OLD_FILE if name.ends_with(b"/") => EntryKind::Directory,
            flag::OLD_FILE | flag::FILE | flag::CONTIGUOUS | flag::GNU_SPARSE => {
                let map = self.sparse_map(header, &extension.sparse, &mut data)?;
                let size_bytes = map.as_ref().map_or(data, |(_, real_size)| *real_size);
                self.content_bytes = self.content_bytes.saturating_add(size_bytes);
                if self.content_bytes > self.limits.content_bytes {
                    return self.refuse(format!(
                        "its files are longer than {} bytes together",
                        self.limits.content_bytes
                    ));
                }
                return Ok((EntryKind::File { size_bytes }, data, map));
            }
            flag::HARD_LINK => match TreePath::checked(&link) {
                Some(target) if !target.is_root() => EntryKind::HardLink { target },
                _ => return self.refuse("the target of the hard link has a component .., or is the root"),
            },
            flag::SYMLINK if link.is_empty() => return self.refuse("the symbolic link has no target"),
            flag::SYMLINK => EntryKind::Symlink { target: link },
            flag::CHAR_DEVICE => EntryKind::CharDevice(self.sound(device())?),
            flag::BLOCK_DEVICE => EntryKind::BlockDevice(self.sound(device())?),
            flag::DIRECTORY => EntryKind::Directory,
            flag::FIFO => EntryKind::Fifo,
            other => {
                return self.refuse(format!("entries of the type {:?} are not known", char::from(other)));
            }
        };
        // As in Go's archive/tar: what is no file has no data, whatever its size says.
        Ok((kind, 0, None))
    }

    fn sparse_map(
        &mut self,
        header: &Header,
        pax: &PaxSparse,
        data: &mut u64,
    ) -> io::Result<Option<sparse::Layout>> {
        let (map, real_size) = if header.kind() == flag::GNU_SPARSE {
            let read = sparse::read_old_map(&header.0, &mut self.input);
            let read = read.or_else(|error| self.cut_off(error))?;
            self.sound(read)?
        } else if pax.is_sparse() {
            let map = match self.sound(pax.map())? {
                Some(map) => map,
                None => {
                    let read = sparse::read_leading_map(&mut self.input, data);
                    let read = read.or_else(|error| self.cut_off(error))?;
                    self.sound(read)?
                }
            };
            let Some(real_size) = pax.real_size else {
                return self.refuse("a sparse file does not say its size");
            };
            (map, real_size)
        } else {
            return Ok(None);
        };
        self.sound(sparse::check(&map, real_size, *data))?;
        Ok(Some((map, real_size)))
    }
}

/// The bytes up to the next block.
fn padding(length: u64) -> u64 {
    length.wrapping_neg() % BLOCK as u64
}

/// The content of the current entry.
struct Body<R> {
    input: io::Take<R>,
    map: Option<sparse::Layout>,
    /// Where it starts in the archive.
    position: u64,
}

impl<R: Read> Content for Body<R> {
    fn position(&self) -> Option<u64> {
        self.map.is_none().then_some(self.position)
    }

    fn open(&mut self) -> io::Result<Box<dyn Read + '_>> {
        match &self.map {
            Some((map, real_size)) => Ok(Box::new(sparse::Expanded {
                data: Whole(&mut self.input),
                map,
                real_size: *real_size,
                position: 0,
            })),
            None => Ok(Box::new(Whole(&mut self.input))),
        }
    }
}

/// Says where the archive ends too early; a short read would look like the end of the file.
struct Whole<'a, R>(&'a mut io::Take<R>);

impl<R: Read> Read for Whole<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.0.limit();
        match self.0.read(buffer)? {
            0 if left > 0 && !buffer.is_empty() => {
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive is cut off in a file"))
            }
            got => Ok(got),
        }
    }
}

/// Turns the marks of layer.md into what they mean; `None` for what only the union file system AUFS had a use for.
fn as_layer_entry(entry: Entry) -> Result<Option<Entry>, Problem> {
    if !entry.path.as_bytes().windows(WHITEOUT_PREFIX.len()).any(|window| window == WHITEOUT_PREFIX) {
        return Ok(Some(entry));
    }
    let path = entry.path.clone();
    let mut above = path.components();
    let Some(name) = above.next_back() else { return Ok(Some(entry)) };
    for component in above {
        if component.starts_with(WHITEOUT_META_PREFIX) {
            return Ok(None);
        }
        if component.starts_with(WHITEOUT_PREFIX) {
            return Err("nothing can be below a whiteout".into());
        }
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) else { return Ok(Some(entry)) };
    let parent = entry.path.parent().unwrap_or_default();
    let marker = |path, kind| Entry {
        path,
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        modified: entry.modified,
        xattrs: BTreeMap::new(),
    };
    if name == OPAQUE_NAME {
        return Ok(Some(marker(parent, EntryKind::Opaque)));
    }
    if name.starts_with(WHITEOUT_META_PREFIX) {
        return Ok(None);
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err("the whiteout names no file".into());
    }
    Ok(Some(marker(parent.join(hidden), EntryKind::Whiteout)))
}
