//! The bytes that are hashed into a key.

use lithify_oci::Digest;

use super::{Chain, Key, Keyed, Part, VERSION};

/// Collects the parts of one key.
pub(super) struct Encoder {
    bytes: Vec<u8>,
    parts: Vec<Part>,
}

impl Encoder {
    pub(super) fn new(kind: &str) -> Self {
        let mut bytes = vec![];
        put(&mut bytes, format!("lithify {kind} key {VERSION}").as_bytes());
        Encoder { bytes, parts: vec![] }
    }

    /// One named part. Only a hash of its value is kept for explanations: it may be anything that a user wrote.
    pub(super) fn part(&mut self, name: impl Into<String>, value: &[u8]) {
        let part = Part::new(name, value);
        put(&mut self.bytes, part.name.as_bytes());
        put(&mut self.bytes, value);
        self.parts.push(part);
    }

    /// Parts that explain one that is in the key already, and so are not hashed again.
    pub(super) fn details(&mut self, parts: impl IntoIterator<Item = Part>) {
        self.parts.extend(parts);
    }

    pub(super) fn text(&mut self, name: impl Into<String>, value: &str) {
        self.part(name, value.as_bytes());
    }

    pub(super) fn flag(&mut self, name: impl Into<String>, value: bool) {
        self.part(name, &[u8::from(value)]);
    }

    pub(super) fn chain(&mut self, name: &str, chain: &Chain) {
        for (number, layer) in chain.0.iter().enumerate() {
            self.part(format!("{name} {}", number + 1), layer.as_bytes());
        }
    }

    pub(super) fn finish(self) -> Keyed {
        Keyed { key: Key(Digest::of(&self.bytes)), parts: self.parts }
    }
}

/// The value of one part that has several fields.
#[derive(Default)]
pub(super) struct Fields(Vec<u8>);

impl Fields {
    pub(super) fn text(mut self, value: &str) -> Self {
        put(&mut self.0, value.as_bytes());
        self
    }

    pub(super) fn bytes(mut self, value: &[u8]) -> Self {
        put(&mut self.0, value);
        self
    }

    pub(super) fn number(mut self, value: impl Into<i128>) -> Self {
        self.0.extend_from_slice(&value.into().to_be_bytes());
        self
    }

    /// `None` and `Some("")` are different.
    pub(super) fn maybe(self, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.number(1).text(value),
            None => self.number(0),
        }
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Appends a value with its length before it.
fn put(bytes: &mut Vec<u8>, value: &[u8]) {
    bytes.extend_from_slice(&(value.len() as u64).to_be_bytes());
    bytes.extend_from_slice(value);
}
