//! From a command's name to its execution.

use std::ffi::CString;
use std::io;

use lithify_linux::process as linux;
use rustix::fs::{Access, AtFlags, CWD, FileType};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};

use crate::{Error, Process};

/// The exit code and the message when there is no such command, or it cannot be executed: a shell's codes, runc's words.
type NotExecuted = (i32, String);

/// The limits by their names in `docker build --ulimit`.
const LIMITS: &[(&str, Resource)] = &[
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

pub(super) fn set_limits(limits: &[(String, u64, u64)]) -> Result<(), Error> {
    for (name, soft, hard) in limits {
        let failed = |source| Error::Limit { name: name.clone(), source };
        let known = LIMITS.iter().find(|(known, _)| known == name);
        let (_, resource) = known
            .ok_or_else(|| failed(io::Error::new(io::ErrorKind::InvalidInput, "there is no such limit")))?;
        let value = |value: u64| (value != u64::MAX).then_some(value);
        let limit = Rlimit { current: value(*soft), maximum: value(*hard) };
        rustix::process::setrlimit(*resource, limit).map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

/// Finds the file to execute as the process's user.
pub(super) fn find(process: &Process) -> Result<CString, NotExecuted> {
    let Some(name) = process.args.first().filter(|name| !name.is_empty()) else {
        return Err((127, "exec: there is no command".into()));
    };
    if name.contains('/') {
        return match check(name) {
            Ok(path) => Ok(path),
            Err(Errno::NOENT | Errno::NOTDIR) => {
                Err((127, format!("exec: {name:?}: stat {name}: no such file or directory")))
            }
            Err(error) => Err((126, format!("exec: {name:?}: {}", describe(error)))),
        };
    }
    let path =
        process.env.iter().rev().find(|(key, _)| key == "PATH").map_or("", |(_, value)| value.as_str());
    let mut refused = None;
    for folder in path.split(':') {
        let candidate = if folder.is_empty() { format!("./{name}") } else { format!("{folder}/{name}") };
        match check(&candidate) {
            Ok(path) => return Ok(path),
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        None => Err((127, format!("exec: {name:?}: executable file not found in $PATH"))),
        Some(error) => Err((126, format!("exec: {name:?}: {}", describe(error)))),
    }
}

/// Whether a file may be executed.
fn check(path: &str) -> Result<CString, Errno> {
    let c_path = CString::new(path).map_err(|_| Errno::INVAL)?;
    let stat = rustix::fs::stat(&c_path)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Err(Errno::ISDIR);
    }
    rustix::fs::accessat(CWD, &c_path, Access::EXEC_OK, AtFlags::EACCESS)?;
    Ok(c_path)
}

fn describe(error: Errno) -> &'static str {
    match error {
        Errno::ACCESS | Errno::PERM => "permission denied",
        Errno::ISDIR => "is a directory",
        Errno::NOENT => "no such file or directory (it may be its interpreter that is missing)",
        Errno::NOEXEC => "exec format error (it is no program for this machine, and has no #! line)",
        Errno::TOOBIG => "argument list too long",
        Errno::LOOP => "too many levels of symbolic links",
        _ => "cannot be executed",
    }
}

/// Becomes the command. Returns only when the kernel refuses to execute it.
pub(super) fn execute(path: &CString, process: &Process) -> NotExecuted {
    let c_strings = |strings: Vec<&str>| strings.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let variables: Vec<String> = process.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let args = c_strings(process.args.iter().map(String::as_str).collect());
    let env = c_strings(variables.iter().map(String::as_str).collect());
    let (Ok(args), Ok(env)) = (args, env) else {
        return (126, "exec: an argument or variable holds a NUL byte".into());
    };
    let error = linux::execute(path, &args, &env);
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::NOEXEC);
    let code = if errno == Errno::NOENT { 127 } else { 126 };
    (code, format!("exec {}: {}", path.to_string_lossy(), describe(errno)))
}
