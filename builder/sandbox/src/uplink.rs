//! A network namespace of a step's own, joined to the machine's network by a program in user space: pasta or slirp4netns.
//!
//! The program runs beside the step, as the worker does, on the machine's network. It is ready before the step's command starts, and is
//! ended with it. The machine's own loopback interface is out of the step's reach.

use std::ffi::{CString, OsStr};
use std::io::{self, Read as _, Seek as _};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lithify_linux::process::{self, Child, Namespaces, Program};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::{Cancel, Error};

/// How long a program may take until the network is there. Mostly it takes some milliseconds.
const LIMIT: Duration = Duration::from_secs(15);
/// Where programs are looked for beside `PATH`.
const FOLDERS: &[&str] = &["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"];
/// The address at which pasta answers for the machine's name server: podman's choice, an address that is on no network.
const PASTA_RESOLVER: &str = "169.254.1.1";
/// The address at which slirp4netns answers for it: its manual, under `--cidr`.
const SLIRP_RESOLVER: &str = "10.0.2.3";
/// The namespace as the program finds it: on its standard input. By the process's number pasta could not open it, since it gives
/// up the capability for that first.
const NAMESPACE: &str = "/proc/self/fd/0";
/// How much of what a program says is told.
const SAID_BYTES: u64 = 4 << 10;

/// What helps where the network device cannot be made.
const TUN_REMEDY: &str = "/dev/net/tun must be open to the user that root of the step is outside: chmod 0666 /dev/net/tun as root, in a container \
     --device /dev/net/tun";

/// A program that joins a network namespace to the machine's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UplinkProgram {
    /// pasta, of the package passt.
    Pasta,
    /// slirp4netns.
    Slirp4netns,
}

impl UplinkProgram {
    /// As in `--network`; also the program's name.
    pub fn as_str(self) -> &'static str {
        match self {
            UplinkProgram::Pasta => "pasta",
            UplinkProgram::Slirp4netns => "slirp4netns",
        }
    }

    /// The package that distributions have it in.
    fn package(self) -> &'static str {
        match self {
            UplinkProgram::Pasta => "passt",
            UplinkProgram::Slirp4netns => "slirp4netns",
        }
    }
}

/// A program that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    program: UplinkProgram,
    path: PathBuf,
}

impl Uplink {
    /// Looks for the program in the folders of `PATH`, and in the usual ones.
    ///
    /// # Errors
    /// [`Error::NoNetworkProgram`] with the package to install.
    pub fn find(program: UplinkProgram, path: Option<&OsStr>) -> Result<Uplink, Error> {
        let named = path.into_iter().flat_map(std::env::split_paths).filter(|folder| folder.is_absolute());
        let found = named
            .chain(FOLDERS.iter().map(PathBuf::from))
            .map(|folder| folder.join(program.as_str()))
            .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok());
        match found {
            Some(path) => Ok(Uplink { program, path }),
            None => Err(Error::NoNetworkProgram { name: program.as_str(), package: program.package() }),
        }
    }

    /// Which program it is.
    pub fn program(&self) -> UplinkProgram {
        self.program
    }

    /// The content of `/etc/resolv.conf` that works on this network, made of the machine's.
    pub fn resolv_conf(&self, of_machine: &str) -> String {
        let resolver = match self.program {
            UplinkProgram::Slirp4netns => SLIRP_RESOLVER,
            UplinkProgram::Pasta if has_ipv4_resolver(of_machine) => PASTA_RESOLVER,
            // pasta answers only for resolvers of the same kind of address; others are reached as on the machine.
            UplinkProgram::Pasta => return of_machine.to_owned(),
        };
        let others = of_machine.lines().filter(|line| resolver_of(line).is_none());
        let mut text: String = others.map(|line| format!("{line}\n")).collect();
        text.push_str(&format!("nameserver {resolver}\n"));
        text
    }

    fn arguments(&self) -> Vec<String> {
        let fixed: &[&str] = match self.program {
            // No port of the step is seen outside, none of the machine's loopback interface inside, and the gateway's address stands for
            // the gateway. Its number, which is asked for on standard output, is its sign of being ready.
            UplinkProgram::Pasta => &[
                "--foreground",
                "--quiet",
                "--config-net",
                "--no-map-gw",
                "--tcp-ports=none",
                "--udp-ports=none",
                "--tcp-ns=none",
                "--udp-ns=none",
                "--no-netns-quit",
                "--dns-forward",
                PASTA_RESOLVER,
                "--pid=/proc/self/fd/1",
                "--netns",
            ],
            UplinkProgram::Slirp4netns => &[
                "--configure",
                "--mtu=65520",
                "--disable-host-loopback",
                "--enable-sandbox",
                "--enable-seccomp",
                "--ready-fd=3",
                "--netns-type=path",
            ],
        };
        let mut arguments = vec![self.program.as_str().to_owned()];
        arguments.extend(fixed.iter().map(|argument| (*argument).to_owned()));
        arguments.push(NAMESPACE.into());
        if self.program == UplinkProgram::Slirp4netns {
            arguments.push("tap0".into());
        }
        arguments
    }
}

/// The address on a line of resolv.conf(5) that names a server.
fn resolver_of(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    (words.next()? == "nameserver").then(|| words.next().unwrap_or_default())
}

fn has_ipv4_resolver(resolv_conf: &str) -> bool {
    resolv_conf.lines().filter_map(resolver_of).any(|it| matches!(it.parse(), Ok(IpAddr::V4(_))))
}

/// A program that runs. Dropping this ends it.
#[derive(Debug)]
pub(crate) struct Link {
    program: UplinkProgram,
    child: Child,
    /// What it says on standard error.
    said: std::fs::File,
}

impl Link {
    /// Joins the network namespace of `process` to this one's network, and waits until that is done.
    pub(crate) fn start(uplink: &Uplink, process: Pid, cancel: &Cancel) -> Result<Link, Error> {
        let failed = |source: io::Error| Error::Network { name: uplink.program.as_str(), source };
        let (ready, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let mut link = start(uplink, process, &theirs).map_err(failed)?;
        drop(theirs);
        match link.wait_until_ready(&ready, cancel) {
            Ok(()) => Ok(link),
            Err(error) => {
                link.child.kill();
                let _ = link.child.wait();
                Err(link.failure(error))
            }
        }
    }

    fn wait_until_ready(&self, ready: &OwnedFd, cancel: &Cancel) -> io::Result<()> {
        let deadline = Instant::now() + LIMIT;
        let mut descriptors = [
            PollFd::new(ready, PollFlags::IN),
            PollFd::new(&self.child, PollFlags::IN),
            PollFd::new(cancel, PollFlags::IN),
        ];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            match poll(&mut descriptors, Some(&left)) {
                Err(Errno::INTR) => continue,
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                result => result?,
            };
            return if descriptors[0].revents().contains(PollFlags::IN) {
                Ok(())
            } else if descriptors[2].revents().is_empty() {
                Err(io::Error::other("it ended"))
            } else {
                Err(Errno::CANCELED.into())
            };
        }
    }

    /// Fails where the program has ended before its time: the step was without a network then, whatever it made of that.
    pub(crate) fn end(mut self) -> Result<(), Error> {
        let mut descriptors = [PollFd::new(&self.child, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ended = matches!(poll(&mut descriptors, Some(&now)), Ok(1));
        if ended {
            let ending = self.child.wait().map_or_else(|error| error.to_string(), |exit| format!("{exit:?}"));
            return Err(self.failure(io::Error::other(format!("it ended during the step ({ending})"))));
        }
        Ok(())
    }

    /// `error`, with the program's own words.
    fn failure(&mut self, error: io::Error) -> Error {
        let mut said = vec![];
        let read = self.said.rewind().and_then(|()| (&mut self.said).take(SAID_BYTES).read_to_end(&mut said));
        let said = if read.is_ok() { told(&String::from_utf8_lossy(&said)) } else { String::new() };
        let mut text = if said.is_empty() { error.to_string() } else { format!("{error}: {said}") };
        if said.to_lowercase().contains("tun") {
            text.push_str("; ");
            text.push_str(TUN_REMEDY);
        }
        Error::Network { name: self.program.as_str(), source: io::Error::other(text) }
    }
}

/// What the program said in one line, without its complaints about a machine that has no system log.
fn told(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.ends_with("to syslog"));
    lines.collect::<Vec<_>>().join("; ")
}

fn start(uplink: &Uplink, process: Pid, ready: &OwnedFd) -> io::Result<Link> {
    let namespace = format!("/proc/{}/ns/net", process.as_raw_pid());
    let namespace = rustix::fs::open(namespace, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let open = |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let executable = open(&uplink.path)?;
    let said = rustix::fs::memfd_create(c"lithify-network", MemfdFlags::CLOEXEC)?;
    let arguments = uplink.arguments();
    let args: Result<Vec<CString>, _> = arguments.into_iter().map(CString::new).collect();
    let descriptors = match uplink.program {
        UplinkProgram::Pasta => &[namespace.as_fd(), ready.as_fd(), said.as_fd()][..],
        UplinkProgram::Slirp4netns => &[namespace.as_fd(), said.as_fd(), said.as_fd(), ready.as_fd()],
    };
    let program = Program {
        executable: executable.as_fd(),
        args: &args.map_err(|_| Errno::INVAL)?,
        env: &[],
        descriptors,
    };
    let child = process::spawn(&program, Namespaces::empty()).map_err(|error| error.source)?;
    Ok(Link { program: uplink.program, child, said: said.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers() {
        let check = |program, machine: &str, expected: &str| {
            assert_eq!(
                Uplink { program, path: PathBuf::new() }.resolv_conf(machine),
                expected,
                "{machine:?}"
            );
        };
        let (pasta, slirp) = (UplinkProgram::Pasta, UplinkProgram::Slirp4netns);
        check(
            pasta,
            "nameserver 127.0.0.53\noptions edns0\nsearch a b\n",
            "options edns0\nsearch a b\nnameserver 169.254.1.1\n",
        );
        check(pasta, "nameserver fd00::3\n", "nameserver fd00::3\n");
        check(pasta, "nameserver fd00::3\nnameserver 1.2.3.4", "nameserver 169.254.1.1\n");
        check(slirp, "nameserver fd00::3\n# x\n", "# x\nnameserver 10.0.2.3\n");
        check(slirp, "", "nameserver 10.0.2.3\n");
    }

    #[test]
    fn words() {
        let check = |said: &str, expected: &str| assert_eq!(told(said), expected);
        check("Failed to send 53 bytes to syslog\nno tun\n\n here ", "no tun; here");
        check("", "");
    }

    #[test]
    fn missing_programs() {
        let empty = tempfile::tempdir().expect("a folder");
        let path = empty.path().join("pasta");
        std::fs::write(&path, "").expect("written");
        let found =
            |folder: &Path| Uplink::find(UplinkProgram::Pasta, Some(folder.as_os_str())).map(|it| it.path);
        // A file that cannot be executed is none.
        assert_ne!(found(empty.path()).ok(), Some(path.clone()));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&path, mode).expect("chmod");
        assert_eq!(found(empty.path()).ok(), Some(path));
    }
}
