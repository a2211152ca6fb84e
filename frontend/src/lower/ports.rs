//! What EXPOSE takes: `port`, `first-last`, `/protocol`, and addresses and host ports that mean nothing.

use std::net::IpAddr;

use crate::instruction::Instruction;
use crate::lint::{Linter, Rule};

/// A port or a range of them.
pub(crate) struct Ports {
    first: u16,
    last: u16,
    /// As written.
    protocol: String,
    /// Whether an address or host port was given.
    mapped: bool,
}

impl Ports {
    /// `80/tcp`, one for each port.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let protocol = self.protocol.to_lowercase();
        (self.first..=self.last).map(move |port| format!("{port}/{protocol}"))
    }

    pub(crate) fn lint(&self, linter: &mut Linter, instruction: &Instruction, text: &str) {
        if self.protocol != self.protocol.to_lowercase() {
            let message = format!("Defined protocol '{text}' in EXPOSE instruction should be lowercase");
            linter.report(Rule::ExposeProtoCasing, instruction, message);
        }
        if self.mapped {
            let message = format!(
                "EXPOSE instruction should not define an IP address or host-port mapping, found '{text}'"
            );
            linter.report(Rule::ExposeInvalidFormat, instruction, message);
        }
    }
}

/// Reads one word; the error says what is wrong.
pub(crate) fn parse(text: &str) -> Result<Ports, String> {
    let mut parts = text.rsplitn(3, ':');
    let container = parts.next().unwrap_or_default();
    let (host, address) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    if range.is_empty() {
        return Err(format!("invalid port: {text:?}: no port specified"));
    }
    let protocol = match protocol.to_lowercase().as_str() {
        "" => "tcp",
        "tcp" | "udp" | "sctp" => protocol,
        _ => {
            return Err(format!(
                "invalid port: {text:?}: invalid proto: {protocol} (expected tcp, udp or sctp)"
            ));
        }
    };
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    let (first, last) = parse_range(range).ok_or_else(|| format!("invalid containerPort: {range}"))?;
    if !host.is_empty() {
        let (host_first, host_last) = parse_range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if last - first != host_last - host_first && last != first {
            return Err(format!("invalid ranges specified for container and host Ports: {range} and {host}"));
        }
    }
    let mapped = !host.is_empty() || !address.is_empty();
    Ok(Ports { first, last, protocol: protocol.to_owned(), mapped })
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}
