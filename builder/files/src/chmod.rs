//! `--chmod`: octal digits, or a list of letters as chmod(1) takes it.

#[cfg(test)]
mod tests;

use crate::Error;

/// A parsed `--chmod`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Chmod {
    /// A mode that replaces the old one (0 to 0o7777).
    Octal(u32),
    /// Changes to the old mode, in order.
    Symbolic(Vec<Change>),
}

/// One change, such as the `go=rX` in `u=rwX,go=rX`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Change {
    /// The bits that it may touch.
    who: u32,
    /// What it does with them.
    operation: Operation,
    /// The bits, as if they were for everyone.
    bits: u32,
    /// `X`: the x bits too, for folders and for what has one already.
    execute_if_any: bool,
    /// `u`, `g` or `o` behind the sign: the bits that they have, by how far they are shifted to the left.
    copied_from: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
enum Operation {
    Add,
    Remove,
    Set,
}

const USER: u32 = 0o4700;
const GROUP: u32 = 0o2070;
const OTHER: u32 = 0o1007;
const EVERYONE: u32 = USER | GROUP | OTHER;

/// Parses the value of `--chmod`.
///
/// # Errors
/// What is neither octal digits up to 7777 nor a list of changes.
pub fn parse(value: &str) -> Result<Chmod, Error> {
    let wrong = || Error::Chmod { value: value.to_owned() };
    if value.starts_with(|first: char| first.is_ascii_digit()) {
        let all_octal = value.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
        let mode = u32::from_str_radix(value, 8).ok().filter(|mode| all_octal && *mode <= 0o7777);
        return mode.map(Chmod::Octal).ok_or_else(wrong);
    }
    let mut changes = vec![];
    for clause in value.split(',') {
        parse_clause(clause, &mut changes).ok_or_else(wrong)?;
    }
    Ok(Chmod::Symbolic(changes))
}

/// `[ugoa]*([-+=]([rwxXst]*|[ugo]))+`
fn parse_clause(clause: &str, changes: &mut Vec<Change>) -> Option<()> {
    let signs = |letter: char| matches!(letter, '+' | '-' | '=');
    let (letters, mut rest) = clause.split_at(clause.find(signs)?);
    let mut who = 0;
    for letter in letters.chars() {
        who |= match letter {
            'u' => USER,
            'g' => GROUP,
            'o' => OTHER,
            'a' => EVERYONE,
            _ => return None,
        };
    }
    // Nobody named is everyone: the umask counts as 0.
    let who = if who == 0 { EVERYONE } else { who };
    while let Some(sign) = rest.chars().next() {
        let end = rest[1..].find(signs).map_or(rest.len(), |end| end + 1);
        let operation = match sign {
            '+' => Operation::Add,
            '-' => Operation::Remove,
            _ => Operation::Set,
        };
        changes.push(parse_permissions(&rest[1..end], who, operation)?);
        rest = &rest[end..];
    }
    Some(())
}

fn parse_permissions(letters: &str, who: u32, operation: Operation) -> Option<Change> {
    let mut change = Change { who, operation, bits: 0, execute_if_any: false, copied_from: None };
    for letter in letters.chars() {
        match letter {
            'r' => change.bits |= 0o444,
            'w' => change.bits |= 0o222,
            'x' => change.bits |= 0o111,
            's' => change.bits |= 0o6000,
            't' => change.bits |= 0o1000,
            'X' => change.execute_if_any = true,
            'u' if letters.len() == 1 => change.copied_from = Some(6),
            'g' if letters.len() == 1 => change.copied_from = Some(3),
            'o' if letters.len() == 1 => change.copied_from = Some(0),
            _ => return None,
        }
    }
    Some(change)
}

impl Chmod {
    /// The new mode of a file or folder whose mode is `mode` (0 to 0o7777). Symbolic links are not for this.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Chmod::Octal(mode) => *mode,
            Chmod::Symbolic(changes) => {
                changes.iter().fold(mode, |mode, change| change.apply(mode, is_directory))
            }
        }
    }

    /// The mode of folders that are made on the way to the destination: octal modes count for them but for the setuid,
    /// setgid and sticky bits, lists do not.
    pub fn made_directory(&self) -> u32 {
        match self {
            Chmod::Octal(mode) => mode & 0o777,
            Chmod::Symbolic(_) => 0o755,
        }
    }
}

impl Change {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let mut bits = self.bits;
        if self.execute_if_any && (is_directory || mode & 0o111 != 0) {
            bits |= 0o111;
        }
        if let Some(shift) = self.copied_from {
            bits |= (mode >> shift & 0o7) * 0o111;
        }
        let bits = bits & self.who;
        match self.operation {
            Operation::Add => mode | bits,
            Operation::Remove => mode & !bits,
            // A folder keeps its setuid and setgid bits unless they are named, as chmod(1) has it.
            Operation::Set if is_directory => mode & !(self.who & 0o1777) | bits,
            Operation::Set => mode & !self.who | bits,
        }
    }
}
