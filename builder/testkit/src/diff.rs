//! The first difference of two images, by layer, entry and field: what a person needs when bytes are not the same.

use std::io::{self, Read};

use serde_json::Value;

use crate::tar::{Member, TarReader, readable};
use crate::{Image, Layer};

/// What differs first, going through the layers from the lowest, then the configuration, then the manifest.
/// `None` when both have one manifest digest.
///
/// # Errors
/// When a layer cannot be read.
pub fn explain(a: &Image, b: &Image) -> io::Result<Option<String>> {
    if a.digest == b.digest {
        return Ok(None);
    }
    for (number, (one, other)) in a.layers.iter().zip(&b.layers).enumerate() {
        if one.digest != other.digest {
            let is_one_tar = a.diff_ids().get(number) == b.diff_ids().get(number);
            let what =
                if is_one_tar { "one tar, compressed in two ways".into() } else { layers(a, one, b, other)? };
            return Ok(Some(format!("layer {}: {what} ({} and {})", number + 1, one.digest, other.digest)));
        }
    }
    if a.layers.len() != b.layers.len() {
        return Ok(Some(format!("number of layers: {} and {}", a.layers.len(), b.layers.len())));
    }
    let named = [("configuration", &a.config, &b.config), ("manifest", &a.manifest, &b.manifest)];
    for (name, one, other) in named {
        if let Some(what) = json("", one, other) {
            return Ok(Some(format!("{name}: {what}")));
        }
    }
    Ok(Some(
        "the manifest or configuration has the same content in other bytes (order of keys, spaces)"
            .to_owned(),
    ))
}

fn layers(a: &Image, one: &Layer, b: &Image, other: &Layer) -> io::Result<String> {
    let (mut one, mut other) = (a.tar(one)?, b.tar(other)?);
    loop {
        match (one.next_member()?, other.next_member()?) {
            (None, None) => break,
            (Some(extra), None) | (None, Some(extra)) => {
                return Ok(format!("entry {}: only in one of them", extra.path()));
            }
            (Some(left), Some(right)) => {
                if let Some(what) = members(&left, &right) {
                    return Ok(what);
                }
                if let Some(what) = contents(&mut one, &mut other)? {
                    return Ok(format!("entry {}: field content: {what}", left.path()));
                }
            }
        }
    }
    Ok("all entries are the same: headers, padding or end differ".to_owned())
}

fn members(a: &Member, b: &Member) -> Option<String> {
    if a.name != b.name {
        return Some(format!("entry {} stands where the other has {}", readable(&a.name), readable(&b.name)));
    }
    let fields: [(&str, String, String); 10] = [
        ("kind", char::from(a.kind).to_string(), char::from(b.kind).to_string()),
        ("mode", format!("{:04o}", a.mode), format!("{:04o}", b.mode)),
        ("uid", a.uid.to_string(), b.uid.to_string()),
        ("gid", a.gid.to_string(), b.gid.to_string()),
        ("size", a.size_bytes.to_string(), b.size_bytes.to_string()),
        ("mtime", a.mtime.clone(), b.mtime.clone()),
        ("link", readable(&a.link), readable(&b.link)),
        ("owner's name", readable(&a.user), readable(&b.user)),
        ("group's name", readable(&a.group), readable(&b.group)),
        ("device", format!("{:?}", a.device), format!("{:?}", b.device)),
    ];
    let differing = fields.into_iter().find(|(_, one, other)| one != other);
    let differing = differing.or_else(|| {
        let key = a.pax.keys().chain(b.pax.keys()).find(|key| a.pax.get(*key) != b.pax.get(*key))?;
        let value =
            |member: &Member| member.pax.get(key).map_or("absent".to_owned(), |value| readable(value));
        Some(("PAX record", format!("{}={}", readable(key), value(a)), value(b)))
    });
    differing.map(|(field, one, other)| format!("entry {}: field {field}: {one} and {other}", a.path()))
}

/// Where the contents of both current members part, with what stands there.
fn contents(a: &mut TarReader<impl Read>, b: &mut TarReader<impl Read>) -> io::Result<Option<String>> {
    const CHUNK_BYTES: usize = 64 << 10;
    let mut offset = 0;
    loop {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        a.take(CHUNK_BYTES as u64).read_to_end(&mut one)?;
        b.take(CHUNK_BYTES as u64).read_to_end(&mut other)?;
        if one != other {
            let same = one.iter().zip(&other).take_while(|(left, right)| left == right).count();
            let near = |bytes: &[u8]| {
                let end = bytes.len().min(same + 40);
                readable(&bytes[same.saturating_sub(20).min(end)..end])
            };
            return Ok(Some(format!("byte {}: {:?} and {:?}", offset + same, near(&one), near(&other))));
        }
        if one.is_empty() {
            return Ok(None);
        }
        offset += one.len();
    }
}

fn json(at: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        _ if a == b => None,
        (Value::Object(one), Value::Object(other)) => one
            .keys()
            .chain(other.keys())
            .find_map(|key| json(&format!("{at}.{key}"), &a[key.as_str()], &b[key.as_str()])),
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            one.iter().zip(other).enumerate().find_map(|(i, (a, b))| json(&format!("{at}[{i}]"), a, b))
        }
        _ => Some(format!("field {at}: {a} and {b}")),
    }
}
