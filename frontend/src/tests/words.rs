//! Words: expansion, patterns, heredoc openings, CSV, durations, sizes.

use std::collections::HashMap;

use crate::csv;
use crate::expand::{Lexer, Lookup};
use crate::heredoc;
use crate::parse::format_duration;

struct Env(HashMap<&'static str, &'static str>);

impl Lookup for Env {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).copied()
    }
}

fn env() -> Env {
    let values = [
        ("A", "one"),
        ("E", ""),
        ("P", "usr/local/lib/x.so"),
        ("W", "two  words"),
        ("D", "$A"),
        ("N", "l1\nl2"),
        ("B", "\\xy"),
    ];
    Env(values.into_iter().collect())
}

#[test]
fn expansion() {
    let check = |word: &str, expected: &str| {
        let got =
            Lexer::new('\\').text(word, &env()).unwrap_or_else(|error| format!("error: {}", error.message));
        assert_eq!(got, expected, "{word}");
    };
    check("plain", "plain");
    check("$A", "one");
    check("${A}x", "onex");
    check("$D", "$A");
    check("'$A'", "$A");
    check("\"$A 'x'\"", "one 'x'");
    check("\\$A", "$A");
    check("a\\", "a");
    check("\"a\\n\\\"\"", "a\\n\"");
    check("$", "$");
    check("$ x$", "$ x$");
    check("[$1$@$#]", "[]");
    check("$12a", "a");
    check("${U:-d}${E:-d}${E-d}${A:-d}", "ddone");
    check("${U:+x}${E:+x}${E+x}${A:+x}", "xx");
    check("${U:-${E:-\"a  b\"}}", "a  b");
    check("${A:?no}", "one");
    check("${U?gone}", "error: U: gone");
    check("${E:?}", "error: E: is not allowed to be empty");
    check("${U?}", "error: U: is not allowed to be unset");
    check("${}", "error: syntax error: bad substitution");
    check("${{A}", "error: syntax error: bad substitution");
    check("${A", "error: syntax error: missing '}'");
    check("${A:", "error: syntax error: missing '}'");
    check("${A:-x", "error: syntax error: missing '}'");
    check("${A:=x}", "error: unsupported modifier (:=) in substitution");
    check("${A:#x}", "error: unsupported modifier (:#) in substitution");
    check("${A^}", "error: unsupported modifier (^) in substitution");
    check("\"open", "error: unexpected end of statement while looking for matching double-quote");
    check("'open", "error: unexpected end of statement while looking for matching single-quote");
    check("${P#*/}", "local/lib/x.so");
    check("${P##*/}", "x.so");
    check("${P%/*}", "usr/local/lib");
    check("${P%%/*}", "usr");
    check("${P#u?r/}", "local/lib/x.so");
    check("${P%[a-z]*}", "usr/local/lib/x.so");
    check("${P#\\*}", "usr/local/lib/x.so");
    check("${P#\\a}", "error: invalid pattern (\\a) in substitution: invalid escape '\\a'");
    check("${P/\\//-}", "usr-local/lib/x.so");
    check("${P//\\//-}", "usr-local-lib-x.so");
    check("${P/l*l/L}", "usr/Lib/x.so");
    check("${A//o/<$0>}", "<>ne");
    check("${A//o/'<$0>'}", "<o>ne");
    check("${A//x/y}", "one");
    check("${A///-}", "-o-n-e-");
    check("${N#*}", "l1\nl2");
    check("${N##*}", "\nl2");
    // Found by fuzzing: a pattern that matches nothing makes something of what is not set.
    check("${U/*/x}${U//*/y}${U##*}", "xy");
    check("${U#\\a}", "error: invalid pattern (\\a) in substitution: invalid escape '\\a'");
    // An escape between double quotes is doubled in patterns, and so literal.
    check("${B#\"\\x\"}", "y");
    check("${GR\u{dc}SSE:-x}\u{e9}", "x\u{e9}");
}

#[test]
fn splitting_after_expansion() {
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(Lexer::new('\\').expand(text, &env()).unwrap().words, expected, "{text}");
    };
    check("$W", &["two", "words"]);
    check("x$W", &["xtwo", "words"]);
    check("\"$W\"", &["two  words"]);
    check("a\\ b c", &["a b", "c"]);
    check("  $E  ", &[]);
}

#[test]
fn backtick_as_escape() {
    let lexer = Lexer::new('`');
    assert_eq!(lexer.text("C:\\new`$A`` \"`\"\"", &env()).unwrap(), "C:\\new$A` \"");
}

#[test]
fn heredoc_openings() {
    let check = |line: &str, expected: &[(&str, bool, bool)]| {
        let found: Vec<_> =
            heredoc::in_line(line).into_iter().map(|it| (it.name, it.expand, it.chomp)).collect();
        let expected: Vec<_> = expected.iter().map(|(name, e, c)| ((*name).to_owned(), *e, *c)).collect();
        assert_eq!(found, expected, "{line}");
    };
    check("RUN <<EOF", &[("EOF", true, false)]);
    check("RUN <<-EOF", &[("EOF", true, true)]);
    check("RUN 3<<EOF", &[("EOF", true, false)]);
    check("RUN <<  EOF cat", &[("EOF", true, false)]);
    check("RUN <<'EOF'", &[("EOF", false, false)]);
    check("RUN <<E\"O\"F", &[("EOF", false, false)]);
    check("RUN cat <<A && cat <<-'B'", &[("A", true, false), ("B", false, true)]);
    check("RUN <<<EOF", &[]);
    check("RUN echo \"<<EOF\" '<<EOF'", &[]);
    check("RUN x=$((1<<2))", &[]);
    check("RUN cat<<EOF", &[]);
    check("RUN it's <<EOF", &[]);
    check("RUN <<", &[]);
}

#[test]
fn csv_fields() {
    let check = |line: &str, expected: Result<&[&str], ()>| {
        let got = csv::fields(line);
        match expected {
            Ok(fields) => assert_eq!(got.unwrap(), fields, "{line}"),
            Err(()) => assert!(got.is_err(), "{line}"),
        }
    };
    check("a=b,c", Ok(&["a=b", "c"]));
    check("\"a=b,c\",d", Ok(&["a=b,c", "d"]));
    check("\"a\"\"b\"", Ok(&["a\"b"]));
    check("a,", Ok(&["a", ""]));
    check("", Err(()));
    check("a\"b", Err(()));
    check("\"a", Err(()));
    check("\"a\"b", Err(()));
}

#[test]
fn durations_are_printed_as_go_does() {
    let check = |ns: i64, expected: &str| assert_eq!(format_duration(ns), expected);
    check(0, "0s");
    check(1, "1ns");
    check(1_500, "1.5\u{b5}s");
    check(500_000_000, "500ms");
    check(3_000_000_000, "3s");
    check(90_000_000_000, "1m30s");
    check(300_000_000_000, "5m0s");
    check(3_600_500_000_000, "1h0m0.5s");
}
