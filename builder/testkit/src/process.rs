//! Running a program with a time limit, reading its output as it comes.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

/// How long output may still come after the program's end, from somebody who inherited its pipes.
const AFTERMATH: Duration = Duration::from_secs(2);

/// A program that has ended.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The exit code; `None` when a signal ended it or the time was up.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it was killed because its time was up.
    pub timed_out: bool,
    /// Standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// Standard error; what is not UTF-8 is replaced.
    pub stderr: String,
    /// From start to end.
    pub wall: Duration,
}

impl Finished {
    /// Both outputs, one after the other.
    pub fn log(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Whether the program ended by its own decision, rather than by a panic, a signal or the time limit.
    pub fn ended_in_order(&self) -> bool {
        self.code.is_some_and(|code| code != 101) && !self.stderr.contains("panicked at ")
    }

    /// The program's success.
    ///
    /// # Panics
    /// With the whole output, when it did not succeed.
    #[track_caller]
    pub fn expect_ok(self) -> Self {
        assert!(self.code == Some(0), "should have succeeded, but {}", self.summary());
        self
    }

    /// The program's orderly failure with `code`, having said `text` (case does not matter).
    ///
    /// # Panics
    /// With the whole output, when it did anything else.
    #[track_caller]
    pub fn expect_failure(self, code: i32, text: &str) -> Self {
        assert!(
            self.ended_in_order() && self.code == Some(code),
            "should have exited with {code}, but {}",
            self.summary()
        );
        self.expect_says(text)
    }

    /// Requires `text` (case does not matter) in the output.
    ///
    /// # Panics
    /// With the whole output, when it is not there.
    #[track_caller]
    pub fn expect_says(self, text: &str) -> Self {
        let log = self.log().to_lowercase();
        assert!(log.contains(&text.to_lowercase()), "should have said {text:?}, but {}", self.summary());
        self
    }

    /// How it ended and all that it wrote, for a message.
    pub fn summary(&self) -> String {
        let how = match (self.timed_out, self.code, self.signal) {
            (true, ..) => "its time was up".to_owned(),
            (_, Some(code), _) => format!("exit code {code}"),
            (_, _, signal) => format!("signal {signal:?}"),
        };
        format!("{how} after {:.1?}\n-- stdout --\n{}\n-- stderr --\n{}", self.wall, self.stdout, self.stderr)
    }
}

enum Stream {
    Out,
    Err,
}

/// A program that runs. Killed with its process group when dropped.
pub struct Running {
    child: Child,
    lines: Receiver<(Stream, Vec<u8>)>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    started: Instant,
    is_over: bool,
}

impl Running {
    /// Starts `command` in a process group of its own, with nothing on standard input.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        use std::os::unix::process::CommandExt;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let started = Instant::now();
        let mut child = command.spawn()?;
        let (sender, lines) = channel();
        if let Some(out) = child.stdout.take() {
            forward(out, sender.clone(), || Stream::Out);
        }
        if let Some(err) = child.stderr.take() {
            forward(err, sender, || Stream::Err);
        }
        Ok(Self { child, lines, stdout: Vec::new(), stderr: Vec::new(), started, is_over: false })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a line of the output holds `text`.
    ///
    /// # Panics
    /// When the output ends before that, or `limit` passes.
    #[track_caller]
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) {
        self.wait_for_line_where(&format!("{text:?}"), limit, |line| line.contains(text));
    }

    /// Waits until a line of the output is the one; `what` names it in the message.
    ///
    /// # Panics
    /// When the output ends before that, or `limit` passes.
    #[track_caller]
    pub fn wait_for_line_where(&mut self, what: &str, limit: Duration, is_it: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((stream, line)) => {
                    let is_it = is_it(&String::from_utf8_lossy(&line));
                    self.keep(stream, &line);
                    if is_it {
                        return;
                    }
                }
                Err(why) => panic!(
                    "no line with {what} ({why})\n-- stdout --\n{}\n-- stderr --\n{}",
                    String::from_utf8_lossy(&self.stdout),
                    String::from_utf8_lossy(&self.stderr)
                ),
            }
        }
    }

    /// Sends a signal to the program alone.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the program should still run");
    }

    /// Sends a signal to the whole process group, as a terminal does on Ctrl-C.
    ///
    /// # Panics
    /// When it is gone already.
    pub fn signal_group(&self, signal: Signal) {
        kill_process_group(self.pid(), signal).expect("the program should still run");
    }

    /// Waits for the end; after `limit` the process group is killed.
    ///
    /// # Panics
    /// When the kernel refuses to wait.
    pub fn wait(mut self, limit: Duration) -> Finished {
        let pidfd = pidfd_open(self.pid(), PidfdFlags::empty()).expect("pidfd_open");
        let ready =
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timespec(limit))).unwrap_or_default();
        let timed_out = ready == 0;
        if timed_out {
            self.kill();
        }
        let status = self.child.wait().expect("wait");
        self.is_over = true;
        let wall = self.started.elapsed();
        let deadline = Instant::now() + AFTERMATH;
        while let Ok((stream, line)) =
            self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.keep(stream, &line);
        }
        Finished {
            code: if timed_out { None } else { status.code() },
            signal: status.signal(),
            timed_out,
            stdout: String::from_utf8_lossy(&self.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&self.stderr).into_owned(),
            wall,
        }
    }

    fn keep(&mut self, stream: Stream, line: &[u8]) {
        match stream {
            Stream::Out => self.stdout.extend_from_slice(line),
            Stream::Err => self.stderr.extend_from_slice(line),
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn kill(&mut self) {
        // Gone already is what was wanted.
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.kill();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

fn forward(from: impl Read + Send + 'static, to: Sender<(Stream, Vec<u8>)>, stream: fn() -> Stream) {
    std::thread::spawn(move || {
        let mut from = BufReader::new(from);
        loop {
            let mut line = Vec::new();
            match from.read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) if to.send((stream(), line)).is_err() => return,
                Ok(_) => {}
            }
        }
    });
}

/// The ids of all processes one of whose arguments is exactly `argument`, the caller excepted.
pub fn processes_with(argument: &str) -> Vec<u32> {
    let own = std::process::id();
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|id| *id != own)
        .filter(|id| {
            std::fs::read(format!("/proc/{id}/cmdline"))
                .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes()))
        })
        .collect()
}

/// Whether all these processes end within `limit`.
pub fn gone_within(ids: &[u32], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    ids.iter().all(|id| {
        let pid = i32::try_from(*id).ok().and_then(Pid::from_raw);
        // A process that cannot be opened is gone.
        let Some(pidfd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return true };
        poll(
            &mut [PollFd::new(&pidfd, PollFlags::IN)],
            Some(&timespec(deadline.saturating_duration_since(Instant::now()))),
        ) == Ok(1)
    })
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
