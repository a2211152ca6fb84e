use super::*;

/// What `patterns` hides of `paths`.
fn check(patterns: &str, path: &str, hidden: bool) {
    let ignore = Ignore::parse(patterns.as_bytes()).unwrap();
    assert_eq!(ignore.is_ignored(path.as_bytes()), hidden, "{patterns:?} on {path:?}");
}

#[test]
fn hide_by_the_last_pattern_that_matches() {
    let table: &[(&str, &str, bool)] = &[
        ("", "a", false),
        ("*", "a", true),
        ("*", "a/b/c", true),
        ("*.log", "a.log", true),
        ("*.log", "d/a.log", false),
        ("**/*.log", "d/a.log", true),
        ("**/*.log", "a.log", true),
        ("a", "a/b/c", true),
        ("a/b", "a/b/c/d", true),
        ("*\n!keep.md", "keep.md", false),
        ("*\n!keep.md", "drop.md", true),
        ("!keep.md\n*", "keep.md", true),
        ("*.md\n!README*.md\nREADME-secret.md", "README.md", false),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
        ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", false),
        ("docs\n!docs/readme", "docs/x", true),
        ("docs\n!docs/readme", "docs/readme/deep/x", false),
        ("docs/**\n!docs/readme/*.md", "docs/readme/y.md", false),
        ("docs/**\n!docs/readme/*.md", "docs/readme/z.txt", true),
        ("docs/**", "docs", false),
        ("src\n!src\nsrc/*.o\n!src/need.o", "src/a.o", true),
        ("src\n!src\nsrc/*.o\n!src/need.o", "src/need.o", false),
        ("/c/a", "c/a", true),
        ("c/b/", "c/b/b", true),
        ("./c/d", "c/d", true),
        ("c/x/../e", "c/e", true),
        ("c//f", "c/f", true),
        ("  spaced  ", "spaced", true),
        ("! spaced", "spaced", false),
        ("*\n!  spaced", "spaced", false),
        ("#comment", "#comment", false),
        (" #not-a-comment", "#not-a-comment", true),
        ("\u{feff}bom", "bom", true),
        ("crlf\r\nnext\r\n", "crlf", true),
        ("crlf\r\nnext\r\n", "next", true),
        (".", "a", false),
        ("/", "a", false),
        ("..", "a", false),
        ("../a", "a", false),
        ("[a-c]x", "bx", true),
        ("[^a-c]x", "bx", false),
        ("\\*x", "*x", true),
        ("\\*x", "ax", false),
        ("dir*", "dirty/file", true),
        ("*/temp*", "somedir/temporary.txt", true),
        ("*/*/temp*", "somedir/subdir/temporary.txt", true),
        ("temp?", "tempa", true),
        ("temp?", "temp", false),
        ("A", "a", false),
        ("node_modules/", "node_modules/x/y", true),
        ("**/node_modules", "a/b/node_modules/c", true),
        ("grün*", "grünes", true),
        // Found by fuzzing: a `]` makes moby take the slow way, in which `**` stands for whole folders.
        ("**]", "a]", false),
        ("**]", "a/]", true),
        ("a]**", "a]b/c", true),
    ];
    for (patterns, path, hidden) in table {
        check(patterns, path, *hidden);
    }
}

#[test]
fn agree_with_moby_on_its_own_table() {
    // Patterns as moby's tests of MatchesOrParentMatches have them, comma for line.
    let table: &[(&str, &str, bool)] = &[
        ("**,!util/docker/web", "util/docker/web/foo", false),
        ("**,!util/docker/web,util/docker/web/foo", "util/docker/web/foo", true),
        ("**,!dist/proxy.py,!dist/x", "dist/y", true),
        ("*,!fileutils.go", "fileutils.go", false),
        ("docs,!docs/README.md", "docs/README.md", false),
        ("docs/,!docs/README.md", "docs/README.md", false),
        ("docs/*,!docs/README.md", "docs/README.md", false),
        ("*.go,!fileutils.go,*.md", "README.md", true),
        ("filesystem/dir,!filesystem/dir/b", "filesystem/dir/b/c", false),
    ];
    for (patterns, path, hidden) in table {
        check(&patterns.replace(',', "\n"), path, *hidden);
    }
}

#[test]
fn go_only_where_something_may_come_back() {
    let table: &[(&str, &str, bool)] = &[
        ("node_modules", "node_modules", false),
        ("node_modules\n!other/*", "node_modules", false),
        ("*\n!src", "node_modules", false),
        ("*\n!src/deep/x", "src", true),
        ("*\n!src/deep/x", "src/deep", true),
        ("*\n!src/deep/x", "src/other", false),
        ("*\n!**/x", "anything", true),
        ("!**/x\n*", "anything", false),
        ("*\n!src\nsrc/node_modules", "src/node_modules", false),
        ("*\n!clients/*/x", "clients/a/b", false),
        ("*\n!clients/*/x", "clients/a", true),
    ];
    for (patterns, folder, expected) in table {
        let ignore = Ignore::parse(patterns.as_bytes()).unwrap();
        assert_eq!(ignore.may_contain_included(folder.as_bytes()), *expected, "{patterns:?} in {folder:?}");
    }
}

#[test]
fn refuse_what_is_no_pattern() {
    for (patterns, message) in
        [("!", "lone"), ("a\n ! ", "lone"), ("a[", "cannot be understood"), ("x\\", "understood")]
    {
        let error = Ignore::parse(patterns.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{patterns:?}: {error}");
    }
}

#[test]
fn name_the_pattern_that_hides() {
    let ignore = Ignore::parse(b"*.txt\n!a.txt\nsecret\n").unwrap();
    assert_eq!(ignore.hiding_pattern(b"b.txt"), Some("*.txt"));
    assert_eq!(ignore.hiding_pattern(b"a.txt"), None);
    assert_eq!(ignore.hiding_pattern(b"secret/key"), Some("secret"));
}

#[test]
fn clean_as_go_does() {
    let table = [
        ("", "."),
        ("a//b/", "a/b"),
        ("/../a", "/a"),
        ("a/../..", ".."),
        ("../../a", "../../a"),
        ("/", "/"),
        ("./", "."),
    ];
    for (path, expected) in table {
        assert_eq!(clean(path.as_bytes()), expected.as_bytes(), "{path:?}");
    }
}
