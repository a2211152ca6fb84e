//! One JSON object for each event and line, for programs.

use std::io::Write;

use lithify_engine::{Event, Origin, Stream};
use serde_json::json;

/// See the module.
pub(crate) struct Json {
    titles: Vec<String>,
}

impl Json {
    pub(crate) fn new(titles: Vec<String>) -> Self {
        Json { titles }
    }

    pub(crate) fn event(&self, event: Event<'_>) {
        let title = |step: lithify_graph::StepId| &self.titles[step.0 as usize];
        let object = match event {
            Event::Started { step, why } => {
                json!({"event": "started", "step": step.0 + 1, "title": title(step), "why": why})
            }
            Event::Finished { step, origin, took } => json!({
                "event": "finished", "step": step.0 + 1, "title": title(step), "cached": origin == Origin::Cache,
                "seconds": took.as_secs_f64(),
            }),
            Event::Output { step, stream, bytes } => json!({
                "event": "output", "step": step.0 + 1,
                "stream": match stream { Stream::Out => "stdout", Stream::Error => "stderr" },
                "text": String::from_utf8_lossy(bytes),
            }),
            Event::Waiting { step, process } => {
                json!({"event": "waiting", "step": step.0 + 1, "process": process})
            }
            Event::Warning { message } => json!({"event": "warning", "message": message}),
        };
        let _ = writeln!(std::io::stderr().lock(), "{object}");
    }
}
