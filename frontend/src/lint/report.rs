//! The findings as JSON in BuildKit's shape, and as SARIF for code-scanning services.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lithify_graph::Span;
use serde::Serialize;
use serde_json::{Value, json};

use crate::diagnostic::Diagnostic;
use crate::lint::{Rule, Warning};
use crate::source::{LineStarts, Source};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LintReport {
    /// The file.
    pub source: Source,
    /// What the rules found, in the order of lines.
    pub warnings: Vec<Warning>,
    /// Errors, which keep the file from being built.
    pub errors: Vec<Diagnostic>,
    /// Whether the file asks for warnings to fail builds (`# check=error=true`).
    pub error_on_warnings: bool,
}

/// SARIF 2.1.0, ready to be written.
pub type Sarif = Value;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct JsonWarning<'a> {
    rule_name: &'static str,
    description: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    detail: &'a str,
    location: Value,
}

impl LintReport {
    pub(crate) fn new(
        source: &Source,
        mut warnings: Vec<Warning>,
        errors: Vec<Diagnostic>,
        error_on_warnings: bool,
    ) -> Self {
        warnings.sort_by_key(|warning| warning.lines.0);
        LintReport { source: source.clone(), warnings, errors, error_on_warnings }
    }

    /// Whether nothing was found. BuildKit's check exits with 1 otherwise.
    pub fn is_clean(&self) -> bool {
        self.warnings.is_empty() && self.errors.is_empty()
    }

    /// `--format json`, in the shape of BuildKit's `frontend.lint`.
    pub fn to_json(&self) -> Value {
        let warnings = self.warnings.iter().map(|warning| JsonWarning {
            rule_name: warning.rule.name(),
            description: warning.rule.description(),
            url: warning.rule.url(),
            detail: &warning.message,
            location: location(warning.lines),
        });
        let warnings: Vec<JsonWarning<'_>> = warnings.collect();
        let sources = [json!({
            "filename": self.source.name,
            "language": "Dockerfile",
            "data": STANDARD.encode(&self.source.text),
        })];
        let mut report = json!({ "warnings": warnings, "sources": sources });
        if let Some(error) = self.errors.first() {
            let lines = error.span.map(|span| self.source.lines(span));
            let location = lines.map_or(json!({}), location);
            let message = self.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            report["buildError"] = json!({ "message": message, "location": location });
        }
        report
    }

    /// SARIF 2.1.0; `version` is that of the program.
    pub fn to_sarif(&self, version: &str) -> Sarif {
        let lines = self.source.line_starts();
        let rules = Rule::ALL.iter().filter(|rule| **rule != Rule::SyntaxIgnored).map(|rule| {
            let mut described = json!({
                "id": rule.name(),
                "shortDescription": { "text": rule.description() },
                "defaultConfiguration": { "level": "warning" },
            });
            if let Some(url) = rule.url() {
                described["helpUri"] = json!(url);
            }
            described
        });
        let warnings = self.warnings.iter().map(|warning| {
            self.sarif_result(&lines, warning.rule.name(), "warning", &warning.message, Some(warning.span))
        });
        let errors = self
            .errors
            .iter()
            .map(|error| self.sarif_result(&lines, "BuildError", "error", &error.to_string(), error.span));
        let results: Vec<Value> = warnings.chain(errors).collect();
        let driver = json!({
            "name": "lithify",
            "version": version,
            "rules": rules.collect::<Vec<Value>>(),
        });
        json!({
            "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
            "version": "2.1.0",
            "runs": [{ "tool": { "driver": driver }, "columnKind": "unicodeCodePoints", "results": results }],
        })
    }

    fn sarif_result(
        &self,
        lines: &LineStarts<'_>,
        rule: &str,
        level: &str,
        message: &str,
        span: Option<Span>,
    ) -> Value {
        let mut physical = json!({ "artifactLocation": { "uri": self.source.name.replace('\\', "/") } });
        if let Some(span) = span {
            let (start, end) = (lines.position(span.start), lines.position(span.end));
            physical["region"] = json!({
                "startLine": start.line, "startColumn": start.column,
                "endLine": end.line, "endColumn": end.column,
            });
        }
        json!({
            "ruleId": rule,
            "level": level,
            "message": { "text": message },
            "locations": [{ "physicalLocation": physical }],
        })
    }
}

/// BuildKit's location: lines from 1, characters always 0.
pub(crate) fn location((first, last): (usize, usize)) -> Value {
    json!({ "ranges": [{ "start": { "line": first }, "end": { "line": last } }] })
}
