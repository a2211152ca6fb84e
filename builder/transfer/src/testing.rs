//! What the tests stand on: a store in memory, a server that answers as told, and a real registry.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lithify_oci::manifest::canonical_json;
use lithify_oci::{Blobs, Descriptor, Digest, ImageConfig, Manifest, NewBlob, RootFs, media_type};

use crate::{Image, Progress};

/// Blobs in memory.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<HashMap<Digest, Vec<u8>>>>);

impl Memory {
    pub(crate) fn put(&self, bytes: impl Into<Vec<u8>>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.0.lock().unwrap().insert(digest, bytes);
        digest
    }

    /// Damages the store.
    pub(crate) fn put_under(&self, digest: Digest, bytes: impl Into<Vec<u8>>) {
        self.0.lock().unwrap().insert(digest, bytes.into());
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(digest).cloned()
    }
}

struct New {
    store: Memory,
    bytes: Vec<u8>,
}

impl Blobs for Memory {
    fn size_bytes(&self, digest: &Digest) -> io::Result<Option<u64>> {
        Ok(self.get(digest).map(|bytes| bytes.len() as u64))
    }

    fn open(&self, digest: &Digest) -> io::Result<Box<dyn Read + Send>> {
        let bytes = self.get(digest).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(bytes)))
    }

    fn create(&self) -> io::Result<Box<dyn NewBlob>> {
        Ok(Box::new(New { store: self.clone(), bytes: vec![] }))
    }
}

impl Write for New {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl NewBlob for New {
    fn commit(self: Box<Self>, expected: Option<&Digest>) -> io::Result<(Digest, u64)> {
        let digest = Digest::of(&self.bytes);
        if expected.is_some_and(|expected| *expected != digest) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let size_bytes = self.bytes.len() as u64;
        self.store.put(self.bytes);
        Ok((digest, size_bytes))
    }
}

/// An image of plain layers, all in `blobs`.
pub(crate) fn image(blobs: &Memory, layers: &[&[u8]]) -> Image {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| blobs.put(*layer)).collect();
    let config = ImageConfig {
        architecture: "amd64".into(),
        os: "linux".into(),
        rootfs: RootFs { diff_ids: diff_ids.clone(), ..RootFs::default() },
        ..ImageConfig::default()
    };
    let config = canonical_json(&config);
    let sized = layers.iter().zip(diff_ids);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.into()),
        config: Descriptor::new(media_type::CONFIG, Digest::of(&config), config.len() as u64),
        layers: sized.map(|(l, digest)| Descriptor::new(media_type::LAYER, digest, l.len() as u64)).collect(),
        annotations: Default::default(),
        extra: Default::default(),
    };
    blobs.put(config);
    let bytes = canonical_json(&manifest);
    blobs.put(bytes.clone());
    Image::from_manifest(bytes, "test").unwrap()
}

/// Content that compresses badly and differs by `seed`.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// Adds up what was reported.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Progress for Counter {
    fn advance(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::SeqCst);
    }

    fn rewind(&self, bytes: u64) {
        self.0.fetch_sub(bytes, Ordering::SeqCst);
    }
}

/// What the server was asked.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What it answers.
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    /// The connection is cut after this many bytes of the body.
    cut: Option<usize>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Answer { status, headers: vec![], body: body.into(), cut: None }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }
}

/// A plain HTTP/1.1 server on a loopback port; one request per connection.
pub(crate) struct Server {
    pub(crate) host: String,
    log: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// `answer` is called for each request, with the requests of the same line that came before.
    pub(crate) fn start(answer: impl Fn(&Asked, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(vec![]));
        let (shared, answer) = (log.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (shared.clone(), answer.clone());
                std::thread::spawn(move || _ = serve(stream, &log, &*answer));
            }
        });
        Server { host, log }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().iter().map(Asked::line).collect()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Asked>>,
    answer: &dyn Fn(&Asked, usize) -> Answer,
) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut first = [0];
    stream.peek(&mut first)?;
    if !first[0].is_ascii_uppercase() {
        // Somebody tries TLS.
        return stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
    }
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let asked = Asked { method, path, headers, body };
    let before = {
        let mut log = log.lock().unwrap();
        let before = log.iter().filter(|other| other.line() == asked.line()).count();
        log.push(asked.clone());
        before
    };
    let answer = answer(&asked, before);
    write!(stream, "HTTP/1.1 {} Status\r\nconnection: close\r\n", answer.status)?;
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    if answer.status != 204 && !answer.headers.iter().any(|(name, _)| *name == "content-length") {
        write!(stream, "content-length: {}\r\n", answer.body.len())?;
    }
    stream.write_all(b"\r\n")?;
    if asked.method != "HEAD" {
        stream.write_all(&answer.body[..answer.cut.unwrap_or(answer.body.len())])?;
    }
    stream.flush()?;
    stream.shutdown(std::net::Shutdown::Write)
}

pub(crate) use lithify_testkit::skipped;

/// Debian's docker-registry, on a loopback port; ended when dropped.
pub(crate) struct Registry {
    child: Child,
    pub(crate) host: String,
    folder: tempfile::TempDir,
}

/// The login of a registry that wants one.
pub(crate) const USER: &str = "mason";
/// Its password.
pub(crate) const PASSWORD: &str = "lime:and/sand";

impl Registry {
    /// `None`, and a word about it, where a program is not installed.
    pub(crate) fn start(test: &str, access: Access) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let (mut tls, mut auth) = (String::new(), String::new());
        match access {
            Access::Open => {}
            Access::Password => {
                if !ran("htpasswd", &["-Bbc", &at("htpasswd"), USER, PASSWORD]) {
                    skipped(test, "htpasswd is not installed (apache2-utils)");
                    return None;
                }
                auth = format!("auth: {{htpasswd: {{realm: test, path: {:?}}}}}\n", at("htpasswd"));
            }
            Access::Tls => {
                if !make_certificate(&at) {
                    skipped(test, "openssl is not installed");
                    return None;
                }
                tls = format!(", tls: {{certificate: {:?}, key: {:?}}}", at("leaf.pem"), at("leaf.key"));
            }
        }
        let config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {:?}}}}}\nhttp: {{addr: {host:?}{tls}}}\n{auth}",
            at("data")
        );
        let file = folder.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(child) = command.spawn() else {
            skipped(test, "docker-registry is not installed");
            return None;
        };
        let mut registry = Registry { child, host, folder };
        while TcpStream::connect(&registry.host).is_err() {
            assert!(registry.child.try_wait().unwrap().is_none(), "docker-registry ended at once");
            std::thread::yield_now();
        }
        Some(registry)
    }

    /// The certificate of the authority that signed the registry's.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

/// How a registry is entered.
pub(crate) enum Access {
    /// By anyone, over plain http.
    Open,
    /// With [`USER`] and [`PASSWORD`], over plain http.
    Password,
    /// By anyone, over https.
    Tls,
}

fn ran(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
}

/// An authority, and a certificate of it for 127.0.0.1.
fn make_certificate(at: &dyn Fn(&str) -> String) -> bool {
    const CONFIG: &str = "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=lithify test\n\
        [ca]\nbasicConstraints=critical,CA:TRUE\n[leaf]\nbasicConstraints=critical,CA:FALSE\nsubjectAltName=IP:127.0.0.1\n";
    std::fs::write(at("openssl.cnf"), CONFIG).unwrap();
    let make = |name: &str, more: &[&str]| {
        let (config, key, out) = (at("openssl.cnf"), at(&format!("{name}.key")), at(&format!("{name}.pem")));
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650"];
        let files = ["-config", &config, "-extensions", name, "-keyout", &key, "-out", &out];
        ran("openssl", &[&["req", "-x509"], curve.as_slice(), &files, more].concat())
    };
    make("ca", &[]) && make("leaf", &["-CA", &at("ca.pem"), "-CAkey", &at("ca.key")])
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file names in a folder and below, sorted.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let mut found = vec![];
    let mut folders = vec![folder.to_path_buf()];
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}
