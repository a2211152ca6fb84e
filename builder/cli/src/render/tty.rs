//! Lines that change, on a terminal: one spinner for each running step, with the last line of its output.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use lithify_engine::{Event, Origin};
use lithify_graph::StepId;

/// See the module.
pub(crate) struct Tty {
    titles: Vec<String>,
    bars: MultiProgress,
    running: Mutex<HashMap<StepId, (ProgressBar, Vec<u8>)>>,
}

impl Tty {
    pub(crate) fn new(titles: Vec<String>) -> Self {
        Tty { titles, bars: MultiProgress::new(), running: Mutex::default() }
    }

    pub(crate) fn event(&self, event: Event<'_>) {
        let Ok(mut running) = self.running.lock() else { return };
        match event {
            Event::Started { step, .. } => {
                let bar = self.bars.add(ProgressBar::new_spinner());
                if let Ok(style) =
                    ProgressStyle::with_template("{spinner} {prefix} {elapsed} {wide_msg:.dim}")
                {
                    bar.set_style(style);
                }
                bar.set_prefix(self.titles[step.0 as usize].clone());
                bar.enable_steady_tick(Duration::from_millis(100));
                running.insert(step, (bar, vec![]));
            }
            Event::Finished { step, origin, took } => {
                let title = &self.titles[step.0 as usize];
                if let Some((bar, _)) = running.remove(&step) {
                    bar.finish_and_clear();
                }
                match origin {
                    Origin::Run => self.print(format!("✓ {title} {:.1}s", took.as_secs_f64())),
                    Origin::Cache => self.print(format!("✓ {title} cached")),
                    Origin::Source => self.print(format!("✓ {title}")),
                }
            }
            Event::Output { step, bytes, .. } => {
                let Some((bar, partial)) = running.get_mut(&step) else { return };
                partial.extend_from_slice(bytes);
                if bytes.contains(&b'\n')
                    && let Some(end) = partial.iter().rposition(|byte| *byte == b'\n')
                {
                    let lines = String::from_utf8_lossy(&partial[..end]).into_owned();
                    let shown = lines.lines().rev().find(|line| !line.trim().is_empty()).map(printable);
                    bar.set_message(shown.unwrap_or_default());
                    partial.drain(..=end);
                }
                partial.truncate(super::LONGEST_LINE_BYTES);
            }
            Event::Waiting { step, .. } => {
                self.print(format!("… {} waits for another process", self.titles[step.0 as usize]));
            }
            Event::Warning { message } => self.print(format!("warning: {message}")),
        }
    }

    /// Removes what is still shown as running.
    pub(crate) fn finish(&self) {
        if let Ok(mut running) = self.running.lock() {
            running.drain().for_each(|(_, (bar, _))| bar.finish_and_clear());
        }
    }

    fn print(&self, line: String) {
        let _ = self.bars.println(line);
    }
}

/// A process may write anything; escape sequences of its own would garble the display.
fn printable(line: &str) -> String {
    line.chars().filter(|c| !c.is_control()).collect()
}
