//! Lines that only ever grow, in the form that docker users know: `#4 [2/5] RUN make`, `#4 0.3 output`, `#4 CACHED`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::Instant;

use lithify_engine::{Event, Origin};
use lithify_graph::StepId;

/// See the module.
pub(crate) struct Plain {
    titles: Vec<String>,
    running: Mutex<HashMap<StepId, Running>>,
}

struct Running {
    since: Instant,
    /// Output after the last line break.
    partial: Vec<u8>,
}

impl Plain {
    pub(crate) fn new(titles: Vec<String>) -> Self {
        Plain { titles, running: Mutex::default() }
    }

    pub(crate) fn event(&self, event: Event<'_>) {
        let Ok(mut running) = self.running.lock() else { return };
        let mut text = String::new();
        match event {
            Event::Started { step, why } => {
                running.insert(step, Running { since: Instant::now(), partial: vec![] });
                self.line(&mut text, step, &self.titles[step.0 as usize]);
                if let Some(why) = why {
                    self.line(&mut text, step, &format!("not cached: {why}"));
                }
            }
            Event::Finished { step, origin, took } => match origin {
                Origin::Run => {
                    if let Some(rest) = running.remove(&step).filter(|running| !running.partial.is_empty()) {
                        self.output(&mut text, step, rest.since, &rest.partial);
                    }
                    self.line(&mut text, step, &format!("DONE {:.1}s", took.as_secs_f64()));
                }
                Origin::Cache => {
                    self.line(&mut text, step, &self.titles[step.0 as usize]);
                    self.line(&mut text, step, "CACHED");
                }
                Origin::Source => self.line(&mut text, step, &self.titles[step.0 as usize]),
            },
            Event::Output { step, bytes, .. } => {
                let Some(step_output) = running.get_mut(&step) else { return };
                let mut rest = bytes;
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    step_output.partial.extend_from_slice(&rest[..end]);
                    self.output(&mut text, step, step_output.since, &step_output.partial);
                    step_output.partial.clear();
                    rest = &rest[end + 1..];
                }
                step_output.partial.extend_from_slice(rest);
                if step_output.partial.len() > super::LONGEST_LINE_BYTES {
                    self.output(&mut text, step, step_output.since, &step_output.partial);
                    step_output.partial.clear();
                }
            }
            Event::Waiting { step, process } => {
                let process = process.map_or_else(|| "another process".into(), |id| format!("process {id}"));
                self.line(&mut text, step, &format!("waits for {process}, which runs the same step"));
            }
            Event::Warning { message } => {
                let _ = writeln!(text, "warning: {message}");
            }
        }
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }

    fn line(&self, text: &mut String, step: StepId, line: &str) {
        let _ = writeln!(text, "#{} {line}", step.0 + 1);
    }

    fn output(&self, text: &mut String, step: StepId, since: Instant, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        self.line(
            text,
            step,
            &format!("{:.3} {}", since.elapsed().as_secs_f64(), line.trim_end_matches('\r')),
        );
    }
}
